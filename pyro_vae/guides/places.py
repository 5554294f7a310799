"""Where a latent's values lie: its plates, its support, and one vector per datum for networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Independent, IndependentTransform, Transform, biject_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import identity_transform

from ..distributions import declared
from ..programs.sites import is_point_mass
from ..programs.structure import Latent

# Coordinates other than the values are logarithms, logits and the like
_WIDEST = 2.0


class Place(nn.Module):
    """From a latent's values to one vector of real numbers per datum, and back.

    The vector (..., n, size) holds, for each element of the plates inside the datum, the
    coordinates in which the support is all real numbers, u, as (u - m) / s with the m and s of
    ``measure``, 0 and 1 without it.

    Args:
        site: name of the latent.
        latent: what ``infer.structure`` tells of it.
        whole: whether networks see values as they are, maps too, where these are real numbers.

    Attributes:
        size: length of the vector.
        shape: of what stands for the vector of a datum: (size,), that of the values where it is
            these.
        elements: how many elements of plates a datum has.
        is_real: whether the coordinates are the values themselves.
        as_it_is: whether the vector is the value itself.
        is_map: whether the value is a map, which stands for the vector.

    Raises:
        ValueError: a latent that no distribution can be built for: in a plate of which a part is
            drawn, or of a support without coordinates, or with bounds that are several numbers.
    """

    center: Tensor | None
    spread: Tensor | None

    def __init__(self, site: str, latent: Latent, *, whole: bool = False) -> None:
        """Find out about the coordinates."""
        super().__init__()
        self.register_buffer("center", None)
        self.register_buffer("spread", None)
        self.site, self.event_shape = site, tuple(latent.event_shape)
        self.transform = _transform(site, latent)
        shape = torch.Size(self.event_shape)
        self.coordinates = tuple(self.transform.inverse_shape(shape))
        self.rank = -latent.dim
        for plate in latent.plates:
            self.rank = max(self.rank, -plate.dim)
        # Sizes of the batch dimensions, that of the data first, and where it belongs
        self.data = self.rank + latent.dim
        rest = [1] * self.rank
        for plate in latent.plates:
            rest[plate.dim] = plate.size
        del rest[self.data]
        self.rest = tuple(rest)
        self.elements = math.prod(rest)
        self.size = self.elements * math.prod(self.coordinates)
        self.is_real = self.transform is identity_transform
        whole = whole or len(self.event_shape) == 1
        self.as_it_is = self.is_real and self.rank == 1 and whole
        self.shape = self.event_shape if self.as_it_is else (self.size,)
        self.is_map = len(self.shape) > 1

    def vector(self, value: Tensor) -> Tensor:
        """The vector (..., n, size) of values (..., *plates, *event)."""
        return value if self.as_it_is else self.joined(self.transform.inv(value))

    @torch.no_grad()
    def measure(self, values: Tensor) -> None:
        """Have the median of some values (draws, *plates, *event) as 0, most within -1 and 1.

        Coordinates that are logarithms or logits are scaled by 2 at most.
        """
        u = self._joined(self.transform.inv(values)).flatten(0, -2)
        u = torch.where(u.isfinite(), u, torch.nan)
        low, center, high = u.nanquantile(u.new_tensor([0.16, 0.5, 0.84]), 0)
        spread = (high - low) / 2
        if not self.is_real:
            # Skewed priors reach over orders of magnitude, up to where numbers are rounded off
            spread = spread.clamp(max=_WIDEST)
        self.center = center.nan_to_num(0)
        self.spread = torch.where(spread > 0, spread, 1.0)
        self.as_it_is = False

    def joined(self, u: Tensor) -> Tensor:
        """The vector (..., n, size) of coordinates (..., *plates, *coordinates)."""
        vector = self._joined(u)
        return vector if self.center is None else (vector - self.center) / self.spread

    def joined_scale(self, scale: Tensor) -> Tensor:
        """The vector (..., n, size) of standard deviations of coordinates."""
        vector = self._joined(scale)
        return vector if self.spread is None else vector / self.spread

    def _joined(self, u: Tensor) -> Tensor:
        at = u.dim() - len(self.coordinates) - self.rank
        u = u.movedim(at + self.data, at)
        return u.reshape(*u.shape[: at + 1], self.size)

    def coordinates_of(self, vector: Tensor) -> Tensor:
        """Coordinates (..., *plates, *coordinates) at vectors (..., n, size)."""
        if self.center is not None:
            vector = self.center + self.spread * vector
        return self._arranged(vector)

    def _arranged(self, vector: Tensor) -> Tensor:
        u = vector.reshape(*vector.shape[:-1], *self.rest, *self.coordinates)
        at = vector.dim() - 2
        return u.movedim(at, at + self.data)

    def values(self, vector: Tensor) -> Tensor:
        """Values (..., *plates, *event) at vectors (..., n, size)."""
        return self.transform(self.coordinates_of(vector))

    def summed(self, density: Tensor) -> Tensor:
        """Of each datum, (..., n), what is of each element of its plates, (..., *plates)."""
        if self.rank == 1:
            return density
        at = density.dim() - self.rank
        density = density.movedim(at + self.data, at)
        return density.reshape(*density.shape[: at + 1], -1).sum(-1)

    def each(self, value: Tensor) -> Tensor:
        """For each element of the plates, (..., *plates), what is of its datum, (..., n)."""
        if self.rank == 1:
            return value
        at = value.dim() - 1
        spread = value.reshape(*value.shape, *(1,) * len(self.rest))
        return spread.expand(*value.shape, *self.rest).movedim(at, at + self.data)

    def lay(self, q: Any) -> TorchDistributionMixin:
        """The distribution of the site's values from one of vectors, event shape (size,).

        A normal stays one where the support is all real numbers, and a point mass one. Of any
        other distribution over several elements of plates, which is a joint one, each element has
        an equal part of the log-density.
        """
        if self.as_it_is:
            return declared(q, self.event_shape, self.site)
        q = declared(q, (self.size,), self.site)
        if is_point_mass(q):
            return dist.Delta(self.values(q.mean), event_dim=len(self.event_shape))
        normal = getattr(q, "base_dist", None)
        if not (isinstance(q, Independent) and isinstance(normal, torch.distributions.Normal)):
            return Laid(q, self)
        scale = normal.scale if self.spread is None else self.spread * normal.scale
        laid = dist.Normal(self.coordinates_of(normal.loc), self._arranged(scale))
        laid = laid.to_event(len(self.coordinates))
        if self.is_real:
            return laid
        # Inverting a value that rounding has brought to a bound would give another density
        return dist.TransformedDistribution(laid, [self.transform.with_cache()])


class Laid(TorchDistribution):
    """A distribution of vectors, in the places of a site.

    log q(z) = log q(u) - log |det dz/du|, with z the values at the vector u, in equal parts for
    the elements of the plates inside the datum.

    Args:
        base: batch shape (..., n), event shape (size,).
        place: where its values lie.
    """

    arg_constraints: dict[str, Constraint] = {}

    def __init__(self, base: TorchDistributionMixin, place: Place) -> None:
        self.base, self.place = base, place
        self._drawn: tuple[Tensor, Tensor] | None = None
        *lead, n = base.batch_shape
        batch = [*lead, *place.rest]
        batch.insert(len(lead) + place.data, n)
        super().__init__(torch.Size(batch), torch.Size(place.event_shape), validate_args=False)

    @property
    def is_joint(self) -> bool:
        """Whether it is one density for several units, whose parts are none of their own."""
        return self.place.size > 1

    @property
    def has_rsample(self) -> bool:
        """As of the base."""
        return self.base.has_rsample

    @property
    def support(self) -> Constraint:
        """Where its values are."""
        return self.place.transform.codomain

    @property
    def mean(self) -> Tensor:
        """The values at the mean of the vectors, which stand in for E[z]."""
        return self.place.values(self.base.mean)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape ``sample_shape`` + batch shape + event shape."""
        vector = self.base.rsample(torch.Size(sample_shape))
        value = self.place.values(vector)
        # A flow knows the density at the very tensor that it drew
        self._drawn = value, vector
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        """Each element's part of the log-density, of the batch shape."""
        place, drawn = self.place, self._drawn
        known = drawn is not None and drawn[0] is value
        vector = drawn[1] if known else place.vector(value)
        density = self.base.log_prob(vector)
        if not place.is_real:
            u = place.coordinates_of(vector)
            slope = place.transform.log_abs_det_jacobian(u, value)
            at = vector.dim() - 2
            slope = slope.movedim(at + place.data, at)
            density = density - slope.reshape(*slope.shape[: at + 1], -1).sum(-1)
        if place.spread is not None:
            density = density - place.spread.log().sum()
        return place.each(density / place.elements)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Laid:
        """The same for more samples, or more of the data."""
        lead, own = batch_shape[: -self.place.rank], batch_shape[-self.place.rank :]
        return Laid(self.base.expand(torch.Size([*lead, own[self.place.data]])), self.place)


