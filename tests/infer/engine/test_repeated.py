"""Evaluations that replay recorded tensors, against the same ones that run the programs."""

import contextlib
import gc
import os
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import diagnostics, guides, handlers, infer, likelihoods, models
from pyro_vae.data import Dataset
from pyro_vae.infer.aggregate import log_aggregate
from pyro_vae.infer.engine import repeated
from pyro_vae.infer.engine.repeated import Checked, Repeated
from pyro_vae.infer.terms import dataset_terms

X = torch.rand(23, 6, generator=torch.Generator().manual_seed(1)).round()
Y = torch.arange(23) % 3
BERNOULLI = likelihoods.Bernoulli


def vae(**options):
    options = {"latents": 2, "hidden": (8,), "likelihood": BERNOULLI()} | options
    model = models.VAE((6,), **options)
    return model, guides.BottomUp(model), X, None


def ladder():
    norm = {"norm": nn.BatchNorm1d, "hidden": [(8,), (4,)]}
    model = models.VAE((6,), latents=(3, 2), likelihood=BERNOULLI(), **norm)
    guide = guides.Ladder(model)
    infer.TraceELBO()(model, guide, X)  # moves the running statistics
    return model, guide, X, None


def conditional():
    return *vae(condition=3)[:2], X, Y


def scaled():
    model, guide, *_ = vae()
    return handlers.scale_latents(model, 0.5), handlers.scale_latents(guide, 0.5), X, None


def vqvae():
    model = models.VQVAE((1, 8, 8), 5, 3, likelihood=BERNOULLI())
    x = torch.rand(23, 1, 8, 8, generator=torch.Generator().manual_seed(1)).round()
    return model, guides.NearestCode(model), x, None


def reading():
    """It cannot be recorded, because it asks for a value."""

    class Model(nn.Module):
        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Bernoulli(torch.full((len(x),), 0.5)))
                pyro.sample("x", dist.Normal(z[:, None].expand(-1, 6), 1.0).to_event(1), obs=x)

    class Guide(nn.Module):
        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                probability = 0.9 if float(x.mean()) > 0.5 else 0.1
                pyro.sample("z", dist.Bernoulli(torch.full((len(x),), probability)))

    return Model(), Guide(), X, None


def functions():
    model, guide, *_ = vae()
    return lambda x: model(x), lambda x: guide(x), X, None


PAIRS = [vae, ladder, conditional, scaled, vqvae, reading, functions]
CANNOT = (reading, functions)


@pytest.fixture
def early(monkeypatch):
    """Record after two calls."""
    monkeypatch.setattr(repeated, "CALLS_BEFORE_A_GRAPH", 2)


def flat(terms):
    return [terms.reconstruction, *terms.kl.values()]


