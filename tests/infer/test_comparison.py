import copy
import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess
from torch import nn

from pyro_vae import data, guides, infer, likelihoods
from pyro_vae.infer import compare_guides
from pyro_vae.models import VAE

X = torch.randn(30, 6, generator=torch.Generator().manual_seed(1))


def pair(latents=(3, 2), **options):
    vae = VAE((6,), latents, likelihood=likelihoods.Gaussian(), hidden=(8,), **options)
    return vae, guides.BottomUp(vae)


def test_against_the_closed_forms_of_a_linear_gaussian_model(linear):
    x = linear.data(400)
    built = {"exact": linear.guide(), "shifted": linear.guide(shift=0.4, widen=1.3)}
    found = compare_guides(linear.vae, built, x, importance_samples=5)
    evidence = linear.evidence().log_prob(x)
    assert found.best == "exact"
    torch.testing.assert_close(
        found["exact"].importance.log_likelihood, evidence, atol=2e-4, rtol=1e-4
    )
    assert found.gap("exact").abs().max() < 1e-3
    for name, guide in built.items():
        exact = float((evidence - linear.bound(guide, x)).mean())
        row = found.to_dict()[name]["inference gap"]
        assert excess((row["mean"] - exact) / (row["standard_error"] + 1e-4)) < 1
    mean, sd = linear.posterior(x)
    kl = float(linear.kl(mean, sd).mean())
    row = found.to_dict()["exact"]["KL z1"]
    assert excess((row["mean"] - kl) / row["standard_error"]) < 1


def test_numbers_are_those_of_the_functions_in_infer():
    vae, first = pair()
    second = guides.BottomUp(vae, hidden=())
    found = compare_guides(vae, {"a": first, "b": second}, X, importance_samples=50)
    for name, guide in (("a", first), ("b", second)):
        terms = infer.elbo_terms(vae, guide, X)
        torch.testing.assert_close(found[name].terms.elbo, terms.elbo, rtol=0, atol=0)
        assert sorted(found[name].terms.kl) == ["z1", "z2"]
        row = found.to_dict()[name]
        assert row["ELBO"]["mean"] == pytest.approx(float(terms.elbo.mean()), rel=1e-5)
        error = float(terms.elbo.std()) / math.sqrt(30)
        assert row["ELBO"]["standard_error"] == pytest.approx(error, rel=1e-4)
    best = max(found.values(), key=lambda r: float(r.importance.log_likelihood.mean()))
    assert found[found.best] is best
    for name in "ab":
        expected = best.importance.log_likelihood - found[name].terms.elbo
        torch.testing.assert_close(found.gap(name), expected)


class Noisy(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))


def test_nothing_changes():
    vae, first = pair()
    second = guides.BottomUp(vae, encoder=Noisy())
    vae.decoder.eval()
    first.conditionals["z1"].loc.weight.requires_grad_(False)
    programs = (vae, first, second)
    before = copy.deepcopy(programs)
    modes = [m.training for p in programs for m in p.modules()]
    store = dict(pyro.get_param_store().get_state()["params"])
    state = torch.get_rng_state()
    d = data.Dataset(X.sigmoid(), binarize="dynamic")
    found = compare_guides(vae, {"a": first, "b": second}, d, importance_samples=5)
    assert all(result.milliseconds > 0 for result in found.values())
    assert torch.equal(torch.get_rng_state(), state)
    assert modes == [m.training for p in programs for m in p.modules()]
    assert pyro.get_param_store().get_state()["params"] == store
    for program, old in zip(programs, before, strict=True):
        for a, b in zip(program.state_dict().values(), old.state_dict().values(), strict=True):
            assert torch.equal(a, b)
        for a, b in zip(program.parameters(), old.parameters(), strict=True):
            assert a.grad is None and a.requires_grad is b.requires_grad


class Slow(nn.Identity):
    def forward(self, x):
        import time

        time.sleep(0.01)
        return x


def test_time_is_that_of_a_training_step():
    vae, first = pair(2)
    slow = guides.BottomUp(vae, encoder=nn.Sequential(Slow(), nn.Linear(6, 8)))
    found = compare_guides(vae, {"fast": first, "slow": slow}, X, importance_samples=1)
    assert found["slow"].milliseconds > 10
    assert found["slow"].milliseconds > found["fast"].milliseconds
    assert found.batch_size == 30


