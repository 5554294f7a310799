"""Multi-layer perceptrons and convolutional stacks, sized by the event shape.

Every network takes its inputs as positional tensors with any number of leading dimensions; the
inputs after the first are vectors (labels, latents) that broadcast against it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from .programs import evaluating
from .recorded import Recorded

Activation = Callable[[], nn.Module]
Hidden = int | Sequence[int] | Sequence[Sequence[int]]


def is_whole(value: Any) -> bool:
    """Whether this is an integer, NumPy's too, and no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def sizes(argument: str, value: int | Iterable[int]) -> tuple[int, ...]:
    """One positive integer or several, as a tuple.

    Raises:
        ValueError: anything else.

    Example:
        >>> sizes("latents", 3), sizes("hidden", [400, 400])
        ((3,), (400, 400))
    """
    items = tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(is_whole(item) and item > 0 for item in items):
        raise ValueError(
            f"{argument}: expected positive integers, got {value!r}: pass one such as 20, or "
            "several such as (64, 32)"
        )
    return tuple(int(item) for item in items)


def check_activation(activation: Activation) -> None:
    """Raise ``TypeError`` unless calling ``activation`` makes a module."""
    instance = isinstance(activation, nn.Module)
    made, cause = None, None
    if callable(activation) and not instance:
        try:
            made = activation()
        except TypeError as error:
            cause = error
    if not isinstance(made, nn.Module):
        name = type(activation).__name__ if instance else "ReLU"
        cls = f"torch.nn.{name}" if hasattr(nn, name) else name
        raise TypeError(
            "activation: expected a class or function that makes a module, got "
            f"{'the instance ' if instance else ''}{activation!r}: pass the class, "
            f"{cls if instance else 'such as ' + cls}"
        ) from cause


def concatenate(inputs: Sequence[Tensor]) -> Tensor:
    """Join vectors (..., f_i) on the last dimension, broadcasting the leading ones."""
    if len(inputs) == 1:
        return inputs[0]
    if len({v.shape[:-1] for v in inputs}) > 1:
        lead = torch.broadcast_shapes(*(v.shape[:-1] for v in inputs))
        inputs = [v.expand(*lead, v.shape[-1]) for v in inputs]
    return torch.cat(list(inputs), -1)


