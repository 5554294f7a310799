"""Sequences of unequal lengths: latents that only some of the data have."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import kl_divergence

from pyro_vae import data, diagnostics, handlers, infer, plots, priors, regularizers
from pyro_vae.infer import aggregate, mean_squared_error
from pyro_vae.infer.posterior import posterior_means

STEPS, VARIANCE = 3, 2.0
# q(z_t|x, z_t-1) = N(KEPT z_t-1 + SEEN x_t, SD^2), p(z_t|z_t-1) = N(z_t-1 / 2, 1)
KEPT, SEEN, SD, DECAY = 0.3, 0.6, 0.7, 0.5
PER_STEP = 0.5 * math.log(1 + SEEN**2 * VARIANCE / SD**2)


def sequences(lengths):
    """x_t ~ N(0, VARIANCE) up to the length, which is the last column."""
    x = VARIANCE**0.5 * torch.randn(len(lengths), STEPS)
    lengths = torch.as_tensor(lengths)
    hidden = torch.arange(STEPS) >= lengths[:, None]
    return torch.cat([x.masked_fill(hidden, 0.0), lengths[:, None].float()], 1)


def chain(step, seen=False, steps=STEPS, mask=True):
    def program(x):
        z = x.new_zeros(len(x))
        with pyro.plate("data", len(x)):
            for t in range(steps):
                with poutine.mask(mask=(t < x[:, -1]) if mask else True):
                    z = pyro.sample(f"z{t}", step(z, x[:, t]))
                    if seen:
                        pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[:, t])

    return program


model = chain(lambda z, x: dist.Normal(DECAY * z, 1.0), seen=True)
guide = chain(lambda z, x: dist.Normal(KEPT * z + SEEN * x, SD))


def in_one(distribution, seen=False):
    """The same with all steps in one site."""

    def program(x):
        shown = torch.arange(STEPS) < x[:, -1:]
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", distribution(x).mask(shown).to_event(1))
            if seen:
                pyro.sample("x", dist.Normal(z, 1.0).mask(shown).to_event(1), obs=x[:, :-1])

    return program


vectors = (
    in_one(lambda x: dist.Normal(torch.zeros(len(x), STEPS), 1.0), seen=True),
    in_one(lambda x: dist.Normal(SEEN * x[:, :-1], SD)),
)


def normal_of(length, kept, variance):
    """z of a chain of steps with this variance, whatever drives it."""
    inverse = torch.eye(length) - kept * torch.eye(length).roll(1, 0).tril(-1)
    root = torch.linalg.inv(inverse)
    return dist.MultivariateNormal(torch.zeros(length), variance * root @ root.T)


def within(terms, expected, errors=3):
    error = float(terms.std()) / math.sqrt(len(terms))
    return abs(float(terms.mean()) - expected) < errors * error


def test_sequences_against_the_closed_form():
    """I(x; z|length) and KL(q(z|length) || p), by the determinants of the chains."""
    torch.manual_seed(5)
    lengths = torch.arange(2400) % STEPS + 1
    result = diagnostics.collapse(model, guide, sequences(lengths))
    # det(I - KEPT shift) = 1: each step adds as much
    information = PER_STEP * sum(range(1, STEPS + 1)) / STEPS
    marginal = sum(
        float(
            kl_divergence(
                normal_of(length, KEPT, SEEN**2 * VARIANCE + SD**2), normal_of(length, DECAY, 1.0)
            )
        )
        for length in range(1, STEPS + 1)
    )
    assert within(result.whole.mutual_information, information)
    assert within(result.whole.marginal_kl, marginal / STEPS)
    assert within(result.whole.kl, information + marginal / STEPS)
    for t in range(STEPS):
        share = (STEPS - t) / STEPS
        assert within(result.sites[f"z{t}"].mutual_information, PER_STEP * share)
        assert result.units[f"z{t}"].share == pytest.approx(share)
    assert result.collapsed == () and result.cap == pytest.approx(math.log(800))
    assert "compared with those under its own alone (N = 800 to 800)" in str(result)


def test_elements_of_a_site_against_the_closed_form():
    torch.manual_seed(5)
    result = diagnostics.collapse(*vectors, sequences(torch.arange(2400) % STEPS + 1))
    assert within(result.whole.mutual_information, PER_STEP * 2)
    each = float(kl_divergence(normal_of(1, 0.0, SEEN**2 * VARIANCE + SD**2), normal_of(1, 0, 1)))
    assert within(result.whole.marginal_kl, 2 * each)


def test_terms_against_a_sum_over_all_pairs_of_a_length():
    x = sequences([1, 1, 3, 3, 3, 2, 2])
    draws = aggregate.draw(model, guide, data.Dataset(x), 1000)
    total = aggregate.Total(7, x.device, draws.alike)
    for row, column, found in aggregate.pair_densities(guide, data.Dataset(x), draws.z):
        total.add(row, column, sum(found.values()))
    z = torch.stack([*draws.z.values()], 1)
    before = torch.cat([torch.zeros(7, 1), z[:, :-1]], 1)
    loc = KEPT * before[:, None] + SEEN * x[:, :-1]
    dense = dist.Normal(loc, SD).log_prob(z[:, None])
    for i, length in enumerate(x[:, -1].int().tolist()):
        same = x[:, -1] == length
        expected = dense[i, same, :length].sum(-1).logsumexp(0)
        torch.testing.assert_close(total.log[i].float(), expected)


def test_a_mask_that_all_data_share_leaves_a_shorter_chain():
    x = sequences([2] * 50)
    shorter = (
        chain(lambda z, x: dist.Normal(DECAY * z, 1.0), seen=True, steps=2, mask=False),
        chain(lambda z, x: dist.Normal(KEPT * z + SEEN * x, SD), steps=2, mask=False),
    )
    found, expected = (diagnostics.collapse(*pair, x) for pair in ((model, guide), shorter))
    assert found.compared is None and found.cap == math.log(50)
    for part in ("kl", "mutual_information", "marginal_kl"):
        assert torch.equal(getattr(found.whole, part), getattr(expected.whole, part))
        assert not getattr(found.sites["z2"], part).any()
    assert found.units["z2"].active == 0
    ranked = (diagnostics.rarity(*pair, x, samples=1) for pair in ((model, guide), shorter))
    torch.testing.assert_close(*(found.log_density for found in ranked))


def test_masks_of_observed_sites_change_nothing():
    def pair(mask):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
                seen = (x > 0) if mask else torch.tensor(True)
                pyro.sample("x", dist.Normal(z, 1.0).mask(seen).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x, 0.5).to_event(1))

        return model, guide

    x = torch.randn(60, 3)
    found, expected = (diagnostics.collapse(*pair(mask), x) for mask in (True, False))
    assert str(found) == str(expected)


def test_units_are_those_of_the_data_that_have_them():
    x = sequences(torch.arange(300) % STEPS + 1)
    result, layers = diagnostics.collapse(model, guide, x), diagnostics.layers(model, guide, x)
    means = posterior_means(guide, data.Dataset(x))
    for t in range(STEPS):
        have = x[:, -1] > t
        assert torch.equal(means[f"z{t}"].isnan(), ~have)
        own = means[f"z{t}"][have].double()
        variance = own.var(correction=0)
        torch.testing.assert_close(result.units[f"z{t}"].variance[0], variance)
        fourth = (own - own.mean()).pow(4).mean()
        error = ((fourth - variance**2) / int(have.sum())).sqrt()
        torch.testing.assert_close(result.units[f"z{t}"].standard_error[0], error)
        layer = layers[f"z{t}"]
        assert layer.active.tolist() == [True]
        assert torch.equal(layer.projection[:, 0].isnan(), ~have)
        spread = layer.projection[have, 0].double().abs()
        torch.testing.assert_close(spread, (own - own.mean()).abs(), rtol=1e-4, atol=1e-5)
    assert layers.plot().axes


def test_data_without_a_latent_are_not_drawn():
    x = sequences(torch.arange(30) % STEPS + 1)
    ax = plots.latent_scatter(vectors[1], x)
    drawn = np.ma.masked_invalid(ax.collections[0].get_offsets()).mask.any(1)
    assert drawn.tolist() == (x[:, -1] < STEPS).tolist()


def test_a_site_that_few_data_have_is_not_called_collapsed_for_that():
    x = sequences([1] * 1900 + [3] * 100)
    result = diagnostics.collapse(model, guide, x)
    assert float(result.sites["z2"].mutual_information.mean()) > 0
    assert result.collapsed == ()


UNLIKE = sequences([1] * 20 + [3] * 20)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            lambda: diagnostics.collapse(model, guide, sequences([1, 1, 3, 3, 2])),
            "site 'z1': expected at least two data under each mask, .* got 1 data .* in row 4",
        ),
        (lambda: diagnostics.rarity(model, guide, UNLIKE), "site 'z1': its mask differs"),
        (
            lambda: diagnostics.rarity(model, guide, UNLIKE[:20], reference=UNLIKE[20:]),
            "site 'z1': its mask differs",
        ),
        (
            lambda: diagnostics.outliers(model, guide, UNLIKE, UNLIKE),
            "site 'z1': its mask differs",
        ),
        (
            lambda: diagnostics.disentanglement(
                *vectors, data.Dataset(UNLIKE, factors=UNLIKE[:, :1] > 0, factor_names=["a"])
            ),
            "site 'z': a mask hides it from some of the data",
        ),
        (
            lambda: priors.posterior_samples(*vectors, UNLIKE),
            "site 'z': a mask hides it from some of the data",
        ),
        (
            lambda: infer.TraceELBO()(
                vectors[0], handlers.regularize(vectors[1], regularizers.MMD()), UNLIKE
            ),
            "site 'z': a mask may hide it",
        ),
    ],
)
def test_what_compares_latents_that_are_not_there_is_refused(run, message):
    with pytest.raises(ValueError, match=message):
        run()


def test_errors_are_over_the_elements_that_are_seen():
    shown = torch.tensor([[True, True, False], [True, False, False], [True, True, False]])
    values = torch.tensor([[1.0, 2.0, 9.0], [3.0, 9.0, 9.0], [2.0, 4.0, 9.0]])

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            mean = dist.Normal(torch.ones_like(x), 1.0)
            pyro.sample("x", mean.mask(shown[: len(x)]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    found = mean_squared_error(model, guide, values)
    expected = torch.tensor([(0 + 4 + 1) / 3, (1 + 9) / 2, torch.nan], dtype=torch.float64)
    torch.testing.assert_close(found, expected, equal_nan=True)
