"""Declaring the parameters of modules to Pyro, so that stock Pyro trains the right ones."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Iterator

import pyro
from pyro.distributions.constraints import real
from torch import nn

_counter = itertools.count(1)
# Keyed by instance, not stored on it: a deep copy or a loaded copy gets a name of its own.
_names: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
_active = True


@contextlib.contextmanager
def unregistered() -> Iterator[None]:
    """Run programs without touching Pyro's param store: for optimizers that hold the tensors."""
    global _active
    before, _active = _active, False
    try:
        yield
    finally:
        _active = before


def _forget(prefix: str) -> None:
    store = pyro.get_param_store()
    for name in [name for name in store.keys() if name.startswith(prefix)]:
        del store[name]


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
