"""The ladder guide: a bottom-up pass over the data meets the model's own top-down conditionals."""

from __future__ import annotations

from typing import Literal

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from .. import networks
from ..conditionals.normal import DiagonalNormal, precision_weighted
from ..ground.arguments import known
from ..likelihoods.base import network_inputs
from ..models import VAE
from ..programs.program import Guide
from .bottom_up import check_vae, layer_network


class Ladder(Guide):
    """q(z|x) = q(zL|x) q(z_{L-1}|zL, x) ... q(z1|z2, x), merging data and prior by precision.

    A deterministic bottom-up pass d_i = MLP_i(d_{i-1}), d_0 = x, proposes N(mu_i, sigma_i^2) for
    each layer. Then each layer from the top down merges its proposal with the model's own
    p(z_i|z_{i+1}) = N(m, s^2), the same module, so that this probability is written and evaluated
    once:

        q(z_i|z_{i+1}, x) = N((mu_i / sigma_i^2 + m / s^2) v, v), 1 / v = 1 / sigma_i^2 + 1 / s^2.

    The top layer's posterior is its proposal. The networks mirror the model's: same hidden
    widths, label inputs, activation and normalisation.

    Source: "Ladder Variational Autoencoders", Sonderby, Raiko, Maaloe, Sonderby, Winther (2016).

    Args:
        vae: the model that it is built for, with diagonal normals below the top.
        hidden: hidden widths as in ``VAE``; default the model's.
        upward: what a layer of the bottom-up pass hands to the next: its "activations" (the
            paper), or its "means" mu_i (the authors' released code by default), which makes the
            next network as small as that of ``BottomUp``.
        encoder: your own network from x (n, *event_shape) [and the one-hot label (n, condition)]
            to features (n, f), in place of the first.

    Attributes:
        latents: the sites that it covers, in sampling order.

    Raises:
        TypeError: a model or an encoder of another type; when run, a conditional of the model
            that is no diagonal normal.
        ValueError: another ``upward``, widths that are no positive integers, an encoder that does
            not take the data or does not return vectors.

    Example:
        >>> import torch
        >>> from pyro_vae import likelihoods, models
        >>> vae = models.VAE((6,), latents=(3, 2), likelihood=likelihoods.Gaussian())
        >>> guide = Ladder(vae)
        >>> list(guide(torch.zeros(5, 6)))
        ['z2', 'z1']
    """

    model: VAE

    def __init__(
        self,
        vae: VAE,
        *,
        hidden: networks.Hidden | None = None,
        upward: Literal["activations", "means"] = "activations",
        encoder: nn.Module | None = None,
    ) -> None:
        """Build the bottom-up networks and their heads; every parameter exists from here on."""
        check_vae(vae)
        super().__init__(vae)
        self.upward = known("upward", upward, ("activations", "means"))
        self.latents = vae.latents
        self.networks, self.heads = nn.ModuleDict(), nn.ModuleDict()
        below: tuple[int, ...] = vae.event_shape
        for i, site in enumerate(reversed(vae.latents)):
            size = vae.latent_sizes[site]
            network, features = layer_network(vae, i, below, hidden, encoder)
            self.networks[site] = network
            self.heads[site] = DiagonalNormal(nn.Identity(), features, size, norm=vae.norm)
            below = (features if upward == "activations" else size,)

    @property
    def borrowed_modules(self) -> tuple[nn.Module, ...]:
        """The model's conditionals below the top."""
        return tuple(self.model.conditionals[site] for site in self.latents[1:])

    def forward(self, x: Tensor, *, y: Tensor | None = None) -> dict[str, Tensor]:
        """Run the inference program, from the top layer down."""
        self.model.check_shape(x)
        proposals = self._bottom_up(x, self.model.label_features(y, len(x)))
        z: dict[str, Tensor] = {}
        with pyro.plate("data", len(x), dim=-1):
            for site in self.model.latents:
                q = proposals[site]
                if z:
                    q = precision_weighted(q, self.model.conditional(site, z, y))
                z[site] = pyro.sample(site, q)
        return z

    def _bottom_up(self, x: Tensor, labels: tuple[Tensor, ...]) -> dict[str, dist.Distribution]:
        proposals: dict[str, dist.Distribution] = {}
        below = network_inputs(self.model.likelihood, x)
        for site, network in self.networks.items():
            below = network(below, *labels)
            proposals[site] = self.heads[site](below)
            if self.upward == "means":
                below = proposals[site].mean
        return proposals

    def __repr__(self) -> str:
        """The factorisation and the number of parameters of its own."""
        given = ",y" if self.model.condition else ""
        top, *rest = self.model.latents
        factors = [f"q({top}|x{given})"]
        above = [top]
        for site in rest:
            seen = ",".join(reversed(above)) if self.model.skip else above[-1]
            factors.append(f"q({site}|{seen},x{given})")
            above.append(site)
        names = ", ".join(reversed(self.model.latents))
        return (
            f"{type(self).__name__}\n  q({names}|x{given}) = {' '.join(factors)}\n"
            f"  {self._count()}"
        )
