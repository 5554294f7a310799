"""Values that are not there, to a program under ``handlers.missing``: NaN, and None."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import (
    LowRankMultivariateNormal,
    MaskedDistribution,
    MultivariateNormal,
    TorchDistribution,
)
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent, biject_to

from ..data.arguments import Arguments, Data, columns_of
from ..distributions import AROUND, Joint, plain
from ..ground.internals import mask_of
from .labels import parameters_of
from .unwrapping import handlers_of, innermost, is_ours
from .values import check_finite

# Rows that tell whether missing values can be left out
_ROWS = 100
_NORMALS = MultivariateNormal, LowRankMultivariateNormal


class Seen(MaskedDistribution):
    """A distribution under which NaN is not there: its log-probability is 0.

    NaN gives way to a value of the support, so that gradients are finite and exactly 0 there. A
    value of several numbers is not there where all of them are NaN.

    Example:
        >>> import pyro.distributions as dist
        >>> p = Seen(dist.Exponential(torch.tensor([1.0, 2.0])), True)
        >>> p.log_prob(torch.tensor([3.0, torch.nan]))
        tensor([-3.,  0.])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Of a value of the batch and event shape."""
        if self.event_dim:
            seen = ~_gone(value, self.event_dim)
            kept = seen.reshape(*seen.shape, *(1,) * self.event_dim)
            value = value.where(kept, _typical(self, value))
            return self.base_dist.log_prob(value).where(seen, 0.0)
        seen = ~value.isnan()
        # A scale that is fitted to the values
        if (fit_to := getattr(self.base_dist, "fit_to", None)) is not None:
            fit_to(value, seen)
        return self.base_dist.log_prob(value.where(seen, _inside(self))).where(seen, 0.0)


class SeenNormal(Seen):
    """A joint normal N(mu, S) of which the numbers that are NaN are not there: its marginal.

    With the mask M of what is seen it is the density of M (x - mu) under N(0, M S M + 1 - M), but
    for that of the others, which are 0 under N(0, 1).

    Example:
        >>> import pyro.distributions as dist
        >>> p = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[4.0, 1.0], [1.0, 1.0]]))
        >>> found = SeenNormal(p, True).log_prob(torch.tensor([2.0, torch.nan]))
        >>> bool(torch.isclose(found, dist.Normal(0.0, 2.0).log_prob(torch.tensor(2.0))))
        True
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Of a value of the batch and event shape."""
        p, seen = self.base_dist, ~value.isnan()
        kept = value.where(seen, p.loc)
        shown = seen.to(p.loc.dtype)
        if hasattr(p, "cov_factor"):
            spread = p.cov_factor * shown.unsqueeze(-1), p.cov_diag * shown + (1 - shown)
            among = LowRankMultivariateNormal(torch.zeros_like(kept), *spread, validate_args=False)
        else:
            covariance = _masked(p.covariance_matrix, shown)
            among = MultivariateNormal(torch.zeros_like(kept), covariance, validate_args=False)
        others = 0.5 * math.log(2 * math.pi) * (1 - shown).sum(-1)
        part = among.log_prob(kept - p.loc) + others
        return p.log_prob(kept).where(seen.all(-1), part).where(seen.any(-1), 0.0)


class Completed(TorchDistribution):
    """What a joint normal makes of the numbers that are NaN in a value, given all others."""

    arg_constraints = {}

    def __init__(self, normal: Any, value: Tensor) -> None:
        self._normal, self._value = normal, value
        event_dim = normal.event_dim
        super().__init__(value.shape[:-event_dim], value.shape[-event_dim:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """E[x | x_seen]."""
        return self._given(self._normal.loc.expand(self._value.shape))

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """A draw of all numbers, moved by what it differs from those that are seen."""
        lead = (*sample_shape, *self.batch_shape)
        return self._given(self._normal.expand(lead).sample())

    def _given(self, drawn: Tensor) -> Tensor:
        seen, covariance = ~self._value.isnan(), self._normal.covariance_matrix
        shown = seen.to(drawn.dtype)
        gap = (self._value - drawn).where(seen, 0.0).unsqueeze(-1)
        weights = torch.linalg.solve(_masked(covariance, shown), gap).squeeze(-1) * shown
        return drawn + (covariance @ weights.unsqueeze(-1)).squeeze(-1)


def _masked(covariance: Tensor, shown: Tensor) -> Tensor:
    """That of what is shown, (..., d), with 1 for all else."""
    both = shown.unsqueeze(-1) * shown.unsqueeze(-2)
    return covariance * both + torch.diag_embed(1 - shown)


def completed(distribution: Any, value: Tensor) -> Any:
    """The distribution of what is NaN in an observed value, given what is seen."""
    if isinstance(distribution, Joint):
        parts = zip(distribution.parts, distribution.columns, strict=True)
        each = [completed(part, value[..., columns]) for part, columns in parts]
        return Joint(each, distribution.columns)
    below = distribution
    while isinstance(below, AROUND) and not isinstance(below, SeenNormal):
        below = below.base_dist
    return Completed(below.base_dist, value) if isinstance(below, SeenNormal) else distribution


def _inside(distribution: Any) -> Tensor | float:
    """A value that a distribution of single numbers gives probability."""
    try:
        support = distribution.support
        discrete = support.is_discrete
    except NotImplementedError:
        return 0.0
    ends = [getattr(support, f"{end}_bound", None) for end in ("lower", "upper")]
    low, high = (end.detach() if isinstance(end, Tensor) else end for end in ends)
    if low is None:
        return 0.0 if high is None else high - 1.0
    if discrete:
        return low
    return low + 1.0 if high is None else (low + high) / 2


def _gone(value: Tensor, event_dim: int) -> Tensor:
    """Which values of so many dimensions are NaN throughout."""
    return value.isnan().flatten(-event_dim).all(-1)


def _typical(distribution: Any, like: Tensor) -> Tensor:
    """The same of a distribution of several numbers at once, of its event shape."""
    value = like.new_zeros(distribution.event_shape)
    try:
        support = distribution.support
        if not support.is_discrete:
            to = biject_to(support)
            return to(like.new_zeros(to.inverse_shape(value.shape)))
    except NotImplementedError:
        return value
    # One-hot, or counts of a total
    value[..., 0] = getattr(plain(distribution), "total_count", 1)
    return value


def hiding(distribution: Any) -> Any:
    """A distribution under which single numbers that are NaN are not there.

    Of a joint normal it is the marginal; None for others that are joint. One that knows better
    says so by ``under_missing()``.
    """
    if (own := getattr(distribution, "under_missing", None)) is not None:
        return own()
    if isinstance(distribution, Joint):
        parts = [hiding(part) for part in distribution.parts]
        return None if None in parts else Joint(parts, distribution.columns)
    if distribution.event_dim == 0:
        return Seen(distribution, True)
    if type(distribution) in _NORMALS:
        return SeenNormal(distribution, True)
    if not isinstance(distribution, AROUND) or (below := hiding(distribution.base_dist)) is None:
        return None
    if isinstance(distribution, Independent):
        return below.to_event(distribution.reinterpreted_batch_ndims)
    if isinstance(distribution, MaskedDistribution):
        return below.mask(mask_of(distribution))
    return below.expand(distribution.batch_shape)


class JointError(ValueError):
    """A part of a value is missing that has a probability only as a whole."""


class Hiding(Messenger):
    """Leaves out, of what is observed, the numbers that are NaN.

    ``active`` is how many such handlers run.
    """

    active: ClassVar[int] = 0

    def __enter__(self) -> Any:
        Hiding.active += 1
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        Hiding.active -= 1
        super().__exit__(*exception)

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        value = msg["value"]
        if not msg["is_observed"] or msg["infer"].get("_deterministic") or site_is_subsample(msg):
            return
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return
        distribution = msg["fn"]
        if (hidden := hiding(distribution)) is None:
            gone = value.isnan()
            if is_validation_enabled() and gone.any():
                part = gone.flatten(-distribution.event_dim).any(-1)
                if (part & ~_gone(value, distribution.event_dim)).any():
                    raise _joint(msg["name"], plain(distribution))
            hidden = Seen(distribution, True)
        msg["fn"] = hidden


def _joint(site: str, distribution: Any) -> JointError:
    return JointError(
        f"site {site!r}: expected a distribution of single numbers, such as "
        "Normal(...).to_event(1), for data of which some are missing, got a "
        f"{type(distribution).__name__} over {tuple(distribution.event_shape)}, which has "
        "no probability for a part: use another distribution, or fill or remove these data"
    )


class Absent(Messenger):
    """Leaves out sites that would be observed if the argument of their name were there.

    Each has a value that it draws itself, and is hidden by a mask. To a bound that is as if a
    guide drew it from its conditional: exact where no other site depends on it.

    Args:
        names: these arguments.
    """

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] not in self.names or msg["is_observed"] or msg["infer"].get("enumerate"):
            return
        with torch.no_grad():
            msg["value"] = msg["fn"].sample()
        msg["is_observed"], msg["mask"] = True, False


def absent(program: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> frozenset[str]:
    """The arguments of a program of one's own that are None in a call which has some data."""
    if is_ours(program) or not any(isinstance(v, Tensor) for v in (*args, *kwargs.values())):
        return frozenset()
    parameters = parameters_of(program)
    given = {p.name: value for p, value in zip(parameters, args, strict=False)} | dict(kwargs)
    return frozenset(p.name for p in parameters if given.get(p.name, p.default) is None)


