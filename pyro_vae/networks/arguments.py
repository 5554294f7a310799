"""What the arguments of networks may be: sizes, hidden widths, activations, networks of a user."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..ground.arguments import sizes
from ..programs.modes import evaluating
from ..programs.placing import like

Activation = Callable[[], nn.Module]


Hidden = int | Sequence[int] | Sequence[Sequence[int]]


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


def hidden_of(
    hidden: Hidden | None, shapes: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...] | None, ...]:
    """``hidden_per_layer`` of the latents of some shapes that are vectors; None for maps.

    Raises:
        ValueError: as ``hidden_per_layer``, and widths where there are no vectors.
    """
    if max(map(len, shapes)) == 1:
        return hidden_per_layer(hidden, len(shapes))
    vectors = [len(shape) == 1 for shape in shapes]
    if hidden is not None and not any(vectors):
        raise ValueError(
            f"hidden: expected none for latents that are maps, got {hidden!r}: leave it out, and "
            "pass channels=(32, 64) for the widths of convolutions"
        )
    found = iter(hidden_per_layer(hidden, sum(vectors)))
    return tuple(next(found) if vector else None for vector in vectors)


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
    reference = like(network, default=torch.zeros(()))
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
