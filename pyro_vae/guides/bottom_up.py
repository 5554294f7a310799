"""The usual amortised guide: each layer's posterior from the layer below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyro
from torch import Tensor, nn

from .. import networks
from ..conditionals.normal import DiagonalNormal
from ..distributions import declared
from ..ground.arguments import known
from ..likelihoods.base import network_inputs
from ..models import VAE
from ..programs.program import Guide
from ..programs.unwrapping import innermost


def check_vae(vae: VAE) -> None:
    """Raise ``TypeError`` unless this is a model; one under a handler counts."""
    if not isinstance(innermost(vae), VAE):
        raise TypeError(
            f"vae: expected a models.VAE, got {type(vae).__name__}: build the model first"
        )


def encoder_features(vae: VAE, encoder: nn.Module) -> int:
    """Number of features that a user's encoder makes of the model's data.

    Raises ``TypeError`` for no module, ``ValueError`` for one that does not take the data or does
    not return vectors.
    """
    inputs = [vae.event_shape, *([(vae.condition,)] if vae.condition else [])]
    shape = networks.output_shape(encoder, *inputs, argument="encoder")
    if len(shape) != 1:
        raise ValueError(
            f"encoder: expected features of shape (n, f), got {('n', *shape)}: "
            "end it with torch.nn.Flatten()"
        )
    return shape[0]


def layer_network(
    vae: VAE,
    layer: int,
    below: tuple[int, ...],
    hidden: networks.Hidden | None,
    encoder: nn.Module | None,
) -> tuple[nn.Module, int]:
    """The network from what is below a latent layer, and the number of its features.

    It sees event shape ``below``, of the data for layer 0, and mirrors the model's, except for
    ``hidden`` widths that are given and a user's ``encoder`` in layer 0.
    """
    layers = len(vae.latents)
    widths = vae.hidden if hidden is None else networks.hidden_per_layer(hidden, layers)
    if layer == 0 and encoder is not None:
        return encoder, encoder_features(vae, encoder)
    network = networks.encoder(
        below,
        widths[layer] if layer == 0 else networks.hidden_widths(widths[layer]),
        extra=vae.condition,
        activation=vae.activation,
        norm=vae.norm,
    )
    return network, network.out_features


def covered_sites(vae: VAE, sites: Sequence[str] | None) -> tuple[str, ...]:
    """The latents that a guide covers, bottom to top; all of the model's for None.

    Raises ``ValueError`` for no site, an unknown one, or one named twice.
    """
    bottom_up = vae.latents[::-1]
    if sites is None:
        return bottom_up
    named = list(sites)
    if isinstance(sites, str) or not named or len(set(named)) < len(named):
        raise ValueError(
            f"sites: expected some of {bottom_up}, each once, got {sites!r}: pass such as "
            f"[{bottom_up[0]!r}]"
        )
    for site in named:
        known("sites", site, bottom_up)
    return tuple(site for site in bottom_up if site in named)


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
        sites: latents that it covers, default all; the others are left to the other parts of
            ``guides.Composed``.

    Attributes:
        latents: the sites that it covers, in sampling order.
        parents: the latents that it conditions on and does not cover.

    Raises:
        TypeError: a model or an encoder of another type.
        ValueError: an unknown site, widths that are no positive integers, an encoder that does
            not take the data or does not return vectors, or that no covered site uses.

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
        sites: Sequence[str] | None = None,
    ) -> None:
        """Build all conditionals; every parameter exists from here on."""
        check_vae(vae)
        super().__init__(vae)
        self.latents = covered_sites(vae, sites)
        given = dict(conditionals or {})
        for site in given:
            known("conditionals", site, self.latents)
        if encoder is not None and "z1" not in self.latents:
            raise ValueError(f"encoder: it is that of 'z1', this guide covers {self.latents}")
        self.conditionals = nn.ModuleDict()
        self._below: dict[str, str | None] = {}
        below: str | None = None
        for i, site in enumerate(reversed(vae.latents)):
            if site in self.latents:
                self._below[site] = below
                if site in given:
                    self.conditionals[site] = given[site]
                else:
                    shape = vae.event_shape if below is None else (vae.latent_sizes[below],)
                    network, features = layer_network(vae, i, shape, hidden, encoder)
                    self.conditionals[site] = self._heads(network, features, site)
            below = site
        self.parents = tuple(
            s for s in self._below.values() if s is not None and s not in self.latents
        )

    def _heads(self, network: nn.Module, features: int, site: str) -> nn.Module:
        size = self.model.latent_sizes[site]
        return DiagonalNormal(network, features, size, norm=self.model.norm)

    def forward(
        self,
        x: Tensor,
        *,
        y: Tensor | None = None,
        given: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Run the inference program, with ``given`` its ``parents`` -> (n, size) if it has any.

        Raises:
            ValueError: a parent that is not given.
        """
        self.model.check_shape(x)
        labels = self.model.label_features(y, len(x))
        z: dict[str, Tensor] = dict(given or {})
        for site in self.parents:
            if site not in z:
                raise ValueError(
                    f"given: this guide of {self.latents} conditions on {site!r}, got "
                    f"{tuple(z)}: make it a part of guides.Composed, after one that samples it"
                )
        seen = network_inputs(self.model.likelihood, x)
        with pyro.plate("data", len(x), dim=-1):
            for site, conditional in self.conditionals.items():
                below = self._below[site]
                context = seen if below is None else z[below]
                q = conditional(context, *labels)
                z[site] = pyro.sample(site, declared(q, (self.model.latent_sizes[site],), site))
        return {site: z[site] for site in self.latents}

    def __repr__(self) -> str:
        """The factorisation and the number of parameters."""
        label = ",y" if self.model.condition else ""
        factors = " ".join(f"q({s}|{b or 'x'}{label})" for s, b in self._below.items())
        # A part that does not see the data is a function of its parents alone
        context = ["x"] if None in self._below.values() else []
        context = ",".join([*context, *self.parents]) + label
        return (
            f"{type(self).__name__}\n  q({', '.join(self.latents)}|{context}) = {factors}\n"
            f"  {self._count()}"
        )
