import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import sigmas
from torch import nn
from torch.distributions import kl_divergence

from pyro_vae import Trainer, callbacks, data, diagnostics, guides, handlers, likelihoods
from pyro_vae.diagnostics.collapse import Collapse, Information, Units
from pyro_vae.infer import aggregate
from pyro_vae.models import VAE

VARIANCES, SCALES = torch.tensor([4.0, 1.0, 0.25]), torch.tensor([0.5, 1.0, 0.8])
SHIFTS = torch.tensor([0.3, -1.0, 0.0])


def gaussian_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def gaussian_guide(x):
    """q(z|x) = N(x + shift, scale^2), x of the given variances."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x + SHIFTS, SCALES).to_event(1))


def within(terms, expected):
    """Whether a mean is the expected one but for what chance explains."""
    error = float(terms.std()) / math.sqrt(len(terms))
    return abs(float(terms.mean()) - expected) < sigmas() * error


# The numbers


def test_linear_gaussian_encoder_against_the_closed_form():
    """q(z) = N(shift, variance + scale^2) and I = 1/2 log(1 + variance / scale^2) per unit."""
    x = torch.randn(3000, 3) * VARIANCES.sqrt()
    result = diagnostics.collapse(gaussian_model, gaussian_guide, x)
    information = float(0.5 * (1 + VARIANCES / SCALES**2).log().sum())
    aggregate_posterior = dist.Normal(SHIFTS, (VARIANCES + SCALES**2).sqrt())
    marginal = float(kl_divergence(aggregate_posterior, dist.Normal(0.0, 1.0)).sum())
    assert within(result.whole.mutual_information, information)
    assert within(result.whole.marginal_kl, marginal)
    assert within(result.whole.kl, information + marginal)
    assert float(result.whole.mutual_information.std()) / math.sqrt(3000) < 0.03
    assert result.whole.name == "I(x; z)" and result.collapsed == ()


def test_terms_against_a_sum_over_all_pairs():
    """The same draws, the aggregate posterior by one dense matrix of log densities."""
    x = torch.randn(40, 3)
    draws = aggregate.draw(gaussian_model, gaussian_guide, data.Dataset(x), 1000)
    z = draws.z["z"]
    dense = dist.Normal(x + SHIFTS, SCALES).to_event(1).log_prob(z[:, None])
    found = aggregate.log_aggregate(gaussian_guide, data.Dataset(x), draws.z)
    torch.testing.assert_close(found, (dense.logsumexp(1) - math.log(40)).double())
    without = dense.masked_fill(torch.eye(40, dtype=torch.bool), -math.inf)
    found = aggregate.log_aggregate(gaussian_guide, data.Dataset(x), draws.z, leave_one_out=True)
    torch.testing.assert_close(found, (without.logsumexp(1) - math.log(39)).double())


def test_blocks_change_nothing(monkeypatch):
    x = torch.randn(50, 3)
    expected = diagnostics.collapse(gaussian_model, gaussian_guide, x)
    monkeypatch.setattr(aggregate, "_PAIRED_VALUES", 3 * 8 * 7)
    monkeypatch.setattr(aggregate, "_MOST_COLUMNS", 8)
    found = diagnostics.collapse(gaussian_model, gaussian_guide, x)
    torch.testing.assert_close(found.whole.marginal_kl, expected.whole.marginal_kl)


@pytest.mark.parametrize("latents", [2, (4, 3, 2)])
def test_kl_is_information_plus_marginal_kl(latents):
    vae = VAE((6,), latents, likelihood=likelihoods.Gaussian(), hidden=(8,))
    result = diagnostics.collapse(vae, guides.BottomUp(vae), torch.randn(200, 6))
    for found in (*result.sites.values(), result.whole):
        assert found.kl.dtype == torch.float64
        torch.testing.assert_close(
            found.kl, found.mutual_information + found.marginal_kl, rtol=0, atol=1e-12
        )
        assert float(found.mutual_information.max()) <= math.log(200)
    total = sum(site.kl for site in result.sites.values())
    torch.testing.assert_close(result.whole.kl, total, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [10, 300])
def test_separated_points_have_log_n_nats(n):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0], 1e-3))

    result = diagnostics.collapse(model, guide, torch.arange(float(n))[:, None])
    torch.testing.assert_close(
        result.whole.mutual_information, torch.full((n,), math.log(n), dtype=torch.float64)
    )
    assert result.cap == math.log(n)
    assert "which it has reached: it is at least this" in str(result)


def silenced(vae, *sites):
    """A guide whose conditionals at ``sites`` are the standard normal, whatever x."""
    guide = guides.BottomUp(vae)
    for site in sites:
        head = guide.conditionals[site]
        for parameter in (head.loc.weight, head.loc.bias, head.raw_scale.weight):
            nn.init.zeros_(parameter)
        nn.init.constant_(head.raw_scale.bias, math.log(math.expm1(1 - head.min_scale)))
    return guide


def test_a_collapsed_guide_has_no_information():
    vae = VAE((6,), latents=4, likelihood=likelihoods.Gaussian(), hidden=(8,))
    result = diagnostics.collapse(vae, silenced(vae, "z1"), torch.randn(100, 6))
    torch.testing.assert_close(
        result.whole.mutual_information, torch.zeros(100, dtype=torch.float64), rtol=0, atol=1e-5
    )
    assert within(result.whole.kl, 0.0) or float(result.whole.kl.abs().max()) < 1e-4
    assert result.units["z1"].active == 0 and result.collapsed == ("z1",)
    assert result.verdict.startswith("z1 collapsed: 0 of 4 units active")
    for remedy in ("warm-up", "skip", "ladder", "free_bits", "sigma", "beta < 1"):
        assert remedy in result.verdict


def test_neighbouring_collapsed_sites_are_named_as_a_span():
    vae = VAE((6,), (5, 4, 3, 2), likelihood=likelihoods.Gaussian(), hidden=(8,))
    guide = silenced(vae, "z2", "z3", "z4")
    nn.init.normal_(guide.conditionals["z1"].loc.weight, std=5.0)
    result = diagnostics.collapse(vae, guide, torch.randn(200, 6))
    assert result.verdict.startswith("z2..z4 collapsed: 0 of 9 units active")
    assert list(result.sites) == ["z1", "z2", "z3", "z4"]
    guide = silenced(vae, "z2", "z4")
    nn.init.normal_(guide.conditionals["z1"].loc.weight, std=5.0)
    nn.init.normal_(guide.conditionals["z3"].loc.weight, std=5.0)
    result = diagnostics.collapse(vae, guide, torch.randn(200, 6))
    assert result.collapsed == ("z2", "z4")
    assert result.verdict.startswith("z2, z4 collapsed: 0 of 6 units active")


def test_active_units_against_the_variance_of_the_means():
    x = torch.randn(500, 3) * torch.tensor([1.0, 0.2, 0.05])
    result = diagnostics.collapse(gaussian_model, gaussian_guide, x, threshold=0.02)
    units = result.units["z"]
    torch.testing.assert_close(units.variance.float(), x.var(0, correction=0))
    assert units.active == 2 and "2 of 3" in str(result) and "0.02" in str(result)
    # For normals the variance of a sample variance is 2 v^2 / n
    expected = math.sqrt(2 / 500) * x.var(0)
    torch.testing.assert_close(units.standard_error.float(), expected, rtol=0.15, atol=0)
    near = diagnostics.collapse(gaussian_model, gaussian_guide, x, threshold=0.04).units["z"]
    assert units.error < 0.05 < near.error < 0.6


# Hierarchies, against closed forms: x ~ N(0, 1)


def hierarchy(x):
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
        z1 = pyro.sample("z1", dist.Normal(0.6 * z2, 0.8))
        pyro.sample("x", dist.Normal(z1, 1.0), obs=x[:, 0])


def bottom_up(x):
    with pyro.plate("data", len(x)):
        z1 = pyro.sample("z1", dist.Normal(0.9 * x[:, 0], 0.5))
        pyro.sample("z2", dist.Normal(0.7 * z1, 0.6))


def top_down(x):
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.Normal(0.5 * x[:, 0], 0.9))
        pyro.sample("z1", dist.Normal(0.6 * z2 + 0.8 * x[:, 0], 0.7))


def test_a_bottom_up_guide():
    x = torch.randn(3000, 1)
    result = diagnostics.collapse(hierarchy, bottom_up, x)
    variance = 0.9**2 + 0.5**2
    of_z1 = 0.5 * math.log(variance / 0.5**2)
    of_z2 = 0.5 * math.log((0.7**2 * variance + 0.6**2) / 0.6**2)
    assert [found.name for found in result.sites.values()] == ["I(x; z1)", "I(x,z1; z2)"]
    assert within(result.sites["z1"].mutual_information, of_z1)
    assert within(result.sites["z2"].mutual_information, of_z2)
    assert within(result.whole.mutual_information, of_z1)
    top = dist.Normal(0.0, math.sqrt(0.7**2 * variance + 0.6**2))
    marginal = float(kl_divergence(top, dist.Normal(0.0, 1.0)))
    assert within(result.sites["z2"].marginal_kl, marginal)


def test_a_top_down_guide_obeys_the_chain_rule():
    x = torch.randn(3000, 1)
    result = diagnostics.collapse(hierarchy, top_down, x)
    of_z2 = 0.5 * math.log((0.5**2 + 0.9**2) / 0.9**2)
    left = 1 - 0.5**2 / (0.5**2 + 0.9**2)  # variance of x given z2
    of_z1 = 0.5 * math.log((0.8**2 * left + 0.7**2) / 0.7**2)
    assert [found.name for found in result.sites.values()] == ["I(x; z1|z2)", "I(x; z2)"]
    assert within(result.sites["z2"].mutual_information, of_z2)
    assert within(result.sites["z1"].mutual_information, of_z1)
    for part in ("kl", "mutual_information", "marginal_kl"):
        parts = [getattr(result.sites[s], part) for s in ("z1", "z2")]
        torch.testing.assert_close(getattr(result.whole, part), sum(parts), rtol=0, atol=1e-12)


def test_a_site_that_follows_its_prior_has_collapsed_though_its_mean_moves():
    def guide(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x[:, 0], 0.3))
            pyro.sample("z1", dist.Normal(0.6 * z2, 0.8))

    result = diagnostics.collapse(hierarchy, guide, torch.randn(500, 1))
    assert result.units["z1"].active == 1
    assert result.collapsed == ("z1",)
    assert float(result.sites["z1"].kl.abs().max()) < 1e-5


def result_of(information, spread, variance, share=1.0):
    """A ``Collapse`` of one site: I of given mean and standard deviation, units of variances."""
    terms = information + spread * torch.tensor([-1.0, 1.0] * 50, dtype=torch.float64)
    site = Information(terms, terms, torch.zeros(100, dtype=torch.float64), "I(x; z)")
    variance = torch.tensor(variance, dtype=torch.float64)
    units = Units(variance, torch.zeros_like(variance), 0.01, share)
    return Collapse({"z": site}, {"z": units}, site)


@pytest.mark.parametrize(
    ("information", "spread", "variance", "collapsed"),
    [
        # Two standard errors above half the threshold, where a unit is active
        (0.0049, 0.0, [0.5, 0.0], True),
        (0.0051, 0.0, [0.5, 0.0], False),
        (0.0249, 0.1, [0.5, 0.0], True),
        (0.0254, 0.1, [0.5, 0.0], False),
        # or above five times the threshold per unit, where none is
        (0.099, 0.0, [0.0, 0.0], True),
        (0.101, 0.0, [0.0, 0.0], False),
        (0.119, 0.1, [0.0, 0.0], True),
        (0.121, 0.1, [0.0, 0.0], False),
    ],
)
def test_the_rule_of_the_verdict(information, spread, variance, collapsed):
    """The standard error of +- ``spread`` over 100 data is spread / sqrt(99)."""
    result = result_of(information, spread, variance)
    assert result.collapsed == (("z",) if collapsed else ())
    assert ("no site collapsed" in result.verdict) is not collapsed


def test_little_is_less_where_few_data_have_a_site():
    assert result_of(0.00049, 0.0, [0.5, 0.0], share=0.1).collapsed == ("z",)
    assert result_of(0.00051, 0.0, [0.5, 0.0], share=0.1).collapsed == ()


# Any pair


def test_a_guide_that_runs_under_an_outer_plate_with_wrong_densities():
    def first_row_only(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(0.9 * x[:, 0], 0.5))
            pyro.sample("z2", dist.Normal(0.7 * z1.reshape(-1)[: len(x)], 0.6))

    x = torch.randn(30, 1)
    result = diagnostics.collapse(hierarchy, first_row_only, x)
    expected = diagnostics.collapse(hierarchy, bottom_up, x)
    torch.testing.assert_close(result.whole.marginal_kl, expected.whole.marginal_kl)


def test_a_guide_that_does_not_broadcast():
    def flat(x):
        with pyro.plate("data", len(x)):
            scale = SCALES.expand(len(x), 3)
            z = pyro.sample("z", dist.Normal(x + SHIFTS, scale).to_event(1))
            assert z.shape == (len(x), 3)

    def broken(x):
        if len(pyro.poutine.runtime._PYRO_STACK) and any(
            getattr(frame, "name", "") == "latents" for frame in pyro.poutine.runtime._PYRO_STACK
        ):
            raise RuntimeError("no outer plates")
        flat(x)

    x = torch.randn(30, 3)
    found = diagnostics.collapse(gaussian_model, broken, x)
    expected = diagnostics.collapse(gaussian_model, gaussian_guide, x)
    torch.testing.assert_close(found.whole.marginal_kl, expected.whole.marginal_kl)


@pytest.mark.parametrize("event_shape", [(6,), (1, 8, 8)])
def test_conditional_pairs_and_images(event_shape):
    vae = VAE(event_shape, 3, likelihood=likelihoods.Gaussian(), condition=4)
    x, y = torch.randn(60, *event_shape), torch.arange(60) % 4
    guide = guides.BottomUp(vae)
    found = diagnostics.collapse(vae, guide, (x, y)).whole
    again = diagnostics.collapse(
        handlers.scale_latents(vae, 4.0), handlers.scale_latents(guide, 4.0), (x, y)
    ).whole
    assert torch.equal(found.kl, again.kl)
    assert torch.equal(found.marginal_kl, again.marginal_kl)


def test_nothing_changes():
    vae = VAE((6,), 2, likelihood=likelihoods.Bernoulli(), hidden=(4,))
    guide = guides.BottomUp(vae).train()
    grey = data.Dataset(torch.rand(30, 6), binarize="dynamic")
    state = torch.get_rng_state()
    first = diagnostics.collapse(vae, guide, grey)
    assert torch.equal(torch.get_rng_state(), state) and guide.training
    assert str(first) == str(diagnostics.collapse(vae, guide, grey))


@pytest.mark.parametrize(
    ("guide", "x", "options", "message"),
    [
        (guides.Delta, torch.randn(5, 6), {}, "site 'z1': expected a guide with a density"),
        (guides.BottomUp, torch.randn(1, 6), {}, "data: expected at least 2 data"),
        (guides.BottomUp, torch.randn(5, 7), {}, "site 'x': expected shape"),
        (guides.BottomUp, torch.randn(5, 6), {"threshold": 0}, "threshold: expected a positive"),
    ],
)
def test_bad_input(guide, x, options, message):
    vae = VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(4,))
    with pytest.raises(ValueError, match=message):
        diagnostics.collapse(vae, guide(vae), x, **options)


def test_text_html_and_figure_show_the_same():
    vae = VAE((6,), (3, 2), likelihood=likelihoods.Gaussian(), hidden=(4,))
    result = diagnostics.collapse(vae, guides.BottomUp(vae), torch.randn(50, 6))
    text, html = str(result), result.to_html()
    assert text.startswith(result.verdict) and repr(result) == text
    assert f"log N = {math.log(50):.2f}" in text and f"log N = {math.log(50):.2f}" in html
    kl = result.whole.kl
    cell = f"{float(kl.mean()):.2f}"
    assert cell in text and cell in html
    bars, units = result.plot().axes
    heights = [bar.get_height() for bar in bars.patches]
    assert heights[2] == pytest.approx(float(kl.mean()))
    assert [label.get_text() for label in bars.get_xticklabels()] == ["z1", "z2", "all"]
    drawn = units.lines[0].get_ydata()
    assert list(drawn) == sorted(result.units["z1"].variance.tolist(), reverse=True)


# The callback


def warned(every, epochs):
    vae = VAE((6,), (3, 2), likelihood=likelihoods.Gaussian(), hidden=(4,))
    guide = silenced(vae, "z2")
    guide.conditionals["z2"].requires_grad_(False)
    nn.init.normal_(guide.conditionals["z1"].loc.weight, std=5.0)
    trainer = Trainer(vae, guide, lr=1e-6, seed=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        hung = [callbacks.CollapseWarning(every=every)]
        trainer.fit(torch.randn(40, 6), epochs=epochs, callbacks=hung, progress=False)
    return [str(w.message) for w in caught]


def test_the_callback_warns_once_and_only_of_the_collapsed_site():
    (message,) = warned(every=2, epochs=5)
    assert "after epoch 2: z2 " in message and "z1" not in message
    assert "diagnostics.collapse" in message
    assert warned(every=3, epochs=2) == []


def test_the_callback_refuses_nonsense():
    with pytest.raises(ValueError, match="every: expected a whole number of at least 1, got 0"):
        callbacks.CollapseWarning(every=0)
    with pytest.raises(ValueError, match="threshold: expected a positive finite number, got 0"):
        callbacks.CollapseWarning(threshold=0)
