"""Whether two sets of data lie in the same places of latent space."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import Dataset
from ..data.arguments import joined
from ..infer.aggregate import draw, pair_densities

LEVEL = 0.05
# Shares of a class in the data for which the power is found
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
_FOUND = 0.9
_NEIGHBOURS = 0.02
_PERMUTATIONS, _TRIALS = 999, 200
# Of each set, because all pairs are looked at
_MOST = 2000


@dataclass(frozen=True)
class Comparison:
    """A two-sample test in latent space, and what it could have found.

    Attributes:
        p_value: share of random divisions of the pooled data that differ as much, in (0, 1].
        power: share of a class in the data -> how often the test at the level of 5 % finds that
            the reference lacks it.
        sizes: data and reference data that were compared.
    """

    p_value: float
    power: dict[float, float]
    sizes: tuple[int, int]

    @property
    def statement(self) -> str:
        """The smallest class whose absence would have been found with 90 %."""
        found = [share for share, power in self.power.items() if power >= _FOUND]
        share = min(found, default=max(self.power))
        even, only = ("", "") if found else ("even ", "only ")
        return (
            f"{even}a class of {100 * share:.0f}% of the data that lies together and that the "
            f"reference lacks would have been found with {only}{100 * self.power[share]:.0f}%"
        )


def compare(
    model: Callable, guide: Callable, data: Dataset, reference: Dataset, batch_size: int
) -> Comparison:
    """Test by nearest neighbours whether data and reference lie in the same places.

    One z is drawn for each datum; the neighbours of a datum are the 2 % of all others, of both
    sets, with the largest q(z|x_j). The statistic is the share of data among the neighbours of
    data, minus that among the neighbours of reference data; its distribution under no difference
    is found by dividing the pooled data at random 999 times.

    The power is that for a class which lies together in latent space: the neighbours of a random
    datum are all given to the data, the others divided at random.

    At most 2,000 data of each set are compared, drawn at random; in the current mode.

    Source: "A Multivariate Two-Sample Test Based on the Number of Nearest Neighbor Type
    Coincidences", Henze (1988).
    """
    data, reference = _some(data), _some(reference)
    n, total = len(data), len(data) + len(reference)
    # In random order, for neighbours at equal distance are taken in theirs
    order = torch.randperm(total, device=data.device)
    y = None if data.y is None or reference.y is None else joined(data.y, reference.y)[order]
    pooled = Dataset(torch.cat([data.x, reference.x])[order], y)
    log_q = pooled.x.new_empty(total, total)
    z = draw(model, guide, pooled, batch_size).z
    for row, column, densities in pair_densities(guide, pooled, z):
        log_q[row, column] = sum(densities.values()).to(log_q.dtype)
    log_q.fill_diagonal_(-math.inf)
    neighbours = log_q.topk(max(1, round(_NEIGHBOURS * total)), dim=1).indices
    near = torch.zeros_like(log_q).scatter_(1, neighbours, 1.0)

    def statistic(first: Tensor) -> Tensor:
        """Of divisions (total, r), 1 for what counts as data."""
        # Whole numbers up to the division, so that equal divisions are equal to the last bit
        counts = near @ first
        of_first, of_all = (counts * first).sum(0), counts.sum(0)
        return (of_first / n - (of_all - of_first) / (total - n)) / neighbours.shape[1]

    def divided(score: Tensor) -> Tensor:
        """The n of the least scores count as data, in each column of (total, r)."""
        return (score <= score.kthvalue(n, dim=0).values).to(log_q.dtype)

    def p_values(found: Tensor) -> Tensor:
        larger = len(null) - torch.searchsorted(null, found.contiguous())
        return (larger + 1) / (len(null) + 1)

    null = (
        statistic(divided(torch.rand_like(log_q[:, :1].expand(-1, _PERMUTATIONS)))).sort().values
    )
    power = {}
    for share in SHARES:
        score = torch.rand_like(log_q[:, :1].expand(-1, _TRIALS))
        centres = torch.randint(total, (_TRIALS,), device=order.device)
        members = log_q[centres].topk(max(1, round(share * n)), dim=1).indices
        score.scatter_(0, members.T, -1.0)
        power[share] = float((p_values(statistic(divided(score))) <= LEVEL).double().mean())
    observed = statistic((order < n).to(log_q.dtype)[:, None])
    return Comparison(float(p_values(observed)), power, (n, total - n))


def _some(data: Dataset) -> Dataset:
    if len(data) <= _MOST:
        return data
    return data[torch.randperm(len(data), device=data.device)[:_MOST]]
