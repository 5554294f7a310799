import copy
import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn

from pyro_vae import data, guides, infer, likelihoods
from pyro_vae.infer import GuideComparison, GuideResult, compare_guides
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


# Paired differences


def blind(x, y=None):
    """A guide that does not look at the data."""
    with pyro.plate("data", len(x)):
        pyro.sample("z1", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))


@pytest.mark.parametrize("samples", [1, 3])
def test_differences_and_their_errors_are_those_of_a_closed_form(linear, samples):
    n = 4000
    x = linear.data(n)
    guides = {"blind": blind, "exact": linear.guide()}
    found = compare_guides(linear.vae, guides, x, samples=samples, importance_samples=0)
    row = found.to_dict()["blind"]
    # With the posterior N(m, s^2) of a unit, m ~ N(0, 1 - s^2), and draws e_k ~ N(0, 1) of the
    # blind guide, the difference is mean_k (e_k^2 - (e_k - m)^2 / s^2) / 2 - log s: a quadratic
    # form in normals, of which all cumulants are known
    mean, cumulants = 0.0, torch.zeros(2)
    for s in linear.posterior(x)[1].tolist():
        form = torch.eye(samples + 1) * (1 - s**-2) / (2 * samples)
        form[:, -1] = form[-1, :] = s**-2 / (2 * samples)
        form[-1, -1] = -(s**-2) / 2
        form = form @ torch.diag(torch.tensor([1.0] * samples + [1 - s**2]))
        mean += float(form.trace()) - math.log(s)
        power = form @ form
        cumulants += torch.stack([2 * power.trace(), 48 * (power @ power).trace()])
    variance, fourth = cumulants.tolist()
    measured = row["ELBO - best"]
    assert found.tightest == "exact"
    assert excess((measured["mean"] - mean) / math.sqrt(variance / n)) < 1
    error_of_variance = math.sqrt((fourth + 2 * variance**2) / n)
    assert excess((n * measured["standard_error"] ** 2 - variance) / error_of_variance) < 1
    of_data = linear.reconstruction(
        x, torch.zeros(n, 2), torch.ones(2)
    ) - linear.evidence().log_prob(x)
    difference = found.difference("blind")
    assert excess((difference - of_data).mean() / measured["standard_error"]) < 1


def test_a_clear_difference_of_bounds_whose_errors_overlap(linear):
    x = linear.data(400)
    guides = {"exact": linear.guide(), "shifted": linear.guide(shift=0.12, widen=1.05)}
    found = compare_guides(linear.vae, guides, x, samples=20, importance_samples=0)
    exact, shifted = (found.to_dict()[name] for name in guides)
    apart = exact["ELBO"]["mean"] - shifted["ELBO"]["mean"]
    assert 0 < apart < exact["ELBO"]["standard_error"]
    paired = shifted["ELBO - best"]
    assert paired["mean"] + 4 * paired["standard_error"] < 0
    assert paired["mean"] == pytest.approx(-apart, abs=1e-4)
    # E log p(z|x) - log q(z) of z ~ q, the same for all data
    sd = linear.precision.rsqrt()
    kl = float(((1.05**2 + (0.12 / sd) ** 2 - 1) / 2 - math.log(1.05)).sum())
    assert excess((paired["mean"] + kl) / paired["standard_error"]) < 1


def test_all_guides_start_at_the_same_random_numbers():
    vae, first = pair()
    found = compare_guides(vae, {"a": first, "b": lambda x: first(x)}, X, importance_samples=0)
    assert found.tightest == "a" and found.difference("b").count_nonzero() == 0
    assert found.rows()[2][2] == "0.00 +- 0.00"


def test_what_is_compared_with_what(linear):
    x = linear.data(50)
    guides = {"a": linear.guide(shift=0.5), "b": linear.guide(), "c": linear.guide(widen=2.0)}
    found = compare_guides(linear.vae, guides, x, samples=20, importance_samples=5)
    bounds = {n: infer.elbo_terms(linear.vae, g, x, samples=20).elbo for n, g in guides.items()}
    for name in guides:
        for other in guides:
            expected = bounds[name] - bounds[other]
            assert torch.equal(found.difference(name, other), expected)
        assert torch.equal(found.difference(name), bounds[name] - bounds["b"])
    row = found.to_dict()
    assert row["b"]["ELBO - best"] == {"mean": 0.0, "standard_error": None}
    expected = (bounds["c"] - bounds["b"]).std() / math.sqrt(50)
    assert row["c"]["ELBO - best"]["standard_error"] == pytest.approx(float(expected), rel=1e-4)
    head, *rows = found.rows()
    assert head[:4] == ["guide", "ELBO", "ELBO - best", "log p(x)"]
    assert [r[2] == "best" for r in rows] == [False, True, False]
    assert str(found).startswith("50 data, nats per datum, 20 draws of the ELBO, 5 importance")
    assert "<td>best</td>" in found.to_html() and json.loads(json.dumps(row)) == row


