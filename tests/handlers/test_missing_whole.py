"""Values and arguments that are missing as a whole."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from modalities import Pictures, pictures
from pyro import poutine

from pyro_vae import handlers, infer, likelihoods, models

LOC = torch.zeros(4, 3).requires_grad_()


class Without(dist.MultivariateNormal):
    """That does not tell its support."""

    @property
    def support(self):
        raise NotImplementedError


JOINT = {
    "normal": (lambda: dist.MultivariateNormal(LOC, torch.eye(3)), torch.randn(4, 3)),
    "of no support": (lambda: Without(LOC, torch.eye(3), validate_args=False), torch.randn(4, 3)),
    "classes": (lambda: dist.OneHotCategorical(logits=LOC), torch.eye(3)[[0, 1, 2, 2]]),
    "shares": (lambda: dist.Dirichlet(LOC.exp()), torch.full((4, 3), 1 / 3)),
    "counts": (lambda: dist.Multinomial(5, logits=LOC), torch.tensor([[1.0, 4.0, 0.0]] * 4)),
    "in a dimension": (
        lambda: dist.MultivariateNormal(LOC.reshape(4, 1, 3), torch.eye(3)).to_event(1),
        torch.randn(4, 1, 3),
    ),
}


@pytest.mark.parametrize("kind", JOINT)
def test_values_of_joint_distributions_are_there_or_not(kind):
    made, whole = JOINT[kind]
    x = whole.clone()
    x[1] = torch.nan

    def model(x):
        with pyro.plate("data", 4):
            pyro.sample("x", made(), obs=x)

    def density(program, x):
        trace = poutine.trace(program).get_trace(x)
        trace.compute_log_prob()
        return trace.nodes["x"]["log_prob"]

    found = density(handlers.missing(model), x)
    expected = density(model, whole) * (torch.arange(4) != 1)
    assert torch.equal(found, expected)
    gradients = [torch.autograd.grad(value.sum(), LOC)[0] for value in (found, expected)]
    assert torch.equal(*gradients) and not gradients[0][1].any()


def test_an_argument_that_is_none_is_missing():
    model, data = Pictures(), pictures()
    shown = handlers.missing(model)
    for given in ({"image": data["image"]}, {"image": data["image"], "label": None}):
        trace = poutine.trace(shown).get_trace(**given)
        trace.compute_log_prob()
        label = trace.nodes["label"]
        assert label["is_observed"] and not label["log_prob"].any()
        assert {*label["value"].tolist()} <= {0, 1, 2}
        assert trace.nodes["image"]["log_prob"].all()
    # All that is there is as it was, and so is a program that is run to draw
    whole = poutine.trace(shown).get_trace(**data).nodes["label"]
    assert whole["mask"] is None and torch.equal(whole["value"], data["label"])
    drawn = infer.sample(shown, data)
    assert drawn["image"].shape == data["image"].shape and "label" in drawn
    vae = handlers.missing(models.VAE((3,), 2, likelihood=likelihoods.Gaussian()))
    assert vae.sample(4).isfinite().all()


def test_what_is_to_be_summed_out_stays_a_latent():
    @poutine.infer_config(config_fn=lambda site: {"enumerate": "parallel"})
    def model(image=None, label=None):
        with pyro.plate("data", len(image)):
            label = pyro.sample("label", dist.Categorical(torch.ones(3)), obs=label)
            pyro.sample("image", dist.Normal(1.0 * label, 1.0), obs=image)

    trace = poutine.trace(handlers.missing(model)).get_trace(image=torch.zeros(5))
    assert not trace.nodes["label"]["is_observed"]
