"""Mixture priors that are trained with model and guide."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import MixtureSameFamily
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..ground.arguments import whole
from ..ground.recorded import Recorded


class MixturePrior(Recorded, nn.Module):
    """sum_k w_k N(m_k, diag s_k^2) with weights, means and scales trained with the rest.

    Source: "VAE with a VampPrior", Tomczak, Welling (2018), where it is compared with.

    Args:
        size: event shape is (size,).
        components: number of normals, K.
        min_scale: lower bound of s, so that no component can collapse to a point.

    Raises:
        ValueError: a size or a number of components below 1.

    Example:
        >>> from pyro_vae import handlers, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> model = handlers.replace_prior(vae, MixturePrior(2, components=4))
        >>> model.sample(5).shape
        torch.Size([5, 6])
    """

    def __init__(self, size: int, components: int = 10, *, min_scale: float = 1e-3) -> None:
        super().__init__()
        self.size, self.components = whole("size", size), whole("components", components)
        self.min_scale = min_scale
        self.logits = nn.Parameter(torch.zeros(components))
        # The components differ from the start, or they would stay one
        self.means = nn.Parameter(torch.randn(components, size))
        self.raw_scale = nn.Parameter(torch.full((components, size), math.log(math.expm1(1.0))))

    def forward(self, *context: Tensor) -> dist.Distribution:
        """The mixture, whatever the context: batch shape (), event shape (size,)."""
        normals = dist.Normal(self.means, softplus(self.raw_scale) + self.min_scale).to_event(1)
        return MixtureSameFamily(dist.Categorical(logits=self.logits), normals)

    def __repr__(self) -> str:
        """Size and number of components."""
        return f"MixturePrior(size={self.size}, components={self.components})"


class VampPrior(Recorded, nn.Module):
    """1/K sum_k q(z|u_k): the guide's posteriors at K learned pseudo-inputs u_k.

    For models with one latent layer. The prior holds the guide's own conditional, so that both
    sides of the bound train the same encoder. After ``trainer.swap_guide`` the prior keeps the
    conditional that it was built with.

    Source: "VAE with a VampPrior", Tomczak, Welling (2018).

    Args:
        guide: guide of a one-layer model with ``conditionals``, such as ``guides.BottomUp``.
        components: number of pseudo-inputs, K.
        activation: class of a module that maps the free parameters to inputs, for example
            ``torch.nn.Sigmoid`` for data in [0, 1]; default: none.

    Attributes:
        inputs: the free parameters, (K, *event_shape); see also ``start_from``.

    Raises:
        TypeError: a guide without ``conditionals``.
        ValueError: a model with many layers or with labels, fewer than one component.

    Example:
        >>> from pyro_vae import guides, handlers, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> guide = guides.BottomUp(vae)
        >>> model = handlers.replace_prior(vae, VampPrior(guide, components=4))
        >>> model.sample(5).shape
        torch.Size([5, 6])
    """

    def __init__(
        self, guide: Any, components: int = 50, *, activation: type[nn.Module] = nn.Identity
    ) -> None:
        super().__init__()
        whole("components", components)
        model, conditionals = (getattr(guide, a, None) for a in ("model", "conditionals"))
        if model is None or conditionals is None:
            raise TypeError(
                f"guide: expected one with conditionals, such as guides.BottomUp(vae), got "
                f"{type(guide).__name__}"
            )
        if len(model.latents) != 1 or getattr(model, "condition", 0):
            raise ValueError(
                f"guide: expected that of a model with one latent layer and without labels, got "
                f"latents {model.latents}, condition={getattr(model, 'condition', 0)}: use "
                "priors.MixturePrior"
            )
        self.components = components
        self.conditional = conditionals[model.latents[0]]
        self.inputs = nn.Parameter(0.5 + 0.1 * torch.randn(components, *model.event_shape))
        self.activation = activation()

    def start_from(self, x: Tensor) -> VampPrior:
        """Set the free parameters to data x (K, *event_shape), and return this prior.

        With an activation these are its arguments: pass ``x.logit(eps=0.01)`` for a sigmoid.
        """
        if x.shape != self.inputs.shape:
            raise ValueError(
                f"x: expected shape {tuple(self.inputs.shape)}, got {tuple(x.shape)}: pass one "
                "datum per component"
            )
        with torch.no_grad():
            self.inputs.copy_(x)
        return self

    def forward(self, *context: Tensor) -> dist.Distribution:
        """The mixture of posteriors: batch shape (), event shape (size,)."""
        posteriors = self.conditional(self.activation(self.inputs))
        # A point mass has no density, and the steps of a flow keep the batch of their context
        if isinstance(posteriors, dist.Delta | dist.TransformedDistribution):
            raise ValueError(
                f"prior: a {type(posteriors).__name__} cannot be mixed: a VampPrior needs a guide "
                "of normals, such as guides.BottomUp"
            )
        weights = dist.Categorical(logits=self.inputs.new_zeros(self.components))
        return MixtureSameFamily(weights, posteriors)

    def __repr__(self) -> str:
        """The number of pseudo-inputs and their shape."""
        return f"VampPrior({self.components} pseudo-inputs {tuple(self.inputs.shape[1:])})"
