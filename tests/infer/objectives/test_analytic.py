"""The KL in closed form, and where there is none."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from test_elbo import bernoulli_guide, bernoulli_model
from torch import nn
from torch.distributions import Bernoulli as Bern
from torch.distributions import kl_divergence

from pyro_vae import Trainer
from pyro_vae.guides import BottomUp, Delta
from pyro_vae.infer import AnalyticELBO, elbo_terms
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE
from pyro_vae.programs.running import trace_pair


class TestAnalytic:
    def test_kl_is_the_closed_form(self):
        vae = VAE((6,), 4, likelihood=Gaussian(), hidden=(5,))
        guide, x = BottomUp(vae), torch.randn(7, 6)
        q = guide.conditionals["z1"](x)
        mu, var = q.mean, q.variance
        expected = 0.5 * (mu**2 + var - var.log() - 1).sum(-1)
        _, terms = AnalyticELBO()(vae, guide, x)
        torch.testing.assert_close(terms.kl["z1"], expected.detach())

    def test_gradient_is_that_of_the_closed_form(self, linear):
        x, guide = linear.data(5), linear.guide(shift=0.3, widen=1.4)
        with torch.random.fork_rng():
            loss, _ = AnalyticELBO()(linear.vae, guide, x)
        q = guide.conditionals["z1"](x)
        p = dist.Normal(linear.vae.decoder(q.rsample()), linear.sigma)
        expected = -p.log_prob(x).sum() + linear.kl(q.mean, q.stddev).sum()
        torch.testing.assert_close(loss, expected)
        parameters = list(guide.parameters())
        grads = [torch.autograd.grad(v, parameters) for v in (loss, expected)]
        for got, wanted in zip(*grads, strict=True):
            torch.testing.assert_close(got, wanted)

    def test_a_bottom_up_hierarchy_is_refused(self):
        vae = VAE((6,), (4, 3), likelihood=Gaussian(), hidden=(5,))
        with pytest.raises(ValueError, match=r"site 'z1': elbo='analytic' is wrong here, .*'z2'"):
            AnalyticELBO()(vae, BottomUp(vae), torch.randn(5, 6))

    def test_a_top_down_hierarchy_is_right(self):
        vae = VAE((6,), (4, 3), likelihood=Gaussian(0.7), hidden=(5,))
        heads = nn.ModuleDict({"z2": nn.Linear(6, 3), "z1": nn.Linear(9, 4)})

        def guide(x):
            with pyro.plate("data", len(x)):
                z2 = pyro.sample("z2", dist.Normal(heads["z2"](x), 0.5).to_event(1))
                loc = heads["z1"](torch.cat([x, z2], -1))
                pyro.sample("z1", dist.Normal(loc, 0.5).to_event(1))

        x = torch.randn(5, 6)
        terms = elbo_terms(vae, guide, x, estimator=AnalyticELBO())
        trace = poutine.trace(guide).get_trace(x)
        z2 = trace.nodes["z2"]["value"]
        q = torch.distributions.Normal(trace.nodes["z1"]["fn"].mean, 0.5)
        prior = vae.conditionals["z1"](z2)
        p = torch.distributions.Normal(prior.mean, prior.stddev)
        expected = torch.distributions.kl_divergence(q, p).sum(-1)
        torch.testing.assert_close(terms.kl["z1"], expected.detach())

    def test_no_closed_form_is_refused(self):
        vae = VAE((6,), 4, likelihood=Gaussian(), hidden=(5,))
        with pytest.raises(ValueError, match="site 'z1': there is no closed-form KL between"):
            AnalyticELBO()(vae, Delta(vae), torch.randn(5, 6))

    def test_bernoulli_latents_are_refused_with_gradients_and_measured_without(self):
        """The closed form is right, what is missing is the gradient of the draw."""
        x = torch.randn(50, 2)
        message = "site 'code': elbo='analytic' has no gradient .* Independent: use elbo='trace'"
        with pytest.raises(ValueError, match=message):
            AnalyticELBO()(bernoulli_model, bernoulli_guide, x)
        with pytest.raises(ValueError, match=message):
            Trainer(bernoulli_model, bernoulli_guide, elbo="analytic").fit(x, epochs=1)
        Trainer(bernoulli_model, bernoulli_guide, elbo="trace").fit(x, epochs=1, progress=False)
        terms = elbo_terms(bernoulli_model, bernoulli_guide, x, estimator=AnalyticELBO())
        p, q = trace_pair(bernoulli_model, bernoulli_guide, x)
        logits = [t.nodes["code"]["fn"].base_dist.logits for t in (q, p)]
        logits[1] = logits[1].expand(50, 2)
        expected = torch.stack(
            [kl_divergence(*(Bern(logits=v[:, i]) for v in logits)) for i in range(2)]
        )
        torch.testing.assert_close(terms.kl["code"], expected.sum(0).detach())

    def test_masked_latents_are_refused(self):
        vae = VAE((6,), 4, likelihood=Gaussian(), hidden=(5,))
        guide = BottomUp(vae)
        pair = [poutine.mask(p, mask=torch.tensor(True)) for p in (vae, guide)]
        with pytest.raises(ValueError, match="elbo='analytic' knows no masks"):
            AnalyticELBO()(*pair, torch.randn(5, 6))
