"""Which data lie in thinly populated parts of latent space."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import Dataset
from ..infer import check_pair
from ..infer.aggregate import draw, log_aggregate
from ..infer.checks import check_data
from ..infer.dataset import as_dataset, matched
from ..infer.traces import measuring
from .tables import html_table, mean_and_error, number, text_table, with_error

_TAIL = 0.05


@dataclass(frozen=True)
class Rarity:
    """Density of the aggregate posterior where each datum's latents lie; ``print`` it.

    Attributes:
        log_density: E_q(z|x)[log q(z)] in nats, (n,); low where few other data lie.
        standard_error: its Monte Carlo standard error, (n,), NaN for one draw.
        reference: the same for the m reference data, each left out of its own q(z), (m,).
        own: whether the data are their own reference.
    """

    log_density: Tensor
    standard_error: Tensor
    reference: Tensor
    own: bool

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
    def representative(self) -> bool:
        """Whether no more data lie in thin places than chance explains (3 standard errors)."""
        share, error = self.thin
        return share <= _TAIL + 3 * error

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
        share, error = self.thin
        yes = "the data lie where the reference does"
        no = "the data are not representative of the reference"
        return (
            f"{yes if self.representative else no}: {100 * share:.1f}% of them are in places as "
            f"thin as those of {100 * _TAIL:.0f} +- {100 * error:.1f}% of it"
        )

    def _table(self) -> tuple[list[str], list[list[str]]]:
        rows = [["data", self.log_density]]
        rows += [] if self.own else [["reference", self.reference]]
        table = []
        for name, values in rows:
            quantiles = values.quantile(torch.tensor([0.05, 0.5, 0.95]).to(values)).tolist()
            table.append([name, with_error(*mean_and_error(values)), *map(number, quantiles)])
        return ["log q(z), nats", "mean", "5%", "median", "95%"], table

    def __str__(self) -> str:
        """Verdict and quantiles as text."""
        return f"{self.verdict}\n{text_table(*self._table())}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Verdict and quantiles for notebooks and reports."""
        return html_table(self.verdict, *self._table())


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

    Are new data representative of the reference? Then as many of them lie in its thinnest places
    as of the reference itself: ``print`` says so.

    The cost grows as samples x (n + m) x m.

    Source: "ELBO surgery: yet another way to carve up the variational evidence lower bound",
    Hoffman, Johnson (2016), for the aggregate posterior.

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
            mass, data that the model cannot have produced.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> x = torch.cat([torch.randn(50, 6), torch.full((1, 6), 30.0)])
        >>> rarity(vae, guides.BottomUp(vae), x).rarest(1)
        tensor([50])
    """
    if samples < 1:
        raise ValueError(f"samples: expected at least 1, got {samples}")
    given = {"data": data} if reference is None else {"data": data, "reference": reference}
    sets = {name: matched(as_dataset(d), model, guide) for name, d in given.items()}
    populating = list(sets)[-1]
    if len(sets[populating]) < 2:
        raise ValueError(f"{populating}: expected at least 2 data to compare with, got 1")
    device = sets["data"].device
    with measuring(model, guide, device=device):
        for name, d in sets.items():
            x, y = d.batch(torch.arange(len(d), device=d.device))
            check_data(model, x, y)
            sets[name] = Dataset(x, y, channels="first")
        populating = sets[populating]
        check_pair(model, guide, populating.x, y=populating.y)

        def densities(d: Dataset) -> Tensor:
            found = []
            for _ in range(samples):
                z = draw(model, guide, d, batch_size).z
                found.append(log_aggregate(guide, populating, z, leave_one_out=d is populating))
            return torch.stack(found)

        drawn = {name: densities(d) for name, d in sets.items()}
    of_data = drawn["data"]
    error = of_data.std(0) / math.sqrt(samples) if samples > 1 else of_data[0] * math.nan
    reference_density = list(drawn.values())[-1].mean(0)
    return Rarity(of_data.mean(0), error, reference_density, own=reference is None)
