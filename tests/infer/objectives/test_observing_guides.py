"""Guides that observe, under an objective that was written for them: CEVAE's and its like."""

import copy
import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from differentiated import Half, gradients
from pyro import infer as stock
from pyro import poutine
from pyro.contrib import cevae
from pyro.contrib.cevae import TraceCausalEffect_ELBO
from torch import nn
from torch.nn.functional import softplus

from pyro_vae import Trainer, infer
from pyro_vae.infer.objectives.pyro_elbo import PyroELBO


@pytest.fixture(autouse=True)
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


class Causal(nn.Module):
    """x = (features, t), with a net of the guide's that predicts t from the features."""

    def __init__(self):
        super().__init__()
        self.net, self.treatment = nn.Linear(2, 3), nn.Linear(2, 1)
        self.propensity, self.encoder = nn.Linear(3, 1), nn.Linear(4, 4)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x[:, :3])
            logits = self.treatment(z).squeeze(-1)
            pyro.sample("t", dist.Bernoulli(logits=logits), obs=x[:, 3])

    def guide(self, x):
        with pyro.plate("data", len(x)):
            only = {"is_auxiliary": True}
            q = dist.Bernoulli(logits=self.propensity(x[:, :3]).squeeze(-1))
            pyro.sample("t", q, obs=x[:, 3], infer=only)
            loc, scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, softplus(scale)).to_event(1))


class TestObservedByTheGuide:
    @pytest.fixture
    def causal(self):
        whole = Causal()
        return whole, (Half(whole, "model"), Half(whole, "guide"))

    @pytest.fixture
    def x(self):
        features = torch.randn(40, 3)
        return torch.cat([features, (features[:, :1] > 0).double()], 1)

    def test_pyros_own_are_refused_before_training(self, causal, x):
        before = copy.deepcopy(causal[0].state_dict())
        for elbo in ("trace", stock.Trace_ELBO(), stock.TraceMeanField_ELBO()):
            with pytest.raises(ValueError, match=r"it observes 't' .*poutine.block.*as elbo= of"):
                Trainer(*causal[1], elbo=elbo).fit(x, epochs=1, progress=False)
        torch.testing.assert_close(causal[0].state_dict(), before)

    def test_loss_and_gradient_of_the_one_written_for_it(self, causal, x):
        whole, pair = causal
        for p in pair:
            pyro.module("whole", p)
        elbo = TraceCausalEffect_ELBO()
        expected = gradients(lambda: elbo.loss_and_grads(*with_parameters(whole), x), whole)
        found = gradients(lambda: PyroELBO(elbo).backward(*pair, x), whole)
        assert float(found[0][0]) == pytest.approx(expected[0], abs=1e-10)
        torch.testing.assert_close(found[1], expected[1], rtol=1e-10, atol=1e-10)
        assert len(found[1]) == 8

    def test_it_trains_the_net_and_the_bound_is_that_of_the_latents(self, causal, x):
        whole, pair = causal
        trainer = Trainer(*pair, elbo=TraceCausalEffect_ELBO(), lr=0.05, seed=0)
        trainer.fit(x, epochs=60, batch_size=20, validation=x, progress=False)
        q = dist.Bernoulli(logits=whole.propensity(x[:, :3]).squeeze(-1))
        log_q = q.log_prob(x[:, 3]).mean().item()
        assert log_q > -0.3
        row = trainer.history[-1]["validation"]
        assert row["objective"] == pytest.approx(row["elbo"] + log_q)
        hidden = pair[0], poutine.block(pair[1], hide=["t"])
        terms = infer.elbo_terms(*hidden, x, samples=50)
        assert abs(row["elbo"] - float(terms.elbo.mean())) < 6 * row["elbo_se"]
        assert list(row["kl"]) == ["z"]


class Columns(nn.Module):
    """A program of features, treatment and outcome, whose data are columns of x."""

    def __init__(self, program):
        super().__init__()
        self.program = program

    def forward(self, x):
        return self.program(x[:, :-2], t=x[:, -2], y=x[:, -1])


def test_cevae_as_pyro_has_it():
    config = {"feature_dim": 4, "latent_dim": 2, "hidden_dim": 5, "num_layers": 2}
    model, guide = (
        Columns(make({**config, "outcome_dist": "normal"})) for make in (cevae.Model, cevae.Guide)
    )
    x = torch.randn(9, 6)
    x[:, 4] = (x[:, 4] > 0).double()
    elbo = TraceCausalEffect_ELBO()
    data = x[:, :4], x[:, 4], x[:, 5]
    run = functools.partial(elbo.loss_and_grads, model.program, guide.program, *data)
    expected = gradients(run, model, guide)
    pyro.clear_param_store()
    found = gradients(lambda: PyroELBO(elbo).backward(model, guide, x), model, guide)
    assert float(found[0][0]) == pytest.approx(expected[0], abs=1e-10)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-10, atol=1e-10)
    assert {n.split(".")[1] for n in found[1]} >= {"x_nn", "t_nn", "y0_nn", "y1_nn", "z1_nn"}
    Trainer(model, guide, elbo=elbo).fit(x, epochs=1, batch_size=4, progress=False)


def with_parameters(whole):
    """Model and guide that declare their parameters, as Pyro wants them."""

    def declared(role):
        def program(x):
            pyro.module("whole", whole)
            return getattr(whole, role)(x)

        return program

    return declared("model"), declared("guide")
