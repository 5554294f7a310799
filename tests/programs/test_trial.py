"""A pair is tried on its first batch, and Pyro's store is afterwards as it was."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import constraints
from torch.utils.data import DataLoader

from pyro_vae import Trainer, data, guides, infer, likelihoods, models
from pyro_vae.diagnostics import collapse, evaluate

N, D = 12, 3
X = 5 + torch.randn(N, D, generator=torch.Generator().manual_seed(1))


def observe(x, z, mean=0.0):
    pyro.sample("x", dist.Normal(z + mean, 1.0).to_event(1), obs=x)


def latent(x, loc=0.0, scale=1.0):
    shape = torch.zeros(len(x), D)
    return pyro.sample("z", dist.Normal(shape + loc, scale).to_event(1))


# Each begins with what a batch, or a random stream, decides


def mean_model(x):
    """A parameter that begins at the mean of the data."""
    mean = pyro.param("mean", lambda: x.mean(0))
    with pyro.plate("data", len(x)):
        observe(x, latent(x), mean)


def drawn_model(x):
    """A parameter that begins at random."""
    mean = pyro.param("mean", lambda: torch.randn(D))
    with pyro.plate("data", len(x)):
        observe(x, latent(x), mean)


def scaled_model(x):
    """A parameter with a constraint."""
    scale = pyro.param("scale", lambda: x.std(0), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(latent(x), scale).to_event(1), obs=x)


def plain_guide(x):
    with pyro.plate("data", len(x)):
        latent(x, pyro.param("shift", torch.zeros(D)))


def local_guide(x):
    """Parameters for each datum."""
    loc = pyro.param("loc", lambda: x.clone())
    scale = pyro.param("width", torch.ones(len(x), D), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        latent(x, loc, scale)


def fixed_model(x):
    """A program of fixed size."""
    assert len(x) == N
    with pyro.plate("data", N):
        observe(x, latent(torch.zeros(N, D)))


def fixed_guide(x):
    with pyro.plate("data", N):
        latent(torch.zeros(N, D), pyro.param("shift", torch.zeros(N, D)))


class Mixed(nn.Module):
    """A method with a network, and with a parameter that begins at the mean of the data."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(D, D)

    def model(self, x):
        mean_model(x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            latent(x, self.encoder(x))


def mixed():
    module = Mixed()
    return module.model, module.guide


PAIRS = {
    "mean": lambda: (mean_model, plain_guide),
    "drawn": lambda: (drawn_model, plain_guide),
    "constrained": lambda: (scaled_model, plain_guide),
    "local": lambda: (mean_model, local_guide),
    "fixed": lambda: (fixed_model, fixed_guide),
    "method": mixed,
}
pairs = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


def stock(model, guide, steps=3, x=X):
    optimizer = pyro.optim.Adam({"lr": 0.1})
    svi = pyro.infer.SVI(model, guide, optimizer, pyro.infer.Trace_ELBO())
    pyro.set_rng_seed(3)
    return [svi.step(x) for _ in range(steps)]


def ours(model, guide, steps=3, x=X, **options):
    svi = infer.SVI(model, guide, functools.partial(torch.optim.Adam, lr=0.1), **options)
    pyro.set_rng_seed(3)
    return [float(svi.step(x)) for _ in range(steps)]


def stored():
    """What Pyro's store has: names, constraints, and the tensors themselves."""
    state = pyro.get_param_store().get_state()
    values = {n: (p, p.detach().clone()) for n, p in state["params"].items()}
    return values, dict(state["constraints"])


def assert_stored(before):
    values, held = stored()
    assert values.keys() == before[0].keys() and held == before[1]
    for name, (parameter, value) in values.items():
        assert parameter is before[0][name][0] and torch.equal(value, before[0][name][1])


@pairs
@pytest.mark.filterwarnings("ignore:this pair runs eagerly")
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_the_first_steps_are_those_of_stock_pyro(pair, engine):
    expected = stock(*pair())
    values = {n: v.detach().clone() for n, v in pyro.get_param_store().items()}
    pyro.clear_param_store()
    assert ours(*pair(), engine=engine) == pytest.approx(expected, rel=1e-5)
    for name, value in pyro.get_param_store().items():
        torch.testing.assert_close(value, values[name], rtol=1e-4, atol=1e-5)


@pairs
def test_a_trial_leaves_nothing_in_the_store(pair):
    model, guide = pair()
    svi = infer.SVI(model, guide)
    svi.prepare(X)
    infer.check_pair(model, guide, X)
    Trainer(model, guide).swap_guide(guide)
    assert not pyro.get_param_store()
    assert svi.optimizer is not None


def evaluations(model, guide):
    yield lambda: infer.elbo_terms(model, guide, X, samples=3)
    yield lambda: infer.SVI(model, guide).evaluate_loss(X)
    yield lambda: infer.encode(guide, X)
    if guide not in (local_guide, fixed_guide):  # runs them on more rows
        yield lambda: collapse(model, guide, X)
    yield lambda: evaluate(model, guide, X, importance_samples=0)
    yield lambda: infer.check_pair(model, guide, X)


@pairs
def test_evaluations_leave_the_store_as_it_was(pair):
    model, guide = pair()
    for evaluation in evaluations(model, guide):
        evaluation()
        assert not pyro.get_param_store()
    infer.importance(mean_model, plain_guide, X, samples=5)
    assert not pyro.get_param_store()
    stock(model, guide)
    before = stored()
    for evaluation in evaluations(model, guide):
        evaluation()
        assert_stored(before)


def test_what_an_evaluation_takes_away_is_there_again():
    def model(x):
        store = pyro.get_param_store()
        store["shift"] = torch.ones(D)
        store.setdefault("level", torch.ones(()), constraints.unit_interval)
        pyro.clear_param_store()
        mean_model(x)

    stock(scaled_model, plain_guide)
    before = stored()
    infer.elbo_terms(model, plain_guide, X)
    assert_stored(before)


def test_the_entries_of_a_module_that_is_gone_do_not_come_back():
    vae = models.VAE((D,), latents=2, likelihood=likelihoods.Gaussian())
    held = [vae]
    vae(X)
    assert pyro.get_param_store()
    del vae

    def model(x):
        held.clear()
        mean_model(x)

    infer.elbo_terms(model, plain_guide, X)
    assert not pyro.get_param_store()


@pairs
def test_stock_scripts_in_the_same_process_go_on(pair):
    """Fewer data than the script's own, so that a parameter for each would have another shape."""

    def script():
        return stock(*pair())

    expected = script()
    pyro.clear_param_store()
    model, guide = pair()
    if model is not fixed_model:
        infer.check_pair(model, guide, X[:2])
        infer.elbo_terms(model, guide, X[:5])
        infer.SVI(model, guide).prepare(X[:4])
    assert script() == expected


@pairs
@pytest.mark.parametrize("loader", [False, True])
def test_the_trainer_begins_with_the_first_batch(pair, loader):
    """One batch of all data: the history's first row is the first step of stock Pyro, up to z."""
    model, guide = pair()
    given = DataLoader(X, batch_size=N) if loader else X
    options = {} if loader else {"batch_size": N}
    trained = Trainer(model, guide, seed=0, lr=0.1)
    trained.fit(given, epochs=1, progress=False, **options)
    if "mean" in pyro.get_param_store() and model is not drawn_model:
        start = X.mean(0)
        assert (pyro.param("mean") - start).abs().max() < 0.11
        assert (pyro.param("mean") - start).abs().max() > 0.05
    assert trained.step == 1
    assert all(p.shape == (N, D) for n, p in pyro.get_param_store().items() if n == "loc")


def test_a_pair_is_tried_on_as_many_data_as_a_batch_has():
    sizes = []

    def model(x):
        sizes.append(len(x))
        mean_model(x)

    Trainer(model, plain_guide).fit(X, epochs=1, batch_size=5, progress=False)
    # Two data are enough to look at the support of the observed site
    assert [size for size in sizes if size != 2][:2] == [5, 5]
    infer.check_pair(model, plain_guide, X)
    assert sizes[-1] == N


def test_a_batch_of_one_is_tried_without_a_trace():
    class Normalised(Mixed):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(D))

    module = Normalised()
    with pytest.raises(ValueError, match="batch_size"):
        Trainer(module.model, module.guide).fit(X, epochs=1, batch_size=11, progress=False)
    assert not pyro.get_param_store()


