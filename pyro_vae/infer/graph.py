"""The bound of a pair as a recorded tensor graph: Pyro runs once, the tensors run every step."""

from __future__ import annotations

import collections
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from ..recorded import Recorded
from ..registration import unregistered
from .elbo import ELBOTerms, Estimator

# What tracing raises where a program asks for a value: .item(), if tensor, data-dependent shapes
_UNTRACEABLE = (RuntimeError, NotImplementedError, TypeError, ValueError)
_MOST_GRAPHS, _MOST_KEYS = 32, 128
_DETACHING = (Tensor.detach, torch.detach, Tensor.data.__get__)
_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_PLAIN = (bool, int, float, str, type(None))
# Attributes of every nn.Module that decide nothing about the operations that it runs
_BOOKKEEPING = (frozenset(nn.Module().__dict__) - {"training"}) | {"arguments"}


class Graph:
    """An estimator that records ``estimator(model, guide, x, y)`` once and replays the tensors.

    The pair runs once under ``make_fx`` with its parameters and buffers as inputs; replaying the
    recorded operations costs no Pyro. Losses, gradients, buffers and random numbers are those of
    the estimator itself, bit for bit. Another graph is recorded for another batch shape, training
    mode, pair, set of parameters or set of trainable ones, and for a changed plain attribute of
    a module. Tensors that a program closes over (a 0-d beta) are read by reference and may change
    in place.

    A program that cannot be recorded (control flow on tensor values, score-function sites, plain
    functions, whose globals cannot be watched) runs as it is, with one warning that says why.

    Args:
        estimator: ``TraceELBO(...)`` or ``AnalyticELBO(...)``.
        compile: what to make of a recorded graph, for example ``torch.compile``; default: as is.
        after: calls that run as they are before a graph is recorded, so that a short run does not
            pay for recording (a fraction of a second to some seconds).

    Example:
        >>> from pyro_vae import guides, infer, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> guide, x = guides.BottomUp(vae), torch.zeros(5, 6)
        >>> recorded, eager = infer.Graph(infer.TraceELBO()), infer.TraceELBO()
        >>> with torch.random.fork_rng():
        ...     loss, _ = recorded(vae, guide, x)
        >>> bool(loss == eager(vae, guide, x)[0])
        True
    """

    def __init__(
        self,
        estimator: Estimator,
        *,
        compile: Callable[[Callable], Callable] | None = None,
        after: int = 0,
    ) -> None:
        self.estimator, self.compile, self.after = estimator, compile, after
        self._recorded: dict[Any, Callable | None] = {}
        self._calls: collections.Counter[Any] = collections.Counter()
        self._noticed: set[str] = set()

    def __call__(
        self, model: Callable, guide: Callable, x: Tensor, y: Tensor | None = None
    ) -> tuple[Tensor, ELBOTerms]:
        """Loss with the pair's scales, and the terms without them, detached."""
        if not (isinstance(model, nn.Module) and isinstance(guide, nn.Module)):
            self._notice("the model or the guide is a plain function, whose state is hidden")
            return self.estimator(model, guide, x, y)
        key = (
            *_fingerprint(model, guide),
            *(None if t is None else (t.shape, t.dtype, t.device) for t in (x, y)),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
        )
        if len(self._calls) > _MOST_KEYS:
            self._notice("its modules' attributes change from step to step")
            return self.estimator(model, guide, x, y)
        if key not in self._recorded and self._calls[key] >= self.after:
            if len(self._recorded) >= _MOST_GRAPHS:
                del self._recorded[next(iter(self._recorded))]
            self._recorded[key] = self._record(model, guide, x, y)
            self._calls[key] += 1
        replay = self._recorded.get(key)
        if replay is None:
            self._calls[key] += 1
            return self.estimator(model, guide, x, y)
        loss, reconstruction, kl = replay(x, y)
        return loss, ELBOTerms(reconstruction.detach(), {s: v.detach() for s, v in kl.items()})

    def _record(
        self, model: nn.Module, guide: nn.Module, x: Tensor, y: Tensor | None
    ) -> Callable | None:
        self.estimator.prepare(model, guide, x, y)
        pair = _Pair(model, guide, self.estimator)
        tensors = {**dict(pair.named_parameters()), **dict(pair.named_buffers())}

        def run(tensors: dict[str, Tensor], x: Tensor, y: Tensor | None) -> Any:
            return torch.func.functional_call(pair, tensors, (x, y))

        # Recording runs the program once: afterwards buffers and RNG are as before
        buffers = {name: buffer.clone() for name, buffer in pair.named_buffers()}
        try:
            devices = [x.device] if x.device.type == "cuda" else []
            with torch.random.fork_rng(devices), _StoppedGradients():
                graph = _quickened(make_fx(run)(tensors, x, y))
        except _UNTRACEABLE as error:
            self._notice(str(error).splitlines()[0] if str(error) else type(error).__name__)
            return None
        finally:
            with torch.no_grad():
                for name, buffer in pair.named_buffers():
                    buffer.copy_(buffers[name])
        replay = graph if self.compile is None else self.compile(graph)
        # The pair is kept, because its identity is part of the key
        return lambda x, y, pair=pair: replay(tensors, x, y)

    def _notice(self, reason: str) -> None:
        if reason not in self._noticed:
            self._noticed.add(reason)
            warnings.warn(f"this pair runs eagerly, not as a graph: {reason}", stacklevel=4)


