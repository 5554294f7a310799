"""Which data lie in thinly populated parts of latent space."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..data import Dataset
from ..data.conditions import classes_of
from ..ground.arguments import whole
from ..ground.tables import Table, Tabular, mean_and_error, number, standard_error, with_error
from ..infer.aggregate import draw, log_aggregate, refuse_unlike
from ..programs.examining import examined
from ..programs.running import measuring
from .two_samples import LEVEL, Comparison, compare

_TAIL = 0.05
_CLASSES = 3


@dataclass(frozen=True, repr=False)
class Rarity(Tabular):
    """Density of the aggregate posterior where each datum's latents lie; ``print`` it.

    Attributes:
        log_density: E_q(z|x)[log q(z)] in nats, (n,); low where few other data lie.
        standard_error: its Monte Carlo standard error, (n,), NaN for one draw.
        reference: the same for the m reference data, each left out of its own q(z), (m,).
        log_ratio: E_q(z|x)[log q_data(z) - log q_reference(z)] in nats, (n,), each datum left out
            of q_data; high where the reference has too few. None where the data are their own
            reference.
        classes: label -> mean of ``log_ratio`` and its standard error, the highest first; empty
            for data without labels.
        comparison: the two-sample test with its p-value and its power, or None.
    """

    log_density: Tensor
    standard_error: Tensor
    reference: Tensor
    log_ratio: Tensor | None = None
    classes: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    comparison: Comparison | None = None

    @property
    def own(self) -> bool:
        """Whether the data are their own reference."""
        return self.log_ratio is None

    @property
    def tail(self) -> Tensor:
        """Share of the reference data in places at least as thin, (n,), in (0, 1]."""
        ordered = self.reference.sort().values
        below = torch.searchsorted(ordered, self.log_density.contiguous(), right=True)
        m = len(ordered)
        return below / m if self.own else (below + 1) / (m + 1)

    @property
    def thin(self) -> tuple[float, float]:
        """Share of the data in places as thin as those of 5 % of the reference, and its error."""
        share = float((self.tail <= _TAIL).double().mean())
        n, m = len(self.log_density), len(self.reference)
        # Under no difference both the share and the reference's quantile fluctuate
        return share, math.sqrt(_TAIL * (1 - _TAIL) * (1 / n + 1 / m))

    @property
    def p_value(self) -> float:
        """Of the hypothesis that data and reference lie in the same places; 1 for their own."""
        return 1.0 if self.comparison is None else self.comparison.p_value

    @property
    def representative(self) -> bool:
        """Whether data and reference differ no more than chance explains, at the level of 5 %."""
        return self.p_value > LEVEL

    def under_represented(self, k: int = 16) -> Tensor:
        """Rows of the k data of which the reference has the least, by ``log_ratio``, (k,)."""
        ratio = torch.zeros_like(self.log_density) if self.own else self.log_ratio
        return ratio.argsort(descending=True)[:k]

    def rarest(self, k: int = 16) -> Tensor:
        """Rows of the k data with the lowest density, the lowest first, (k,)."""
        return self.log_density.argsort()[:k]

    def typical(self, k: int = 16) -> Tensor:
        """Rows of the k data with the highest density, the highest first, (k,)."""
        return self.log_density.argsort(descending=True)[:k]

    @property
    def verdict(self) -> str:
        """One line: are the data where the reference is, or which are the rarest."""
        if self.own:
            return f"rarest of {len(self.log_density)} data: rows {self.rarest(5).tolist()}"
        p = f"p = {number(self.p_value)}"
        if self.representative:
            return (
                f"the data lie where the reference does, as far as {self.comparison.sizes[0]} and "
                f"{self.comparison.sizes[1]} of them tell ({p}): {self.comparison.statement}"
            )
        classes = self.classes.items()
        what = [f"{name} ({with_error(*by)} nats)" for name, by in classes if by[0] > 3 * by[1]]
        rows = "rows " + ", ".join(map(str, self.under_represented(5).tolist()))
        return (
            f"the data are not representative of the reference ({p}), which has too few like "
            f"{', '.join(what[:_CLASSES]) or rows}"
        )

    def table(self) -> Table:
        """Mean and quantiles of data, reference, and their difference."""
        sets = {"data": self.log_density}
        if not self.own:
            sets |= {"reference": self.reference, "data - reference": self.log_ratio}
        at = torch.tensor([0.05, 0.5, 0.95])
        rows = [
            (name, mean_and_error(values), *values.quantile(at.to(values)).tolist())
            for name, values in sets.items()
        ]
        header = ("log q(z), nats", "mean", "5%", "median", "95%")
        return Table(self.verdict, header, rows)


def rarity(
    model: Callable,
    guide: Callable,
    data: Dataset | Tensor | tuple[Tensor, Tensor | None],
    *,
    reference: Dataset | Tensor | tuple[Tensor, Tensor | None] | None = None,
    samples: int = 4,
    batch_size: int = 500,
) -> Rarity:
    """How thinly the latent space is populated where each datum lies.

    log_density_i = E_q(z|x_i)[log q(z)], q(z) = 1/m sum_j q(z|x_j) over the m reference data: the
    aggregate posterior, to which a datum of the reference itself does not contribute. Data that
    the guide sends where the reference has few are rare, whatever their likelihood.

    Are new data representative of the reference? ``print`` tells the p-value of a two-sample test
    by nearest neighbours in latent space, and either the smallest class whose absence from the
    reference would have been found, or the classes that the reference has too few of, by
    log_ratio_i = E_q(z|x_i)[log q_data(z) - log q_reference(z)]. For classes that the data lack,
    exchange the two.

    The cost grows as samples x (n + m)^2.

    Sources: "ELBO surgery: yet another way to carve up the variational evidence lower bound",
    Hoffman, Johnson (2016), for the aggregate posterior; "A Multivariate Two-Sample Test Based on
    the Number of Nearest Neighbor Type Coincidences", Henze (1988), for the test, of at most
    2,000 data of each set.

    Args:
        model: generative program.
        guide: inference program with densities.
        data: n data: a ``Dataset``, a tensor (n, *event_shape), or a pair (x, y). Dynamic
            binarisation is drawn once.
        reference: the data that populate the latent space, such as the training set; default
            ``data`` itself.
        samples: draws from q(z|x) per datum.
        batch_size: data encoded at once.

    Returns:
        ``Rarity``: log density (n,) in nats with its standard error, and that of the reference.

    Raises:
        ValueError: fewer than one draw, fewer than two reference data, a guide that is a point
            mass, latents under masks that differ between data, data that the model cannot have
            produced.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> x = torch.cat([torch.randn(50, 6), torch.full((1, 6), 30.0)])
        >>> rarity(vae, guides.BottomUp(vae), x).rarest(1)
        tensor([50])
    """
    own, other = _sets(model, guide, data, reference, samples, batch_size)
    options = {"samples": samples, "batch_size": batch_size}
    with measuring(model, guide, device=own.device):
        if other is None:
            (of_data,) = _log_q(model, guide, own, [own], **options)
            return Rarity(of_data.mean(0), standard_error(of_data), of_data.mean(0))
        # A single datum has no others of its own
        populating = [other, own] if len(own) > 1 else [other]
        of_data, *of_own = _log_q(model, guide, own, populating, **options)
        (of_reference,) = _log_q(model, guide, other, [other], **options)
        comparison = compare(model, guide, own, other, batch_size)
    ratio = (of_own[0] - of_data).mean(0) if of_own else torch.full_like(of_data[0], math.nan)
    labels, names = classes_of(own)
    classes = {} if labels is None else _by_class(ratio, labels, names)
    error = standard_error(of_data)
    return Rarity(of_data.mean(0), error, of_reference.mean(0), ratio, classes, comparison)


def log_density(
    model: Callable,
    guide: Callable,
    data: Dataset | Tensor | tuple[Tensor, Tensor | None],
    *,
    reference: Dataset | Tensor | tuple[Tensor, Tensor | None] | None = None,
    samples: int = 4,
    batch_size: int = 500,
) -> tuple[Tensor, Tensor]:
    """``log_density`` of ``rarity(...)`` and its standard error alone, without comparing sets."""
    own, other = _sets(model, guide, data, reference, samples, batch_size)
    populating = [own if other is None else other]
    with measuring(model, guide, device=own.device):
        (found,) = _log_q(model, guide, own, populating, samples=samples, batch_size=batch_size)
    return found.mean(0), standard_error(found)


def _sets(
    model: Callable, guide: Callable, data: Any, reference: Any, samples: int, batch_size: int
) -> tuple[Dataset, Dataset | None]:
    """Data and reference, checked and binarised once."""
    whole("samples", samples)
    sets = {"data": data} if reference is None else {"data": data, "reference": reference}
    with contextlib.ExitStack() as stack:
        for name, d in sets.items():
            sets[name], _ = stack.enter_context(examined(d, model, guide, labelled=True))
        refuse_unlike(model, guide, [*sets.values()], batch_size)
    if len(sets[name]) < 2:
        raise ValueError(f"{name}: expected at least 2 data to compare with, got 1")
    return sets["data"], sets.get("reference")


def _log_q(
    model: Callable,
    guide: Callable,
    data: Dataset,
    populating: Sequence[Dataset],
    *,
    samples: int,
    batch_size: int,
) -> list[Tensor]:
    """Log q(z) of each populating set at draws of the data, (samples, n), themselves left out."""
    found: list[list[Tensor]] = [[] for _ in populating]
    for _ in range(samples):
        z = draw(model, guide, data, batch_size).z
        for densities, d in zip(found, populating, strict=True):
            densities.append(log_aggregate(guide, d, z, leave_one_out=d is data))
    return [torch.stack(densities) for densities in found]


def _by_class(ratio: Tensor, y: Tensor, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    found = {
        str(names[label]) if len(names) else str(label): mean_and_error(ratio[y == label])
        for label in y.unique().tolist()
    }
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))