def test_data_that_are_evaluated_are_tried_as_a_batch():
    sizes = []

    def model(x):
        sizes.append(len(x))
        mean_model(x)

    many = data.Dataset(X.repeat(100, 1))
    infer.compare_guides(model, {"plain": plain_guide}, many, importance_samples=2)
    # Weights are of many rows, in chunks
    assert len(many) not in sizes


def test_a_pair_without_parameters_is_refused_before_the_first_step():
    def model(x):
        with pyro.plate("data", len(x)):
            observe(x, latent(x))

    def guide(x):
        with pyro.plate("data", len(x)):
            latent(x)

    with pytest.raises(ValueError, match="no trainable parameters"):
        infer.SVI(model, guide).prepare(X)


def test_the_optimizer_is_there_before_parameters_that_begin_later():
    found = []

    def factory(parameters, lr):
        found.append([p.shape for p in parameters])
        return torch.optim.SGD([{"params": [p for p in parameters if p.ndim]}], lr=lr)

    class Look:
        def on_fit_begin(self, trainer, **kwargs):
            found.append(sum(len(group["params"]) for group in trainer.optimizer.param_groups))

    trained = Trainer(mean_model, plain_guide, optimizer=factory, lr=0.1)
    trained.fit(X, epochs=1, batch_size=N, progress=False, callbacks=[Look()])
    assert found[1] == 0 and sorted(map(tuple, found[2])) == [(D,), (D,)]
    assert len(trained.optimizer.param_groups[0]["params"]) == 2


def test_autoguides_are_tried_on_all_data():
    def begun():
        pyro.clear_param_store()
        guide = pyro.infer.autoguide.AutoNormal(mean_model)
        # It draws where it begins, which is not before the first step under stock Pyro
        infer.check_pair(mean_model, guide, X)
        assert not pyro.get_param_store()
        return guide

    expected = stock(mean_model, begun())
    assert ours(mean_model, begun()) == pytest.approx(expected, rel=1e-5)


def test_library_pairs_have_what_they_had():
    vae = models.VAE((D,), latents=2, likelihood=likelihoods.Gaussian())
    guide = guides.BottomUp(vae)
    summary = infer.check_pair(vae, guide, X)
    assert summary.latents == {"z1": (2,)} and not pyro.get_param_store()
