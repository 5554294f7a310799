"""What a recording holds, against runs of the function and against ``make_fx``."""

import threading

import pytest
import torch
from torch import nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.infer.engine.recording import is_recording, operations
from pyro_vae.infer.engine.refusing import ValueRead

ATEN = torch.ops.aten


def targets(graph):
    return [node.target for node in graph.nodes if node.op == "call_function"]


def replayed(graph, inputs, constants):
    return GraphModule(nn.Module(), graph).forward(*inputs, *constants)


def with_gradient(x, weight):
    loss = (x @ weight).exp().sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    return loss.detach(), gradient


def test_a_gradient_is_recorded_and_replayed_on_other_data():
    inputs = torch.randn(4, 3), torch.randn(3, requires_grad=True)
    graph, constants = operations(with_gradient, inputs)
    assert not constants
    assert ATEN.detach.default in targets(graph)
    (node,) = (n for n in graph.nodes if n.target is ATEN.exp.default)
    assert node.meta["layout"] == ((4,), torch.float32, True)
    others = torch.randn(4, 3), torch.randn(3, requires_grad=True)
    loss = (others[0] @ others[1]).exp().sum()
    expected = loss, torch.autograd.grad(loss, others[1])[0]
    assert all(map(torch.equal, replayed(graph, others, constants), expected))


def in_place(x, weight):
    total = torch.zeros(3)
    total[0] += x.sum()
    total.add_(weight.detach())
    return total, x.view(2, 2, 3).transpose(0, 1).mul_(2.0)


def of_several_results(x, weight):
    values, places = x.topk(2, dim=1)
    first, second = torch.split(x, 2)
    mean, spread = torch.var_mean(x, 0)
    return values + places, first - second, mean * spread + weight


def drawn(x, weight):
    return torch.bernoulli(x.sigmoid()), torch.randn_like(weight) + torch.rand(3)


def of_literals(x, weight):
    three = torch.tensor([1.0, 2.0, 3.0])
    three += 1.0
    return x + three, weight * torch.arange(3)


def without_gradient(x, weight):
    with torch.no_grad():
        scaled = weight * 2.0
    (gradient,) = torch.autograd.grad((x * scaled * weight).sum(), weight)
    return gradient, nn.functional.conv1d(x[:, None], weight[None, None])


@pytest.mark.parametrize(
    "function",
    [with_gradient, in_place, of_several_results, drawn, of_literals, without_gradient],
)
def test_recordings_give_what_the_function_gives_and_hold_what_make_fx_holds(function):
    def inputs():
        torch.manual_seed(3)
        return torch.randn(4, 3), torch.randn(3, requires_grad=True)

    graph, constants = operations(function, inputs())
    torch.manual_seed(4)
    found = replayed(graph, inputs(), constants)
    torch.manual_seed(4)
    expected = function(*inputs())
    assert len(found) == len(expected)
    assert all(map(torch.equal, found, expected))
    table = {ATEN.detach.default: lambda tensor: NotImplemented}
    other = make_fx(function, decomposition_table=table)(*inputs())
    assert targets(graph) == targets(other.graph)


def test_a_literal_is_as_it_was_at_every_replay():
    graph, constants = operations(of_literals, (torch.zeros(4, 3), torch.ones(3)))
    for _ in range(2):
        found, _ = replayed(graph, (torch.zeros(4, 3), torch.ones(3)), constants)
        assert torch.equal(found[0], torch.tensor([2.0, 3.0, 4.0]))


def test_what_a_function_closes_over_is_an_input_and_given_back():
    scale = torch.tensor(2.0)
    graph, constants = operations(lambda x: x * scale + scale, (torch.ones(2),))
    assert len(constants) == 1 and constants[0] is scale
    assert [n.op for n in graph.nodes].count("placeholder") == 2
    assert replayed(graph, (torch.ones(2),), (torch.tensor(5.0),)).tolist() == [10.0, 10.0]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x * len(x.nonzero()),
        lambda x: x * torch.tensor([x.sum(), 1.0]),
        lambda x: x * torch.as_tensor(data=[x.sum(), 1.0]),
        lambda x: x * torch.asarray(((x.sum(), 1.0),)),
        lambda x: x.new_tensor([x.sum(), 1.0]),
        lambda x: x.clone().apply_(abs),
        lambda x: x.clone().map_(x, max),
        lambda x: torch.from_dlpack(torch.to_dlpack(x)) + 1,
    ],
)
def test_values_are_not_read(function):
    with pytest.raises(ValueRead, match="reads values"):
        operations(function, (torch.ones(2),))
    assert not is_recording()


def test_a_number_of_a_literal_is_no_such_value():
    graph, constants = operations(lambda x: x * torch.tensor(3.0).item(), (torch.ones(2),))
    assert replayed(graph, (torch.ones(2),), constants).tolist() == [3.0, 3.0]


def test_a_generator_is_refused():
    generator = torch.Generator()
    with pytest.raises(RuntimeError, match="random generator"):
        operations(lambda x: x + torch.rand(2, generator=generator), (torch.ones(2),))


class Own(torch.Tensor):
    """A tensor that no operation makes."""


def test_a_tensor_of_another_class_is_refused():
    with pytest.raises(RuntimeError, match="a class of its own, Own"):
        operations(lambda x: x.as_subclass(Own) * 2.0, (torch.ones(2),))


def test_a_tensor_that_is_given_twice_is_two_inputs():
    x = torch.ones(2)
    graph, constants = operations(lambda a, b: a - 2.0 * b, (x, x))
    assert replayed(graph, (torch.ones(2), torch.zeros(2)), constants).tolist() == [1.0, 1.0]


def test_other_threads_are_not_recorded():
    seen = []

    def function(x):
        assert is_recording()
        thread = threading.Thread(target=lambda: seen.append((is_recording(), x.sum())))
        thread.start()
        thread.join()
        return x + 1

    graph, _ = operations(function, (torch.ones(2),))
    assert seen[0][0] is False and not is_recording()
    assert targets(graph) == [ATEN.add.Tensor]


def test_a_cast_that_was_made_before_is_made_again():
    weight = torch.randn(3, 3, requires_grad=True)

    def function(x):
        return x @ weight

    with torch.autocast("cpu", torch.bfloat16):
        function(torch.ones(2, 3))
        graph, constants = operations(function, (torch.ones(2, 3),))
        assert [c is weight for c in constants] == [True]
        assert sum("to_copy" in str(target) for target in targets(graph)) == 2
        assert torch.is_autocast_cache_enabled()


@pytest.mark.parametrize(
    "made",
    [
        lambda v: nn.Parameter(v, requires_grad=False),
        lambda v: nn.Parameter(v).data,
        lambda v: v.as_subclass(torch.Tensor),
        lambda v: v.view(-1).as_subclass(torch.Tensor),
    ],
)
def test_a_tensor_that_no_operation_made_is_no_constant(made):
    with pytest.raises(RuntimeError, match="makes a tensor of a result without an operation"):
        operations(lambda x: made(x * 2) + 1, (torch.ones(2),))
    # What shares the memory of an input, or stands where a result was, may be one
    weight = torch.ones(2)
    held = weight.as_subclass(nn.Parameter)
    _, constants = operations(lambda x, w: x * w + held, (torch.ones(2), weight))
    assert [c is held for c in constants] == [True]
