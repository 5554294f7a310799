"""The amortised guide whose layers are inverse autoregressive flows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import nn

from .. import networks
from ..conditionals.flow import AutoregressiveFlow
from ..programs.program import Guide
from .bottom_up import BottomUp, Order


class Flow(BottomUp):
    """q(z|x) = q(z1|x) q(z2|z1) ..., each a diagonal normal under inverse autoregressive steps.

    See ``conditionals.AutoregressiveFlow`` for the formula. Training, and importance sampling
    with the guide as proposal, only ever ask for the density at the guide's own samples, which
    takes no inversion. ``encode(x).mean`` is the image of the base's mean, not E[z], which has no
    closed form; nor has the KL: train with elbo="trace".

    Source: "Improving Variational Inference with Inverse Autoregressive Flow", Kingma, Salimans,
    Jozefowicz, Chen, Sutskever, Welling (2016).

    Args:
        model, like, order, hidden, encoder, conditionals, sites, start: as in ``BottomUp``. A
            latent of one number, over which each step is an affine map, gets a normal, as do
            maps, along which steps would go number by number.
        steps: autoregressive steps per layer.
        step_hidden: hidden widths of each step's network, none below the size of a layer; default
            (64,), or (size,) where that is more.
        additive: False for the steps of files of version 0.1, see
            ``conditionals.AutoregressiveFlow``.

    Raises:
        TypeError, ValueError: as ``BottomUp``; no vectors of two numbers or more.

    Example:
        >>> import torch
        >>> from pyro_vae import likelihoods, models
        >>> vae = models.VAE((6,), latents=3, likelihood=likelihoods.Gaussian())
        >>> Flow(vae, steps=3).encode(torch.zeros(5, 6)).sample["z1"].shape
        torch.Size([5, 3])
    """

    absent = MappingProxyType({**BottomUp.absent, "additive": False})

    def __init__(
        self,
        model: Callable,
        *,
        like: Any = None,
        order: Order = "bottom-up",
        steps: int = 2,
        step_hidden: int | Sequence[int] | None = None,
        hidden: networks.Hidden | None = None,
        encoder: nn.Module | None = None,
        conditionals: Mapping[str, nn.Module] | None = None,
        sites: Sequence[str] | None = None,
        start: Guide | None = None,
        additive: bool = True,
    ) -> None:
        """Build all conditionals; every parameter exists from here on."""
        # Before the base class, which builds the heads
        self._options: dict[str, Any] = {
            "steps": steps,
            "hidden": step_hidden,
            "additive": bool(additive),
        }
        super().__init__(
            model,
            like=like,
            order=order,
            hidden=hidden,
            encoder=encoder,
            conditionals=conditionals,
            sites=sites,
            start=start,
        )
        if not any(map(self._has_flow, self.latents)):
            raise ValueError(
                f"model: expected a latent of at least two numbers among {self.latents}, got one "
                "number each, over which an autoregressive flow is a normal, or maps, which get "
                "normals: use guides.BottomUp"
            )

    def _has_flow(self, site: str) -> bool:
        return self.places[site].size > 1 and not self.places[site].is_map

    def _heads(self, network: nn.Module, features: int, site: str) -> nn.Module:
        size = self.places[site].size
        if not self._has_flow(site):
            return super()._heads(network, features, site)
        return AutoregressiveFlow(network, features, size, norm=self.norm, **self._options)