def both(monkeypatch, run):
    """What replays, and what runs the programs, from the same random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        found = run()
    with monkeypatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr(Checked, "__call__", lambda self, *inputs: self.function(*inputs))
        torch.manual_seed(3)
        return found, run()


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class Runs:
    """Counts how often a program runs, where no record looks: in the environment."""

    def __init__(self, program):
        os.environ["RUNS"] = "0"
        program.register_forward_pre_hook(self)

    def __call__(self, *arguments):
        os.environ["RUNS"] = str(self.count + 1)

    @property
    def count(self):
        return int(os.environ["RUNS"])


def state(*programs):
    modules = [p for p in programs if isinstance(p, nn.Module)]
    tensors = [t.clone() for m in modules for t in m.state_dict().values()]
    return [*tensors, torch.get_rng_state()], [m.training for p in modules for m in p.modules()]


@pytest.mark.parametrize("make", PAIRS, ids=lambda make: make.__name__)
def test_many_samples_are_those_of_the_programs(monkeypatch, early, make):
    model, guide, x, y = make()
    before, modes = state(model, guide)
    found, expected = both(
        monkeypatch, lambda: flat(infer.elbo_terms(model, guide, x, y=y, samples=7))
    )
    assert equal(found, expected)
    after, modes_after = state(model, guide)
    assert equal(before, after) and modes == modes_after
    if make not in CANNOT:
        runs = Runs(guide)
        infer.elbo_terms(model, guide, x, y=y, samples=20)
        # With checks, twice without, recorded, accepted; replays 1, 2, 4, 8 and 16 are compared
        assert runs.count == 1 + 2 + 2 + 5


@pytest.mark.parametrize("make", PAIRS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("samples", [1, 3])
def test_batches_are_those_of_the_programs(monkeypatch, early, make, samples):
    model, guide, x, y = make()
    found, expected = both(
        monkeypatch,
        lambda: flat(dataset_terms(model, guide, Dataset(x, y), batch_size=3, samples=samples)),
    )
    assert [len(part) for part in found] == [23] * len(found)  # the last batch is short
    assert equal(found, expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, contextlib.nullcontext])
def test_gradient_modes(monkeypatch, early, mode):
    model, guide, x, _ = ladder()
    with mode():
        found, expected = both(
            monkeypatch, lambda: flat(infer.elbo_terms(model, guide, x, samples=7))
        )
    assert equal(found, expected)


@pytest.mark.parametrize("estimator", [infer.AnalyticELBO(), infer.ImportanceWeightedELBO(5)])
def test_other_estimators(monkeypatch, early, estimator):
    model, guide, x, _ = vae()
    found, expected = both(
        monkeypatch,
        lambda: flat(infer.elbo_terms(model, guide, x, samples=7, estimator=estimator)),
    )
    assert equal(found, expected)


@pytest.mark.parametrize("make", [vae, ladder, conditional], ids=lambda make: make.__name__)
def test_the_aggregate_posterior_is_that_of_the_programs(monkeypatch, early, make):
    model, guide, x, y = make()
    monkeypatch.setattr("pyro_vae.infer.aggregate._PAIRED_VALUES", 8)
    monkeypatch.setattr("pyro_vae.infer.aggregate._MOST_COLUMNS", 7)
    z = guide.encode(x, y=y).sample
    runs = Runs(guide)
    with infer.evaluating(model, guide):
        found, expected = both(
            monkeypatch, lambda: [log_aggregate(guide, Dataset(x, y), z, leave_one_out=True)]
        )
    assert equal(found, expected)
    # Tried twice, then 23 rows for each of four blocks of data, the last of which is short. Of two
    # shapes two calls run, one is recorded and one accepted, and some are compared
    assert runs.count == (2 + 2 * (2 + 2) + (7 + 5)) + (2 + 23 * 4)

    def parts():
        whole = diagnostics.collapse(model, guide, Dataset(x, y)).whole
        return [whole.kl, whole.mutual_information, whole.marginal_kl]

    assert equal(*both(monkeypatch, parts))


def test_the_next_call_sees_what_has_changed(monkeypatch, early):
    model, guide, x, _ = vae()

    def run():
        return flat(infer.elbo_terms(model, guide, x, samples=7))

    first = run()
    with torch.no_grad():
        guide.conditionals["z1"].loc.bias.add_(1)
    second, expected = both(monkeypatch, run)
    assert equal(second, expected) and not equal(first, second)
    model.decoder = nn.Sequential(nn.Linear(2, 6))
    third, expected = both(monkeypatch, run)
    assert equal(third, expected) and not equal(second, third)


def test_nothing_keeps_a_pair_alive(early):
    model, guide, x, _ = vae()
    infer.elbo_terms(model, guide, x, samples=7)
    dataset_terms(model, guide, Dataset(x), batch_size=3)
    gone = [weakref.ref(p) for p in (model, guide, *guide.parameters())]
    del model, guide
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(gone)


def test_what_the_checks_refuse_is_refused_in_a_replay(early):
    """A draw whose scale is NaN comes from few of many random numbers."""

    class Guide(guides.BottomUp):
        def forward(self, x, *, y=None):
            with pyro.plate("data", len(x), dim=-1):
                noise = torch.rand(len(x), 2)
                scale = torch.where(noise < 0.005, torch.nan, 1.0)
                return {"z1": pyro.sample("z1", dist.Normal(noise, scale).to_event(1))}

    model, *_ = vae()
    with pytest.raises(FloatingPointError, match="scale of a Normal became NaN"):
        infer.elbo_terms(model, Guide(model), X, samples=100)


def test_values_that_are_not_finite_pass_where_the_checks_pass_them(monkeypatch, early):
    """A density of zero: the bound is minus infinity, and no error."""

    class Likelihood(likelihoods.Gaussian):
        def forward(self, features):
            return dist.Normal(features, 1e-30).to_event(1)

    model, guide, x, _ = vae(likelihood=Likelihood())
    found, expected = both(monkeypatch, lambda: flat(infer.elbo_terms(model, guide, x, samples=7)))
    assert equal(found, expected) and found[0].isinf().all()


def test_data_of_a_later_batch_are_checked_for_a_pair_that_does_not_tell_its_range():
    class Model(nn.Module):
        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                logits = z[:, None].expand(-1, 6)
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    class Guide(nn.Module):
        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(x[:, 0], 1.0))

    x = X.clone()
    x[20] = 0.5
    with pytest.raises(ValueError, match=r"site .x. gives probability to Boolean"):
        diagnostics.evaluate(Model(), Guide(), x, batch_size=5, importance_samples=0)


def test_a_function_is_recorded_once_for_each_shape():
    calls = []

    def function(a, b):
        calls.append(a.shape)
        return (a + b) * torch.rand(len(a))

    run = Repeated(function, after=2)
    with torch.no_grad():
        for n in (3, 3, 4, 3, 3, 3, 4):
            torch.manual_seed(n)
            noise = torch.rand(n)
            torch.manual_seed(n)
            assert torch.equal(run(torch.ones(n), torch.ones(n)), 2 * noise)
    # The third one with 3 is recorded, accepted and compared, and the fourth is compared
    assert [shape[0] for shape in calls] == [3, 3, 4, *[3] * 3, 3, 4]
