"""Guides of the library in the place of the own guides of published programs."""

import dataclasses
import functools

import pyro
import pytest
import torch
from chance import sigmas
from published import PUBLISHED, SWAPS, UNBUILT
from published.swapped import guide_of
from published.uses import loss_of, made, resting, told, traces
from pyro import poutine
from pyro.contrib.cevae import TraceCausalEffect_ELBO

from pyro_vae import infer

STEPS, DRAWS = 800, 40
# The same for all guides of a program. At the higher rate some models unlearn their latents; at
# the lower one numbers per datum and networks over sequences would take many more steps
RATE, HIGHER = 0.02, 0.05
AT_HIGHER = ("dmm", "sparse_gamma_def", "easyguide", "matrix", "eight_schools", "baseball")
# A few of each kind of program; the others take minutes
QUICK = (
    ("vae", "BottomUp"),
    ("vae", "Delta"),
    ("ss_vae_M2", "FullCovariance"),
    ("cevae", "BottomUp"),
    ("eight_schools", "BottomUp"),
    ("robust regression", "Ladder"),
)
# Where the density is infinite at latents of 0, there is no best point
WITHOUT_MODE = (("sparse_gamma_def", "Delta"), ("easyguide", "Delta"))
SERVED = [cell for cell in SWAPS if cell not in UNBUILT and cell not in WITHOUT_MODE]


class Settling(torch.optim.Adam):
    """At a rate that falls to a hundredth."""

    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            group["lr"] *= 0.01 ** (1 / STEPS)
        return loss


def trained(name, pair, loss=None):
    rate = HIGHER if name in AT_HIGHER else RATE
    adam = functools.partial(Settling, lr=rate)
    # The same steps in half the time, where a pair can be recorded
    engine = "eager" if loss is not None else "graph"
    svi = infer.SVI(pair.model, pair.guide, adam, loss, engine=engine)
    for seed in range(STEPS):
        pyro.set_rng_seed(seed)
        svi.step(*pair.args, **pair.kwargs)
    return pair


def drawn(measure):
    """What is measured under the same seeds for each guide, (DRAWS, ...), nats."""
    found = []
    for seed in range(DRAWS):
        pyro.set_rng_seed(1000 + seed)
        found.append(measure())
    return torch.stack(found).double()


def bounds(pair):
    """Of each datum, (DRAWS, n), of a guide whose KL is one."""
    guide = pair.guide
    if pair.elbo is TraceCausalEffect_ELBO and guide in pair.parts[:2]:
        # It observes treatment and outcome, to learn about others: no part of the bound
        guide = poutine.block(guide, hide=["t", "y"])

    def measured():
        terms = infer.elbo_terms(pair.model, guide, pair.data, samples=10, **told(pair))
        return torch.stack([terms.elbo, terms.reconstruction - terms.elbo])

    found, kl = drawn(measured).unbind(1)
    kl = kl.sum(1)
    assert float(kl.mean()) > -sigmas(draws=DRAWS) * float(kl.std()) / DRAWS**0.5
    return found


@torch.no_grad()
def densities(pair):
    """log p(x, z) of all data at the draws of the guide, (DRAWS, 1)."""
    with resting(pair):
        return drawn(lambda: traces(pair)[0].log_prob_sum().reshape(1))


@functools.cache
def of_own_guide(name):
    """Bounds and densities of the pair as it was published, trained under its own objective."""
    pair = made(PUBLISHED[name])
    trained(name, pair, loss_of(pair))
    return bounds(pair), densities(pair)


# Models register the networks of the guide that they were published with
@pytest.mark.filterwarnings("ignore::pyro_vae.infer.UntrainedWarning")
@pytest.mark.filterwarnings("ignore:this pair runs eagerly, not as a graph")
@pytest.mark.parametrize(
    ("name", "family"),
    [pytest.param(*c, marks=[] if c in QUICK else [pytest.mark.slow]) for c in SERVED],
)
def test_a_guide_of_the_library_is_as_good_as_the_published_one(name, family):
    """After the same steps of Adam of model and guide, from the same model.

    The error is that of the paired difference, over data and over draws. A point mass has no
    bound: its log p(x, z) is compared with the mean of the own guide's.
    """
    own_bounds, own_densities = of_own_guide(name)
    pair = made(PUBLISHED[name])
    guide = guide_of(pair, family)
    pair = trained(name, dataclasses.replace(pair, guide=guide, parts=(*pair.parts, guide)))
    if family == "Delta":
        better = densities(pair) - own_densities
    else:
        better = bounds(pair) - own_bounds
    n = better.shape[1]
    noise = better.sum(1).var() / DRAWS
    among_data = n * better.mean(0).var() if n > 1 else 0.0
    assert better.isfinite().all()
    assert float(better.sum(1).mean()) >= -float((noise + among_data) ** 0.5)


@pytest.mark.parametrize(("name", "family"), UNBUILT)
def test_what_is_refused_is_refused_in_one_line_before_training(name, family):
    with pytest.raises((ValueError, TypeError)) as refused:
        guide_of(made(PUBLISHED[name]), family)
    assert str(refused.value) == UNBUILT[name, family]
    assert "\n" not in UNBUILT[name, family]
