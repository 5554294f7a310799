"""A linear path beside a network."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from ..ground.recorded import Recorded
from .defaults import decoder
from .dense import concatenate
from .weights import silence


class Shortcut(Recorded, nn.Module):
    """f(z) = W z + b + network(z), in which the network gives 0 at first.

    As the decoder of a ``VAE`` with Gaussian likelihood it starts as a linear model, whose
    optimum is probabilistic PCA with one sigma and factor analysis with one per element, and
    which the network then bends.

    Sources: "Probabilistic Principal Component Analysis", Tipping, Bishop (1999); "Don't Blame the
    ELBO!", Lucas, Tucker, Grosse, Norouzi (2019).

    Args:
        in_features: total width of the inputs, that of the latents for a decoder.
        out_shape: shape of the result.
        network: with an ``output_layer``, which is set to zero: an ``MLP`` or a ``ConvDecoder``.
            Default: the default decoder of a ``VAE`` for data of this shape.

    Raises:
        TypeError: a network without an ``output_layer``.

    Shapes:
        inputs (..., f_1), (..., f_2), ...; result (..., *out_shape).

    Example:
        >>> import torch
        >>> from pyro_vae import likelihoods, models, networks
        >>> decoder = networks.Shortcut(2, (6,))
        >>> vae = models.VAE((6,), 2, likelihood=likelihoods.Gaussian(), decoder=decoder)
        >>> z = torch.randn(5, 2)
        >>> torch.equal(decoder(z), decoder.linear(z))
        True
    """

    def __init__(
        self, in_features: int, out_shape: Sequence[int], network: nn.Module | None = None
    ) -> None:
        """Build the linear path, and have the network give 0."""
        super().__init__()
        if network is None:
            network = decoder(in_features, out_shape, out_shape, None)
        if not isinstance(getattr(network, "output_layer", None), nn.Module):
            raise TypeError(
                "network: expected one with an output_layer, the layer that gives the result, got "
                f"{network!r}: use networks.MLP or networks.ConvDecoder, or give yours a property "
                "of this name"
            )
        self.network = network
        self.linear = nn.Linear(in_features, math.prod(out_shape))
        self.out_shape = tuple(out_shape)
        silence(network.output_layer)

    @property
    def output_layer(self) -> nn.Module:
        """The layer that gives the result for as long as the network gives 0."""
        return self.linear

    def forward(self, *inputs: Tensor) -> Tensor:
        """Add both."""
        straight = self.linear(concatenate(inputs)).unflatten(-1, self.out_shape)
        return straight + self.network(*inputs)
