"""A pair as a function of tensors alone, which can be recorded: its bound, and the gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.overrides import TorchFunctionMode

from ...data.arguments import Data, holding
from ...programs.registration import unregistered
from ..objectives.elbo import Estimator
from .internals import tree_leaves, tree_map_only
from .rewriting import drop_detaching, drop_transposing_twice


class Traced:
    """The loss of a pair, and the terms of its bound, as a function of tensors.

    ``tensors``, parameters and buffers of the pair, come before the tensors of data of the form
    of ``data``. The results are loss,
    reconstruction, the KL of each of ``sites``, in their order, and the gradient of each of
    ``reached``; both are known once it was called. A record of it runs in the mode ``replaying``;
    ``rewrites`` may be done to that, see ``rewriting.recorded``, and ``kept`` tells how many of
    its results are to last where it runs as a CUDA graph, or is None where it cannot.
    """

    replaying: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    rewrites: tuple[Callable[[Node], object], ...] = ()
    kept: int | None = None

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        estimator: Estimator,
        data: tuple[Data, Tensor | None],
    ) -> None:
        self._data: tuple[Data | None, Tensor | None] = data
        self.programs, self._pair = (model, guide), Pair(model, guide, estimator)
        named = {**dict(self._pair.named_parameters()), **dict(self._pair.named_buffers())}
        self._names, self.tensors = tuple(named), tuple(named.values())
        self.sites: list[str] = []
        self.shared: dict[str, int] = {}
        self.reached: list[Tensor] = []

    def prepare(self) -> None:
        """What the estimator does once for a pair, before it runs without checks."""
        self._pair.estimator.prepare(*self.programs, *self._data)

    def forget_data(self) -> None:
        """Let go of the data, which a record of this does not need."""
        self._data = (None, None)

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Of all tensors, x, and y if there is one: loss, reconstruction, KL of each site."""
        # Gradients that the loss is made of are recorded in this thread alone
        with torch.autograd.set_multithreading_enabled(False), _StoppedGradients():
            return self._bound(*tensors)

    def _bound(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        held = dict(zip(self._names, tensors, strict=False))
        data = holding(*self._data, tensors[len(self._names) :])
        with unregistered(*self.programs), pyro.validation_enabled(False):
            result = torch.func.functional_call(self._pair, held, data)
        loss, reconstruction, kl, self.shared = result
        self.sites = list(kl)
        return loss, reconstruction, *kl.values()


class TracedGradient(Traced):
    """The same, with the gradient of the loss.

    ``torch.autograd`` runs while this function is recorded, and not when the record is replayed.
    """

    replaying = torch.no_grad
    rewrites = (drop_detaching, drop_transposing_twice)

    @property
    def kept(self) -> int:
        """Loss and terms; gradients are overwritten at the next step."""
        return 2 + len(self.sites)

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Loss, reconstruction, KL of each site, and the gradient of each parameter in use."""
        with torch.autograd.set_multithreading_enabled(False):
            loss, *terms = self._bound(*tensors)
            leaves = [t for t in tensors[: len(self._names)] if t.requires_grad]
            found = torch.autograd.grad(loss, leaves, allow_unused=True)
        pairs = [(p, g) for p, g in zip(leaves, found, strict=True) if g is not None]
        # Tracing passes the parameters themselves
        self.reached = [parameter for parameter, _ in pairs]
        return loss.detach(), *terms, *_apart(pairs, tensors)


def _apart(pairs: Iterable[tuple[Tensor, Tensor]], inputs: Iterable[Tensor]) -> Iterable[Tensor]:
    """Gradients as autograd leaves them: each in memory of its own, laid out as its parameter."""
    taken = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    for parameter, gradient in pairs:
        memory = gradient.untyped_storage().data_ptr()
        if memory in taken or gradient.stride() != parameter.stride():
            gradient = torch.empty_like(parameter).copy_(gradient)
        taken.add(memory)
        yield gradient


class _StoppedGradients(TorchFunctionMode):
    """Records that a program stops gradients by ``no_grad``, which operations do not tell."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if torch.is_grad_enabled():
            return result
        given = tree_leaves((args, kwargs))
        if not any(isinstance(a, Tensor) and a.requires_grad for a in given):
            return result
        return tree_map_only(Tensor, Tensor.detach, result)


class Pair(nn.Module):
    """Model and guide under one module, and the terms of the bound as plain data."""

    def __init__(self, model: nn.Module, guide: nn.Module, estimator: Estimator) -> None:
        super().__init__()
        self.model, self.guide, self.estimator = model, guide, estimator

    def forward(
        self, x: Data, y: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, int]]:
        """Loss, reconstruction, KL by site, and among how many data that of some is divided."""
        loss, terms = self.estimator(self.model, self.guide, x, y)
        return loss, terms.reconstruction, terms.kl, terms.shared
