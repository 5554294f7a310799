"""Distributions over data that are drawn place by place, each given those before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from pyro.distributions import Distribution, TorchDistribution, constraints
from torch import Tensor, nn

from .. import networks
from ..distributions import UntilEnd
from ..ground.recorded import Recorded
from ..likelihoods.base import feature_shape
from ..programs.modes import training

# Which elements of data (n, *event) belong to a place, from the first dimension on
Place = tuple[slice | int, ...]


class Walked(Protocol):
    """A decoder that sees x as well, and goes through it place by place."""

    event_shape: tuple[int, ...]

    def __call__(self, *context: Tensor, x: Tensor) -> Tensor:
        """Features of all places, each from those before it."""

    def walk(self, x: Tensor, context: Tensor) -> Iterator[tuple[Place, Tensor]]:
        """Each place in turn with its features, given what ``x`` is filled with before it."""


class Autoregressive(TorchDistribution):
    """Data whose places, pixels or steps in time, are drawn in turn, given those before.

    log p(x) is exact and takes one parallel pass of the network; a draw goes from place to place.

    Args:
        decoder: ``decoder(context, x=x)`` are features of every place from those before it.
        likelihood: module from features to an elementwise distribution, declared as one or not,
            or to sequences that end, ``distributions.UntilEnd``.
        context: what all places see, (*batch, k).

    Shapes:
        batch shape that of ``context`` without its last dimension; event shape the decoder's.

    Raises:
        ValueError: a likelihood that is not elementwise.
    """

    arg_constraints = {}

    def __init__(
        self,
        decoder: Walked,
        likelihood: Callable[[Tensor], Distribution],
        context: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self.decoder, self.likelihood, self.context = decoder, likelihood, context
        # It may be asked when the decoder has left the mode in which this was made
        self._evaluated = not getattr(decoder, "training", True)
        super().__init__(context.shape[:-1], decoder.event_shape, validate_args=validate_args)

    @property
    def of_zeros(self) -> Distribution:
        """What the likelihood makes of one datum's features that are all 0."""
        shape = feature_shape(self.likelihood, self.event_shape)
        return self.likelihood(self.context.new_zeros(1, *shape))

    @property
    def support(self) -> constraints.Constraint:
        """Real values, which the likelihood checks more closely; or sequences that end."""
        p = self.of_zeros
        if isinstance(p, UntilEnd):
            return p.support
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Autoregressive:
        """The same distribution with another batch shape."""
        context = self.context.expand(*batch_shape, self.context.shape[-1])
        new = Autoregressive(self.decoder, self.likelihood, context)
        new._evaluated = self._evaluated
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(x), of the batch shape broadcast against that of ``value``."""
        if self._validate_args:
            self._validate_sample(value)
        lead = value.shape[: value.dim() - len(self.event_shape)]
        lead = torch.broadcast_shapes(lead, self.batch_shape)
        x = value.expand(*lead, *self.event_shape).reshape(-1, *self.event_shape)
        p = self._given(x, self._rows(lead))
        if isinstance(p, UntilEnd):
            return p.log_prob(x).reshape(lead)
        return _places(p).log_prob(x).flatten(1).sum(-1).reshape(lead)

    def _rows(self, lead: Sequence[int]) -> Tensor:
        size = self.context.shape[-1]
        return self.context.expand(*lead, size).reshape(-1, size)

    def _given(self, x: Tensor, context: Tensor) -> Distribution:
        if self._evaluated and self.decoder.training:
            with training(self.decoder, False):
                return self.likelihood(self.decoder(context, x=x))
        return self.likelihood(self.decoder(context, x=x))

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Ancestral draws of shape ``sample_shape`` + batch shape + event shape."""
        return self._walked((*sample_shape, *self.batch_shape), lambda p: p.sample())

    def _walked(self, lead: Sequence[int], choose: Callable[[Distribution], Tensor]) -> Tensor:
        """Values of which ``choose`` gave each place, from its distribution given the others."""
        context = self._rows(lead)
        x = context.new_zeros(len(context), *self.event_shape)
        features = self.decoder(context, x=x)
        going = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for place, found in self.decoder.walk(x, context):
            # All of them, because a likelihood may treat each pixel in its own way
            features[place] = found
            p = self.likelihood(features)
            if isinstance(p, UntilEnd):
                # Each place in the same way
                value = choose(UntilEnd(found.unsqueeze(1)).places).squeeze(1) * going
                going = going & (value != 0)
                x[place] = value
                if not going.any():
                    break
            else:
                x[place] = choose(_places(p))[place]
        return x.reshape(*lead, *self.event_shape)

    @property
    def mean(self) -> Tensor:
        """An unbiased estimate of E[x], which has no closed form: advances the RNG.

        E[x_p | x_<p] for each place p along one ancestral draw of the places before it. Tokens
        have no mean: for these the most probable one of each place given the ones before.
        """
        with torch.no_grad():
            rows = self._rows(self.batch_shape)
            p = self._given(rows.new_zeros(len(rows), *self.event_shape), rows)
            if isinstance(p, UntilEnd):
                return self._walked(self.batch_shape, lambda p: p.mean)
            x = self.sample().reshape(-1, *self.event_shape)
            means = _places(self._given(x, rows)).mean
        return means.reshape(*self.batch_shape, *self.event_shape)


def _places(p: Distribution) -> Distribution:
    """One distribution per element."""
    while isinstance(p, torch.distributions.Independent):
        p = p.base_dist
    if p.event_shape:
        raise ValueError(
            "likelihood: expected one distribution per pixel, each given those before it, "
            f"got a {type(p).__name__} over values of shape {tuple(p.event_shape)}: use an "
            "elementwise likelihood, or a decoder that does not go from pixel to pixel"
        )
    return p


class AutoregressiveDecoder(Recorded, nn.Module):
    """Base of decoders that are ``Walked``."""

    def distribution(
        self, likelihood: Callable[[Tensor], Distribution], *context: Tensor
    ) -> Autoregressive:
        """p(x | context), batch shape that of the context tensors (..., k)."""
        return Autoregressive(self, likelihood, networks.concatenate(context))
