"""Richer conditionals that begin as the distribution of a poorer one."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from .flow import AutoregressiveFlow
from .normal import DiagonalNormal, FullNormal, zero

# What each can be grown from, and the argument that files of 0.1 lack, without which it cannot be
# its mean-field member
_STARTS: Mapping[type, tuple[type, ...]] = MappingProxyType(
    {
        DiagonalNormal: (DiagonalNormal,),
        FullNormal: (DiagonalNormal, FullNormal),
        AutoregressiveFlow: (DiagonalNormal, AutoregressiveFlow),
    }
)
_OPTION: Mapping[type, str] = MappingProxyType(
    {FullNormal: "relative", AutoregressiveFlow: "additive"}
)


def grow(new: nn.Module, start: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Make a conditional exactly the distribution of a poorer one, from which it then trains.

    q_new(z|c) = q_start(z|c) for every context c, with the same random numbers for the same draw.
    What both have is copied from ``start``, with buffers, modes, dtype and device: network, heads
    and, of a flow, the first steps. What only ``new`` has becomes the identity. Training one
    leaves the other alone, and all parameters of ``new`` train, whether those of ``start`` are
    frozen or not: freeze again what should rest.

    Args:
        new: a ``DiagonalNormal``, a ``FullNormal`` or an ``AutoregressiveFlow``, built with the
            size, networks, ``norm`` and ``min_scale`` of ``start``, so that a file can rebuild it;
            changed in place.
        start: a ``DiagonalNormal``, or one of the type of ``new``, of as many steps or fewer.
        memo: as of ``copy.deepcopy``: with one for several conditionals, modules that they share
            are shared by their copies.

    Returns:
        ``new``.

    Raises:
        TypeError: types that do not grow from one another.
        ValueError: another parametrisation, ``min_scale`` or architecture, fewer steps.

    Example:
        >>> import torch
        >>> start = DiagonalNormal(nn.Linear(4, 3), 3, 2)
        >>> new = grow(FullNormal(nn.Linear(4, 3), 3, 2), start)
        >>> x = torch.randn(5, 4)
        >>> bool((new(x).stddev - start(x).stddev).abs().max() < 1e-6)
        True
    """
    _check_types(new, start)
    _check_options(new, start)
    parts = _common(new, start)
    for name, other in parts:
        _check_architecture(name, new.get_submodule(name), start.get_submodule(other))
    memo = {} if memo is None else memo
    copies = [copy.deepcopy(start.get_submodule(other), memo) for _, other in parts]
    weight = next(getattr(start, "base", start).loc.parameters())
    # The network that it was built with may be shared with others, and stays as it is
    new.network = nn.Identity()
    new.to(weight).train(start.training)
    _begin(new)
    for (name, _), part in zip(parts, copies, strict=True):
        new.set_submodule(name, part)
    return new.requires_grad_()


def _common(new: nn.Module, start: nn.Module) -> list[tuple[str, str]]:
    """The parts that ``new`` takes over from ``start``, by their names in each."""
    here, there = ("base." if isinstance(c, AutoregressiveFlow) else "" for c in (new, start))
    parts = [("network", "network")]
    parts += [(here + head, there + head) for head in ("loc", "raw_scale")]
    # One latent has nothing below the diagonal
    own = [name for name in ("relative", "lower") if getattr(start, name, None) is not None]
    own += [f"steps.{i}" for i in range(len(getattr(start, "steps", ())))]
    return parts + [(name, name) for name in own]


def _begin(new: nn.Module) -> None:
    """At the mean-field member, also if it was trained before."""
    if isinstance(new, FullNormal) and getattr(new, "relative", None) is not None:
        zero(new.relative)
    if isinstance(new, AutoregressiveFlow):
        for step in new.steps:
            zero(step.layers[-1])


def _check_types(new: nn.Module, start: nn.Module) -> None:
    name = type(new).__name__
    if type(new) not in _STARTS:
        raise TypeError(
            f"new: expected one of {_names(tuple(_STARTS))}, got {name}: build one of these"
        )
    starts = _STARTS[type(new)]
    if type(start) not in starts:
        raise TypeError(
            f"start: expected {_names(starts)}, from which {name} can grow, got "
            f"{type(start).__name__}: start from one of these"
        )


def _names(types: tuple[type, ...]) -> str:
    return " or ".join(cls.__name__ for cls in types)


def _check_options(new: nn.Module, start: nn.Module) -> None:
    same = type(new) is type(start)
    if option := _OPTION.get(type(new)):
        given, wanted = new.arguments[option], start.arguments[option] if same else True
        if given != wanted:
            raise ValueError(
                f"{option}: expected {wanted}, which can be the distribution of start, got "
                f"{given}: build the new conditional with {option}={wanted}"
            )
    scales = [getattr(c, "base", c).min_scale for c in (new, start)]
    if scales[0] != scales[1]:
        raise ValueError(
            f"min_scale: expected that of start, {scales[1]}, got {scales[0]}: build the new "
            f"conditional with min_scale={scales[1]}"
        )
    if same and isinstance(new, AutoregressiveFlow) and len(new.steps) < len(start.steps):
        raise ValueError(
            f"steps: expected at least those of start, {len(start.steps)}, got "
            f"{len(new.steps)}: build the new conditional with steps={len(start.steps)} or more"
        )


def _check_architecture(name: str, mine: nn.Module, theirs: nn.Module) -> None:
    # A file would rebuild the one of the new conditional for the tensors of the other
    for expected, got in itertools.zip_longest(_architecture(theirs), _architecture(mine)):
        if expected != got:
            raise ValueError(
                f"{name}: expected the modules and shapes of start, with {expected}, got {got}: "
                "build the new conditional with the network, size, norm, hidden and activation "
                "of start"
            )


def _architecture(module: nn.Module) -> list[str]:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return [
        *(f"{type(part).__name__} {name}".strip() for name, part in module.named_modules()),
        *(f"{name} of shape {tuple(tensor.shape)}" for name, tensor in tensors),
    ]
