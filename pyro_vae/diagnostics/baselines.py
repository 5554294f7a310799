"""What a pair has to beat: models without a network, fitted to the training data.

Each function returns log p(x) per datum, (n,), in nats and in the units of the data. Data ``x``
are (n, *event_shape), training data (m, *event_shape).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import MaskedDistribution, constraints
from torch import Tensor

from ..data import Dataset
from ..data.arguments import Arguments, Data, LabelData
from ..distributions import (
    ContinuousBernoulli,
    ExpNormal,
    Joint,
    LogPoisson,
    MeanNegativeBinomial,
    Nominal,
    base_of,
    plain,
)
from ..likelihoods.base import network_inputs
from ..models.autoregressive import Autoregressive
from ..models.given import OFFSET, Given
from ..programs.autoguides import few
from ..programs.missing import has_missing
from ..programs.running import trace_pair
from ..programs.sites import kinds
from ..programs.unwrapping import innermost

_ROWS = 4096
# Beyond so many elements, a covariance is found from so many rows or fewer
_MOST = 2000
_MOST_VALUES = 2**26
_DENSITIES = ("normal", "log-normal", "continuous Bernoulli")

# Log exposures of training data and of data
Offsets = tuple[Tensor, Tensor]


def independent_normal(train: Tensor, x: Tensor) -> Tensor:
    """A normal distribution of each element, with its mean and variance over the training data.

    An element that never varies there gets the least standard deviation of those that do; m > 1.

    Example:
        >>> train = torch.tensor([[0.0], [2.0], [4.0]])
        >>> independent_normal(train, torch.tensor([[2.0]])).exp()  # 1 / sqrt(2 pi 4)
        tensor([0.1995], dtype=torch.float64)
    """
    mean = _mean(train)
    variance = sum((rows - mean).square().sum(0) for rows in _parts(train)) / (len(train) - 1)
    varies = variance > 0
    least = variance[varies].min() if varies.any() else variance.new_ones(())
    variance = variance.where(varies, least)
    terms = [((rows - mean).square() / variance).sum(1) for rows in _parts(x)]
    return -0.5 * (torch.cat(terms) + (2 * math.pi * variance).log().sum())


def independent_bernoulli(train: Tensor, x: Tensor) -> Tensor:
    """A probability of 1 for each element.

    It is the mean over the training data, which may be probabilities of 1 themselves, with half a
    datum of 0 and of 1 each added.

    Example:
        >>> independent_bernoulli(torch.ones(1, 2), torch.tensor([[1.0, 0.0]])).exp()  # 3/4 1/4
        tensor([0.1875], dtype=torch.float64)
    """
    p = (_mean(train) * len(train) + 0.5) / (len(train) + 1)
    return torch.cat([rows @ p.log() + (1 - rows) @ (-p).log1p() for rows in _parts(x)])


def independent_continuous_bernoulli(train: Tensor, x: Tensor) -> Tensor:
    """A continuous Bernoulli for each element, of values in [0, 1].

    Its mean is that of the training data, with half a datum of 0 and of 1 each added.

    Example:
        >>> train = torch.tensor([[0.25], [0.75]])
        >>> independent_continuous_bernoulli(train, train).exp()  # a mean of 1/2: uniform
        tensor([1.0000, 1.0000], dtype=torch.float64)
    """
    mean = (_mean(train) * len(train) + 0.5) / (len(train) + 1)
    # The mean of a logit l is at most 1 - 1/l, and at least -1/l
    high = 1 / mean.minimum(1 - mean)
    low = -high
    for _ in range(100):
        middle = (low + high) / 2
        below = ContinuousBernoulli(middle).mean < mean
        low, high = low.where(~below, middle), high.where(below, middle)
    p = ContinuousBernoulli((low + high) / 2, validate_args=False)
    return torch.cat([p.log_prob(rows).sum(1) for rows in _parts(x)])


def independent_histogram(train: Tensor, x: Tensor, levels: int) -> Tensor:
    """The frequencies of all levels for each element, and one datum more, shared by all levels.

    The values are k / (levels - 1).

    Example:
        >>> train = torch.tensor([[0.0], [0.5], [0.5]])
        >>> independent_histogram(train, torch.tensor([[0.5]]), levels=3).exp()  # (2 + 1/3) / 4
        tensor([0.5833], dtype=torch.float64)
    """
    elements = train[0].numel()
    offset = levels * torch.arange(elements, device=train.device)
    counts = torch.zeros(levels * elements, dtype=torch.float64, device=train.device)
    for rows in _parts(train):
        index = ((rows * (levels - 1)).round().long() + offset).flatten()
        counts += torch.bincount(index, minlength=len(counts))
    log_p = ((counts + 1 / levels) / (len(train) + 1)).log()
    return torch.cat(
        [log_p[(rows * (levels - 1)).round().long() + offset].sum(1) for rows in _parts(x)]
    )


def independent_negative_binomial(
    train: Tensor, x: Tensor, *, offsets: Offsets | None = None
) -> Tensor:
    """A negative binomial distribution for each element, of counts.

    Its mean is that of the training data, with half a count added; its dispersion the most likely
    one of 61 from 1e-6 to 1e6, on 4096 rows at most. With log exposures, (m,) and (n,), it is the
    rate, counts per exposure, that all data share: the mean is rate times exposure.

    Example:
        >>> train = torch.tensor([[0.0], [1.0], [2.0]])  # less dispersed than Poisson counts
        >>> independent_negative_binomial(train, torch.tensor([[0.0]])).exp()  # e^-(7 / 6)
        tensor([0.3114], dtype=torch.float64)
    """
    known, told = (
        (v.new_zeros(len(v)) if o is None else o).double().unsqueeze(1)
        for v, o in zip((train, x), offsets or (None, None), strict=True)
    )
    log_rate = (_mean(train) * len(train) + 0.5).log() - known.logsumexp(0)
    few = slice(None, None, -(-len(train) // _ROWS))
    rows = train[few].flatten(1).double()
    grid = torch.logspace(-6, 6, 61, dtype=torch.float64, device=x.device)

    def scored(values: Tensor, offset: Tensor, dispersion: Tensor) -> Tensor:
        p = MeanNegativeBinomial(log_rate + offset, dispersion, validate_args=False)
        return p.log_prob(values)

    best = grid[torch.stack([scored(rows, known[few], a).sum(0) for a in grid]).argmax(0)]
    parts = zip(_parts(x), told.split(_ROWS), strict=True)
    return torch.cat([scored(part, offset, best).sum(1) for part, offset in parts])


def of_seen(
    independent: Callable[..., Tensor],
    train: Tensor,
    x: Tensor,
    *levels: int,
    offsets: Offsets | None = None,
) -> Tensor:
    """An independent model of the elements that are no NaN, in data and training data.

    Log exposures (m,) and (n,), if there are any, are passed on.

    Example:
        >>> train = torch.tensor([[0.0, 5.0], [2.0, torch.nan], [4.0, 9.0]])
        >>> of_seen(independent_normal, train, torch.tensor([[2.0, torch.nan]])).exp()
        tensor([0.1995], dtype=torch.float64)
    """
    if not (has_missing(train) or has_missing(x)):
        given = {} if offsets is None else {"offsets": offsets}
        return independent(train, x, *levels, **given)
    total = x.new_zeros(len(x), dtype=torch.float64)
    for columns in zip(train.flatten(1).T, x.flatten(1).T, strict=True):
        seen = [~column.isnan() for column in columns]
        parts = (column[s].unsqueeze(1) for column, s in zip(columns, seen, strict=True))
        given = {}
        if offsets is not None:
            given["offsets"] = tuple(o[s] for o, s in zip(offsets, seen, strict=True))
        total[seen[1]] += independent(*parts, *levels, **given)
    return total


def probabilistic_pca(train: Tensor, x: Tensor, latents: int) -> Tensor | None:
    """N(mean, W W^T + s^2 I) with W of so many columns, the best that a linear decoder can do.

    With l_1 >= l_2 >= ... the eigenvalues of the covariance of the d elements and q latents, the
    covariance of the model has l_1, ..., l_q along the same eigenvectors, and in the other d - q
    directions their mean, s^2. At most d - 1 latents, and m - 2, have a meaning. For more than
    2,000 elements as many rows are used, evenly spaced. None where there is no such density: one
    element, few data, or data without noise.

    Source: "Probabilistic Principal Component Analysis", Tipping, Bishop (1999).

    Example:
        >>> train = torch.randn(50, 3)
        >>> exact = torch.distributions.MultivariateNormal(train.mean(0), train.T.cov())
        >>> log_p = probabilistic_pca(train, train, latents=2)
        >>> torch.allclose(log_p.float(), exact.log_prob(train), atol=1e-4)
        True
    """
    d = train[0].numel()
    if d > _MOST:
        most = max(2, min(_MOST, _MOST_VALUES // d))
        train = train[:: -(-len(train) // most)]
    m, mean = len(train), _mean(train)
    q = min(latents, d - 1, m - 2)
    if q < 1:
        return None
    if d <= m:
        covariance = sum((r - mean).T @ (r - mean) for r in _parts(train)) / (m - 1)
        values, vectors = torch.linalg.eigh(covariance)
    else:
        centred = torch.cat(list(_parts(train))) - mean
        values, weights = torch.linalg.eigh(centred @ centred.T / (m - 1))
        vectors = centred.T @ (weights / ((m - 1) * values.clamp(min=1e-300)).sqrt())
    total, values, vectors = values.sum(), values[-q:], vectors[:, -q:]
    noise = (total - values.sum()) / (d - q)
    if not noise > 1e-12 * values.max():
        return None
    log_determinant = values.log().sum() + (d - q) * noise.log()
    squares = []
    for rows in _parts(x):
        along = (rows - mean) @ vectors
        rest = (rows - mean).square().sum(1) - along.square().sum(1)
        squares.append((along.square() / values).sum(1) + rest / noise)
    return -0.5 * (torch.cat(squares) + log_determinant + d * math.log(2 * math.pi))


def baselines(
    model: Callable, guide: Callable, x: Data, y: LabelData, reference: Dataset | Arguments
) -> dict[str, Tensor]:
    """What the pair has to beat on ``x``, with labels ``y`` (n,) or None: name -> log p(x), (n,).

    An independent model of each element, by the model's likelihood, of counts with exposures
    their rate; for a density also, unless some data are missing, probabilistic PCA with as many
    latents. Empty for a model that these do not compare with: of several observed sites, under a
    mask, of counts of a given total, or with arguments of its own.
    ``ValueError`` for a ``reference``, the training data, of another event shape or without
    exposures.
    """
    if isinstance(x, Arguments) or isinstance(reference, Arguments):
        return {}
    if reference.event_shape != tuple(x.shape[1:]):
        raise ValueError(
            f"reference: expected training data of the event shape of data, {tuple(x.shape[1:])}, "
            f"got {reference.event_shape}: pass d.train of the same data set"
        )
    first = few(guide, x, y)
    trace, _ = trace_pair(model, guide, *first)
    site = _only(trace, first[0])
    if site is None or len(reference) < 2:
        return {}
    p = _of_places(site["fn"])
    train, labels = reference.batch(torch.arange(len(reference)))
    # Probabilities of 1, where they are known
    grey = reference.x if base_of(p).support is constraints.boolean else train
    alone = independent(p, grey, x, offsets=_offsets(labels, y))
    if alone is None:
        return {}
    found = {f"independent {alone[0]}": alone[1]}
    latents = [s for s in trace.nodes.values() if s["type"] == "sample" and not s["is_observed"]]
    sizes = [math.prod(s["fn"].event_shape) for s in latents if s["fn"].has_rsample]
    incomplete = reference.missing or has_missing(x)
    if sizes and alone[0] in _DENSITIES and not incomplete:
        # On what the networks see, so that it knows no more and no less of the scales than they
        likelihood = getattr(innermost(model), "likelihood", None)
        seen = (network_inputs(likelihood, values.double()) for values in (train, x))
        log_p = probabilistic_pca(*seen, sum(sizes))
        if log_p is not None:
            scale = getattr(likelihood, "scale", None)
            if scale is not None:
                log_p = log_p - scale.double().log().expand(x.shape[1:]).sum()
            if isinstance(p, ExpNormal):
                log_p = log_p - x.double().log().flatten(1).sum(1)
            found["probabilistic PCA"] = log_p
    return found


def _of_places(p: Any) -> Any:
    """The distribution of an element, of data that are drawn place by place, too."""
    p = plain(p)
    return plain(p.of_zeros) if isinstance(p, Autoregressive) else p


def _offsets(train: LabelData, y: LabelData) -> Offsets | None:
    """The log exposures of training data and of data, where these have any."""
    found = [v.kwargs.get(OFFSET) if isinstance(v, Given) else None for v in (train, y)]
    if found[1] is None:
        return None
    if found[0] is None:
        raise ValueError(
            "reference: expected training data with exposures, by which their rates are counts, "
            "got none: pass d.train, or a pair (x, y) with y as of the data"
        )
    return found[0], found[1]


def independent(
    p: Any, train: Tensor, x: Tensor, *, offsets: Offsets | None = None
) -> tuple[str, Tensor] | None:
    """The model of each element by itself that goes with a likelihood's distribution ``p``.

    Its name and log p(x), (n,); None where there is none. Counts have ``offsets``, if any.
    """
    p = _of_places(p)
    base = base_of(p)
    if isinstance(p, Joint):
        columns = (
            (part, train[:, c], x[:, c]) for part, c in zip(p.parts, p.columns, strict=True)
        )
        each = [independent(*column, offsets=offsets) for column in columns]
        return None if None in each else ("columns", torch.stack([v for _, v in each]).sum(0))
    if isinstance(p, ExpNormal):
        log_p = of_seen(independent_normal, train.log(), x.log())
        return "log-normal", log_p - x.double().log().flatten(1).nansum(1)
    if base.support is constraints.boolean:
        return "Bernoulli", of_seen(independent_bernoulli, train, x)
    if isinstance(p, Nominal):
        categories = p.logits.shape[-1]
        numbers = (values / (categories - 1) for values in (train, x))
        return "histogram", of_seen(independent_histogram, *numbers, categories)
    if levels := getattr(base, "levels", None):
        return "histogram", of_seen(independent_histogram, train, x, levels)
    if isinstance(base, LogPoisson | MeanNegativeBinomial):
        log_p = of_seen(independent_negative_binomial, train, x, offsets=offsets)
        return "negative binomial", log_p
    if base.support.is_discrete:
        return None
    if isinstance(base, ContinuousBernoulli):
        return "continuous Bernoulli", of_seen(independent_continuous_bernoulli, train, x)
    return "normal", of_seen(independent_normal, train, x)


def _only(trace: poutine.Trace, x: Tensor) -> dict[str, Any] | None:
    """The observed site, where it is one, of all of x."""
    sites = [trace.nodes[name] for name in kinds(trace).observed]
    if len(sites) != 1 or sites[0]["mask"] is not None:
        return None
    (site,) = sites
    masked = isinstance(site["fn"], MaskedDistribution)
    return None if masked or site["value"].numel() != x.numel() else site


def _parts(values: Tensor) -> Iterator[Tensor]:
    """Some rows (k, d) at a time, in double precision."""
    return (rows.flatten(1).double() for rows in values.split(_ROWS))


def _mean(values: Tensor) -> Tensor:
    return sum(rows.sum(0) for rows in _parts(values)) / len(values)
