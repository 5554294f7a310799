"""The KL of each unit of a latent site."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import sigmas
from pyro import poutine
from pyro.infer import autoguide
from torch.distributions import kl_divergence

from pyro_vae import data, guides, handlers, infer, likelihoods, priors
from pyro_vae.infer.terms import dataset_terms
from pyro_vae.models import VAE, VQVAE

N, T, U = 23, 5, 3
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(1))
SCALES, SHIFTS = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.0, 0.0, 1.5])


def pair(latents=(4, 3), guide=guides.BottomUp):
    vae = VAE((6,), latents, likelihood=likelihoods.Gaussian(), hidden=(8,))
    return vae, guide(vae, X) if guide is guides.PerDatum else guide(vae)


def both(latents, dim=-1):
    """A model of latents, on which nothing depends here, and its guide."""

    def program(x, *, posterior):
        rows = pyro.plate("data", len(x), dim=dim)
        latents(x, posterior, rows)
        if not posterior:
            x = x if dim == -1 else x[:, None]
            with rows:
                pyro.sample("x", dist.Normal(torch.zeros(x.shape), 1.0).to_event(1), obs=x)

    return functools.partial(program, posterior=False), functools.partial(program, posterior=True)


def gaussian(x, posterior, rows):
    """Units of unequal KL: 1/2 (mu^2 + s^2 - ln s^2 - 1)."""
    loc, scale = (SHIFTS, SCALES) if posterior else (torch.zeros(U), torch.ones(U))
    with rows:
        pyro.sample("z", dist.Normal(loc, scale).expand([len(x), U]).to_event(1))


def closed(loc, scale):
    return 0.5 * (loc.square() + scale.square() - scale.square().log() - 1)


def steps(x, posterior, rows):
    """Of T steps and U units only one differs from its prior."""
    loc = torch.zeros(T, len(x), U)
    if posterior:
        loc[2, :, 1] = 3.0
    with rows, pyro.plate("t", T, dim=-2):
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def steps_left(x, posterior, rows):
    """The same, the data to the left."""
    loc = torch.zeros(len(x), T, U)
    if posterior:
        loc[:, 2, 1] = 3.0
    with rows, pyro.plate("t", T, dim=-1):
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


HIDDEN = torch.arange(T)[:, None] >= torch.arange(N) % T + 1


def masked(x, posterior, rows):
    loc = X[:, :U].expand(T, N, U) if posterior else torch.zeros(T, N, U)
    with rows, pyro.plate("t", T, dim=-2), poutine.mask(mask=~HIDDEN):
        pyro.sample("z", dist.Normal(loc, 1.0).mask(X[:, :U] > 0).to_event(1))


def scaled(x, posterior, rows):
    with poutine.scale(scale=0.1):
        steps(x, posterior, rows)


def part_of_steps(x, posterior, rows):
    with rows, pyro.plate("t", 4 * T, subsample_size=T, dim=-2):
        loc = torch.full((T, len(x), U), 0.7 * posterior)
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def shared(x, posterior, rows):
    """Latents of all data together, and one number for each."""
    loc = torch.arange(4.0) if posterior else torch.zeros(4)
    pyro.sample("w", dist.Normal(loc, 1.0).to_event(1))
    with pyro.plate("features", 2):
        pyro.sample("v", dist.Normal(1.0 * posterior, 1.0))
    with rows:
        pyro.sample("z", dist.Normal(0.0, 1.0 + posterior))


def positive(x, posterior, rows):
    """Elementwise transforms, in one event, of a normal."""
    base = dist.Normal(X[:, :U] if posterior else torch.zeros(N, U), 0.5).to_event(1)
    squeeze = torch.distributions.ExpTransform(), torch.distributions.AffineTransform(0.0, 2.0)
    with rows:
        pyro.sample("z", dist.TransformedDistribution(base, [*squeeze]))


def half_normal(x, posterior, rows):
    """A density that is more than that of its transforms."""
    with rows:
        half = dist.HalfNormal(torch.full((N, U), 1.0 + posterior)).to_event(1)
        pyro.sample("z", half)


def unequally_declared(x, posterior, rows):
    """The guide knows rows of a grid alone, the model its elements."""
    with rows:
        if posterior:
            q = dist.MultivariateNormal(torch.zeros(N, 2, U), 0.5 * torch.eye(U)).to_event(1)
        else:
            q = dist.Normal(torch.zeros(N, 2, U), 1.0).to_event(2)
        pyro.sample("z", q)


def codes():
    model = VQVAE((1, 8, 8), 6, 3, likelihood=likelihoods.Bernoulli())
    return model, guides.NearestCode(model)


def any_program(guide):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            with pyro.plate("t", 4, dim=-2):
                g = pyro.sample("g", dist.Gamma(1.0, 1.0))
            b = pyro.sample("b", dist.Beta(torch.full((len(x), 2), 2.0), 2.0).to_event(1))
            mean = (g.sum(0) + b.sum(-1))[:, None].expand(len(x), 6)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    return model, guide(model, like=X)


PAIRS = {
    "bottom-up": (pair, {"z1": (4,), "z2": (3,)}),
    "ladder": (lambda: pair(guide=guides.Ladder), {"z1": (4,), "z2": (3,)}),
    "per datum": (lambda: pair(guide=guides.PerDatum), {"z1": (4,), "z2": (3,)}),
    "steps": (lambda: both(steps), {"z": (T, U)}),
    "the data to the left": (lambda: both(steps_left, -2), {"z": (T, U)}),
    "masks": (lambda: both(masked), {"z": (T, U)}),
    "scales": (lambda: both(scaled), {"z": (T, U)}),
    "a part of the steps": (lambda: both(part_of_steps), {"z": (T, U)}),
    "shared": (lambda: both(shared), {"w": (4,), "v": (2,), "z": ()}),
    "transforms": (lambda: both(positive), {"z": (U,)}),
    "half-normal": (lambda: both(half_normal), {"z": (U,)}),
    "unequally declared": (lambda: both(unequally_declared), {"z": (2,)}),
    "a program's guide": (lambda: any_program(guides.BottomUp), {"g": (4,), "b": (2,)}),
    "a program's ladder": (lambda: any_program(guides.Ladder), {"g": (4,), "b": (2,)}),
}


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("made", PAIRS)
def test_units_add_up_to_their_site(made, samples):
    build, shapes = PAIRS[made]
    terms = infer.elbo_terms(*build(), X, per_unit=True, samples=samples)
    assert {s: tuple(v.shape[1:]) for s, v in terms.per_unit.items()} == shapes
    assert terms.per_unit.keys() == terms.kl.keys() and terms.per_unit.without == {}
    for site, kl in terms.kl.items():
        units = terms.per_unit[site].reshape(N, -1)
        torch.testing.assert_close(units.sum(1), kl, rtol=1e-4, atol=1e-5)
        assert math.prod(shapes[site]) == 1 or units.std(1).max() > 1e-3


def test_asking_changes_no_other_number():
    model, guide = pair()
    one, other = (infer.elbo_terms(model, guide, X, samples=3, per_unit=p) for p in (False, True))
    assert torch.equal(one.elbo, other.elbo) and not one.per_unit
    torch.testing.assert_close(one.kl, other.kl, rtol=0, atol=0)


def test_recorded_draws_are_the_mean_of_all():
    model, guide = pair()
    terms = infer.elbo_terms(model, guide, X, samples=130, per_unit=True)
    for site, kl in terms.kl.items():
        torch.testing.assert_close(terms.per_unit[site].sum(1), kl, rtol=1e-4, atol=1e-5)


def test_closed_form_of_normals(linear):
    x, guide = linear.data(40), linear.guide(shift=0.2, widen=1.5)
    mean, sd = linear.posterior(x)
    terms = infer.elbo_terms(linear.vae, guide, x, per_unit=True, estimator=infer.AnalyticELBO())
    expected = closed(mean + 0.2, 1.5 * sd)
    torch.testing.assert_close(terms.per_unit["z1"], expected, rtol=1e-4, atol=1e-5)


def test_draws_have_the_closed_form_as_their_mean():
    x = torch.zeros(4000, 6)
    units = infer.elbo_terms(*both(gaussian), x, per_unit=True).per_unit["z"]
    expected = closed(SHIFTS, SCALES)
    error = units.std(0) / len(x) ** 0.5
    assert expected[1] == 0 and (units[:, 1] == 0).all()
    assert ((units.mean(0) - expected).abs() <= sigmas() * error).all()


def test_a_hierarchy_from_the_top():
    """z2 differs from its prior in one unit, z1 given z2 in another, whatever z2 is."""

    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(len(x), U), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z1, 1.0).to_event(1), obs=x[:, :U])

    def guide(x):
        with pyro.plate("data", len(x)):
            off = torch.eye(U)
            z2 = pyro.sample("z2", dist.Normal(off[0].expand(len(x), U), 1.0).to_event(1))
            pyro.sample("z1", dist.Normal(z2 + 2 * off[2], 1.0).to_event(1))

    x = torch.zeros(2000, 6)
    exact = infer.elbo_terms(model, guide, x, per_unit=True, estimator=infer.AnalyticELBO())
    drawn = infer.elbo_terms(model, guide, x, per_unit=True)
    for site, expected in {"z2": [0.5, 0.0, 0.0], "z1": [0.0, 0.0, 2.0]}.items():
        expected = torch.tensor(expected)
        torch.testing.assert_close(exact.per_unit[site], expected.expand(2000, U))
        units = drawn.per_unit[site]
        error = units.std(0) / 2000**0.5
        assert ((units.mean(0) - expected).abs() <= sigmas() * error + 1e-5).all()


def test_a_ladder_has_that_of_its_normals():
    model, guide = pair(guide=guides.Ladder)
    torch.manual_seed(3)
    terms = infer.elbo_terms(model, guide, X, per_unit=True, estimator=infer.AnalyticELBO())
    torch.manual_seed(3)
    q = poutine.trace(guide).get_trace(X)
    p = poutine.trace(poutine.replay(model, q)).get_trace(X)
    for site, units in terms.per_unit.items():
        normals = (side.nodes[site]["fn"].base_dist for side in (q, p))
        torch.testing.assert_close(units, kl_divergence(*normals).detach())


@pytest.mark.parametrize(("latents", "dim"), [(steps, -1), (steps_left, -2), (scaled, -1)])
def test_each_number_is_of_its_unit(latents, dim):
    units = infer.elbo_terms(*both(latents, dim), X, per_unit=True).per_unit["z"]
    where = torch.zeros(T, U, dtype=torch.bool)
    where[2, 1] = True
    assert (units[:, ~where] == 0).all() and (units[:, where] != 0).all()


def test_what_masks_hide_counts_nothing():
    units = infer.elbo_terms(*both(masked), X, per_unit=True).per_unit["z"]
    shown = ~HIDDEN.T[:, :, None] & (X[:, None, :U] > 0)
    assert (units[~shown] == 0).all() and (units[shown] != 0).all()


def test_each_datum_has_a_part_of_what_all_share():
    model, guide = both(shared)
    terms = infer.elbo_terms(model, guide, X, per_unit=True, estimator=infer.AnalyticELBO())
    whole = terms.per_unit["w"].sum(0)
    torch.testing.assert_close(whole, 0.5 * torch.arange(4.0).square())
    torch.testing.assert_close(terms.per_unit["v"].sum(0), torch.tensor([0.5, 0.5]))


def test_each_code_of_a_grid_is_a_unit():
    terms = infer.elbo_terms(*codes(), (torch.rand(7, 1, 8, 8) < 0.5).float(), per_unit=True)
    expected = torch.full_like(terms.per_unit["z1"], math.log(6))
    assert terms.per_unit["z1"].shape == (7, 2, 2)
    torch.testing.assert_close(terms.per_unit["z1"], expected)


# Sites whose units are not apart


def mixture():
    model, guide = pair()
    return handlers.replace_prior(model, priors.MixturePrior(3, components=4)), guide


def autonormal():
    model = any_program(guides.BottomUp)[0]
    return model, autoguide.AutoNormal(model)


def as_one():
    model = any_program(guides.BottomUp)[0]
    return model, autoguide.AutoDiagonalNormal(model)


TIED = {
    "full covariance": (
        lambda: pair(guide=guides.FullCovariance),
        dict.fromkeys(("z1", "z2"), "the guide has one density for all of its units, a Cholesky"),
    ),
    "over plates": (
        lambda: any_program(guides.FullCovariance),
        dict.fromkeys("gb", "the guide has one density for all of its units, a CholeskyNormal"),
    ),
    "flow": (
        lambda: pair(guide=guides.Flow),
        dict.fromkeys(("z1", "z2"), "the guide has one density for all of its units, a Flow"),
    ),
    "mixture": (
        mixture,
        {"z2": "the model has one density for all of its units, a MixtureSameFamily"},
    ),
    "point mass": (
        lambda: pair(guide=guides.Delta),
        dict.fromkeys(("z1", "z2"), "the guide is a point mass"),
    ),
    "auxiliary": (
        autonormal,
        {s: f"the guide draws it by way of '{s}_unconstrained'" for s in "gb"},
    ),
    "all as one": (
        as_one,
        dict.fromkeys("gb", "the guide draws it by way of '_AutoDiagonalNormal_latent'"),
    ),
}


@pytest.mark.parametrize("made", TIED)
def test_a_site_whose_units_are_not_apart_tells_why(made):
    build, expected = TIED[made]
    terms = infer.elbo_terms(*build(), X, per_unit=True)
    assert terms.per_unit.without.keys() == expected.keys()
    assert terms.per_unit.keys() == terms.kl.keys() - expected.keys()
    for site, why in expected.items():
        with pytest.raises(KeyError, match=rf"site '{site}': {why}.*read kl\['{site}'\]"):
            terms.per_unit[site]
        assert f"no KL per unit of {site}: {why}" in repr(terms)


def test_one_unit_has_all_of_the_kl():
    """There is nothing to tell apart, whatever the density."""
    terms = infer.elbo_terms(*pair((4, 1), guides.FullCovariance), X, per_unit=True)
    torch.testing.assert_close(terms.per_unit["z2"].reshape(N), terms.kl["z2"])


def test_a_closed_form_of_the_whole_is_told():
    """Torch knows the KL of two transformed normals of equal transforms, not by unit."""
    terms = infer.elbo_terms(*both(positive), X, per_unit=True, estimator=infer.AnalyticELBO())
    assert "one density" in terms.per_unit.without["z"]


def test_what_was_not_asked_for_is_told():
    terms = infer.elbo_terms(*pair(), X)
    with pytest.raises(KeyError, match="expected terms per unit: pass per_unit=True"):
        terms.per_unit["z1"]
    terms = infer.elbo_terms(*pair(), X, per_unit=True)
    with pytest.raises(KeyError, match=r"expected one of \('z1', 'z2'\), got 'z3'"):
        terms.per_unit["z3"]


@pytest.mark.parametrize(
    "estimator", [infer.ImportanceWeightedELBO(5), pyro.infer.Trace_ELBO()], ids=type
)
def test_an_estimator_without_units_is_refused(estimator):
    with pytest.raises(ValueError, match=r"estimator: .* has no KL per unit: use TraceELBO\(\)"):
        infer.elbo_terms(*pair(), X, per_unit=True, estimator=estimator)


# A whole data set


@pytest.mark.parametrize("batch_size", [1, 10, 99])
def test_a_whole_set_is_that_of_its_batches(batch_size):
    model, guide = pair(4)
    options = {"per_unit": True, "estimator": infer.AnalyticELBO()}
    found = dataset_terms(model, guide, data.Dataset(X), batch_size=batch_size, **options)
    expected = infer.elbo_terms(model, guide, X, **options)
    torch.testing.assert_close(found.per_unit["z1"], expected.per_unit["z1"])
    found = dataset_terms(*mixture(), data.Dataset(X), batch_size=10, per_unit=True)
    assert found.per_unit.keys() == {"z1"} and found.per_unit.without.keys() == {"z2"}


def test_batches_of_other_units():
    """A site that a batch does not have is 0 there; one of several shapes has no units."""

    def latents(x, posterior, rows):
        with rows:
            if len(x) > 5:
                pyro.sample("some", dist.Normal(torch.ones(len(x), 2), 1.0).to_event(1))
            shape = len(x), 2 + len(x) // 10
            pyro.sample("z", dist.Normal(torch.zeros(shape), 1.0 + posterior).to_event(1))

    found = dataset_terms(*both(latents), data.Dataset(X), batch_size=10, per_unit=True)
    assert found.per_unit["some"].shape == (N, 2)
    assert (found.per_unit["some"][20:] == 0).all()
    assert "several shapes" in found.per_unit.without["z"] and "z" not in found.per_unit
