"""Steps whose loss and gradient are one launch against eager ones.

A CUDA graph reads and writes fixed memory. On the CPU a stand-in does just that, so that what
happens around a launch is tested everywhere; the graph itself where there is a GPU.
"""

import collections
import copy

import pytest
import torch
from pairs import PAIRS, batch_norm, conditional, data, ladder, one_layer, state
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_vae import Trainer, schedules
from pyro_vae.handlers import scale_latents
from pyro_vae.infer import SVI, Graph, TraceELBO
from pyro_vae.infer.engine.captured import Captured
from pyro_vae.infer.engine.traced import TracedGradient

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]


def fixed_memory(function, device):
    """Like a CUDA graph: nothing but what was there at the capture is read or written."""
    results = function()

    def launch():
        for held, value in zip(results, function(), strict=True):
            held.copy_(value)

    return launch, results


def graph_on(device):
    return Graph(TraceELBO(), capture=fixed_memory if device == "cpu" else None)


def steps(svi, batches, before=lambda i: None):
    losses, terms = [], []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for i, (x, y) in enumerate(batches):
            before(i)
            losses.append(svi.step(x, y=y))
            terms.append(svi.terms.elbo)
    return torch.stack(losses), torch.cat(terms)


def assert_close(first, second, device):
    for a, b in zip(first, second, strict=True):
        # Sums on a GPU have no fixed order
        tolerances = {"rtol": 0, "atol": 0} if device == "cpu" else {"rtol": 1e-3, "atol": 1e-5}
        torch.testing.assert_close(a, b, **tolerances)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("build", [one_layer, batch_norm, ladder, conditional])
def test_twenty_steps_equal_eager(build, device):
    pair = [program.to(device) for program in build()]
    twins = copy.deepcopy(pair)
    sizes = [4] * 9 + [3] + [4] * 9 + [3]
    batches = [tuple(None if t is None else t.to(device) for t in data(pair[0], n)) for n in sizes]
    found = []
    for programs, engine in ((pair, "eager"), (twins, graph_on(device))):
        found.append(steps(SVI(*programs, engine=engine, clip_norm=1.0), batches))
    assert_close(*found, device)
    assert_close(state(*pair), state(*twins), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("where", ["cpu", "with the data"])
def test_beta_and_learning_rate_change_without_another_capture(device, where):
    found = []
    for engine in ("eager", graph_on(device)):
        torch.manual_seed(0)
        beta = torch.tensor(0.0, device="cpu" if where == "cpu" else device)
        pair = [scale_latents(program, beta) for program in one_layer()]
        svi = SVI(*(program.to(device) for program in pair), engine=engine)

        def change(i, svi=svi, beta=beta):
            beta.fill_(0.3 * (i // 2))
            if i == 4:
                svi.optimizer.param_groups[0]["lr"] = 0.1

        batches = [(x.to(device), y) for x, y in [data(pair[0])] * 8]
        found.append((*steps(svi, batches, change), *state(*pair)))
    assert engine.records == 1
    assert_close(*found, device)


@pytest.mark.parametrize("device", DEVICES)
def test_moved_parameters_are_seen(device):
    model, guide = (program.to(device) for program in one_layer())
    graph, x = graph_on(device), data(model)[0].to(device)
    graph.backward(model, guide, x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data + 1.0
            parameter.grad = None
    for parameter in guide.parameters():
        parameter.grad = None
    with torch.random.fork_rng():
        expected, _ = TraceELBO()(model, guide, x)
    with torch.random.fork_rng():
        found, _ = graph.backward(model, guide, x)
    assert_close([found], [expected.detach()], device)


def test_what_cannot_be_captured_runs_uncaptured_with_one_notice():
    def refuses(function, device):
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    pair = one_layer()
    batches = [data(pair[0]) for _ in range(3)]
    expected = steps(SVI(*copy.deepcopy(pair)), batches)
    with pytest.warns(UserWarning, match="one by one, not as a CUDA graph: operation not") as told:
        found = steps(SVI(*pair, engine=Graph(TraceELBO(), capture=refuses)), batches)
    assert len(told) == 1
    assert_close(found, expected, "cpu")


def test_only_results_that_last_are_copied():
    weight = torch.ones(2)
    run = Captured(
        lambda w, x: (w.sum() * x, w * x), [weight], [torch.tensor(2.0)], [], 1, fixed_memory
    )
    first, gradient = run(weight, torch.tensor(3.0))
    second, overwritten = run(weight, torch.tensor(5.0))
    assert float(first) == 6 and float(second) == 10
    assert overwritten is gradient and gradient.tolist() == [5.0, 5.0]


@GPU
def test_a_run_on_a_gpu():
    torch.manual_seed(0)
    x = torch.randint(2, (256, 6)).float()
    histories = []
    for engine in ("eager", "graph"):
        torch.manual_seed(0)
        pair = batch_norm()
        beta = schedules.WarmUp(epochs=3)
        trainer = Trainer(*pair, beta=beta, engine=engine, seed=0, device="cuda", clip_norm=10.0)
        trainer.fit(x, epochs=40, batch_size=100, validation=x[:50], progress=False)
        histories.append(torch.tensor(trainer.history.column("elbo")))
    torch.testing.assert_close(*histories, rtol=1e-3, atol=1e-3)


class OnTheCPU(TorchDispatchMode):
    """Collects the operations that give or take tensors on the CPU."""

    def __init__(self):
        super().__init__()
        self.found = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)]
        if any(t.device.type == "cpu" for t in tensors):
            self.found[str(function)] += 1
        return result


@pytest.mark.parametrize("build", PAIRS)
def test_on_a_gpu_no_program_waits_for_it_or_computes_elsewhere(build):
    """Shapes and devices alone are computed here, for which torch needs no GPU.

    Reading a value or mixing devices raises; so would a copy between devices be found. What is
    left on the CPU are the indices of Pyro's plate, which nobody reads.
    """
    with FakeTensorMode():
        with torch.device("cuda"):
            pair = build()
        x, y = (None if t is None else t.to("cuda") for t in data(pair[0]))
        traced = TracedGradient(*pair, TraceELBO(), (x, y))
        with OnTheCPU() as watched:
            results = traced._bound(*traced.tensors, x, *(() if y is None else (y,)))
    assert {result.device.type for result in results} == {"cuda"}
    plate = {"aten.lift_fresh.default", "prim.device.default", "aten.arange.default"}
    assert watched.found.keys() <= plate
