"""The recorded graph against the program itself: equal to the last bit, never stale."""

import copy
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS, batch_norm, data, one_layer, state
from torch import nn
from torch.nn import functional as F

from pyro_vae import Trainer, guides, models
from pyro_vae.handlers import scale_latents
from pyro_vae.infer import SVI, AnalyticELBO, Graph, TraceELBO
from pyro_vae.infer.engine.traced import Traced, TracedGradient


@pytest.fixture
def no_notice():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.usefixtures("no_notice")
@pytest.mark.parametrize("build", PAIRS)
@pytest.mark.parametrize("training", [True, False])
def test_twenty_steps_equal_eager_to_the_last_bit(build, training):
    pair = build()
    twins = copy.deepcopy(pair)
    batches = [data(pair[0]) for _ in range(20)]
    runs = []
    for programs, engine in ((pair, "eager"), (twins, "graph")):
        for program in programs:
            program.train(training)
        svi = SVI(*programs, engine=engine)
        with torch.random.fork_rng():
            losses = [float(svi.step(x, y=y)) for x, y in batches]
        runs.append((losses, svi.terms.elbo, *(p.grad for p in svi.parameters())))
    assert runs[0][0] == runs[1][0]
    for eager, graph in zip(runs[0][1:], runs[1][1:], strict=True):
        assert torch.equal(eager, graph)
    for eager, graph in zip(state(*pair), state(*twins), strict=True):
        assert torch.equal(eager, graph)


def assert_same_loss(graph, model, guide, x):
    with torch.random.fork_rng():
        loss, terms = graph(model, guide, x)
    with torch.random.fork_rng():
        expected, expected_terms = graph.estimator(model, guide, x)
    assert torch.equal(loss, expected)
    assert torch.equal(terms.elbo, expected_terms.elbo)


def backward(run, model, guide, x):
    """Loss, terms and gradients, as a step of ``SVI`` finds them."""
    parameters = [p for p in state(model, guide) if p.requires_grad]
    for parameter in parameters:
        parameter.grad = None
    with torch.random.fork_rng():
        loss, terms = run(model, guide, x)
    if loss.requires_grad:
        loss.backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return [loss.detach(), terms.elbo, *gradients]


def assert_equal_to_eager(graph, model, guide, x):
    assert_same_loss(graph, model, guide, x)
    expected = backward(graph.estimator, model, guide, x)
    for run in (graph, graph.backward):
        found = backward(run, model, guide, x)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.usefixtures("no_notice")
class TestNeverStale:
    def test_another_pair_through_the_same_object(self):
        graph = Graph(TraceELBO())
        for build in (one_layer, one_layer, batch_norm):
            model, guide = build()
            assert_equal_to_eager(graph, model.eval(), guide.eval(), data(model)[0])

    def test_another_guide_and_back(self):
        graph, (model, guide) = Graph(TraceELBO()), one_layer()
        other = guides.BottomUp(model, hidden=(5,))
        for g in (guide, other, guide):
            assert_equal_to_eager(graph, model, g, data(model)[0])

    def test_another_shape(self):
        graph, (model, guide) = Graph(AnalyticELBO()), one_layer()
        for n in (4, 1, 7, 4):
            assert_equal_to_eager(graph, model, guide, data(model, n)[0])

    def test_beta_filled_in_place(self):
        beta = torch.tensor(0.5)
        model, guide = (scale_latents(p, beta) for p in one_layer())
        graph, x = Graph(TraceELBO()), data(model)[0]
        for value in (0.5, 0.0, 4.0):
            beta.fill_(value)
            assert_equal_to_eager(graph, model, guide, x)
        assert graph.records == 2, "a tensor is read by reference"

    def test_beta_changed_in_a_mapping(self):
        beta = {"z1": 0.5}
        model, guide = (scale_latents(p, beta) for p in one_layer())
        graph, x = Graph(TraceELBO()), data(model)[0]
        for value in (0.5, 2.0):
            beta["z1"] = value
            assert_equal_to_eager(graph, model, guide, x)

    def test_frozen_and_unfrozen(self):
        graph, (model, guide) = Graph(TraceELBO()), one_layer()
        x = data(model)[0]
        for trainable in (True, False, True):
            model.requires_grad_(trainable)
            model.zero_grad(set_to_none=True)
            graph(model, guide, x)[0].backward()
            assert all((p.grad is not None) == trainable for p in model.parameters())
            model.zero_grad(set_to_none=True)
            guide.zero_grad(set_to_none=True)
            graph.backward(model, guide, x)
            assert all((p.grad is not None) == trainable for p in model.parameters())
            assert all(p.grad is not None for p in guide.parameters())

    def test_a_replaced_network(self):
        graph, (model, guide) = Graph(TraceELBO()), one_layer()
        x = data(model)[0]
        assert_equal_to_eager(graph, model, guide, x)
        model.decoder = nn.Linear(3, 6)
        assert_equal_to_eager(graph, model, guide, x)

    def test_a_changed_attribute(self):
        graph, (model, guide) = Graph(TraceELBO()), one_layer()
        x = data(model)[0]
        assert_equal_to_eager(graph, model, guide, x)
        guide.conditionals["z1"].min_scale = 0.3
        assert_equal_to_eager(graph, model, guide, x)

    def test_weights_loaded_in_place(self):
        graph, (model, guide) = Graph(TraceELBO()), one_layer()
        x = data(model)[0]
        assert_equal_to_eager(graph, model, guide, x)
        model.load_state_dict(one_layer()[0].state_dict())
        assert_equal_to_eager(graph, model, guide, x)