def test_a_point_mass_has_no_bound_and_no_gap():
    vae, first = pair()
    found = compare_guides(vae, {"a": first, "map": guides.Delta(vae)}, X, importance_samples=5)
    assert found["map"].importance is None and found.gap("map").isnan().all()
    assert sorted(found.to_dict()["map"]) == [
        "-log p(z1)",
        "-log p(z2)",
        "log p(x, z)",
        "ms per step",
    ]
    alone = compare_guides(vae, {"map": guides.Delta(vae)}, X)
    assert alone.best is None and "importance samples" not in str(alone)


def test_functions_and_frozen_pairs_are_not_timed():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z[:, None].expand(-1, 6), 1.0).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc.expand(len(x)), 1.0))

    pyro.param("loc", torch.zeros(()))
    found = compare_guides(model, {"mine": guide}, X, importance_samples=5)
    assert math.isnan(found["mine"].milliseconds) and "ms per step" not in str(found)
    assert float(pyro.param("loc").detach()) == 0.0
    vae, first = pair()
    for parameter in (*vae.parameters(), *first.parameters()):
        parameter.requires_grad_(False)
    found = compare_guides(vae, {"frozen": first}, X, importance_samples=5)
    assert math.isnan(found["frozen"].milliseconds)


def test_tables():
    vae, first = pair()
    built = {"a < b": first, "map": guides.Delta(vae)}
    found = compare_guides(vae, built, X, importance_samples=5)
    text, page = str(found), found.to_html()
    assert repr(found) == text
    head = found.rows()[0]
    assert head[:4] == ["guide", "ELBO", "log p(x)", "inference gap"]
    assert head[4:6] == ["KL z1", "KL z2"] and head[-1] == "ms per step"
    assert text.startswith("30 data, nats per datum, 5 importance samples; standard errors")
    value = found.to_dict()["a < b"]["ELBO"]
    cell = f"{value['mean']:.2f} +- {value['standard_error']:.2f}"
    assert cell in text and cell.replace("+-", "&plusmn;") in page
    assert "<td>a &lt; b</td>" in page and page.count("<tr>") == 3
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()
    assert list(found) == list(built) and len(found) == 2


def test_picture():
    vae, first = pair()
    built = {"bottom-up": first, "map": guides.Delta(vae)}
    found = compare_guides(vae, built, X, importance_samples=5)
    bounds, kl, times = found.plot().axes
    assert [label.get_text() for label in bounds.get_yticklabels()] == list(built)
    drawn = {c.get_label(): c for c in bounds.containers}
    row = found.to_dict()["bottom-up"]
    for quantity in ("ELBO", "log p(x)"):
        assert list(drawn[quantity][0].get_xdata()) == [pytest.approx(row[quantity]["mean"])]
    widths = {c.get_label(): [p.get_width() for p in c] for c in kl.containers}
    assert widths == {s: [pytest.approx(max(0, row[f"KL {s}"]["mean"])), 0] for s in ("z1", "z2")}
    assert [p.get_width() for p in times.containers[0]] == [
        pytest.approx(found[name].milliseconds) for name in built
    ]


def test_labels_and_one_datum():
    vae, guide = pair(2, condition=3)
    y = torch.arange(30) % 3
    found = compare_guides(vae, {"a": guide}, (X, y), importance_samples=5)
    expected = infer.elbo_terms(vae, guide, X, y=y).elbo
    torch.testing.assert_close(found["a"].terms.elbo, expected, rtol=0, atol=0)
    one = compare_guides(vae, {"a": guide}, (X[:1], y[:1]), importance_samples=5)
    assert one.to_dict()["a"]["ELBO"]["standard_error"] is None and "nan" not in str(one)


@pytest.mark.parametrize(
    ("built", "options", "message"),
    [
        ({}, {}, "guides: expected a mapping"),
        ([guides.BottomUp], {}, "guides: expected a mapping"),
        ("other", {}, "guide: it was built for another model"),
        (
            None,
            {"importance_samples": 0},
            "importance_samples: .* whole number of at least 1",
        ),
    ],
)
def test_bad_arguments(built, options, message):
    vae, guide = pair()
    built = {"a": pair(2)[1]} if built == "other" else ({"a": guide} if built is None else built)
    with pytest.raises(ValueError, match=message):
        compare_guides(vae, built, X, **options)