def is_image(event_shape: Sequence[int]) -> bool:
    """Whether data of this shape, (h, w) or (c, h, w), get convolutional networks by default."""
    return len(event_shape) in (2, 3)


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
    ) -> None:
        """Build all layers."""
        super().__init__()
        self.event_dim, self.skip = len(in_shape), skip
        self.out_shape = None if out_shape is None else tuple(out_shape)
        inputs = math.prod(in_shape) + extra
        widths = list(hidden) + ([math.prod(out_shape)] if out_shape is not None else [])
        self.layers = nn.ModuleList()
        width = inputs
        for i, out in enumerate(widths):
            self.layers.append(nn.Linear(width + (inputs if skip and i > 0 else 0), out))
            width = out
        self.hidden_layers = len(hidden)
        self.activation = activation()
        self.rejoins = skip and out_shape is None and len(hidden) > 0
        self.out_features = width + (inputs if self.rejoins else 0)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply the layers."""
        first = inputs[0].flatten(-self.event_dim) if self.event_dim > 1 else inputs[0]
        start = concatenate((first, *inputs[1:]))
        h = start
        for i, layer in enumerate(self.layers):
            h = layer(torch.cat([h, start], -1) if self.skip and i > 0 else h)
            if i < self.hidden_layers:
                h = self.activation(h)
        if self.out_shape is not None:
            return h.unflatten(-1, self.out_shape)
        return torch.cat([h, start], -1) if self.rejoins else h


def _halvings(size: tuple[int, int], times: int) -> list[tuple[int, int]]:
    """Image sizes from full resolution down, each half of the one before, rounded up."""
    sizes = [size]
    for _ in range(times):
        h, w = sizes[-1]
        sizes.append(((h + 1) // 2, (w + 1) // 2))
    return sizes


class ConvEncoder(Recorded, nn.Module):
    """Strided 3x3 convolutions, then one dense layer that also sees the labels.

    Args:
        event_shape: (h, w) or (c, h, w), any size.
        channels: channels after each halving of the resolution.
        features: width of the result.
        extra: total width of the inputs after the first.
        activation: makes the module between layers.

    Shapes:
        inputs (..., *event_shape), (..., extra_1), ...; result (..., features).

    Example:
        >>> ConvEncoder((1, 9, 7))(torch.zeros(5, 1, 9, 7)).shape
        torch.Size([5, 256])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        channels: Sequence[int] = (32, 64),
        features: int = 256,
        extra: int = 0,
        activation: Activation = nn.ReLU,
    ) -> None:
        """Build all layers."""
        super().__init__()
        self.event_dim = len(event_shape)
        c, h, w = (1, *event_shape)[-3:]
        self.image_shape = (c, h, w)
        layers: list[nn.Module] = []
        for out in channels:
            layers += [nn.Conv2d(c, out, 3, stride=2, padding=1), activation()]
            c = out
        self.convolutions = nn.Sequential(*layers)
        small = _halvings((h, w), len(channels))[-1]
        self.dense = nn.Linear(c * math.prod(small) + extra, features)
        self.activation = activation()
        self.out_features = features

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply the convolutions and the dense layer."""
        x = inputs[0]
        lead = x.shape[: -self.event_dim]
        h = self.convolutions(x.reshape(-1, *self.image_shape)).flatten(1)
        h = h.reshape(*lead, h.shape[-1])
        return self.activation(self.dense(concatenate((h, *inputs[1:]))))


class ConvDecoder(Recorded, nn.Module):
    """One dense layer, then transposed convolutions up to any image size, odd ones too.

    Args:
        in_features: total width of the inputs.
        out_shape: shape of the result: an image shape, with a trailing dimension where the
            likelihood wants several numbers per pixel.
        event_dim: number of image dimensions in ``out_shape``, 2 or 3.
        channels: as in the encoder; used in reverse.
        features: width of the dense layer.
        skip: feed the inputs into every later layer, as one more map made by a linear layer
            (Skip-VAE).
        activation: makes the module between layers.

    Source: the skip maps are those of "Avoiding Latent Variable Collapse with Generative Skip
    Models", Dieng, Kim, Rush, Blei (2019).

    Shapes:
        inputs (..., f_1), (..., f_2), ...; result (..., *out_shape).

    Example:
        >>> ConvDecoder(4, (1, 9, 7), event_dim=3)(torch.zeros(5, 4)).shape
        torch.Size([5, 1, 9, 7])
    """

    def __init__(
        self,
        in_features: int,
        out_shape: Sequence[int],
        *,
        event_dim: int,
        channels: Sequence[int] = (32, 64),
        features: int = 256,
        skip: bool = False,
        activation: Activation = nn.ReLU,
    ) -> None:
        """Build all layers."""
        super().__init__()
        self.event_dim, self.out_shape, self.skip = event_dim, tuple(out_shape), skip
        c, h, w = (1, *out_shape[:event_dim])[-3:]
        outputs = c * math.prod(out_shape[event_dim:])
        sizes = _halvings((h, w), len(channels))
        self.first = nn.Linear(in_features, features)
        self.small_shape = (channels[-1], *sizes[-1])
        self.dense = nn.Linear(
            features + (in_features if skip else 0), math.prod(self.small_shape)
        )
        self.activation = activation()
        self.convolutions, self.maps = nn.ModuleList(), nn.ModuleList()
        widths = [*reversed(channels), outputs]
        pairs = list(itertools.pairwise(widths))
        for i, (c_in, c_out) in enumerate(pairs):
            size, target = sizes[len(pairs) - i], sizes[len(pairs) - i - 1]
            padding = tuple(t - (2 * s - 1) for s, t in zip(size, target, strict=True))
            self.convolutions.append(
                nn.ConvTranspose2d(
                    c_in + skip, c_out, 3, stride=2, padding=1, output_padding=padding
                )
            )
            if skip:
                self.maps.append(
                    nn.Sequential(
                        nn.Linear(in_features, math.prod(size)), nn.Unflatten(-1, (1, *size))
                    )
                )

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply the dense layers and the transposed convolutions."""
        z = concatenate(inputs)
        lead = z.shape[:-1]
        z = z.reshape(-1, z.shape[-1])
        h = self.activation(self.first(z))
        h = self.activation(self.dense(torch.cat([h, z], -1) if self.skip else h))
        h = h.unflatten(-1, self.small_shape)
        for i, convolution in enumerate(self.convolutions):
            h = convolution(torch.cat([h, self.maps[i](z)], 1) if self.skip else h)
            if i < len(self.convolutions) - 1:
                h = self.activation(h)
        image, numbers = self.out_shape[: self.event_dim], self.out_shape[self.event_dim :]
        if numbers:
            h = h.unflatten(1, (-1, *numbers)).movedim(2, -1)
        return h.reshape(*lead, *image, *numbers)


