import json
import math
import re
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess
from torch import nn

from pyro_vae import data, diagnostics, guides, handlers, infer, likelihoods
from pyro_vae.models import VAE

X = torch.randn(30, 6, generator=torch.Generator().manual_seed(1))


def pair(latents=(3, 2), likelihood=None, **options):
    likelihood = likelihood or likelihoods.Gaussian()
    vae = VAE((6,), latents, likelihood=likelihood, hidden=(8,), **options)
    return vae, guides.BottomUp(vae)


def quiet(*args, **options):
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        return diagnostics.evaluate(*args, **options)


# The numbers


def test_numbers_are_those_of_the_functions_in_infer():
    model, guide = pair()
    result = quiet(model, guide, X, importance_samples=60)
    terms = infer.elbo_terms(model, guide, X)
    estimate = infer.importance(model, guide, X, samples=60)
    torch.testing.assert_close(result.terms.kl, terms.kl, rtol=0, atol=0)
    assert torch.equal(result.terms.reconstruction, terms.reconstruction)
    assert torch.equal(result.importance.log_likelihood, estimate.log_likelihood)
    assert torch.equal(result.importance.pareto_k, estimate.pareto_k)
    expected = {
        "ELBO": terms.elbo,
        "reconstruction": terms.reconstruction,
        "KL z1": terms.kl["z1"],
        "KL z2": terms.kl["z2"],
        "log p(x)": estimate.log_likelihood,
        "effective sample size": estimate.effective_sample_size,
    }
    found = result.to_dict()
    untrusted = found.pop("Pareto k above 0.7")
    assert untrusted["mean"] == pytest.approx(
        100 * float((estimate.pareto_k > 0.7).float().mean()), abs=1e-5
    )
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name]["mean"] == pytest.approx(float(value.mean()), rel=1e-5)
        error = float(value.std()) / math.sqrt(30)
        assert found[name]["standard_error"] == pytest.approx(error, rel=1e-4)