def _transform(site: str, latent: Latent) -> Transform:
    """From real numbers to the support of a latent."""
    advice = "write the guide of this model by hand"
    if part := next((p for p in latent.plates if p.total is not None), None):
        raise ValueError(
            f"site {site!r}: expected whole plates inside a datum, got {part.size} of "
            f"{part.total} of {part.name!r}: draw no part of it, or {advice}"
        )
    support = latent.support
    try:
        transform = biject_to(support)
    except NotImplementedError as error:
        raise ValueError(
            f"site {site!r}: expected a support with coordinates, such as positive numbers or a "
            f"simplex, got {support} of a {latent.distribution}: {advice}"
        ) from error
    if bound := _bounds(support):
        raise ValueError(
            f"site {site!r}: expected a support whose bounds are one number each, got a "
            f"{latent.distribution} with several for its {bound}: scale the latent inside of "
            f"the model, or {advice}"
        )
    plain = transform.base_transform if isinstance(transform, IndependentTransform) else transform
    return identity_transform if plain == identity_transform else transform


def _bounds(support: Constraint) -> str | None:
    """The name of a bound that is no number for all elements."""
    for name, value in vars(support).items():
        if isinstance(value, Constraint) and (found := _bounds(value)):
            return found
        if isinstance(value, Tensor):
            return name
    return None
