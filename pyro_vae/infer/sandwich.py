"""log p(x) from below and from above, on data drawn from the model itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ..data.arguments import Arguments, Data, named
from ..ground.arguments import whole
from ..ground.streams import RandomStream
from ..ground.tables import Table, Tabular, mean_and_error
from ..programs.autoguides import is_per_datum
from ..programs.calling import positional
from ..programs.checks import check_guide
from ..programs.given import given
from ..programs.inspecting import structure
from ..programs.labels import checked_labels
from ..programs.means import stand_in_data
from ..programs.placing import like as parameter_like
from ..programs.running import traced, undisturbed
from ..programs.sites import kinds
from ..programs.unwrapping import innermost, name_of
from .annealed import passes
from .annealing import Schedule
from .blocks import Blocks
from .importance import weighed
from .path import prior_of


@dataclass(frozen=True, repr=False)
class Sandwich(Tabular):
    """Bounds on log p(x) of data drawn from a model, in nats per datum; ``print`` it.

    Attributes:
        lower: by annealing to the posterior, (n,); in expectation at most log p(x).
        upper: by annealing back from the draw of the posterior that made the datum, (n,); in
            expectation at least log p(x).
        importance: by importance sampling, (n,); in expectation at most log p(x).
        acceptance: share of the proposals that were accepted on the way to the posterior, (n,).
        temperatures: steps from the start of the path to its end.
        chains: chains per datum.
        leapfrog: leapfrog steps of a proposal.
        importance_samples: samples of ``importance``.
        start: what paths start from, "guide" or "prior".
        seconds: time that both ways took.
    """

    lower: Tensor
    upper: Tensor
    importance: Tensor
    acceptance: Tensor
    temperatures: int
    chains: int
    leapfrog: int
    importance_samples: int
    start: str
    seconds: float

    @property
    def gap(self) -> tuple[float, float]:
        """Mean of ``upper`` - ``lower`` over the data, and its standard error."""
        return mean_and_error(self.upper - self.lower)

    def table(self) -> Table:
        """Bounds and their differences, means over the data with their standard errors."""
        rows = [
            ("importance sampling (lower)", mean_and_error(self.importance)),
            ("annealed (lower)", mean_and_error(self.lower)),
            ("annealed back (upper)", mean_and_error(self.upper)),
            ("upper - lower", self.gap),
            ("upper - importance sampling", mean_and_error(self.upper - self.importance)),
        ]
        text = (
            f"{len(self.lower)} data drawn from the model, log p(x) in nats per datum; "
            f"{self.chains} chains, {self.temperatures} temperatures from the {self.start}, "
            f"{self.leapfrog} leapfrog steps, {self.seconds:.0f} s; "
            f"{self.importance_samples} importance samples"
        )
        note = "Standard errors are over the data. The bounds hold in expectation"
        return Table(text, ("quantity", "mean"), rows, notes=[note])


def sandwich(
    model: Callable,
    guide: Callable | None,
    *,
    n: int = 100,
    temperatures: int = 1000,
    chains: int = 16,
    seed: int | None = None,
    like: Any = None,
    y: Any = None,
    leapfrog: int = 3,
    importance_samples: int = 1000,
    chunk_size: int | None = None,
    progress: bool = True,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
) -> Sandwich:
    """Bound log p(x) of data drawn from the model from both sides: bidirectional Monte Carlo.

    Of (x, z) ~ p(x, z), z is a draw of the posterior of x. ``annealed`` from the guide, or the
    prior, gives a lower bound; the same transitions in the opposite order, from z, give weights
    with E[w'] = 1 / p(x), and so an upper one:

        E[log mean_k w_k] <= log p(x) <= E[-log mean_k w'_k].

    Where they meet, annealing is right for data such as these, and what importance sampling lacks
    is seen beside it. Real data are others, as far as the model is wrong. The RNG is restored.

    Sources: "Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo", Grosse,
    Ghahramani, Adams (2015); "On the Quantitative Analysis of Decoder-Based Generative Models",
    Wu, Burda, Salakhutdinov, Grosse (2017).

    Args:
        model: generative program whose latents are continuous.
        guide: inference program from which chains start; None starts from the prior p(z).
        n: number of data; of ``like`` at most all.
        temperatures: as of ``annealed``.
        chains: as of ``annealed``.
        seed: of a random stream of its own; None goes on from torch's global one.
        like: data of the form that the program is trained on, of which the first n keep all but
            what is observed; left out for a model of this library.
        y: labels (n,), or one for all, for a conditional model.
        leapfrog: as of ``annealed``.
        importance_samples: samples per datum of the importance sampling beside it.
        chunk_size: as of ``annealed``.
        progress: show a progress bar.
        arguments: constants among the programs' own arguments, by name.
        plate: name of the plate over the data, where several could be it.

    Returns:
        ``Sandwich`` with a tensor (n,) per bound, in nats.

    Raises:
        TypeError: no data for a program that has to be run.
        ValueError: what ``annealed`` refuses; a guide with parameters for each datum; a program
            that observes anything but its arguments.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> options = {"temperatures": 5, "chains": 4, "leapfrog": 2, "progress": False}
        >>> found = sandwich(vae, guides.BottomUp(vae), n=3, **options)
        >>> found.lower.shape, found.upper.shape
        (torch.Size([3]), torch.Size([3]))
    """
    schedule = Schedule(temperatures, chains, leapfrog)
    whole("n", n)
    whole("importance_samples", importance_samples)
    programs = (model,) if guide is None else (model, guide)
    check_guide(model, programs[-1])
    if is_per_datum(programs[-1]):
        raise ValueError(
            f"guide: expected one for any data, as new ones are drawn here, got an "
            f"{name_of(programs[-1])} with parameters for each of its own: pass None, to start "
            "from the prior, or an amortised guide, such as guides.BottomUp"
        )
    x, y, observed = _form(programs, like, y, n, arguments, plate)
    start = "prior" if guide is None else "guide"
    guide = prior_of(model) if guide is None else guide
    with undisturbed(model, guide, device=x.device), RandomStream(seed).on(x.device):
        x, z = _drawn(model, x, y, observed)
        weights = weighed(model, guide, x, y, samples=importance_samples, chunk_size=chunk_size)
        found = passes(
            *(model, guide, x, y, schedule),
            chunk_size=chunk_size,
            seed=None,
            kept=Blocks(None, {}),
            progress=progress,
            exact=z,
        )
    lower, upper = (found[way].logsumexp(0) - math.log(chains) for way in ("forward", "reverse"))
    dtype = weights.log_likelihood.dtype
    return Sandwich(
        *(lower.to(dtype), -upper.to(dtype), weights.log_likelihood, found["acceptance"]),
        **vars(schedule),
        importance_samples=importance_samples,
        start=start,
        seconds=float(found["seconds"].sum()),
    )


def _form(
    programs: tuple[Callable, ...],
    like: Any,
    y: Any,
    n: int,
    arguments: Mapping[str, Any] | None,
    plate: str | None,
) -> tuple[Data, Tensor | None, dict[str, str]]:
    """Data to be replaced by draws, labels, and observed site -> the argument that it is."""
    model, own = programs[0], {"arguments": arguments, "plate": plate}
    if like is None and hasattr(innermost(model), "event_shape"):
        told = structure(model)
        parameter = parameter_like(model, default=torch.zeros(()))
        like = parameter.new_zeros(n, *innermost(model).event_shape)
        y = checked_labels(model, y, n, like.device)
    else:
        told = structure(model, like if y is None else {"x": like, "y": y}, **own)
    x, y = given(like, y, *programs, **own)
    for site, found in told.observed.items():
        if not found.whole:
            what = "a factor" if found.is_factor else "something else"
            raise ValueError(
                f"site {site!r}: expected it to observe one of the program's arguments as it is, "
                f"in whose place draws can be put, got {what}: observe an argument, such as x of "
                "model(x), or bound log p(x) of data by infer.annealed"
            )
    arguments_of = {site: found.argument for site, found in told.observed.items()}
    return x[:n], None if y is None else y[:n], arguments_of


def _drawn(
    model: Callable, x: Data, y: Tensor | None, observed: Mapping[str, str]
) -> tuple[Data, dict[str, Tensor]]:
    """A draw of (x, z): data with draws in place of what is observed, and the latents."""
    with stand_in_data():
        trace = traced(poutine.uncondition(model), x, y)
    found = {name: trace.nodes[site]["value"] for site, name in observed.items()}
    z = {s: trace.nodes[s]["value"] for s in kinds(trace).latent if s not in observed}
    if not isinstance(x, Arguments):
        (x,) = found.values()
        return x, z
    names = dict(enumerate(p.name for p in positional(model)))
    args = tuple(found.get(names.get(i, named(i)), v) for i, v in enumerate(x.args))
    kwargs = {name: found.get(name, v) for name, v in x.kwargs.items()}
    return dataclasses.replace(x, args=args, kwargs=kwargs), z
