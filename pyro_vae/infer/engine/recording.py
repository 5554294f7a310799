"""The operations of a function as a graph, from one run of it."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.utils.weak import WeakIdKeyDictionary

from .internals import StorageWeakRef, schema
from .refusing import RefusedOperations, leaves, refused_functions

_ATEN = torch.ops.aten
_OF_THREAD = threading.local()


class Layout(NamedTuple):
    """What a result is, in ``node.meta["layout"]``."""

    shape: torch.Size
    dtype: torch.dtype
    contiguous: bool


def is_recording() -> bool:
    """Whether ``operations`` records what this thread computes."""
    return getattr(_OF_THREAD, "recording", False)


def operations(
    function: Callable[..., Tensor | tuple[Tensor, ...]], inputs: Sequence[Tensor]
) -> tuple[fx.Graph, list[Tensor]]:
    """The operations that a function of tensors runs on such inputs, below autograd.

    The inputs of the graph are those of the function and then the tensors that this closed over,
    among them literals, which are returned. Where the function asks for values of tensors, or for
    sizes that they decide, ``ValueRead`` is raised. A ``detach`` stays an operation.

    ``torch.fx.experimental.proxy_tensor.make_fx`` records as well; it makes a second tensor for
    the shape of each result, and takes several times as long.
    """
    inputs = _apart(inputs)
    recorder = _Recorder(inputs)

    def run() -> None:
        with recorder, refused_functions():
            recorder.result = function(*inputs)

    before, _OF_THREAD.recording = is_recording(), True
    # A cast that was made before would be taken for a constant
    cache = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        _Telling().trace(run)
    finally:
        torch.set_autocast_cache_enabled(cache)
        _OF_THREAD.recording = before
    return recorder.finished(), recorder.constants


def _apart(inputs: Sequence[Tensor]) -> list[Tensor]:
    """The same tensors, where one that is given twice is an object for each of its inputs."""
    met: set[int] = set()
    found = []
    for tensor in inputs:
        found.append(tensor.view_as(tensor) if id(tensor) in met else tensor)
        met.add(id(tensor))
    return found


class _Telling(fx.Tracer):
    """Lets torch know, so that a compiled network, whose operations are unseen, refuses to run."""

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        return forward(*args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict) -> Any:
        return attr_val


class _Recorder(RefusedOperations):
    """Makes a node of each operation."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.constants: list[Tensor] = []
        self.result: Tensor | tuple[Tensor, ...] = ()
        self._nodes = WeakIdKeyDictionary()
        self._memory: dict[int, StorageWeakRef] = {}
        for i, tensor in enumerate(inputs):
            self._last_input = self.graph.placeholder(f"input_{i}")
            self._names(tensor, self._last_input)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        held, made_by = args, func
        if func is _ATEN.lift_fresh.default:
            # What changes the result in place is not to change the literal
            held, made_by = (args[0].clone(),), _ATEN.lift_fresh_copy.default
        result = super().__torch_dispatch__(func, types, args, kwargs)
        has_tensors = any(isinstance(value, Tensor) for value in leaves(result))
        if has_tensors or schema(func).is_mutable:
            given, named = map_aggregate((held, kwargs or {}), self._node_of)
            self._names(result, self.graph.call_function(made_by, given, named))
        return result

    def finished(self) -> fx.Graph:
        """The graph, which returns ``result``."""
        self.graph.output(map_aggregate(self.result, self._node_of))
        return self.graph

    def _is_made(self, value: Tensor) -> bool:
        """Whether it is in the memory of a result."""
        if value.layout is not torch.strided:
            return False
        made = self._memory.get(StorageWeakRef(value.untyped_storage()).cdata)
        return made is not None and not made.expired()

    def _names(self, result: Any, node: fx.Node) -> None:
        if isinstance(result, Tensor):
            self._nodes[result] = node
            strided = result.layout is torch.strided
            if strided and node.op != "placeholder":
                memory = StorageWeakRef(result.untyped_storage())
                self._memory[memory.cdata] = memory
            contiguous = strided and result.is_contiguous()
            node.meta["layout"] = Layout(result.shape, result.dtype, contiguous)
        elif isinstance(result, tuple | list):
            for i, part in enumerate(result):
                self._names(part, self.graph.call_function(operator.getitem, (node, i)))

    def _node_of(self, value: Any) -> Any:
        if isinstance(value, torch.Generator):
            raise RuntimeError("it holds something else than tensors, such as a random generator")
        if not isinstance(value, Tensor):
            return value
        if value not in self._nodes:
            if type(value) not in (Tensor, nn.Parameter):
                # Made of another tensor without an operation, it would be taken for a constant
                raise RuntimeError(
                    f"it holds a tensor of a class of its own, {type(value).__name__}"
                )
            if self._is_made(value):
                raise RuntimeError(
                    "it makes a tensor of a result without an operation, as nn.Parameter does"
                )
            with self.graph.inserting_after(self._last_input):
                self._last_input = self.graph.placeholder(f"constant_{len(self.constants)}")
            self._names(value, self._last_input)
            self.constants.append(value)
        return self._nodes[value]
