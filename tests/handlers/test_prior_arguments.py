"""replace_prior on functions, and what it refuses."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from test_prior import MEAN, Learned
from torch import nn

from pyro_vae import Trainer, infer
from pyro_vae.conditionals.normal import StandardNormal
from pyro_vae.guides import BottomUp
from pyro_vae.handlers import replace_prior
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE


class Unfitted(nn.Module):
    def check_fitted(self):
        raise ValueError("prior: fit it first")


class TestFunctions:
    def model(self, x):
        scale = pyro.param("scale", torch.tensor(1.0))
        with pyro.plate("data", len(x)):
            style = pyro.sample("style", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            code = pyro.sample("code", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(style + code, scale.exp()).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            for site in ("style", "code"):
                pyro.sample(site, dist.Normal(torch.zeros(2), 1.0).to_event(1))

    @pytest.mark.parametrize(("site", "hit"), [(None, "style"), ("code", "code")])
    def test_the_first_or_the_named_site(self, site, hit):
        trace = poutine.trace(replace_prior(self.model, Learned(), site=site)).get_trace(
            torch.zeros(3, 2)
        )
        means = {s: trace.nodes[s]["fn"].mean for s in ("style", "code")}
        assert {s: torch.equal(m, MEAN.expand(3, 2)) for s, m in means.items()} == {
            s: s == hit for s in means
        }

    def test_the_trainer_trains_the_prior(self):
        prior = Learned()
        replaced = replace_prior(self.model, prior)
        trainer = Trainer(replaced, self.guide, lr=1e-2, seed=0)
        trainer.fit(torch.zeros(10, 2), epochs=2, progress=False)
        assert not torch.equal(prior.mean, MEAN)

    def test_an_unknown_site(self):
        replaced = replace_prior(self.model, Learned(), site="top")
        with pytest.raises(ValueError, match="prior: the program has no latent site 'top'"):
            replaced(torch.zeros(3, 2))


class TestErrors:
    def test_another_event_shape(self, linear):
        message = r"site 'z1': expected a prior of event shape \(2,\), got \(3,\)"
        with pytest.raises(ValueError, match=message):
            replace_prior(linear.vae, Learned(3))
        with pytest.raises(ValueError, match=message):
            linear.vae.sample(2, prior=StandardNormal(3))

    def test_another_precision(self, linear):
        with pytest.raises(ValueError, match=r"expected torch.float64 on cpu like the model, got"):
            replace_prior(linear.vae.double(), Learned())

    def test_an_idle_prior_of_the_model_itself(self):
        vae = VAE((6,), 2, likelihood=Gaussian(), hidden=(5,), top_down={"z1": Learned()})
        model, x = replace_prior(vae, StandardNormal(2)), torch.zeros(4, 6)
        with pytest.warns(infer.UntrainedWarning, match=r"model\.program\.conditionals\.z1\.mean"):
            infer.SVI(model, BottomUp(vae)).step(x)
        vae.conditionals["z1"].requires_grad_(False)
        infer.SVI(model, BottomUp(vae)).step(x)

    def test_not_fitted(self, linear):
        for use in (
            lambda: replace_prior(linear.vae, Unfitted()),
            lambda: linear.vae.sample(2, prior=Unfitted()),
        ):
            with pytest.raises(ValueError, match="prior: fit it first"):
                use()

    def test_no_prior(self, linear):
        with pytest.raises(TypeError, match="prior: expected a module that returns a distrib"):
            linear.vae.sample(2, prior="aggregate")
        with pytest.raises(TypeError, match="prior: expected a module that returns a distrib"):
            replace_prior(linear.vae, 3)
