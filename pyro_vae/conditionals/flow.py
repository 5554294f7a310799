"""Conditional distributions made flexible by inverse autoregressive flow."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MappingProxyType

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import AffineAutoregressive
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from .. import networks
from ..ground.arguments import whole
from ..ground.recorded import Recorded
from .normal import DiagonalNormal, zero


class FlowDistribution(dist.TransformedDistribution):
    """A transformed distribution with a ``mean``, which stands in for E[z].

    Example:
        >>> base = dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1)
        >>> FlowDistribution(base, [dist.transforms.AffineTransform(2.0, 1.0, 1)]).mean
        tensor([2., 2., 2.])
    """

    @property
    def mean(self) -> Tensor:
        """The image of the base's mean, where the flow puts the middle of its base distribution.

        E[z] itself has no closed form; the image equals it for affine transforms only. For E[z],
        average samples.
        """
        value = self.base_dist.mean
        for transform in self.transforms:
            value = transform(value)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        """The density of values, also of the same ones under many contexts."""
        shape = (*self.batch_shape, *self.event_shape)
        # Steps are undone one number after the other, each for all contexts
        return super().log_prob(value if value.dim() >= len(shape) else value.expand(shape))


class _Step(ConditionalAutoRegressiveNN):
    """The m and log s of one step, s = 2 sigmoid(a) with a = 0 at first: the identity."""

    def __init__(
        self, size: int, in_features: int, hidden: list[int], order: Tensor, f: nn.Module
    ) -> None:
        super().__init__(size, in_features, hidden, permutation=order, nonlinearity=f)
        zero(self.layers[-1])
        # In files, so that the weights of other steps are not taken for those of these
        self.register_buffer("limit", torch.tensor(2.0))

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        m, a = super().forward(z, context)
        return m, self.limit.log() + logsigmoid(a)


def _way(step: int) -> int:
    return -1 if step % 2 else 1


class AutoregressiveFlow(Recorded, nn.Module):
    """A diagonal normal that is sent through inverse autoregressive steps, all given the context.

        z^0 ~ N(mu(h), diag sigma(h)^2),  z^t_i = s_i z^(t-1)_i + m_i,

    where s_i in (e^-5, 2) and m_i are functions of h and of those z^(t-1)_j that come before i: in
    ascending order in the first step, in descending order in the second, and so on. At first s = 1
    and m = 0: training starts at the diagonal normal. That a step at most doubles a distance keeps
    large learning rates from making it overflow, as exp(a) in the place of s would. Sampling, and
    the density at a sample, take one pass per step; the density of any other value takes ``size``
    passes per step. Each call makes transforms of its own, so that no sample stays behind.

    Source: "Improving Variational Inference with Inverse Autoregressive Flow", Kingma, Salimans,
    Jozefowicz, Chen, Sutskever, Welling (2016), equation 10, with another bound of s.

    Args:
        network, in_features, size: as in ``DiagonalNormal``, for at least 2 latents.
        steps: number of autoregressive steps.
        hidden: hidden widths of each step's network, none below ``size``; default (64,), or
            (size,) where that is more.
        activation: makes the module between their layers.
        min_scale: lower bound of the base's sigma.
        norm: makes the normalisation of the heads of mu and sigma.
        additive: False for the steps s_i z_i + (1 - s_i) m_i with s_i in (0, 1) of equations 13
            and 14, as in files of version 0.1, which are never the identity.

    Raises:
        ValueError: fewer than one step, widths below ``size``, a single latent, for which each
            step is an affine map and the flow no more than a normal.

    Example:
        >>> conditional = AutoregressiveFlow(nn.Identity(), 4, 2)
        >>> q = conditional(torch.zeros(5, 4))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([2]))
    """

    absent = MappingProxyType({"additive": False})

    def __init__(
        self,
        network: nn.Module,
        in_features: int,
        size: int,
        *,
        steps: int = 2,
        hidden: int | tuple[int, ...] | None = None,
        activation: Callable[[], nn.Module] = nn.ELU,
        min_scale: float = 1e-4,
        norm: networks.Norm | None = None,
        additive: bool = True,
    ) -> None:
        """Build the base and each step's network."""
        super().__init__()
        whole("steps", steps)
        if size < 2:
            raise ValueError(
                "size: an autoregressive flow over one latent is affine, that is a normal, got "
                f"size {size}: use conditionals.DiagonalNormal, or guides.BottomUp for this site"
            )
        widths = networks.sizes("hidden", max(64, size) if hidden is None else hidden)
        if not widths or min(widths) < size:
            raise ValueError(
                f"hidden: expected at least one width, none below the {size} latents, "
                f"got {hidden!r}"
            )
        self.network = network
        self.base = DiagonalNormal(
            nn.Identity(), in_features, size, min_scale=min_scale, norm=norm
        )
        # Of each second step backwards
        self._order = (*range(size),)
        self.steps = nn.ModuleList(
            _Step(size, in_features, list(widths), torch.tensor(self._order[::way]), activation())
            if additive
            else ConditionalAutoRegressiveNN(
                size,
                in_features,
                list(widths),
                permutation=torch.tensor(self._order[::way]),
                nonlinearity=activation(),
            )
            for way in map(_way, range(steps))
        )
        self._stable = not additive

    def forward(self, *context: Tensor) -> dist.Distribution:
        """The distribution given the context."""
        h = self.network(*context)
        steps = []
        for step, network in enumerate(self.steps):
            given = functools.partial(network, context=h)
            # Numbers, as a graph that inverts cannot read them from the network's own tensor
            given.permutation = self._order[:: _way(step)]
            steps.append(AffineAutoregressive(given, stable=self._stable))
        return FlowDistribution(self.base(h), steps)
