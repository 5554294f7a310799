"""A recorded graph made quicker to replay, to the same bits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from .internals import FUNCTIONS, Operator, forget_source, schema
from .recording import operations

_ATEN = torch.ops.aten
_DRAWING = torch.Tag.nondeterministic_seeded


def recorded(
    function: Callable, inputs: Sequence[Tensor], *rewrites: Callable[[Node], object]
) -> tuple[GraphModule, list[Tensor]]:
    """The operations of a function of tensors on inputs of these shapes, made quick to replay.

    Operations that only repeat a tensor for one reader, and those whose result nobody reads, are
    dropped; a linear layer is one call; a sum is negated after it is taken; the others are called
    as torch's own functions, which dispatch faster than operator overloads. ``rewrites`` are more
    of these, for an operation each. The function returns a tensor or a tuple of tensors.

    The result is a graph whose inputs are those of the function and then the tensors that this
    closed over, such as beta, and literals; and these tensors. Where the function asks for values
    of tensors, or for sizes that they decide, ``ValueRead`` is raised, and whatever else a
    function provokes that cannot be recorded.
    """
    graph, constants = operations(function, inputs)
    graph.eliminate_dead_code(_is_impure)
    for rewrite in (_drop_repeating, *rewrites, _negate_after_sum, _join_linear):
        for node in graph.nodes:
            if node.op == "call_function":
                rewrite(node)
    graph.eliminate_dead_code(_is_impure)
    for node in graph.nodes:
        if isinstance(node.target, Operator):
            node.meta["operator"] = node.target
            node.target = _torch_function(node.target) or node.target
    return _module(graph), constants


def of_operators(module: GraphModule) -> GraphModule:
    """The same graph of operator overloads, by whose names compilers tell graphs apart."""
    graph = copy.deepcopy(module.graph)
    for node in graph.nodes:
        node.target = node.meta.get("operator", node.target)
    return _module(graph)


def _module(graph: Graph) -> GraphModule:
    module = GraphModule(nn.Module(), graph)
    forget_source(module.forward)
    return module


def drop_detaching(node: Node) -> None:
    """Of a graph that is replayed without gradients."""
    if node.target is _ATEN.detach.default:
        node.replace_all_uses_with(node.args[0])
        node.graph.erase_node(node)


def drop_transposing_twice(node: Node) -> None:
    """As autograd does with the gradient of a linear layer's weight."""
    if node.target is _ATEN.t.default and _source(node).target is _ATEN.t.default:
        node.replace_all_uses_with(_source(_source(node)))
        node.graph.erase_node(node)


def _drop_repeating(node: Node) -> None:
    source = _source(node)
    repeats = (
        node.target is _ATEN.alias.default
        or (
            node.target in (_ATEN.expand.default, _ATEN.view.default)
            and _shape(node) == _shape(source) is not None
        )
        or (node.target is _ATEN.permute.default and node.args[1] == sorted(node.args[1]))
    )
    # With more readers the gradients would be summed in another order, to other last bits
    if source is not None and repeats and len(source.users) == 1:
        node.replace_all_uses_with(source)
        node.graph.erase_node(node)


def _negate_after_sum(node: Node) -> None:
    """sum(-a) = -sum(a) to the last bit, with the gradient too, and -a is never written."""
    if node.target not in (_ATEN.sum.dim_IntList, _ATEN.sum.default) or node.kwargs:
        return
    reader, negated = node, _source(node)
    if negated.target is _ATEN.view.default and len(negated.users) == 1:
        reader, negated = negated, _source(negated)
    if negated.target is not _ATEN.neg.default or len(negated.users) > 1:
        return
    (source,) = negated.args
    layout = source.meta.get("layout")
    if len(source.users) > 1 or layout is None or not layout.dtype.is_floating_point:
        return
    if not layout.contiguous:
        return  # it would be summed in another order
    with node.graph.inserting_after(node):
        result = node.graph.call_function(_ATEN.neg.default, (node,))
    result.meta = dict(node.meta)
    node.replace_all_uses_with(result, delete_user_cb=lambda user: user is not result)
    reader.replace_input_with(negated, source)
    node.graph.erase_node(negated)


def _join_linear(node: Node) -> None:
    """``addmm(bias, x, weight.t())`` is what ``linear(x, weight, bias)`` runs."""
    if node.target is _ATEN.addmm.default:
        bias, x, transposed = node.args
        if node.kwargs or len(_shape(bias) or ()) != 1:
            return
    elif node.target is _ATEN.mm.default:
        bias, (x, transposed) = None, node.args
    else:
        return
    if transposed.target is _ATEN.t.default and len(transposed.users) == 1:
        node.target, node.args = nn.functional.linear, (x, transposed.args[0], bias)


def _is_impure(node: Node) -> bool:
    """Whether a node acts by more than its result: inputs, results, in-place and random ones."""
    if node.op != "call_function":
        return node.op in ("placeholder", "output")
    return isinstance(node.target, Operator) and (
        schema(node.target).is_mutable or _DRAWING in node.target.tags
    )


def _torch_function(overload: Operator) -> Callable | None:
    signature = schema(overload)
    name = signature.name.removeprefix("aten::")
    operator = name.startswith("__")  # such as >>, which a recorded graph cannot name
    impure = signature.is_mutable or _DRAWING in overload.tags
    if overload.namespace != "aten" or impure or operator:
        return None
    types = [str(argument.type) for argument in signature.arguments]
    if any("Optional[Tensor]]" in kind for kind in types) or types == ["List[Tensor]"]:
        return None  # torch's functions take no None among the indices, or no list
    if any(argument.name == "reduction" for argument in signature.arguments):
        return None  # left out where it is the mean, which is not what torch's functions take
    return next(filter(None, (getattr(namespace, name, None) for namespace in FUNCTIONS)), None)


def _source(node: Node) -> Node | None:
    return next(iter(node.all_input_nodes), None)


def _shape(node: Node | None) -> torch.Size | None:
    return None if node is None else getattr(node.meta.get("layout"), "shape", None)
