"""Who keeps a parameter from being trained: it trains where nobody does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from .methods import held_by
from .modes import resting, training
from .running import shown_to, trace_pair, traced, undisturbed
from .unwrapping import below_handlers, name_of

Data = tuple[Tensor, Tensor | None]


class Freezing:
    """The ``names`` of a model's frozen parameters, to thaw no others; None while it trains."""

    def __init__(self) -> None:
        self.names: list[str] | None = None
        self._hold = Hold(())

    def trainable(
        self, model: Callable, guides: Iterable[Callable], tried: Data | None
    ) -> list[str]:
        """Names of what there is to freeze of a model.

        Where one module has a guide as well, that is what the model's run on the data ``tried``
        uses. Raises ``TypeError`` for a model that cannot be frozen, ``ValueError`` where it takes
        data to tell and there are none.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(
                "freeze_model: expected a model that is a module, got a plain function, whose "
                "parameters are in Pyro's store: make it the forward of an nn.Module"
            )
        free = {name: p for name, p in model.named_parameters() if is_free(p)}
        shared = [guide for guide in guides if _of_one_module(model, guide)]
        if not shared:
            return list(free)
        if tried is None:
            raise ValueError(
                f"freeze_model: expected a trainer that has trained, since {name_of(model)} and "
                f"{name_of(shared[0])} are of one module, and only a run tells which parameters "
                "are the model's: call fit first"
            )
        used, _ = _used(model, shared[0], *tried)
        return [name for name, p in free.items() if id(p) in used]

    def freeze(self, model: nn.Module, names: list[str]) -> None:
        """Freeze what ``trainable`` named; for a model from a file, what its run had frozen."""
        self.names = names
        self._hold = Hold(model.get_parameter(name) for name in names)

    def thaw(self) -> None:
        """Undo ``freeze``."""
        self._hold.release()
        self.names = None

    def holding(
        self, model: nn.Module, guide: Callable, tried: Callable[[], Data]
    ) -> AbstractContextManager[None]:
        """Evaluation mode while it is frozen, so that buffers stay as they are, too."""
        if self.names is None:
            return nullcontext()
        if not _of_one_module(model, guide):
            return training(model, False)
        _, ran = _used(model, guide, *tried())
        return resting(ran)


def check_stored(
    model: Callable, guide: Callable, x: Any, y: Tensor | None, names: Collection[str]
) -> None:
    """Raise ``TypeError`` where a model has one of these ``pyro.param`` sites of no module."""
    with undisturbed(model, guide, device=x.device):
        trace, _ = trace_pair(model, guide, x, y)
    sites = [name for name, node in trace.nodes.items() if node["type"] == "param"]
    if held := [name for name in sites if name in names]:
        raise TypeError(
            f"freeze_model: pyro.param({held[0]!r}) of the model is in Pyro's store and in no "
            "module, so that it would go on being trained: make it an nn.Parameter or a PyroParam "
            "of the model"
        )


def _of_one_module(model: Callable, guide: Callable) -> bool:
    held = {id(module) for module in held_by(below_handlers(model))}
    return not held.isdisjoint(map(id, held_by(below_handlers(guide))))


def _used(
    model: nn.Module, guide: Callable, x: Tensor, y: Tensor | None
) -> tuple[set[int], list[nn.Module]]:
    """Ids of the parameters that log p(x, z) depends on, and the modules that run for it."""
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    trained, ran = [p.requires_grad for p in parameters], {}

    def note(module: nn.Module, _: Any) -> None:
        ran[module] = None

    hooks = [module.register_forward_pre_hook(note) for module in model.modules()]
    try:
        with undisturbed(model, guide, device=x.device):
            drawn = traced(guide, x, y)
            ran.clear()
            for parameter in parameters:
                parameter.requires_grad_(True)
            with torch.enable_grad():
                replayed = poutine.replay(shown_to(guide, model), trace=drawn)
                density = traced(replayed, x, y).log_prob_sum()
            gradients = [None] * len(parameters)
            if isinstance(density, Tensor) and density.requires_grad:
                gradients = torch.autograd.grad(density, parameters, allow_unused=True)
    finally:
        for parameter, was in zip(parameters, trained, strict=True):
            parameter.requires_grad_(was)
        for hook in hooks:
            hook.remove()
    used = zip(parameters, gradients, strict=True)
    return {id(p) for p, gradient in used if gradient is not None}, list(ran)


_holders: WeakIdKeyDictionary = WeakIdKeyDictionary()


def is_free(parameter: nn.Parameter) -> bool:
    """Whether a parameter trains, or rests only because it is held: no person froze it."""
    return parameter.requires_grad or parameter in _holders


class Hold:
    """Keeps parameters from being trained until it is released, and until all others are."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = tuple({id(p): p for p in parameters}.values())
        self._token = object()
        for parameter in self.parameters:
            _holders.setdefault(parameter, set()).add(self._token)
            parameter.requires_grad_(False)

    def release(self) -> None:
        """Let those train that nobody else holds; a second time it does nothing."""
        for parameter in self.parameters:
            others = _holders.pop(parameter, set()) - {self._token}
            if others:
                _holders[parameter] = others
            else:
                parameter.requires_grad_(True)
        self.parameters = ()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy holds the copies of the parameters."""
        self.__init__(state["parameters"])