def takes_missing(*programs: Callable | None) -> bool:
    """Whether NaN means missing to one of the programs, or to the model of a guide."""
    found = [p for p in programs if p is not None]
    found += [m for p in found if (m := getattr(innermost(p), "model", None)) is not None]
    return any(getattr(h, "takes_missing", False) for p in found for h in handlers_of(p))


def has_missing(x: Data) -> bool:
    """Whether some of the data are NaN."""
    return x.missing if isinstance(x, Arguments) else bool(x.isnan().any())


def check_known(x: Tensor, *programs: Callable | None, name: str = "x") -> None:
    """Raise ``ValueError`` for data that are infinite, or NaN where this does not mean missing."""
    if x.isnan().any() and takes_missing(*programs):
        x = x.nan_to_num(0.0, torch.inf, -torch.inf)
    check_finite(x, name)


def filled(x: Data, but: Tensor | None = None) -> Data:
    """The data with what is seen at the same place of another datum where they are NaN.

    All of them, ``but`` one column.
    """

    def fill(column: Tensor) -> Tensor:
        return column if column is but else _filled(column)

    return x.each(fill) if isinstance(x, Arguments) else fill(x)


def _filled(column: Tensor) -> Tensor:
    if not column.is_floating_point():
        return column
    seen = column.isfinite()
    found = column.gather(0, seen.long().argmax(0, keepdim=True))
    anywhere = column[seen][:1].sum()
    return column.where(~column.isnan(), found.where(found.isfinite(), anywhere))


def rows_missing(x: Data) -> Tensor:
    """Rows of data among which all are missing that are missing anywhere; a hundred at most."""
    found = []
    for column in columns_of(x):
        gone = column.reshape(len(column), -1).isnan()
        found.append(gone.long().argmax(0)[gone.any(0)])
    return torch.cat(found).unique()[:_ROWS]
