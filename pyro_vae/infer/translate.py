"""From the modalities of data that are there to others, and how well these agree."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ..data.arguments import Arguments, Data, columns_of
from ..ground.arguments import known, whole
from ..ground.tables import Table, Tabular
from ..programs.autoguides import takes_all
from ..programs.given import given
from ..programs.inspecting import columns_by_name
from ..programs.means import stand_in_data
from ..programs.modes import evaluating
from ..programs.reading import Contributions
from ..programs.running import measuring, traced
from ..programs.sites import kinds
from ..programs.unwrapping import innermost, name_of
from .densities import repeated, split
from .impute import average

# Numbers at once, those of a datum counted for each of its samples
_NUMBERS = 2**22
_DATA = 1000


@dataclass(frozen=True, repr=False)
class Coherence(Tabular):
    """A share of data, between 0 and 1, with its standard error over the data."""

    value: float
    standard_error: float

    def table(self) -> Table:
        """Both as one number."""
        row = ["coherence", (self.value, self.standard_error)]
        return Table("share of data that agree", ("quantity", "share"), [row])

    def __repr__(self) -> str:
        """Both in percent."""
        return f"{100 * self.value:.1f} +- {100 * self.standard_error:.1f} % agree"


@dataclass(frozen=True, repr=False)
class Translation:
    """What a pair makes of data with some modalities; ``result[site]`` of several sites.

    Attributes:
        mean: E[x_to | x_given] by the guide, (n, *event); of a category the most probable one.
        standard_error: its Monte Carlo standard error, NaN for categories.
        sample: (samples, n, *event), each a draw of the site for a draw of the latents.
        given: the arguments that it is made from.
        to: the site; a tuple of several, for which the others are mappings from site to tensor.
    """

    mean: Tensor | dict[str, Tensor]
    standard_error: Tensor | dict[str, Tensor]
    sample: Tensor | dict[str, Tensor]
    given: tuple[str, ...]
    to: str | tuple[str, ...]

    def __getitem__(self, site: str) -> Translation:
        """The result for one of several sites."""
        if isinstance(self.to, str):
            known("site", site, (self.to,))
            return self
        known("site", site, self.to)
        parts = (each[site] for each in (self.mean, self.standard_error, self.sample))
        return Translation(*parts, self.given, site)

    def coherence(
        self, labels: Tensor, classifier: Callable[[Tensor], Tensor] | None = None
    ) -> Coherence:
        """The share of draws that agree with labels (n,), see ``infer.coherence``.

        The standard error is over the data, whatever the number of draws of each.

        Raises:
            ValueError: a result for several sites; other labels than one per datum.
        """
        if not isinstance(self.to, str):
            raise ValueError(
                f"coherence: expected the result for one site, got those of {self.to}: use "
                f"result[{self.to[0]!r}].coherence(...)"
            )
        samples, n = self.sample.shape[:2]
        _check_labels(labels, n)
        agree = _agree(self.sample.flatten(0, 1), labels.repeat(samples), classifier)
        return _share(agree.reshape(samples, n).mean(0))

    def __repr__(self) -> str:
        """From what to what, and how many."""
        to = (self.to,) if isinstance(self.to, str) else self.to
        first = self.sample if isinstance(self.to, str) else self.sample[to[0]]
        return (
            f"Translation from {', '.join(self.given)} to {', '.join(to)}: {first.shape[1]} data, "
            f"{first.shape[0]} samples of each"
        )


def coherence(
    values: Tensor, labels: Tensor, classifier: Callable[[Tensor], Tensor] | None = None
) -> Coherence:
    """The share of values of one modality whose class is that of another.

    Of translations, with the labels of what they are made from; of draws of all sites,
    ``infer.sample(model, like)``, it is the joint coherence: that of images with labels drawn
    beside them, or of classes of two images.

    Source: "Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models",
    Shi, Siddharth, Paige, Torr (2019).

    Args:
        values: (n, *event); classes (n,) where there is no classifier.
        labels: classes (n,).
        classifier: from values (m, *event) to classes (m,), or to logits (m, K).

    Raises:
        ValueError: other labels than one per value, classes of another shape.

    Example:
        >>> coherence(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2]))
        75.0 +- 25.0 % agree
    """
    _check_labels(labels, len(values))
    return _share(_agree(values, labels, classifier))


def _check_labels(labels: Tensor, n: int) -> None:
    if not isinstance(labels, Tensor) or labels.shape != (n,) or labels.isnan().any():
        got = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(
            f"labels: expected the class of each of {n} data, a tensor ({n},), got {got}: pass "
            "those of the data that were given, none of them NaN"
        )


def _agree(
    values: Tensor, labels: Tensor, classifier: Callable[[Tensor], Tensor] | None
) -> Tensor:
    classes = values
    if classifier is not None:
        module = isinstance(classifier, nn.Module)
        with torch.no_grad(), evaluating(classifier) if module else contextlib.nullcontext():
            classes = torch.cat([classifier(part) for part in values.split(_DATA)])
        if classes.dim() == 2:
            classes = classes.argmax(-1)
    if classes.shape != labels.shape:
        raise ValueError(
            f"classifier: expected classes ({len(labels)},), or logits with a column per class, "
            f"got {tuple(classes.shape)}: pass classifier=f with such an f(values)"
        )
    return (classes == labels).double()


def _share(agree: Tensor) -> Coherence:
    n = len(agree)
    error = float(agree.std()) / n**0.5 if n > 1 else float("nan")
    return Coherence(float(agree.mean()), error)


class _Drawing(Messenger):
    """Draws some sites, whether they are observed or not."""

    def __init__(self, sites: Sequence[str]) -> None:
        super().__init__()
        self.sites = sites

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.sites:
            msg["is_observed"], msg["value"], msg["done"] = False, None, False


def translate(
    model: Callable,
    guide: Callable,
    *,
    to: str | Sequence[str],
    samples: int = 10,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
    **data: Any,
) -> Translation:
    """Draw sites of data that have other modalities: x_to ~ p(x_to|z), z ~ q(z|x_given).

    What is not passed is absent to the guide. Evaluation mode; no state changes, and the RNG is
    restored, so that other draws need another seed. A site that the program has only where its
    argument is there, by ``if``, is run on data of the guide's that stand in for it.

    Args:
        model: generative program.
        guide: inference program in which arguments may be None, as ``guides.ProductOfExperts``.
        to: observed site of the model, or several; that of a modality that is given as well is
            drawn anew, a reconstruction.
        samples: draws of latents and sites per datum.
        arguments: constants among the programs' own arguments, by name.
        plate: name of the plate over the data, where several could be it.
        data: what is there, such as ``image=x`` with n rows, by the arguments' names.

    Returns:
        ``Translation``, whose ``coherence(labels, classifier)`` tells how well it agrees.

    Raises:
        TypeError: no data, data that no program takes.
        ValueError: fewer than one sample, an unknown site, or one that the program does not have
            where its argument is absent and nothing stands in.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro_vae import guides
        >>> def model(image=None, label=None):
        ...     with pyro.plate("data", len(label if image is None else image)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         loc = z @ torch.ones(2, 6)
        ...         pyro.sample("image", dist.Normal(loc, 1.0).to_event(1), obs=image)
        ...         pyro.sample("label", dist.Categorical(logits=z @ torch.eye(2, 3)), obs=label)
        >>> both = {"image": torch.randn(8, 6), "label": torch.arange(8) % 3}
        >>> guide = guides.ProductOfExperts(["image", "label"], model=model, like=both)
        >>> found = translate(model, guide, image=both["image"], to="label")
        >>> found, found.sample.shape
        (Translation from image to label: 8 data, 10 samples of each, torch.Size([10, 8]))
        >>> 0 <= found.coherence(both["label"]).value <= 1
        True
    """
    whole("samples", samples)
    sites = (to,) if isinstance(to, str) else tuple(to)
    there = {name: value for name, value in data.items() if value is not None}
    if not there:
        raise TypeError(
            "translate: expected data of a modality, got none: pass them by name, such as "
            "image=x, or draw all with infer.sample(model, like)"
        )
    x, y = given(there, None, model, guide, arguments=arguments, plate=plate)
    numbers = samples * max(1, sum(column[0].numel() for column in columns_of(x)))
    block = len(x) if takes_all(guide) else max(1, min(_DATA, _NUMBERS // numbers))
    with measuring(model, guide, device=x.device):
        parts = [_translated(model, guide, *part, sites, samples) for part in split(x, y, block)]
    found = [
        {site: torch.cat([part[site][i] for part in parts], dim) for site in sites}
        for i, dim in enumerate((0, 0, 1))
    ]
    if isinstance(to, str):
        return Translation(*(each[to] for each in found), tuple(there), to)
    return Translation(*found, tuple(there), sites)


def _translated(
    model: Callable, guide: Callable, x: Data, y: Tensor | None, sites: Sequence[str], k: int
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Site -> mean, its error, and draws."""
    n, rows = len(x), repeated(x, y, k)
    drawn = traced(guide, *rows)
    trace = _run(model, drawn, *rows, sites)
    if lacking := [site for site in sites if site not in trace.nodes]:
        trace = _run(model, drawn, _with(lacking, guide, rows[0]), rows[1], sites)
    others = [s for s in kinds(trace).density if s not in drawn.nodes]
    read = Contributions(trace, (k * n,), getattr(x, "plate", None))
    found = {}
    for site in sites:
        known("to", site, others)
        node, at = trace.nodes[site], read.dimension(site)

        def by_sample(values: Tensor, at: int = at) -> Tensor:
            return values.movedim(at, 0).unflatten(0, (k, n))

        value = by_sample(node["value"])
        kind = value.dtype if value.is_floating_point() else torch.get_default_dtype()
        weights = torch.full((k, n), 1 / k, dtype=kind, device=value.device)
        weights = weights.reshape(k, n, *(1,) * (value.dim() - 2))
        found[site] = (*average(node, weights, by_sample), value)
    return found


def _run(model: Callable, drawn: Trace, x: Data, y: Tensor | None, sites: Sequence[str]) -> Trace:
    with stand_in_data(), _Drawing(sites):
        return traced(poutine.replay(model, trace=drawn), x, y)


def _with(sites: Sequence[str], guide: Callable, x: Data) -> Data:
    """The data, and some that stand in for sites that a program has by their arguments alone."""
    inner = innermost(guide)
    few = getattr(inner, "few", None)
    kept = {} if few is None else columns_by_name(inner.model, *few)
    if not isinstance(x, Arguments):
        x = Arguments((x,))
    for site in sites:
        if site not in kept:
            raise ValueError(
                f"to: expected a site that {name_of(inner)} knows or that the model has without "
                f"data, got {site!r}, of {[*kept]}: sample it where its argument is None, too, "
                f"pyro.sample({site!r}, ..., obs={site})"
            )
        first = kept[site][:1]
        kwargs = {**x.kwargs, site: first.expand(len(x), *first.shape[1:])}
        x = x.replace(kwargs=kwargs, columns=(*(x.columns or ()), site))
    return x
