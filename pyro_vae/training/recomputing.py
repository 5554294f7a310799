"""Networks that keep no activations: the backward pass computes them again."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..ground.internals import DispatchMode
from ..infer.engine.recording import is_recording
from ..programs.methods import held_by
from ..programs.program import Guide, Model


@contextlib.contextmanager
def recomputing(*programs: Callable) -> Iterator[None]:
    """Keep of the networks of programs no more than what goes in and comes out.

    A network is an outermost part with parameters and a ``forward`` of its own that is no program
    itself. Its forward pass runs a second time in the backward pass, on the same random numbers
    and from the same buffers and attributes; what it changes of these, such as the statistics of
    BatchNorm, changes once. Results are the same, bit for bit on the CPU.

    Source: "Training Deep Nets with Sublinear Memory Cost", Chen, Xu, Zhang, Guestrin (2016).

    Args:
        programs: model and guide; of plain functions nothing is found.

    Raises:
        ValueError: within it, a network that draws a site.
    """
    roots = [part for program in programs for part in held_by(program)]
    networks = [*dict.fromkeys(n for root in roots for n in _inside(root))]
    before = [vars(network).get("forward") for network in networks]
    try:
        for network in networks:
            network.forward = _Recomputed(network, network.forward)
        yield
    finally:
        for network, forward in zip(networks, before, strict=True):
            del network.forward
            if forward is not None:
                network.forward = forward


def _inside(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        program = isinstance(child, Model | Guide) or not hasattr(type(child), "forward")
        if program or type(child).forward is nn.Module.forward:
            yield from _inside(child)
        elif any(True for _ in child.parameters()):
            yield child


class _Recomputed:
    """The forward pass of a network, within a run; copies of the network have its own again."""

    def __init__(self, network: nn.Module, forward: Callable) -> None:
        self.network, self.forward = network, forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _Alone(self.network):
            if not torch.is_grad_enabled():
                return self.forward(*args, **kwargs)
            contexts = functools.partial(_contexts, self.network)
            with _Undrawn() if is_recording() else contextlib.nullcontext():
                return checkpoint(
                    self.forward, *args, use_reentrant=False, context_fn=contexts, **kwargs
                )

    def __reduce__(self) -> tuple[Callable, tuple[Callable]]:
        return _itself, (self.forward,)


def _itself(forward: Callable) -> Callable:
    return forward


def _contexts(network: nn.Module) -> tuple[contextlib.AbstractContextManager, ...]:
    """Of the first run, and of each later one, which is as the first and leaves no trace."""
    before = _State(network)
    return contextlib.nullcontext(), _Again(network, before)


class _State:
    """Attributes of a network's modules, and the values of its buffers, as they are now."""

    def __init__(self, network: nn.Module) -> None:
        modules = [*network.modules()]
        self._attributes = [(vars(m), dict(vars(m))) for m in modules]
        self._buffers = [
            (m, name, buffer, buffer.clone())
            for m in modules
            for name, buffer in m.named_buffers(recurse=False)
        ]

    def restore(self) -> None:
        for now, then in self._attributes:
            for name in now.keys() - then.keys():
                del now[name]
            now.update(then)
        for module, name, buffer, value in self._buffers:
            setattr(module, name, buffer)
            # Past autograd, which still needs others of the same layer
            buffer.data.copy_(value)


class _Again:
    """A network is as it was before its first run, and afterwards as it is now."""

    def __init__(self, network: nn.Module, before: _State) -> None:
        self.network, self.before = network, before

    def __enter__(self) -> None:
        self._now = _State(self.network)
        self.before.restore()

    def __exit__(self, *error: object) -> None:
        self._now.restore()


class _Undrawn(DispatchMode):
    """Lets a network that is recorded draw nothing: a record of its second run would draw anew."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()):
            raise RuntimeError(
                "a network that is computed again draws random numbers, as dropout does"
            )
        return func(*args, **(kwargs or {}))


class _Alone(Messenger):
    """Lets a network draw no site, which a second run would draw anew."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        raise ValueError(
            f"recompute: expected networks of tensors, got a {type(self.network).__name__} that "
            f"draws the site {msg['name']!r}: leave recompute out, or draw it in the program"
        )
