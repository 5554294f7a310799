"""A published shape as a small pair: programs, their data, and what stock Pyro is told of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.infer import ELBO, Trace_ELBO
from torch import nn


@dataclass
class Pair:
    """Model and guide, and what they are called with.

    ``data`` have a common leading n: a tensor or a tuple is given in order, a mapping by name;
    ``arguments`` are the constants beside them, ``plate`` names the plate of the data where that
    has to be told, ``elbo`` makes the objective under which it was published, and ``parts`` are
    the modules behind the programs. ``minibatches`` tells that the programs, under their
    objective, take any n rows, and ``other`` makes a second guide where a second pair's is none of
    its own.
    """

    model: Callable
    guide: Callable
    data: Any
    arguments: Mapping[str, Any] = field(default_factory=dict)
    plate: str | None = None
    elbo: Callable[[], ELBO] = Trace_ELBO
    parts: tuple[nn.Module, ...] = ()
    minibatches: bool = True
    other: Callable[[], Callable] | None = None

    @property
    def args(self) -> tuple[Any, ...]:
        if self.data is None or isinstance(self.data, Mapping):
            return ()
        return self.data if isinstance(self.data, tuple) else (self.data,)

    @property
    def kwargs(self) -> dict[str, Any]:
        return {**(self.data if isinstance(self.data, Mapping) else {}), **self.arguments}

    @property
    def n(self) -> int | None:
        """Number of data; None where the program has them itself."""
        columns = self.data.values() if isinstance(self.data, Mapping) else self.args
        return next((len(column) for column in columns), None)


def mlp(*sizes: int, activation: type[nn.Module] = nn.Softplus) -> nn.Sequential:
    layers = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


class NormalHead(nn.Module):
    """Mean and scale of a diagonal normal from one network."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.net = mlp(*sizes[:-1], 2 * sizes[-1])

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loc, raw = self.net(torch.cat(inputs, -1)).chunk(2, -1)
        return loc, nn.functional.softplus(raw) + 1e-3


def binary(n: int, size: int) -> torch.Tensor:
    """Rows of two kinds, so that there is something to find out about them."""
    kind = torch.arange(n) % 2
    probs = torch.where(torch.arange(size) < size // 2, 0.85, 0.15)
    return torch.bernoulli(torch.where(kind[:, None] == 1, probs, 1 - probs))