def encoder(
    event_shape: Sequence[int],
    hidden: Sequence[int] | None,
    *,
    extra: int = 0,
    activation: Activation = nn.ReLU,
) -> nn.Module:
    """The default network from data to features: an MLP if ``hidden`` is given, else by shape."""
    if hidden is None and is_image(event_shape):
        return ConvEncoder(event_shape, extra=extra, activation=activation)
    return MLP(event_shape, hidden_widths(hidden), extra=extra, activation=activation)


def decoder(
    in_features: int,
    event_shape: Sequence[int],
    out_shape: Sequence[int],
    hidden: Sequence[int] | None,
    *,
    skip: bool = False,
    activation: Activation = nn.ReLU,
) -> nn.Module:
    """The default network from latents to the features that a likelihood takes."""
    if hidden is None and is_image(event_shape):
        return ConvDecoder(
            in_features, out_shape, event_dim=len(event_shape), skip=skip, activation=activation
        )
    widths = tuple(reversed(hidden_widths(hidden)))
    return MLP((in_features,), widths, out_shape, skip=skip, activation=activation)


def hidden_widths(hidden: int | Sequence[int] | None) -> tuple[int, ...]:
    """Widths of the hidden layers; two of 256 where nothing was said."""
    return (256, 256) if hidden is None else sizes("hidden", hidden)


def hidden_per_layer(hidden: Hidden | None, layers: int) -> tuple[tuple[int, ...] | None, ...]:
    """One entry of hidden widths per latent layer, bottom to top; None is the default network.

    Raises:
        ValueError: widths that are no positive integers, or nested ones whose number is not that
            of the layers.
    """
    if hidden is None:
        return (None,) * layers
    nested = isinstance(hidden, Sequence) and any(isinstance(v, Sequence) for v in hidden)
    if not nested:
        return (sizes("hidden", hidden),) * layers
    if len(hidden) != layers:
        raise ValueError(
            f"hidden: expected widths such as (400, 400), or one tuple per latent layer "
            f"({layers}), got {hidden!r}"
        )
    return tuple(sizes(f"hidden[{i}]", widths) for i, widths in enumerate(hidden))


def output_shape(
    network: nn.Module, *shapes: Sequence[int], argument: str = "network"
) -> tuple[int, ...]:
    """Shape of the network's result for one datum, found by one run on zeros that leaves no trace.

    Args:
        network: takes positional tensors.
        shapes: event shape of each input.
        argument: what the errors call the network.

    Raises:
        TypeError: no module.
        ValueError: the network fails on such inputs, or returns no tensor.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"{argument}: expected an instance of torch.nn.Module, got {network!r}: build the "
            "network first, or wrap a function in a module"
        )
    inputs = ", ".join(f"({', '.join(map(str, ('n', *shape)))})" for shape in shapes)
    expected = f"{argument}: expected a network that maps tensors of shape {inputs} to a tensor"
    reference = next(network.parameters(), torch.zeros(()))
    with evaluating(network):
        try:
            result = network(*(reference.new_zeros(1, *shape) for shape in shapes))
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"{expected}, got a {type(network).__name__} that fails on zeros, with n = 1: "
                f"{reason}. Build it for these inputs"
            ) from error
    if not isinstance(result, Tensor):
        raise ValueError(
            f"{expected}, got a {type(network).__name__} that returns a "
            f"{type(result).__name__}: return one tensor"
        )
    return tuple(result.shape[1:])
