"""``fit(recompute=True)`` takes the same steps without keeping activations."""

import copy
import pickle

import drawing_networks
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from pyro_vae import Trainer, guides, infer, likelihoods, models
from pyro_vae.training.recomputing import recomputing

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(1))


def dropping():
    """A module between layers that draws random numbers."""
    return nn.Sequential(nn.Tanh(), nn.Dropout(0.3))


def trainer(guide=guides.BottomUp, engine=None, **options):
    torch.manual_seed(0)
    sizes = {"latents": (4, 3, 2), "hidden": (8, 8)}
    vae = models.VAE((6,), likelihood=likelihoods.Gaussian("optimal"), **sizes, **options)
    return Trainer(vae, guide(vae), seed=3, engine=engine)


def outcome(trainer, **options):
    trainer.fit(X, **{"epochs": 2, "batch_size": 7, "progress": False, **options})
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in trainer.history]
    return rows, [v for module in trainer.modules() for v in module.state_dict().values()]


@pytest.mark.parametrize("guide", [guides.BottomUp, guides.Ladder])
def test_steps_are_the_same_to_the_last_bit(guide):
    """Random numbers in networks, running statistics, and a conditional that both programs run."""
    options = {"norm": nn.BatchNorm1d, "activation": dropping}
    (plain, expected), (rows, found) = (
        outcome(trainer(guide, engine="eager", **options), recompute=again)
        for again in (False, True)
    )
    assert rows == plain
    assert all(map(torch.equal, found, expected))


def test_a_graph_records_it():
    pair = [trainer(engine="graph") for _ in range(2)]
    (plain, expected), (rows, found) = (
        outcome(t, recompute=again, epochs=12)
        for t, again in zip(pair, (False, True), strict=True)
    )
    assert pair[1].steps.running.records and rows == plain
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("activation", [dropping, nn.RReLU])
def test_a_network_that_draws_random_numbers_is_not_recorded(activation):
    """Its second run would draw others in a record, which on a GPU is not told by last bits."""
    options = {"activation": activation}
    with pytest.warns(UserWarning, match="not as a graph: a network that is computed again draws"):
        rows, found = outcome(trainer(engine="graph", **options), recompute=True, epochs=12)
    plain, expected = outcome(trainer(engine="eager", **options), epochs=12)
    assert rows == plain and all(map(torch.equal, found, expected))


class Counting(nn.Module):
    """Its output depends on how often it ran, by a new buffer and by a plain number."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(6, 6), 0
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count, self.calls = self.count + 1, self.calls + 1
        return self.layer(x) / (self.count + self.calls)


@pytest.mark.parametrize(
    "make", [Counting, lambda: nn.Sequential(spectral_norm(nn.Linear(6, 6)), nn.Tanh())]
)
def test_a_second_run_begins_where_the_first_one_did(make):
    """Of a network that runs twice, and whose state changes with each run."""

    def run(again):
        torch.manual_seed(0)
        program = nn.ModuleDict({"network": make()})
        network = program["network"]
        with recomputing(program) if again else torch.enable_grad():
            (network(X) * network(2 * X)).sum().backward()
        gradients = [p.grad for p in program.parameters()]
        return [*gradients, *program.buffers()], getattr(network, "calls", None)

    (expected, calls), (found, again) = run(False), run(True)
    assert calls == again and all(map(torch.equal, found, expected))


@pytest.mark.parametrize("gradient", ["total", "path", "doubly-reparametrised"])
def test_gradients_along_paths_are_the_same(gradient):
    found = []
    for again in (False, True):
        pair = trainer()
        with recomputing(*pair.modules()) if again else torch.enable_grad():
            svi = infer.SVI(
                *pair.modules(), loss=infer.ImportanceWeightedELBO(3, gradient=gradient)
            )
            torch.manual_seed(0)
            svi.gradient(X)
        found.append([p.grad for p in svi.parameters()])
    assert all(map(torch.equal, *found))


def test_parts_and_recomputing_go_together():
    (plain, expected), (rows, found) = (
        outcome(trainer(engine="eager"), recompute=again, accumulate=2) for again in (False, True)
    )
    assert rows == plain
    assert all(map(torch.equal, found, expected))


def test_what_is_inside_a_network_is_not_kept():
    """Bytes that autograd saves, outside of the networks."""

    def saved(again):
        pair = trainer()
        kept = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.append(t.untyped_storage().data_ptr()) or t, lambda t: t
        )
        with recomputing(*pair.modules()) if again else torch.enable_grad(), hooks:
            pair.elbo(pair.model, pair.guide, X)
        return len({*kept})

    assert saved(True) < 0.7 * saved(False)


def test_networks_are_as_before_afterwards():
    pair = trainer()
    with pytest.raises(KeyError), recomputing(pair.model, pair.guide):
        assert "forward" in vars(pair.model.decoder)
        raise KeyError
    assert not any("forward" in vars(m) for p in pair.modules() for m in p.modules())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_made_within_a_run_recompute_nothing(copied):
    model = trainer().model
    with recomputing(model):
        other = copied(model)
    z = torch.randn(3, 4)
    for module in other.modules():
        forward = vars(module).get("forward", module.forward)
        assert forward.__self__ is module and forward.__func__ is type(module).forward
    assert torch.equal(other.decoder(z), model.decoder(z))


def test_a_network_that_draws_is_refused():
    t = Trainer(drawing_networks.Model(), drawing_networks.Guess(), seed=0)
    with pytest.raises(ValueError, match="recompute: expected networks of tensors, got a Drawing"):
        outcome(t, recompute=True)
    outcome(t)
