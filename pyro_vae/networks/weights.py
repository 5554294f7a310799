"""Normalisation of weights in place of features."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn

from ..ground.recorded import Recorded

_M = TypeVar("_M", bound=nn.Module)
_LINEAR = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
_TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


class WeightNorm(Recorded):
    """As ``norm``: each output of a linear layer has a direction and a length of its own.

    w = g v / |v|, with g = |v| at first, so that a network begins as it would without. It depends
    on no other data of a batch and keeps no statistics.

    Source: "Weight Normalization: A Simple Reparameterization to Accelerate Training of Deep
    Neural Networks", Salimans, Kingma (2016).

    Example:
        >>> from pyro_vae import likelihoods, models
        >>> likelihood = likelihoods.Bernoulli()
        >>> vae = models.VAE((6,), 2, likelihood=likelihood, hidden=(4,), norm=WeightNorm())
        >>> vae.decoder.layers[0]
        WeightNormalized(Linear(in_features=2, out_features=4, bias=False))
    """

    def __call__(self, features: int) -> nn.Module:
        """Features stay as they are."""
        return nn.Identity()


class WeightNormalized(nn.Module):
    """A linear layer or a convolution whose weights are g v / |v|, |v| that of each output.

    Args:
        layer: the layer, whose weight becomes v and whose bias is taken over.

    Example:
        >>> import torch
        >>> layer = nn.Linear(3, 2)
        >>> x = torch.randn(5, 3)
        >>> expected = layer(x)
        >>> bool(torch.allclose(WeightNormalized(layer)(x), expected))
        True
    """

    def __init__(self, layer: nn.Module) -> None:
        """Take over weight and bias."""
        super().__init__()
        self.bias, layer.bias = layer.bias, None
        self.layer = layer
        self.gain = nn.Parameter(self._lengths().detach().clone())

    def _lengths(self) -> Tensor:
        weight = self.layer.weight
        outputs = weight.transpose(0, 1) if isinstance(self.layer, _TRANSPOSED) else weight
        return outputs.flatten(1).norm(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """What the layer makes of ``x``."""
        positions = (1,) * (self.layer.weight.dim() - 2)
        factor = (self.gain / self._lengths()).view(-1, *positions)
        return self.layer(x) * factor + self.bias.view(-1, *positions)

    def __repr__(self) -> str:
        """The layer inside."""
        return f"{type(self).__name__}({self.layer!r})"


def weigh(network: _M, norm: object) -> _M:
    """Normalise the weights of all layers of a network where ``norm`` is a ``WeightNorm``."""
    if isinstance(norm, WeightNorm):
        for name, part in network.named_children():
            if isinstance(part, _LINEAR | _TRANSPOSED):
                network.set_submodule(name, WeightNormalized(part))
            elif not isinstance(part, WeightNormalized):
                weigh(part, norm)
    return network


def silence(layer: nn.Module) -> None:
    """Have a layer return 0 for now; its gradient is not 0."""
    parts = (layer.gain, layer.bias) if isinstance(layer, WeightNormalized) else layer.parameters()
    for parameter in parts:
        nn.init.zeros_(parameter)
