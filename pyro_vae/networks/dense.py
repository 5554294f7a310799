"""Dense layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ground.recorded import Recorded
from .arguments import Activation
from .normalization import Norm, normalized
from .weights import weigh


def concatenate(inputs: Sequence[Tensor]) -> Tensor:
    """Join vectors (..., f_i) on the last dimension, broadcasting the leading ones."""
    if len(inputs) == 1:
        return inputs[0]
    if [v for v in inputs if v.shape[:-1] != inputs[0].shape[:-1]]:
        lead = torch.broadcast_shapes(*(v.shape[:-1] for v in inputs))
        inputs = [v.expand(*lead, v.shape[-1]) for v in inputs]
    return torch.cat(list(inputs), -1)


def aligned(*inputs: Tensor, dims: Sequence[int] = ()) -> list[Tensor]:
    """Vectors (..., f_i) with the leading dimensions that they have together.

    ``dims`` tells how many dimensions each has besides these, where they are no vectors.
    """
    ends = [v.dim() - d for v, d in zip(inputs, dims or [1] * len(inputs), strict=True)]
    lead = torch.broadcast_shapes(*(v.shape[:end] for v, end in zip(inputs, ends, strict=True)))
    return [v.expand(*lead, *v.shape[end:]) for v, end in zip(inputs, ends, strict=True)]


def of_rows(network: nn.Module, *inputs: Tensor, dims: Sequence[int] = ()) -> Tensor:
    """What a network that takes rows (n, f_i) makes of vectors (..., f_i) that broadcast.

    ``dims`` are as of ``aligned``.
    """
    found = aligned(*inputs, dims=dims)
    lead = found[0].shape[: found[0].dim() - (dims[0] if dims else 1)]
    if len(lead) == 1:
        return network(*found)
    return network(*(v.flatten(0, len(lead) - 1) for v in found)).unflatten(0, lead)


class MLP(Recorded, nn.Module):
    """Dense layers over the flattened input.

    Args:
        in_shape: shape of the first input; further inputs add their width ``extra``.
        hidden: widths of the hidden layers, () for none.
        out_shape: shape of the result; None ends with the last hidden layer, with ``skip``
            joined by the inputs for the layers that follow.
        extra: total width of the inputs after the first.
        skip: feed the inputs into every later layer again (Skip-VAE).
        activation: makes the module between layers.
        norm: makes the normalisation of each hidden layer from its width, before the activation.

    Shapes:
        inputs (..., *in_shape), (..., extra_1), ...; result (..., *out_shape).

    Example:
        >>> MLP((2, 3), (16,), (4,))(torch.zeros(5, 2, 3)).shape
        torch.Size([5, 4])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        hidden: Sequence[int],
        out_shape: Sequence[int] | None = None,
        *,
        extra: int = 0,
        skip: bool = False,
        activation: Activation = nn.ReLU,
        norm: Norm | None = None,
    ) -> None:
        """Build all layers."""
        super().__init__()
        self.event_dim, self.skip = len(in_shape), skip
        self.out_shape = None if out_shape is None else tuple(out_shape)
        inputs = math.prod(in_shape) + extra
        widths = list(hidden) + ([math.prod(out_shape)] if out_shape is not None else [])
        self.layers = nn.ModuleList()
        self.norms = nn.ModuleList(normalized(norm, out) for out in hidden)
        width = inputs
        for i, out in enumerate(widths):
            self.layers.append(nn.Linear(width + (inputs if skip and i > 0 else 0), out))
            width = out
        self.hidden_layers = len(hidden)
        self.activation = activation()
        self.rejoins = skip and out_shape is None and len(hidden) > 0
        self.out_features = width + (inputs if self.rejoins else 0)
        weigh(self, norm)

    @property
    def output_layer(self) -> nn.Module:
        """The layer that gives the result."""
        return self.layers[-1]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply the layers."""
        first = inputs[0].flatten(-self.event_dim) if self.event_dim > 1 else inputs[0]
        start = concatenate((first, *inputs[1:])) if len(inputs) > 1 else first
        h = start
        for i, layer in enumerate(self.layers):
            h = layer(torch.cat([h, start], -1) if self.skip and i > 0 else h)
            if i < self.hidden_layers:
                h = self.activation(self.norms[i](h))
        if self.out_shape is not None:
            return h.unflatten(-1, self.out_shape)
        return torch.cat([h, start], -1) if self.rejoins else h


class MeanAndLogSigma(Recorded, nn.Module):
    """Two networks of the same inputs, their results side by side on a new last dimension.

    Args:
        mean: network whose result is the mean.
        log_sigma: network whose result of the same shape is log sigma, up to a constant.

    Shapes:
        inputs as the networks take them; result (..., *event_shape, 2).

    Example:
        >>> MeanAndLogSigma(MLP((2,), (), (4,)), MLP((2,), (8,), (4,)))(torch.zeros(5, 2)).shape
        torch.Size([5, 4, 2])
    """

    def __init__(self, mean: nn.Module, log_sigma: nn.Module) -> None:
        """Hold both."""
        super().__init__()
        self.mean, self.log_sigma = mean, log_sigma

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply both."""
        return torch.stack([self.mean(*inputs), self.log_sigma(*inputs)], -1)