def test_the_exact_posterior_gives_the_exact_evidence(linear):
    x = linear.data(50)
    result = diagnostics.evaluate(linear.vae, linear.guide(), x, importance_samples=30)
    exact = linear.evidence().log_prob(x)
    torch.testing.assert_close(result.importance.log_likelihood, exact, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(result.terms.elbo, exact, rtol=1e-4, atol=1e-3)
    assert result.untrusted == 0
    assert result.to_dict()["effective sample size"]["mean"] == pytest.approx(30, rel=1e-3)


def test_beta_is_left_out():
    model, guide = pair()
    plain = quiet(model, guide, X)
    scaled = quiet(handlers.scale_latents(model, 4.0), handlers.scale_latents(guide, 4.0), X)
    assert plain.to_dict() == scaled.to_dict()


def test_batches_and_chunks_change_nothing():
    model, guide = pair()
    nn.init.constant_(guide.conditionals["z1"].raw_scale.bias, -20.0)
    whole = quiet(model, guide, X, importance_samples=40)
    parts = quiet(model, guide, X, importance_samples=40, batch_size=7, chunk_size=11)
    torch.testing.assert_close(
        parts.importance.log_likelihood, whole.importance.log_likelihood, rtol=1e-5, atol=1e-4
    )
    assert len(parts.terms.elbo) == 30


def exact_guide_for_nothing(vae):
    """A decoder and a guide of zeros: q(z|x) = p(z), and x does not depend on z."""
    guide = guides.BottomUp(vae)
    head = guide.conditionals["z1"]
    for parameter in [*vae.parameters(), *guide.parameters()]:
        nn.init.zeros_(parameter)
    nn.init.constant_(head.raw_scale.bias, math.log(math.expm1(1 - head.min_scale)))
    return guide


def logistic_bits(level, levels):
    """Bits of one pixel under a logistic of mean 1/2 and scale e^-1.5, by its distribution."""
    step = 1 / (levels - 1)

    def below(x):
        return 1 / (1 + math.exp(-(x - 0.5) / math.exp(-1.5)))

    low = 0 if level == 0 else below(level * step - step / 2)
    high = 1 if level == levels - 1 else below(level * step + step / 2)
    return -math.log2(high - low)


@pytest.mark.parametrize("samples", [0, 20])
@pytest.mark.parametrize(
    ("likelihood", "levels", "bits"),
    [
        (likelihoods.Categorical(4), 4, lambda k: 2.0),
        (likelihoods.Categorical(256), 256, lambda k: 8.0),
        (likelihoods.DiscretizedLogistic(8), 8, lambda k: logistic_bits(k, 8)),
    ],
)
def test_bits_per_dimension_of_a_known_model(likelihood, levels, bits, samples):
    k = torch.randint(levels, (30, 2, 3))
    vae = VAE((2, 3), 2, likelihood=likelihood, hidden=())
    guide = exact_guide_for_nothing(vae)
    result = diagnostics.evaluate(vae, guide, k / (levels - 1), importance_samples=samples)
    name = "-log p(x)" if samples else "-ELBO"
    found = result.to_dict()[name]
    expected = torch.tensor([[bits(v) for v in row] for row in k.flatten(1).tolist()]).mean(1)
    assert found["unit"] == "bits/dim"
    assert found["mean"] == pytest.approx(float(expected.mean()), rel=1e-4)
    assert (found["standard_error"] or 0) == pytest.approx(
        float(expected.std()) / math.sqrt(30), rel=1e-3, abs=1e-6
    )


def test_no_bits_for_densities():
    assert not [row for row in quiet(*pair(), X).rows() if row[3] == "bits/dim"]


def test_without_importance_samples():
    result = diagnostics.evaluate(*pair(), X, importance_samples=0)
    assert result.importance is None and math.isnan(result.untrusted)
    assert list(result.to_dict()) == ["ELBO", "reconstruction", "KL z1", "KL z2"]


def test_a_point_mass_has_neither_a_bound_nor_a_log_likelihood():
    model, _ = pair()
    guide = guides.Delta(model)
    z = guide.encode(X).mean
    result = diagnostics.evaluate(model, guide, X)
    found = {name: row["mean"] for name, row in result.to_dict().items()}
    standard = dist.Normal(0.0, 1.0).log_prob(z["z2"]).sum(-1)
    between = model.conditionals["z1"](z["z2"]).log_prob(z["z1"]).detach()
    p_x = model.decode(z).log_prob(X)
    assert found == {
        "log p(x, z)": pytest.approx(float((p_x + between + standard).mean()), rel=1e-5),
        "reconstruction": pytest.approx(float(p_x.mean()), rel=1e-5),
        "-log p(z1)": pytest.approx(-float(between.mean()), rel=1e-5),
        "-log p(z2)": pytest.approx(-float(standard.mean()), rel=1e-5),
    }
    assert result.importance is None


def test_few_samples_have_no_pareto_k():
    result = diagnostics.evaluate(*pair(), X, importance_samples=5)
    assert "Pareto k above 0.7" not in result.to_dict() and result.untrusted == 0


def test_one_datum_has_no_standard_error():
    result = diagnostics.evaluate(*pair(), X[:1], importance_samples=0)
    assert {row["standard_error"] for row in result.to_dict().values()} == {None}
    assert "+-" not in str(result) and "nan" not in str(result)


def test_labels():
    model, guide = pair(condition=3)
    y = torch.arange(30) % 3
    result = quiet(model, guide, (X, y))
    assert torch.equal(result.terms.elbo, infer.elbo_terms(model, guide, X, y=y).elbo)


def test_dynamic_binarisation_is_one_draw_for_all_numbers():
    """With q(z|x) = p(z) and a decoder blind to z, bound and log p(x) are equal for every x."""
    vae = VAE((6,), 2, likelihood=likelihoods.Bernoulli(), hidden=())
    guide = exact_guide_for_nothing(vae)
    nn.init.normal_(vae.decoder.layers[0].bias)
    grey = data.Dataset(X.sigmoid(), binarize="dynamic")
    result = diagnostics.evaluate(vae, guide, grey)
    torch.testing.assert_close(result.terms.elbo, result.importance.log_likelihood)
    assert result.terms.elbo.unique().numel() > 5


def test_a_pair_of_the_users_own():
    """h ~ N(0, 1), x|h ~ N(h, 1), with the exact posterior N(x / 2, 1/2)."""

    def model(x):
        with pyro.plate("rows", len(x)):
            h = pyro.sample("h", dist.Normal(0.0, 1.0))
            pyro.sample("observed", dist.Normal(h, 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("h", dist.Normal(x[:, 0] / 2, math.sqrt(0.5)))

    found = diagnostics.evaluate(model, guide, X[:, :1]).to_dict()
    exact = float(dist.Normal(0.0, math.sqrt(2)).log_prob(X[:, 0]).mean())
    assert found["log p(x)"]["mean"] == pytest.approx(exact, abs=1e-5)
    assert found["ELBO"]["mean"] == pytest.approx(exact, abs=1e-5)
    assert "KL h" in found


# The table

NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"


def test_print_and_html_show_the_same_numbers():
    x = torch.randint(4, (30, 6)) / 3
    result = quiet(*pair(likelihood=likelihoods.Categorical(4)), x)
    text, html = str(result), result.to_html()
    body = text.splitlines()[1:]
    cells = [
        re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)
    ]
    assert len(body) == len(cells) == len(result.rows()) == 8
    assert text.splitlines()[0] in html
    assert text.startswith("30 data, 100 importance samples; standard errors are over the data")
    for line, (name, mean, error, unit), row in zip(body, cells, result.rows(), strict=True):
        assert line.strip().startswith(row[0]) and name == row[0]
        assert line.endswith(row[3]) and unit == row[3]
        numbers = re.findall(NUMBER, line.removeprefix("  " + row[0]).removesuffix(row[3]))
        assert numbers == [mean, *re.findall(NUMBER, error)]
        assert float(mean) == pytest.approx(row[1], abs=0.006, rel=0.05)
    assert repr(result) == text


def test_names_of_sites_are_escaped_in_html():
    terms = infer.ELBOTerms(torch.zeros(2), {"<z>": torch.ones(2)})
    html = diagnostics.Evaluation(terms, None, dimensions=1).to_html()
    assert "KL &lt;z&gt;" in html and "<z>" not in html


@pytest.mark.parametrize("samples", [0, 5, 30])
def test_to_dict_is_json(samples):
    found = quiet(*pair(), X[:1], importance_samples=samples).to_dict()
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == found


# What evaluation leaves alone, and what it complains about


def test_no_state_changes():
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 6))
    vae = VAE((6,), 2, likelihood=likelihoods.Bernoulli(), decoder=decoder)
    guide = guides.BottomUp(vae)
    vae.eval()
    decoder[2].train()
    modules = [*vae.modules(), *guide.modules()]

    def state():
        return (
            [v.clone() for v in (*vae.state_dict().values(), *guide.state_dict().values())],
            [m.training for m in modules],
            torch.get_rng_state(),
            list(pyro.get_param_store().keys()),
        )

    before = state()
    result = quiet(vae, guide, data.Dataset(X.sigmoid(), binarize="dynamic"))
    torch.testing.assert_close(state(), before, rtol=0, atol=0)
    assert before[3] == []
    assert not result.terms.elbo.requires_grad
    assert not result.importance.log_likelihood.requires_grad
    assert all(p.grad is None for p in vae.parameters())