@pytest.mark.parametrize("kind", [Traced, TracedGradient])
def test_recording_moves_neither_buffers_nor_the_random_stream(kind):
    model, guide = batch_norm()
    before = [b.clone() for b in guide.buffers()]
    graph, x = Graph(TraceELBO()), torch.randn(4, 6)
    stream = torch.get_rng_state()
    graph._record(kind(model, guide, graph.estimator, (x, None)), x, None)
    assert torch.equal(stream, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(before, guide.buffers(), strict=True))


class Branching(models.Model):
    """A program whose control flow depends on a value."""

    def __init__(self):
        super().__init__()
        self.event_shape, self.latent_sizes = (6,), {"z1": 3}
        self.layer = nn.Linear(3, 6)

    def forward(self, x=None, *, y=None, size=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            scale = 2.0 if z.sum() > 0 else 1.0
            return pyro.sample("x", dist.Normal(self.layer(z), scale).to_event(1), obs=x)


class Coin(guides.Guide):
    """A guide with a discrete site, whose gradient needs the score function."""

    def __init__(self, model):
        super().__init__(model)
        self.logits = nn.Parameter(torch.zeros(3))

    def forward(self, x, *, y=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Bernoulli(logits=self.logits).to_event(1))


@pytest.mark.parametrize("build", [lambda m: guides.BottomUp(m), Coin], ids=["branch", "score"])
def test_a_program_that_cannot_be_recorded_runs_eagerly_with_one_notice(build):
    vae, _ = one_layer()
    model, guide = Branching(), build(vae)
    graph, x = Graph(TraceELBO()), torch.randn(4, 6)
    with pytest.warns(UserWarning, match="runs eagerly"):
        assert_equal_to_eager(graph, model, guide, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_equal_to_eager(graph, model, guide, x)


def test_plain_functions_run_eagerly_with_a_notice():
    model, guide = one_layer()
    graph, x = Graph(TraceELBO()), torch.randn(4, 6)
    with pytest.warns(UserWarning, match="plain function"):
        assert_same_loss(graph, lambda x: model(x), guide, x)


@pytest.mark.parametrize("engine", ["fast", "auto"])
def test_unknown_engine(engine):
    for make in (SVI, Trainer):
        with pytest.raises(ValueError, match=r"engine: expected .* pass 'graph', or 'compile'"):
            make(*one_layer(), engine=engine)


@pytest.mark.usefixtures("no_notice")
def test_a_run_is_long_before_it_is_recorded():
    graph, (model, guide) = Graph(TraceELBO(), after=2), one_layer()
    x = data(model)[0]
    for calls, recorded in ((1, 0), (2, 0), (3, 1), (4, 1)):
        assert_same_loss(graph, model, guide, x)
        assert graph.records == recorded, f"after {calls} calls"


@pytest.mark.usefixtures("no_notice")
def test_the_number_of_graphs_is_bounded(monkeypatch):
    monkeypatch.setattr("pyro_vae.infer.engine.records._MOST", 3)
    graph, (model, guide) = Graph(TraceELBO()), one_layer()
    for n in (1, 2, 3, 4, 5, 1):
        assert_same_loss(graph, model, guide, data(model, n)[0])
    assert graph.records == 3


class Counting(nn.Module):
    """A network whose plain attribute changes at each call."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(6, 8), 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x)


def test_a_pair_that_is_never_the_same_twice_runs_eagerly_with_a_notice():
    vae, _ = one_layer()
    guide = guides.BottomUp(vae, encoder=Counting())
    graph, x = Graph(TraceELBO(), after=10**6), torch.randn(4, 6)
    with pytest.warns(UserWarning, match="attributes change from step to step"):
        for _ in range(140):
            graph(vae, guide, x)
    assert len(graph._records.calls) < 140


@pytest.mark.usefixtures("no_notice")
def test_a_hook_on_a_gradient_is_called_at_each_step():
    graph, (model, guide) = Graph(TraceELBO()), one_layer()
    x, weight = data(model)[0], next(model.parameters())
    graph.backward(model, guide, x)
    calls = []
    handle = weight.register_hook(lambda gradient: calls.append(1) or 2 * gradient)
    with pytest.warns(UserWarning, match="hooks on its gradient"):
        doubled = backward(graph.backward, model, guide, x)
    backward(graph.backward, model, guide, x)
    assert len(calls) == 2
    handle.remove()
    plain = backward(graph.backward, model, guide, x)
    assert torch.equal(doubled[2], 2 * plain[2])
    assert all(torch.equal(a, b) for a, b in zip(doubled[3:], plain[3:], strict=True))


class Encoder(nn.Module):
    """Two layers, with what a person writes between them."""

    def __init__(self, between):
        super().__init__()
        self.first, self.second, self.between = nn.Linear(6, 8), nn.Linear(8, 8), between

    def forward(self, x):
        return self.second(self.between(self.first(x)))


def negated_view(h):
    repeated = -(h.sum().expand(len(h), 8))
    return h + (repeated * h.t().contiguous().t()).reshape(-1).view(len(h), 8) * 1e-3


def parameter_of_pyro(h):
    return h + pyro.param("shift", lambda: torch.ones(8))


BETWEEN = {
    "mean squares": lambda h: h + F.mse_loss(h, torch.ones_like(h)),
    "mean of binary cross-entropy": lambda h: (
        h + F.binary_cross_entropy_with_logits(h, torch.ones_like(h))
    ),
    "negated strided sum": lambda h: h + (-(h.repeat(1, 9)[:, ::2])).sum(1, keepdim=True),
    "negated bytes": lambda h: h + (-(h > 0).to(torch.uint8)).sum() * 1e-5,
    "negated view": negated_view,
    "block diagonal": lambda h: h + torch.block_diag(h, h)[: len(h), :8],
    "parameter of Pyro": parameter_of_pyro,
    "product": lambda h: h + h.prod(1, keepdim=True),
}


@pytest.mark.filterwarnings("ignore:this pair runs eagerly")
@pytest.mark.parametrize("name", BETWEEN)
def test_what_a_record_could_get_wrong_is_right_or_runs_eagerly(name):
    found = []
    for engine in ("eager", "graph"):
        pyro.clear_param_store()
        torch.manual_seed(0)
        vae, _ = one_layer()
        svi = SVI(vae, guides.BottomUp(vae, encoder=Encoder(BETWEEN[name])), engine=engine)
        x = torch.randn(33, 6)
        losses = torch.stack([svi.step(x) for _ in range(6)])
        stored = [p.detach() for p in pyro.get_param_store().values()]
        found.append([losses, *state(svi.model, svi.guide), *stored])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_hooks_added_between_steps_are_called():
    graph, (model, guide) = Graph(TraceELBO()), one_layer()
    x = data(model)[0]
    assert_equal_to_eager(graph, model, guide, x)
    handle = model.decoder.register_forward_hook(lambda module, args, output: 2 * output)
    assert_equal_to_eager(graph, model, guide, x)
    handle.remove()
    assert_equal_to_eager(graph, model, guide, x)


def test_data_of_another_layout():
    graph, (model, guide) = Graph(TraceELBO()), one_layer()
    for x in (torch.randn(4, 6), torch.randn(6, 4).t()):
        assert_equal_to_eager(graph, model, guide, x)


def test_a_copy_has_no_records():
    graph, (model, guide) = Graph(TraceELBO()), one_layer()
    graph(model, guide, data(model)[0])
    assert copy.deepcopy(graph).records == 0


class Shared(nn.Module):
    """Parameters whose gradients autograd would leave in one and the same tensor."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 8)
        self.a, self.b, self.c = (nn.Parameter(torch.zeros(8)) for _ in range(3))
        self.transposed = nn.Parameter(torch.randn(8, 8).t())

    def forward(self, x):
        h = self.linear(x) + (self.a + self.b + self.c.view(2, 4).view(8))
        return h @ self.transposed + self.transposed.sum()


@pytest.mark.usefixtures("no_notice")
def test_each_gradient_has_memory_of_its_own_and_its_parameters_layout():
    vae, _ = one_layer()
    guide = guides.BottomUp(vae, encoder=Shared())
    graph, x = Graph(TraceELBO()), data(vae)[0]
    assert_equal_to_eager(graph, vae, guide, x)
    for _ in range(2):  # the first two replays run beside the program, whose gradients stay
        backward(graph.backward, vae, guide, x)
    trained = [p for p in state(vae, guide) if p.requires_grad]
    assert len({p.grad.untyped_storage().data_ptr() for p in trained}) == len(trained)
    assert all(p.grad.stride() == p.stride() for p in trained)


class Marked(nn.Module):
    """Whether a batch holds a large number is a parameter that it makes itself."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Linear(2, 3)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            marked = nn.Parameter((x.amax() > 5).float(), requires_grad=False)
            pyro.sample("x", dist.Normal(self.loc(z) + marked, 1.0).to_event(1), obs=x)


def test_a_parameter_that_is_made_of_the_data_is_no_constant():
    """Where the batches with which a record is compared all have the same value."""
    torch.manual_seed(0)
    model = Marked()
    guide = guides.BottomUp(model, like=torch.rand(8, 3), hidden=(4,))
    batches = [torch.rand(8, 3) for _ in range(12)]
    batches[6] = batches[6] + 6
    losses = []
    for engine in ("eager", "graph"):
        svi = SVI(*copy.deepcopy((model, guide)), engine=engine)
        torch.manual_seed(1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            losses.append([float(svi.step(x)) for x in batches])
    assert losses[0] == losses[1]
    assert any("runs eagerly, not as a graph: it makes a tensor" in str(w.message) for w in caught)
