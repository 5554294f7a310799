"""Parameters in Pyro's store: those of modules declared, all others left as they were."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pyro
from pyro.distributions.constraints import real
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ..ground.internals import constrained_parameters
from .methods import held_by

_counter = itertools.count(1)
# Keyed by instance, not stored on it: a deep copy or a loaded copy gets a name of its own.
_names: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
_active = True
# What is to be in the store again
_kept: list[dict[str, dict[str, Any]]] = []


@contextlib.contextmanager
def unregistered(*programs: Callable, stored: bool = True) -> Iterator[None]:
    """Run programs without their modules in Pyro's store: for optimizers that hold the tensors.

    Nor do they find there the tensors of other modules of the same names that were run so. Unless
    what else they leave there is to be ``stored``, it is afterwards as it was: names, tensors,
    constraints.
    """
    global _active
    before, _active = _active, False
    store, own = pyro.get_param_store(), _Own()
    own.programs = programs
    if not stored:
        _kept.append(store.get_state())
    try:
        if len(store):
            _forget_namesakes(programs)
        with own:
            yield
    finally:
        _active = before
        if not stored:
            store.clear()
            store.set_state(_kept.pop())


class _Own(Messenger):
    """Gives ``pyro.module``, which declares a module's parameters, these very parameters."""

    programs: tuple[Callable, ...]
    held: Mapping[int, Tensor] = MappingProxyType({})

    def _pyro_param(self, msg: dict[str, Any]) -> None:
        _, *given = msg["args"]
        if given and msg["kwargs"].get("constraint", real) is real and self._holds(given[0]):
            # Whoever is outside learns nothing of it
            msg["value"], msg["done"], msg["stop"] = given[0], True, True

    def _holds(self, value: Any) -> bool:
        if not (isinstance(value, Tensor) and value.requires_grad):
            return False
        if id(value) not in self.held:
            modules = itertools.chain.from_iterable(map(held_by, self.programs))
            # Looked up late: other tensors stand for them while they are recorded
            self.held = {id(p): p for module in modules for p in module.parameters()}
        return id(value) in self.held


# Those whose tensors Pyro itself keeps in its store, by names that others may have as well
_constrained: weakref.WeakSet[PyroModule] = weakref.WeakSet()


def _forget_namesakes(programs: Iterable[Callable]) -> None:
    """Drop from Pyro's store what of another module would stand for tensors of these."""
    store = pyro.get_param_store()
    modules = itertools.chain.from_iterable(map(held_by, programs))
    for module in itertools.chain.from_iterable(map(nn.Module.modules, modules)):
        for name, own in constrained_parameters(module).items():
            _constrained.add(module)
            if name not in store or (held := store[name].unconstrained()) is own:
                continue
            # What nobody holds was put there on purpose, as by loading the store
            others = itertools.chain.from_iterable(m.parameters(False) for m in _constrained)
            if any(held is parameter for parameter in others):
                del store[name]


def _forget(prefix: str) -> None:
    store = pyro.get_param_store()
    for name in [name for name in store.keys() if name.startswith(prefix)]:
        del store[name]
    for state in _kept:
        for part in state.values():
            for name in [name for name in part if name.startswith(prefix)]:
                del part[name]


def register(module: nn.Module, *, always: bool = False) -> None:
    """Declare the trainable parameters of ``module`` to Pyro under a name unique to this instance.

    ``pyro.module`` with a fixed name silently keeps training the first instance; here each
    instance has its own entries, a replaced parameter replaces its entry, frozen parameters are
    left out, a tensor that instances share has one entry, and the entries go when the instance
    does. With ``always`` also where ``unregistered`` holds.
    """
    if not (_active or always):
        return
    name = _names.get(module)
    if name is None:
        name = _names[module] = f"{type(module).__name__}#{next(_counter)}"
        weakref.finalize(module, _forget, name + "$$$").atexit = False
    store = pyro.get_param_store()
    for key, parameter in module.named_parameters():
        if parameter.requires_grad:
            site = store.param_name(parameter) or f"{name}$$${key}"
            if site in store and store[site].unconstrained() is not parameter:
                del store[site]
            if site not in store:
                # pyro.param would train a copy of a tensor that is not contiguous
                store.set_state({"params": {site: parameter}, "constraints": {site: real}})
            pyro.param(site)
