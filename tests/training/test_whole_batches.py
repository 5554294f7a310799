"""Programs that need all data at once: a plate of fixed size, parameters for each row."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import nn

from pyro_vae import Trainer, diagnostics, infer

N = 200
X = torch.randn(N, 2, generator=torch.Generator().manual_seed(3)) + 1


class Held(nn.Module):
    """z ~ N(0, 1), x ~ N((z, z), 1), with a mean and a scale of its own for each datum."""

    def __init__(self, n=N):
        super().__init__()
        self.loc, self.log_scale = (nn.Parameter(torch.zeros(n)) for _ in range(2))

    def model(self, x):
        with pyro.plate("rows", len(self.loc)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[:, None], 1.0).expand([len(x), 2]).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(self.loc)):
            pyro.sample("z", dist.Normal(self.loc, self.log_scale.exp()))

    def model_alone(self):
        return self.model(X)

    def guide_alone(self):
        return self.guide(X)

    def check(self):
        """The posterior of each datum is N(sum(x) / 3, 1/3); these differ by 0.47 between data."""
        assert (self.loc - X.sum(1) / 3).square().mean().sqrt() < 0.1
        assert (self.log_scale.exp() - math.sqrt(1 / 3)).square().mean().sqrt() < 0.1


def evidence():
    covariance = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    return dist.MultivariateNormal(torch.zeros(2), covariance).log_prob(X).mean()


@pytest.mark.parametrize("data", [X, (X,), {"x": X}])
def test_parameters_of_rows_stay_those_of_their_datum(data):
    pair = Held()
    trainer = Trainer(pair.model, pair.guide, lr=0.1, seed=0)
    trainer.fit(data, epochs=150, progress=False)
    trainer.lr = 0.01
    trainer.fit(data, epochs=150, progress=False)
    assert trainer.step == 300
    assert trainer.steps.running.records == 1
    pair.check()
    terms = infer.elbo_terms(pair.model, pair.guide, data, samples=200)
    assert abs(terms.elbo.mean() - evidence()) < 0.02


def test_programs_that_have_their_data_need_no_argument():
    pair = Held()
    trainer = Trainer(pair.model_alone, pair.guide_alone, lr=0.1, seed=0)
    trainer.fit(None, epochs=150, progress=False)
    trainer.lr = 0.01
    trainer.fit(None, epochs=150, progress=False, validation=None)
    assert trainer.step == 300
    assert trainer.steps.running.records == 1
    pair.check()
    found = diagnostics.evaluate(pair.model_alone, pair.guide_alone, None, importance_samples=0)
    assert len(found.terms.elbo) == N
    terms = infer.elbo_terms(pair.model_alone, pair.guide_alone, None, samples=200)
    assert abs(terms.elbo.mean() - evidence()) < 0.02
    with pytest.raises(ValueError, match="importance_samples=0"):
        infer.importance(pair.model_alone, pair.guide_alone, None)


def test_they_go_on_from_a_checkpoint(tmp_path):
    pair = Held()
    whole = Trainer(pair.model_alone, pair.guide_alone, lr=0.1, seed=0)
    whole.fit(None, epochs=4, progress=False)
    pair = Held()
    first = Trainer(pair.model_alone, pair.guide_alone, lr=0.1, seed=0)
    first.fit(None, epochs=2, progress=False, checkpoint=tmp_path)
    other = Held()
    again = Trainer.resume(tmp_path, model=other.model_alone, guide=other.guide_alone)
    again.fit(None, epochs=4, progress=False)
    assert again.history[-1]["elbo"] == whole.history[-1]["elbo"]


def test_a_batch_size_that_they_cannot_have_is_an_error():
    pair = Held()
    with pytest.raises(ValueError, match=r"expected all 200 data in each step.*got 64: leave"):
        Trainer(pair.model, pair.guide).fit(X, epochs=1, batch_size=64, progress=False)


def test_other_programs_are_trained_in_minibatches():
    class Amortised(Held):
        def model(self, x):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                loc = z[:, None].expand(len(x), 2)
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.Normal(self.loc * x.sum(1), self.log_scale.exp()))

    pair = Amortised(1)
    trainer = Trainer(pair.model, pair.guide, lr=0.05, seed=0).fit(X, epochs=50, progress=False)
    assert trainer.step == 100
    assert abs(pair.loc - 1 / 3) < 0.05


class Positive(PyroModule):
    """A guide whose scales are constrained, which Pyro keeps in its store by their name alone."""

    def __init__(self, scale):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(N))
        self.scale = PyroParam(torch.full((N,), scale), dist.constraints.positive)

    def forward(self, x):
        with pyro.plate("rows", N):
            pyro.sample("z", dist.Normal(self.loc, self.scale))


def model(x):
    with pyro.plate("rows", N):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[:, None], 1.0).expand([N, 2]).to_event(1), obs=x)


@pytest.mark.parametrize("stock_before", [False, True])
def test_guides_of_one_class_train_their_own_tensors(stock_before):
    first, second = Positive(1.0), Positive(2.0)
    if stock_before:
        SVI(model, first, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(X)
    trainer = Trainer(model, first, lr=0.01, seed=0)
    for guide, other in ((first, second), (second, first), (first, second)):
        before = [guide.scale.detach().clone(), other.scale.detach().clone()]
        if guide is not trainer.guide:
            trainer.swap_guide(guide)
        trainer.fit(X, epochs=2, progress=False)
        assert (guide.scale != before[0]).all()
        assert torch.equal(other.scale, before[1])
        # An evaluation of one is not of the other
        mine, others = (
            infer.elbo_terms(model, g, X, samples=50).elbo.mean() for g in (guide, other)
        )
        assert abs(mine - others) > 0.1
