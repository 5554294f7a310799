"""The amortised guide whose layers are inverse autoregressive flows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import nn

from .. import networks
from ..conditionals.flow import AutoregressiveFlow
from ..models import VAE
from .bottom_up import BottomUp


class Flow(BottomUp):
    """q(z|x) = q(z1|x) q(z2|z1) ..., each a diagonal normal under inverse autoregressive steps.

    See ``conditionals.AutoregressiveFlow`` for the formula. Training, and importance sampling
    with the guide as proposal, only ever ask for the density at the guide's own samples, which
    takes no inversion. ``encode(x).mean`` is the image of the base's mean, not E[z], which has no
    closed form; nor has the KL: train with elbo="trace".

    Source: "Improving Variational Inference with Inverse Autoregressive Flow", Kingma, Salimans,
    Jozefowicz, Chen, Sutskever, Welling (2016).

    Args:
        vae: the model that it is built for, with at least two latents in each layer.
        steps: autoregressive steps per layer.
        step_hidden: hidden widths of each step's network, none below the size of a layer; default
            (64,), or (size,) where that is more.
        hidden, encoder, conditionals, sites: as in ``BottomUp``.
        additive: False for the steps of files of version 0.1, see
            ``conditionals.AutoregressiveFlow``.

    Raises:
        TypeError, ValueError: as ``BottomUp``; a layer with a single latent.

    Example:
        >>> import torch
        >>> from pyro_vae import likelihoods, models
        >>> vae = models.VAE((6,), latents=3, likelihood=likelihoods.Gaussian())
        >>> Flow(vae, steps=3).encode(torch.zeros(5, 6)).sample["z1"].shape
        torch.Size([5, 3])
    """

    absent = MappingProxyType({"additive": False})

    def __init__(
        self,
        vae: VAE,
        *,
        steps: int = 2,
        step_hidden: int | Sequence[int] | None = None,
        hidden: networks.Hidden | None = None,
        encoder: nn.Module | None = None,
        conditionals: Mapping[str, nn.Module] | None = None,
        sites: Sequence[str] | None = None,
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
            vae, hidden=hidden, encoder=encoder, conditionals=conditionals, sites=sites
        )

    def _heads(self, network: nn.Module, features: int, site: str) -> nn.Module:
        size = self.model.latent_sizes[site]
        if size < 2:
            raise ValueError(
                f"site {site!r}: an autoregressive flow over one latent is a normal: leave it to "
                "guides.BottomUp in guides.Composed, or pass conditionals={...} for it"
            )
        return AutoregressiveFlow(network, features, size, norm=self.model.norm, **self._options)
