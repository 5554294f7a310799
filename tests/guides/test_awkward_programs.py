"""Guides of programs whose names, weights, sizes and scales are awkward ones."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_vae import Trainer, guides, infer, likelihoods, load, models, save
from pyro_vae.data import Arguments

X = torch.randn(20, generator=torch.Generator().manual_seed(0))
every = pytest.mark.parametrize("family", [guides.BottomUp, guides.Ladder])


def standard(x):
    return dist.Normal(x.new_zeros(len(x)), 1.0)


@every
def test_each_latent_has_a_conditional_of_its_own_whatever_its_name(family):
    def model(x):
        with pyro.plate("data", len(x)):
            z = sum(pyro.sample(site, standard(x)) for site in ("a.b", "site_1", "site_0"))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = family(model, like=X, hidden=(4,))
    assert len(getattr(guide, "conditionals", None) or guide.heads) == 3
    assert {*guide(X)} == {"a.b", "site_1", "site_0"}


@every
def test_a_latent_may_be_called_like_an_argument(family):
    def model(x):
        with pyro.plate("data", len(x)):
            clean = pyro.sample("x", standard(x))
            slope = pyro.sample("slope", dist.Normal(clean, 1.0))
            pyro.sample("y", dist.Normal(clean + slope, 1.0), obs=x)

    guide = family(model, like=X, hidden=(4,))
    assert infer.check_pair(model, guide, X).lacking == {}
    assert all("x (argument)" in names for names in guide.inputs.values())
    other = guides.BottomUp(model, like=X, hidden=(4,), order="top-down")
    assert other.inputs["slope"] == ("x", "x (argument)")
    assert infer.check_pair(model, other, X).lacking == {}


def test_a_latent_may_be_called_nothing():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("nothing", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("unseen", standard(x))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    guide = guides.BottomUp(model, like=X, hidden=(4,))
    assert guide(X)["nothing"].shape == (20, 2) and guide.inputs["unseen"] == ()


def test_weights_of_each_datum_are_told_of():
    weights = torch.rand(20)

    def model(x, around=("x",)):
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=weights[: len(x)] if "z" in around else 1.0):
                z = pyro.sample("z", standard(x))
            with poutine.scale(scale=weights[: len(x)]):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    found = infer.structure(model, X)
    assert found.observed["x"].scaled is True and found.latents["z"].scaled is False
    guides.BottomUp(model, like=X, hidden=(4,))

    def both(x):
        model(x, ("z", "x"))

    with pytest.raises(ValueError, match=r"^site 'z': .* got one under poutine\.scale: use"):
        guides.BottomUp(both, like=X)


def test_bounds_of_several_numbers_are_told_as_such():
    def model(x):
        low = x.new_tensor([0.0, 1.0])
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(low, low + 1).expand([len(x), 2]).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    with pytest.raises(ValueError, match="one number each, got a Uniform with several for its"):
        guides.BottomUp(model, like=X)


def test_sorted_data_are_measured_all_over():
    def model(step, x):
        with pyro.plate("data", len(x)):
            level = pyro.sample("level", dist.Normal(1000.0 * step, 1.0))
            pyro.sample("x", dist.Normal(level, 1.0), obs=x)

    step = torch.arange(60.0) // 15
    guide = guides.BottomUp(model, like=(step, 1000 * step), hidden=(4,))
    assert 1000 < guide.places["level"].spread.item() < 2000


def test_a_ladder_of_many_latents_that_all_see_each_other_is_built_at_once():
    def model(x):
        total = x.new_zeros(len(x))
        with pyro.plate("data", len(x)):
            for i in range(25):
                total = total + pyro.sample(f"z{i}", dist.Normal(total, 1.0))
            pyro.sample("x", dist.Normal(total, 1.0), obs=x)

    guide = guides.Ladder(model, like=X, hidden=(2,))
    assert guide.inputs["z24"] == (*(f"z{i}" for i in reversed(range(24))), "x")


def test_the_tools_of_a_pair_know_whether_there_are_guides_of_its_program():
    def model(x, discrete=False):
        with pyro.plate("data", len(x)):
            prior = dist.Bernoulli(0.5).expand([len(x)]) if discrete else standard(x)
            pyro.sample("x", dist.Normal(pyro.sample("z", prior), 1.0), obs=x)

    def discrete(x):
        model(x, True)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(0.5).expand([len(x)]))

    built = guides.BottomUp(model, like=X, hidden=(4,))
    tool = "guides of the library"
    assert infer.check_pair(model, built, X).tools[tool] == ""
    assert "continuous latents" in infer.check_pair(discrete, guide, X).tools[tool]


@every
def test_a_file_without_data_is_refused_before_it_is_written(family, tmp_path):
    class Program(nn.Module):
        def forward(self, x, step):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(step, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = family(Program(), like=(X, X), hidden=(4,))
    with pytest.raises(TypeError, match="arguments=False"):
        save(guide, tmp_path / "guide.pt")


def test_large_whole_numbers_are_told_apart():
    def model(x, time):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal((time - 2**40).to(x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    time = 2**40 + torch.arange(20)
    guide = guides.BottomUp(model, like=(X, time), hidden=(4,))
    shown = guide.reading.arguments.shown({"x": X, "time": time})["time"]
    assert shown.dtype == X.dtype and torch.equal(shown[:, 1:], torch.eye(20))
    assert shown[:, 0].diff().min() > 0.05
    many = guides.BottomUp(model, like=(X.repeat(5), 2**40 + torch.arange(100)), hidden=(4,))
    assert torch.isfinite(many(X, time)["z"]).all()


@every
def test_a_guide_of_a_model_that_was_shown_data_is_kept(family, tmp_path):
    vae = models.VAE((3,), latents=2, likelihood=likelihoods.Gaussian(), hidden=(4,))
    guide = family(vae, like=torch.zeros(5, 3))
    save(guide, tmp_path / "guide.pt")
    assert load(tmp_path / "guide.pt").latents == guide.latents


class Plain:
    """No module: each time it is asked for, its method is another object."""

    def model(self, x, spread=1.0):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), spread).to_event(1))
            w = pyro.sample("w", dist.Normal(z.sum(-1), 1.0))
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)


def test_methods_of_plain_objects_have_guides_of_each_kind():
    plain = Plain()
    ladder = guides.Ladder(plain.model, like=X, hidden=(4,))
    lower, upper = (
        guides.BottomUp(plain.model, like=X, hidden=(4,), sites=[site]) for site in "wz"
    )
    for guide in (
        ladder,
        guides.Ladder(plain.model, start=ladder),
        guides.Composed(lower, guides.Flow(plain.model, start=upper)),
        guides.SemiAmortized(ladder, steps=2),
    ):
        Trainer(plain.model, guide, seed=0).fit(X, epochs=1, progress=False)
        assert infer.elbo_terms(plain.model, guide, X).elbo.isfinite().all()
    with pytest.raises(ValueError, match="another Plain"):
        guides.Ladder(Plain().model, start=ladder)


@every
def test_programs_with_constants_have_guides(family):
    model = Plain().model
    like = Arguments((X,), {"spread": 3.0}, columns=(0,))
    guide = family(model, like=like, hidden=(4,))
    assert set(guide.inputs["w"]) <= {"x", "z"}
    bound = infer.elbo_terms(model, guide, X, arguments={"spread": 3.0}).elbo
    assert bound.isfinite().all()


SKEWED = {
    "Gamma": (lambda: dist.Gamma(0.1, 0.1), lambda z: dist.Poisson(z)),
    "Dirichlet": (
        lambda: dist.Dirichlet(torch.full((20,), 0.1)),
        lambda z: dist.Multinomial(50, probs=z, validate_args=False),
    ),
}


@pytest.mark.parametrize("name", SKEWED)
def test_guides_begin_where_numbers_of_skewed_priors_are_not_rounded_off(name):
    prior, seen = SKEWED[name]

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", seen(pyro.sample("z", prior())), obs=x)

    torch.manual_seed(0)
    x = seen(prior().sample((30,))).sample()
    for family in (guides.BottomUp, guides.FullCovariance, guides.Ladder):
        bound = infer.elbo_terms(model, family(model, like=x, hidden=(4,)), x).elbo
        assert bound.min() > -2000


BOUNDED = {
    "unit interval": lambda: dist.Beta(0.1, 0.1),
    "interval": lambda: dist.Uniform(2.0, 5.0),
    "simplex": lambda: dist.Dirichlet(torch.full((3,), 0.1)),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_a_density_near_a_bound_is_that_of_the_draw_before_it_is_rounded(name):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", BOUNDED[name]())
            pyro.sample("x", dist.Normal(z.reshape(len(x), -1)[:, 0], 1.0), obs=x)

    torch.manual_seed(0)
    guide = guides.BottomUp(model, like=X, hidden=(4,))
    place, size = guide.places["z"], guide.places["z"].size
    far, sigma = 60.0 / place.spread.max(), 0.01
    with torch.no_grad():
        q = place.lay(dist.Normal(torch.full((20, size), far), sigma).to_event(1))
        value = q.rsample()
        assert q.support.check(value).all()
        # The draws themselves are rounded to the bound; only log q of standard normals is left
        u = place.coordinates_of(torch.full((20, size), far))
        slope = place.transform.log_abs_det_jacobian(u, value)
        density = (q.log_prob(value) + slope).abs()
    assert density.max() < 40 * size