def test_picture_of_differences(linear):
    x = linear.data(50)
    guides = {"a": linear.guide(shift=0.5), "b": linear.guide()}
    found = compare_guides(linear.vae, guides, x, importance_samples=0)
    _, differences, _, _ = found.plot().axes
    row = found.to_dict()["a"]["ELBO - best"]
    (line, _, bars) = differences.containers[0]
    assert list(line.get_xdata()) == [row["mean"], 0.0]
    (low, _), (high, _) = bars[0].get_segments()[0]
    assert high - low == pytest.approx(2 * row["standard_error"])
    label = f"{row['mean']:.2f} ± {row['standard_error']:.2f}"
    assert [text.get_text() for text in differences.texts] == [label, "0.00"]


def test_one_datum_and_point_masses():
    vae, first = pair()
    built = {"map": guides.Delta(vae), "a": first, "b": guides.BottomUp(vae, hidden=())}
    found = compare_guides(vae, built, X[:1], importance_samples=5)
    assert found.tightest in "ab" and found.difference("map").isnan().all()
    assert found.difference("a", "map").isnan().all()
    row = found.to_dict()
    assert "ELBO - best" not in row["map"]
    (other,) = {"a", "b"} - {found.tightest}
    assert row[other]["ELBO - best"]["standard_error"] is None and "nan" not in str(found)
    alone = compare_guides(vae, {"map": built["map"], "a": first}, X, importance_samples=0)
    assert "ELBO - best" not in str(alone) and len(alone.plot().axes) == 3


class Program(nn.Module):
    """x2 ~ N(z + gain x1, 1) of z ~ N(0, 1), with the exact guide as a method."""

    def model(self, x1, x2, gain):
        with pyro.plate("rows", len(x1)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x1)), 1.0))
            pyro.sample("x2", dist.Normal(z + gain * x1, 1.0), obs=x2)

    def guide(self, x1, x2, gain):
        with pyro.plate("rows", len(x1)):
            pyro.sample("z", dist.Normal((x2 - gain * x1) / 2, math.sqrt(0.5)))


def shifted_guide(x1, x2, gain):
    with pyro.plate("rows", len(x1)):
        pyro.sample("z", dist.Normal((x2 - gain * x1) / 2 + 0.4, math.sqrt(0.5)))


def test_a_mixed_list_of_guides_of_a_program_with_arguments():
    program, n = Program(), 400
    columns, constants = {"x1": torch.randn(n), "x2": torch.randn(n)}, {"gain": 0.3}
    auto = AutoNormal(program.model)
    auto(**columns, **constants)
    mean = (columns["x2"] - 0.3 * columns["x1"]) / 2
    with torch.no_grad():
        auto.locs.z.copy_(mean)
    auto.scales.z = torch.full((n,), math.sqrt(0.5))
    guides = {
        "function": shifted_guide,
        "method": program.guide,
        "auto": auto,
        "point": AutoDelta(program.model),
    }
    guides["point"](**columns, **constants)
    found = compare_guides(
        program.model, guides, columns, arguments=constants, importance_samples=5, batch_size=100
    )
    evidence = dist.Normal(0.3 * columns["x1"], math.sqrt(2)).log_prob(columns["x2"])
    torch.testing.assert_close(found["method"].terms.elbo, evidence, atol=1e-4, rtol=0)
    assert found.difference("auto", "method").abs().max() < 1e-4
    assert found.difference("point").isnan().all()
    # log p(z|x) - log q(z|x) of z = mean + 0.4 + e sqrt(1/2)
    error = 0.4 * math.sqrt(2 / n)
    difference = found.difference("function", "method")
    assert excess((difference.mean() + 0.4**2) / error) < 1
    row = found.to_dict()["function"]["ELBO - best"]
    assert row["standard_error"] == pytest.approx(error, rel=6 / math.sqrt(2 * n))