class _StoppedGradients(TorchFunctionMode):
    """Records operations that stop a gradient where a program does so.

    ``make_fx`` forgets ``detach`` and ``no_grad``: a replay would differentiate through both.
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func not in _DETACHING and torch.is_grad_enabled():
            return result
        needs_gradient = any(
            isinstance(a, Tensor) and a.requires_grad for a in (*args, *kwargs.values())
        )
        if not (needs_gradient and isinstance(result, Tensor) and result.is_floating_point()):
            return result
        # The same bits as an integer, which has no gradient, and back; nothing is copied
        return result.view(_INTEGER[result.element_size()]).view(result.dtype)


class _Pair(nn.Module):
    """Model and guide under one module, so that the tensors of both can be passed in."""

    def __init__(self, model: nn.Module, guide: nn.Module, estimator: Estimator) -> None:
        super().__init__()
        self.model, self.guide, self.estimator = model, guide, estimator

    def forward(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        with unregistered(), pyro.validation_enabled(False):
            loss, terms = self.estimator(self.model, self.guide, x, y)
        return loss, terms.reconstruction, terms.kl


def _guard(value: Any) -> Any:
    """What of a module's attribute decides which operations it runs, hashable."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, tuple | list):
        return tuple(map(_guard, value))
    if isinstance(value, Mapping):
        return tuple((k, _guard(v)) for k, v in value.items())
    if isinstance(value, Recorded):
        return tuple(_guard(v) for k, v in vars(value).items() if k != "arguments")
    return id(value)


def _fingerprint(*programs: nn.Module) -> list[Any]:
    """The modules of a pair, their tensors and plain attributes; one quick pass per step."""
    found: list[Any] = []
    stack: list[nn.Module | None] = list(programs)
    seen: set[int] = set()
    while stack:
        module = stack.pop()
        if module is None or id(module) in seen:
            continue
        seen.add(id(module))
        attributes = module.__dict__
        stack.extend(attributes["_modules"].values())
        found.append(id(module))
        for parameter in attributes["_parameters"].values():
            found.append((id(parameter), parameter is not None and parameter.requires_grad))
        found.extend(map(id, attributes["_buffers"].values()))
        for name in attributes.keys() - _BOOKKEEPING:
            value = attributes[name]
            if isinstance(value, nn.Module):
                stack.append(value)
            else:
                found.append((name, _guard(value)))
    return found


def _quickened(graph: GraphModule) -> GraphModule:
    """The same operations on the same tensors, with less of Python between them.

    Operations that only repeat a tensor for one reader, and those whose result nobody reads, are
    dropped; the others are called as torch's own functions, which dispatch faster than operator
    overloads.
    """
    aten = torch.ops.aten
    for node in graph.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        source = next(iter(node.all_input_nodes), None)
        repeats = node.target is aten.alias.default or (
            node.target in (aten.expand.default, aten.view.default)
            and _shape(node) == _shape(source) is not None
        )
        # With more readers the gradients would be summed in another order, to other last bits
        if source is not None and repeats and len(source.users) == 1:
            node.replace_all_uses_with(source)
        node.target = _torch_function(node.target) or node.target
    graph.graph.eliminate_dead_code(_is_impure)
    graph.recompile()
    return graph


def _is_impure(node: Node) -> bool:
    """Whether a node acts by more than its result: inputs, results, in-place and random ones."""
    if node.op != "call_function":
        return node.op in ("placeholder", "output")
    return isinstance(node.target, torch._ops.OpOverload) and (
        node.target._schema.is_mutable or torch.Tag.nondeterministic_seeded in node.target.tags
    )


def _torch_function(overload: torch._ops.OpOverload) -> Callable | None:
    schema = overload._schema
    random = torch.Tag.nondeterministic_seeded in overload.tags
    name = schema.name.removeprefix("aten::")
    operator = name.startswith("__")  # such as >>, which a recorded graph cannot name
    if overload.namespace != "aten" or schema.is_mutable or random or operator:
        return None
    for namespace in (torch._C._VariableFunctions, torch._C._nn, torch._C.TensorBase):
        if function := getattr(namespace, name, None):
            return function
    return None


def _shape(node: Node | None) -> torch.Size | None:
    return None if node is None else getattr(node.meta.get("tensor_meta"), "shape", None)