def test_a_bad_proposal_is_warned_about_at_the_callers_line(linear):
    x = linear.data(40)
    narrow = linear.guide(widen=0.3)
    with pytest.warns(UserWarning, match="log p.x. cannot be trusted") as caught:
        result = diagnostics.evaluate(linear.vae, narrow, x, importance_samples=1000)
    assert len(caught) == 1 and caught[0].filename == __file__
    share = float((result.importance.pareto_k > 0.7).float().mean())
    assert result.untrusted == pytest.approx(share) and share > 0.5
    assert f"weights of {100 * result.untrusted:.0f}% of the data" in str(caught[0].message)


def test_a_good_proposal_is_not_warned_about(linear):
    x = linear.data(40)
    result = diagnostics.evaluate(linear.vae, linear.guide(widen=1.3), x)
    exact = linear.evidence().log_prob(x)
    difference = result.importance.log_likelihood - exact
    error = result.importance.standard_error.square().sum().sqrt() / 40
    assert excess(difference.mean() / error) < 1 and result.untrusted < 0.1


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (
            X,
            {"importance_samples": -1},
            "importance_samples: expected a whole number of at least 0, got -1",
        ),
        (X[:, :5], {}, r"site 'x': expected shape \(n, 6\)"),
        (X[:0], {}, "x: expected at least one datum"),
        (X.log(), {}, "x: expected finite values"),
    ],
)
def test_bad_input(given, options, message):
    with pytest.raises(ValueError, match=message):
        diagnostics.evaluate(*pair(), given, **options)


def test_a_point_mass_has_a_joint_density_and_no_bound():
    vae = VAE((6,), latents=2, likelihood=likelihoods.Gaussian(), hidden=(4,))
    guide, x = guides.Delta(vae), torch.randn(5, 6)
    numbers = diagnostics.evaluate(vae, guide, x).to_dict()
    z = guide.encode(x).mean["z1"]
    joint = vae.decode(z).log_prob(x) + dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    assert set(numbers) == {"log p(x, z)", "reconstruction", "-log p(z1)"}
    assert numbers["log p(x, z)"]["mean"] == pytest.approx(float(joint.mean()), rel=1e-5)