class Scaled(PyroModule):
    """A guide whose parameter Pyro keeps in its store."""

    def __init__(self):
        super().__init__()
        self.scale = PyroParam(torch.ones(2), torch.distributions.constraints.positive)

    def forward(self, x, y=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(torch.zeros(len(x), 2), self.scale).to_event(1))


def test_guides_that_pyro_keeps_stay_as_they_were():
    vae, store = pair(2)[0], pyro.get_param_store()
    parts = AutoGuideList(vae.forward)
    parts.append(AutoNormal(vae))
    built = {"auto": AutoNormal(vae), "list": parts, "module": Scaled()}
    for guide in built.values():
        guide(X)
    stored = {name: (p, p.detach().clone()) for name, p in store.named_parameters()}
    found = compare_guides(vae, built, X, importance_samples=5)
    assert all(result.milliseconds > 0 for result in found.values())
    assert store.keys() == stored.keys()
    for name, parameter in store.named_parameters():
        own, value = stored[name]
        assert parameter is own and torch.equal(parameter, value)
    for guide in (built["auto"], parts, parts[0]):
        assert guide.model is not None
    assert parts[0].master() is parts


def shared_model(x):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(w, 1.0), obs=x)


def test_latents_that_all_data_share():
    x, samples = torch.randn(40) + 1, 200
    sd = 41**-0.5

    def exact(x):
        pyro.sample("w", dist.Normal(x.sum() / 41, sd))

    def shifted(x):
        pyro.sample("w", dist.Normal(x.sum() / 41 + sd, sd))

    built = {"exact": exact, "shifted": shifted}
    with pytest.raises(ValueError, match=r"site 'w'.*importance_samples=0"):
        compare_guides(shared_model, built, x)
    found = compare_guides(shared_model, built, x, samples=samples, importance_samples=0)
    assert found.best is None and found.tightest == "exact" and found.gap("exact").isnan().all()
    # Of the data set: -(1 + e)^2 / 2 + e^2 / 2 of the draws e ~ N(0, 1)
    assert excess((40 * found.difference("shifted").mean() + 0.5) * math.sqrt(samples)) < 1
    assert found.to_dict()["exact"]["KL w"]["standard_error"] is None
    assert str(found).endswith("w: drawn once for all data, noise that is in no standard error")


def test_bounds_that_are_infinite_are_told():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.factor("positive", torch.where(z > 0, 0.0, -math.inf))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def normal(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    def positive(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.HalfNormal(torch.ones(len(x))))

    found = compare_guides(model, {"normal": normal, "+": positive}, X[:, 0], importance_samples=5)
    lost = int(found["normal"].terms.elbo.isinf().sum())
    assert 0 < lost < 30 and found.tightest == "+"
    assert str(found).endswith(f"normal: the bound is NaN or infinite for {lost} of 30 data")
    assert found.rows()[1][1:3] == ["-inf", "-inf"] and found.rows()[2][2] == "best"
    found.plot().canvas.draw()
    nan = GuideResult(infer.ELBOTerms(torch.full((30,), math.nan), {}), None, math.nan)
    one, *others = GuideComparison({"nan": nan, **found.results}, 30).rows()[1:]
    assert one[1:3] == ["nan", "-"] and [r[2] for r in others] == ["-inf", "best"]
    alone = compare_guides(model, {"normal": normal, "again": normal}, X[:, 0])
    assert alone.tightest is None and "ELBO - best" not in str(alone)


@pytest.mark.parametrize(
    ("built", "options", "message"),
    [
        ({}, {}, "guides: expected a mapping"),
        ([guides.BottomUp], {}, "guides: expected a mapping"),
        ("other", {}, "guide: it was built for another model"),
        (
            None,
            {"importance_samples": -1},
            "importance_samples: .* whole number of at least 0",
        ),
        (None, {"samples": 0}, "samples: .* whole number of at least 1"),
    ],
)
def test_bad_arguments(built, options, message):
    vae, guide = pair()
    built = {"a": pair(2)[1]} if built == "other" else ({"a": guide} if built is None else built)
    with pytest.raises(ValueError, match=message):
        compare_guides(vae, built, X, **options)
