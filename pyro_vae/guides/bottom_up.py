"""The usual amortised guide: each layer's posterior from the layer below."""

from __future__ import annotations

from collections.abc import Mapping

import pyro
from torch import Tensor, nn

from .. import networks
from ..conditionals import DiagonalNormal
from ..models import VAE
from ..programs import Guide, Model


def check_vae(vae: VAE) -> None:
    """Raise ``TypeError`` unless this is a model; one under a handler counts."""
    if not isinstance(vae, Model):
        raise TypeError(
            f"vae: expected a models.VAE, got {type(vae).__name__}: build the model first"
        )


def encoder_features(vae: VAE, encoder: nn.Module) -> int:
    """Number of features that a user's encoder makes of the model's data.

    Raises:
        TypeError: no module.
        ValueError: an encoder that does not take the data, or does not return vectors.
    """
    inputs = [vae.event_shape, *([(vae.condition,)] if vae.condition else [])]
    shape = networks.output_shape(encoder, *inputs, argument="encoder")
    if len(shape) != 1:
        raise ValueError(
            f"encoder: expected features of shape (n, f), got {('n', *shape)}: "
            "end it with torch.nn.Flatten()"
        )
    return shape[0]


class BottomUp(Guide):
    """q(z|x) = q(z1|x) q(z2|z1) ... q(zL|z_{L-1}), each a diagonal normal with network heads.

    For one layer this is the amortised mean-field posterior. The networks mirror the model's:
    same hidden widths, label inputs, activation and normalisation.

    Sources: "Auto-Encoding Variational Bayes", Kingma, Welling (2014); "Stochastic
    Backpropagation and Approximate Inference in Deep Generative Models", Rezende, Mohamed,
    Wierstra (2014).

    Args:
        vae: the model that it is built for.
        hidden: hidden widths as in ``VAE``; default the model's.
        encoder: your own network from x (n, *event_shape) [and the one-hot label (n, condition)]
            to features (n, f); the heads of q(z1|x) are put on it.
        conditionals: your own conditionals in place of the default, site -> module, called with
            x or the latent below [then the one-hot label], returning a distribution of event
            shape (size,).

    Raises:
        TypeError: a model or an encoder of another type.
        ValueError: an unknown site, widths that are no positive integers, an encoder that does
            not take the data or does not return vectors.

    Example:
        >>> import torch
        >>> from pyro_vae import likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> guide = BottomUp(vae)
        >>> guide.encode(torch.zeros(5, 6)).mean["z1"].shape
        torch.Size([5, 2])
    """

    model: VAE

    def __init__(
        self,
        vae: VAE,
        *,
        hidden: networks.Hidden | None = None,
        encoder: nn.Module | None = None,
        conditionals: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """Build all conditionals; every parameter exists from here on."""
        check_vae(vae)
        super().__init__(vae)
        layers = len(vae.latents)
        widths = networks.hidden_per_layer(hidden, layers) if hidden is not None else vae.hidden
        given = dict(conditionals or {})
        for site in given:
            if site not in vae.latent_sizes:
                raise ValueError(f"conditionals: unknown site {site!r}, expected {vae.latents}")
        self.conditionals = nn.ModuleDict()
        below: tuple[int, ...] = vae.event_shape
        for i, site in enumerate(reversed(vae.latents)):
            if site in given:
                self.conditionals[site] = given[site]
            elif i == 0 and encoder is not None:
                features = encoder_features(vae, encoder)
                self.conditionals[site] = self._heads(encoder, features, site)
            else:
                network = networks.encoder(
                    below,
                    widths[i] if i == 0 else networks.hidden_widths(widths[i]),
                    extra=vae.condition,
                    activation=vae.activation,
                    norm=vae.norm,
                )
                self.conditionals[site] = self._heads(network, network.out_features, site)
            below = (vae.latent_sizes[site],)

    def _heads(self, network: nn.Module, features: int, site: str) -> nn.Module:
        size = self.model.latent_sizes[site]
        return DiagonalNormal(network, features, size, norm=self.model.norm)

    def forward(self, x: Tensor, *, y: Tensor | None = None) -> dict[str, Tensor]:
        """Run the inference program.

        Args:
            x: data (n, *event_shape).
            y: labels (n,) for a conditional model.

        Returns:
            site -> sample (n, size).
        """
        self.model.check_shape(x)
        labels = self.model.label_features(y, len(x))
        z: dict[str, Tensor] = {}
        below = x
        with pyro.plate("data", len(x), dim=-1):
            for site, conditional in self.conditionals.items():
                below = z[site] = pyro.sample(site, conditional(below, *labels))
        return z

    def __repr__(self) -> str:
        """The factorisation and the number of parameters."""
        given = ",y" if self.model.condition else ""
        sites = list(self.conditionals)
        factors = " ".join(
            f"q({s}|{b}{given})" for s, b in zip(sites, ["x", *sites[:-1]], strict=True)
        )
        return (
            f"{type(self).__name__}\n  q({', '.join(sites)}|x{given}) = {factors}\n"
            f"  {self._count()}"
        )
