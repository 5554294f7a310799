"""What works with a pair, tool by tool, and why the rest does not."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..data import Dataset
from ..data.arguments import Arguments, Data
from ..ground.tables import Table, Tabular
from ..programs.belonging import check_borrowed
from ..programs.checks import PairSummary, check_minibatches, compared
from ..programs.encoding import encode
from ..programs.given import given
from ..programs.inspecting import structure
from ..programs.inversion import faithful_inverse
from ..programs.lacking import lacking
from ..programs.methods import as_program
from ..programs.program import Model
from ..programs.running import trace_pair, undisturbed
from ..programs.stored import encode as encode_constraint
from ..programs.unwrapping import innermost
from .aggregate import draw, pair_densities
from .engine.graph import Graph
from .engine.trainable import Sites, named_parameters
from .importance import importance
from .latent import reconstruct
from .objectives.elbo import AnalyticELBO
from .objectives.enumerated import default_estimator
from .sampling import sample
from .stock import run_pair
from .terms import elbo_terms

# Rows that tools are tried on, where the programs run on a part of the data
_ROWS = 8


@dataclass(frozen=True, repr=False, kw_only=True)
class CheckedPair(Tabular, PairSummary):
    """What ``check_pair`` found; ``print`` it to see which tools work with the pair.

    The tools are tried when that is first asked for, on a few of the data, without changing any
    state.

    Attributes:
        pair: model, guide, data and labels.
    """

    pair: tuple[Callable, Callable, Data, Tensor | None] = field(compare=False)

    @functools.cached_property
    def tools(self) -> dict[str, str]:
        """Tool -> why it does not work with this pair, "" where it does."""
        model, guide, x, y = self.pair
        with warnings.catch_warnings(action="ignore"):
            minibatches = _why_not(lambda: _minibatches(model, guide, x, y))
            if not minibatches:
                x, y = _rows(x, y, _ROWS)
            found = {"fit, whole data": "", "fit, minibatches": minibatches}
            for tool, run in _TOOLS.items():
                with undisturbed(model, guide, device=x.device):
                    found[tool] = _why_not(functools.partial(run, model, guide, x, y))
        return found

    @functools.cached_property
    def lacking(self) -> dict[str, tuple[str, ...]] | None:
        """Latent -> what its posterior depends on and the guide does not see.

        Nothing for a guide that can be exact; None where the model's structure is not found.
        ``compare_guides`` tells how many nats it costs.
        """
        model, guide, x, y = self.pair
        try:
            return lacking(model, guide, x, y)
        except (TypeError, ValueError):
            return None

    def table(self) -> Table:
        """The tools and why some do not work, and what the guide lacks."""
        rows = [(tool, "no" if why else "yes", why) for tool, why in self.tools.items()]
        if self.lacking is not None:
            why = "; ".join(f"{s} does not see {', '.join(of)}" for s, of in self.lacking.items())
            rows.append(("sees what the posterior does", "no" if why else "yes", why))
        latents = ", ".join(f"{site} {shape}" for site, shape in self.latents.items())
        caption = f"latents {latents}; observed {', '.join(self.observed)}"
        return Table(caption, ("tool", "works", "why not"), rows, left=(1, 2))


def check_pair(
    model: Callable,
    guide: Callable,
    x: Any,
    *,
    y: Tensor | None = None,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
) -> CheckedPair:
    """Check a pair against each other and the data, without changing any state.

    Pyro's store is as it was afterwards: a ``pyro.param`` that begins here begins anew later.
    Print the result to see which tools work with the pair: training, engines, terms of the bound,
    importance sampling, collapse, encoding, drawing, guides of this library, files.

    Args:
        model: generative program.
        guide: inference program.
        x: (n, *event_shape), or the programs' own arguments, a tuple or a mapping of tensors
            with n rows each; as many as the programs are going to be run on at once.
        y: (n,) labels for a conditional pair.
        arguments: constants among the programs' own arguments, by name.
        plate: name of the plate over the data, where several could be it.

    Returns:
        A ``PairSummary`` with the latent and the observed sites, and ``tools``: tool -> why it
        does not work, "" where it does.

    Raises:
        ValueError: a latent missing in the guide or unknown to the model, unequal shapes, no
            plate of the data or several, no observed site, data outside the likelihood's range, a
            model that needs labels without them.
        FloatingPointError: a distribution whose parameters are NaN or infinite for these data, or
            latents whose squares overflow.

    Example:
        >>> import torch
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> found = check_pair(vae, guides.BottomUp(vae), torch.zeros(5, 6))
        >>> found.latents, set(found.tools.values())
        ({'z1': (2,)}, {''})
    """
    x, y = given(x, y, model, guide, arguments=arguments, plate=plate)
    check_borrowed(model, guide)
    found = compared(model, guide, x, y)
    return CheckedPair(**vars(found), pair=(model, guide, x, y))


def _why_not(run: Callable[[], object]) -> str:
    """What a tool finds wrong with a pair, or the first line of its error; "" for nothing."""
    try:
        found = run()
    except Exception as error:  # a program may raise whatever it likes
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return found if isinstance(found, str) else ""


def _rows(x: Data, y: Tensor | None, n: int) -> tuple[Data, Tensor | None]:
    return x[:n], None if y is None else y[:n]


def _minibatches(model: Callable, guide: Callable, x: Data, y: Tensor | None) -> None:
    check_minibatches(guide)
    with undisturbed(model, guide, device=x.device):
        trace_pair(model, guide, *_rows(x, y, max(1, len(x) // 2)))


def _recorded(model: Callable, guide: Callable, x: Data, y: Tensor | None) -> str:
    graph = Graph(default_estimator(model, guide, x, y))
    with warnings.catch_warnings(record=True) as told, torch.enable_grad():
        warnings.simplefilter("always")
        graph(model, guide, x, y)
    if graph.records:
        return ""
    return str(told[-1].message) if told else "its modules change when they first run"


def _collapse(model: Callable, guide: Callable, x: Data, y: Tensor | None) -> None:
    data = x if isinstance(x, Arguments) else Dataset(x, y, channels="first")
    drawn = draw(model, guide, data, len(data))
    next(iter(pair_densities(guide, data, drawn.z)))


def _library_guides(model: Callable, guide: Callable, x: Data, y: Tensor | None) -> str:
    if isinstance(innermost(model), Model):
        return ""
    found = structure(model, x if y is None else (x, y))
    drawn = faithful_inverse(found).inputs
    for site in drawn:
        if found.latents[site].weighed:
            return f"the model hides or weighs {site!r}: guides.Ladder alone, which runs the model"
    return "" if drawn else f"no continuous latents inside the data plate {found.plate!r}"


def _in_files(model: Callable, guide: Callable, x: Data, y: Tensor | None) -> None:
    model, guide = as_program(model), as_program(guide)
    with Sites() as sites:
        run_pair(model, guide, x, y)
    held = named_parameters(model=model, guide=guide).values()
    for site, constraint in sites.of_no(held).items():
        encode_constraint(site, constraint)


_TOOLS: dict[str, Callable[[Callable, Callable, Data, Tensor | None], object]] = {
    "elbo_terms, evaluate": lambda model, guide, x, y: elbo_terms(model, guide, x, y=y),
    "elbo='analytic'": AnalyticELBO(),
    "engine='graph'": _recorded,
    "save, resume": _in_files,
    "importance": lambda model, guide, x, y: importance(model, guide, x, y=y, samples=2),
    "collapse": _collapse,
    "encode": lambda model, guide, x, y: encode(guide, x, y=y),
    "reconstruct": lambda model, guide, x, y: reconstruct(model, guide, x, y=y),
    "sample": lambda model, guide, x, y: sample(model, x, y=y),
    "guides of the library": _library_guides,
}
