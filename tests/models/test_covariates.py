"""A VAE that is told classes, numbers and an exposure of each datum."""

import math

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch.distributions import MultivariateNormal, Normal, Poisson
from torch.utils.data import DataLoader

from pyro_vae import Trainer, data, diagnostics, guides, handlers, infer, load, priors
from pyro_vae.likelihoods import (
    Gaussian,
    Mixed,
    Multinomial,
    NegativeBinomial,
    ZeroInflated,
)
from pyro_vae.likelihoods import Poisson as Counts
from pyro_vae.models import VAE, Covariates

N = 24
NAMES = {"classes": {"site": 3, "sex": 2}, "numbers": ("age", "dose"), "offset": True}


def told(n=N):
    """Labels of several kinds."""
    return {
        "site": torch.arange(n) % 3,
        "sex": torch.arange(n) // 3 % 2,
        "age": torch.randn(n),
        "dose": torch.rand(n),
        "exposure": torch.rand(n) + 0.5,
    }


def counts(n=N):
    return torch.poisson(torch.full((n, 4), 2.0))


def counting(latents=(3, 2), noise=None, given=None, **options):
    given = Covariates(**NAMES) if given is None else given
    noise = noise or Counts()
    return VAE((4,), latents, likelihood=noise, hidden=(6,), condition=given, **options)


def fitted(vae, guide, x, *, epochs=3, **options):
    trainer = Trainer(vae, guide, seed=0, **options)
    return trainer.fit(x, epochs=epochs, batch_size=8, progress=False)


@pytest.mark.parametrize("family", [guides.BottomUp, guides.Ladder], ids=lambda f: f.__name__)
def test_classes_alone_are_the_conditional_model_to_the_bit(family):
    x, y = torch.randn(N, 4), torch.arange(N) % 3
    runs = []
    for condition, labels in ((3, y), (Covariates(classes=3), {"classes": y})):
        pyro.set_rng_seed(0)
        vae = VAE((4,), (3, 2), likelihood=Gaussian(), hidden=(6,), condition=condition)
        trainer = fitted(vae, family(vae), (x, labels))
        runs.append((trainer.history[-1]["elbo"], vae.sample(N, y=labels)))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])


def linear(given, weights, bias):
    """x ~ N(W z + B features, s^2), z ~ N(0, I), as a VAE."""
    vae = VAE((3,), 2, likelihood=Gaussian(sigma=0.5), hidden=(), condition=given)
    last = [m for m in vae.decoder.modules() if isinstance(m, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight.copy_(torch.cat([weights, bias], 1))
        last.bias.zero_()
    return vae


def test_evidence_of_a_linear_model_given_numbers_and_a_class():
    given = Covariates(classes=2, numbers=2, loc=[1.0, -2.0], scale=[2.0, 0.5])
    weights, bias = torch.randn(3, 2), torch.randn(3, 4)
    vae = linear(given, weights, bias)
    y = {"classes": torch.tensor([0, 1, 1]), "numbers": torch.randn(3, 2)}
    x = torch.randn(3, 3)
    standard = (y["numbers"] - torch.tensor([1.0, -2.0])) / torch.tensor([2.0, 0.5])
    seen = torch.cat([torch.nn.functional.one_hot(y["classes"], 2), standard], 1)
    covariance = weights @ weights.T + 0.25 * torch.eye(3)
    expected = MultivariateNormal(seen @ bias.T, covariance).log_prob(x)
    # The prior as a guide is wide enough for a small model
    guide = guides.BottomUp(vae)
    found = infer.importance(vae, guide, x, y=y, samples=60_000, progress=False).log_likelihood
    torch.testing.assert_close(found, expected, atol=0.15, rtol=0)


def test_evidence_of_a_poisson_log_normal_with_exposure_by_quadrature():
    vae = VAE((1,), 1, likelihood=Counts(), hidden=(), condition=Covariates(offset=True))
    with torch.no_grad():
        for p in vae.decoder.parameters():
            p.fill_(0.7)
    exposure, x = torch.tensor([0.5, 4.0, 60.0]), torch.tensor([[1.0], [7.0], [150.0]])
    z = torch.linspace(-9, 9, 20_001).double()
    rate = exposure.double() * (0.7 * z[:, None] + 0.7).exp()
    density = Poisson(rate).log_prob(x[:, 0].double()) + Normal(0.0, 1.0).log_prob(z)[:, None]
    expected = density.logsumexp(0) + math.log(18 / 20_000)
    guide = guides.BottomUp(vae)
    trainer = Trainer(vae, guide, lr=0.03, seed=0)
    with torch.no_grad():
        for p in vae.parameters():
            p.requires_grad_(False)
    trainer.fit((x, {"exposure": exposure}), epochs=400, progress=False)
    y = {"offset": exposure.log()}
    found = infer.importance(vae, guide, x, y=y, samples=20_000, progress=False).log_likelihood
    torch.testing.assert_close(found.double(), expected, atol=0.03, rtol=0)


LIKELIHOODS = {
    "poisson": Counts,
    "negative binomial": NegativeBinomial,
    "predicted": lambda: NegativeBinomial("predicted"),
    "zero-inflated": lambda: ZeroInflated(NegativeBinomial("predicted")),
    "multinomial": lambda: Multinomial(total=8),
    "mixed": lambda: Mixed([((0, 1), Counts()), ((2, 3), NegativeBinomial("predicted"))]),
}


@pytest.mark.parametrize("noise", LIKELIHOODS.values(), ids=LIKELIHOODS)
@pytest.mark.parametrize("particles", [(), (5,)], ids=["rows", "samples"])
def test_rates_scale_with_the_exposure(noise, particles):
    vae = counting(noise=noise(), given=Covariates(offset=True))
    z = {"z1": torch.randn(*particles, N, 3)}
    one, several = torch.ones(N), torch.arange(1.0, N + 1)
    plate = pyro.plate("samples", 5, dim=-2) if particles else pyro.plate("none", 1, dim=-2)

    def mean(exposure):
        model = pyro.poutine.condition(vae, data=z | {"z2": torch.zeros(*particles, N, 2)})
        with plate, torch.no_grad():
            return pyro.poutine.trace(model).get_trace(size=N, y={"exposure": exposure})

    means = [mean(e).nodes["x"]["fn"].mean for e in (one, several)]
    torch.testing.assert_close(means[1], means[0] * several[:, None].expand_as(means[0]))


def test_guides_see_the_exposure_and_decoders_do_not():
    vae, y = counting(given=Covariates(offset=True)), told()
    guide = guides.BottomUp(vae)
    x, more = counts(), 3 * y["exposure"]
    once, again = (guide.encode(x, y={"exposure": e}).mean["z1"] for e in (y["exposure"], more))
    assert not torch.allclose(once, again)
    assert vae.conditionals["z1"](torch.zeros(1, 2)).mean.shape == (1, 3)
    assert "p(z1|z2)" in repr(vae) and "p(x|z1,y)" in repr(vae)


EVERY = {
    "bottom-up": guides.BottomUp,
    "ladder": guides.Ladder,
    "full": guides.FullCovariance,
    "flow": guides.Flow,
    "delta": guides.Delta,
    "semi-amortised": lambda vae: guides.SemiAmortized(guides.BottomUp(vae)),
    "composed": lambda vae: guides.Composed(
        guides.BottomUp(vae, sites=["z1"]), guides.BottomUp(vae, sites=["z2"])
    ),
}


@pytest.mark.parametrize("family", EVERY.values(), ids=EVERY)
def test_every_guide_trains_is_evaluated_and_kept(family, tmp_path):
    vae, x, y = counting(), counts(), told()
    guide, d = family(vae), data.Dataset(x, y)
    trainer = fitted(vae, guide, d)
    if family is not guides.Delta:
        diagnostics.evaluate(vae, guide, d, importance_samples=0)
    trainer.save(tmp_path / "pair.pt")
    other = load(tmp_path / "pair.pt")
    found = [infer.reconstruct(t.model, t.guide, x, y=y) for t in (trainer, other)]
    assert torch.equal(*found)


def test_a_graph_is_what_eager_is():
    x, y, runs = counts(), told(), []
    for engine in ("eager", "graph"):
        pyro.set_rng_seed(0)
        vae = counting()
        trainer = fitted(vae, guides.BottomUp(vae), (x, y), epochs=4, engine=engine)
        runs.append(trainer.history[-1]["elbo"])
    assert runs[0] == runs[1]


def test_every_form_of_data_gives_the_same():
    x, y, runs = counts(), told(), []
    d = data.Dataset(x, y)
    for form in ((x, y), {"x": x, "y": y}, d, DataLoader(d, batch_size=N)):
        pyro.set_rng_seed(0)
        vae = counting()
        trainer = Trainer(vae, guides.BottomUp(vae), seed=0)
        runs.append(trainer.fit(form, epochs=2, progress=False).history[-1]["elbo"])
    assert runs[1:3] == runs[:1] * 2
    # A loader draws from the same stream of random numbers
    assert runs[3] == pytest.approx(runs[0], rel=0.02)


def test_stock_pyro_and_a_guide_of_ones_own():
    vae, x, y = counting(latents=2), counts(), told()
    seen = []

    def guide(x, y=None):
        seen.append(y["age"].shape)
        scale = pyro.param("scale", torch.tensor(1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z1", pyro.distributions.Normal(torch.zeros(len(x), 2), scale).to_event(1))

    svi = SVI(vae, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    assert svi.step(x, y=y) > svi.step(x, y=y) or svi.step(x, y=y) > 0
    Trainer(vae, guide, engine="eager").fit((x, y), epochs=1, progress=False)
    ours = infer.SVI(vae, guides.BottomUp(vae), torch.optim.Adam)
    assert ours.step(x, y=y).isfinite()
    assert {*seen} == {(N,)}


def test_checkpoints_go_on_to_the_same_numbers(tmp_path):
    d = data.Dataset(counts(), told())

    def trainer():
        pyro.set_rng_seed(0)
        vae = counting()
        return Trainer(vae, guides.BottomUp(vae), seed=0)

    whole = trainer().fit(d, epochs=4, batch_size=8, progress=False)
    trainer().fit(d, epochs=2, batch_size=8, progress=False, checkpoint=tmp_path / "run")
    other = Trainer.resume(tmp_path / "run").fit(d, epochs=4, batch_size=8, progress=False)
    assert other.history[-1]["elbo"] == whole.history[-1]["elbo"]
    changed = data.Dataset(d.x, {**told(), "age": torch.zeros(N)})
    with pytest.raises(ValueError, match="data: labels: expected"):
        Trainer.resume(tmp_path / "run").fit(changed, epochs=5, progress=False)


def test_estimates_of_evidence_agree():
    vae, d = counting(latents=2), data.Dataset(counts(), told())
    guide = guides.BottomUp(vae)
    fitted(vae, guide, d, epochs=200, lr=0.02)
    few = {"x": d.x[:6], "y": d.y[:6]}
    by_weights = infer.importance(vae, guide, **few, samples=20_000, progress=False)
    by_annealing = infer.annealed(vae, guide, **few, temperatures=100, seed=0, progress=False)
    found = [e.log_likelihood.float() for e in (by_weights, by_annealing)]
    torch.testing.assert_close(*found, atol=0.2, rtol=0)


def test_missing_values_and_a_prior_of_the_aggregate():
    x, y = counts(), told()
    vae = counting(latents=2)
    prior = priors.AggregatePosterior(2)
    guide = guides.BottomUp(vae)
    prior.fit(vae, guide, data.Dataset(x, y))
    assert vae.sample(N, y=y, prior=prior).shape == (N, 4)
    x[0, 0] = torch.nan
    model = handlers.missing(vae)
    assert math.isfinite(fitted(model, guides.BottomUp(model), (x, y)).history[-1]["elbo"])


def test_numbers_are_standardised_by_data_and_kept(tmp_path):
    y = told() | {"age": 40 + 12 * torch.randn(N)}
    given = Covariates.standardized(data.Dataset(counts(), y))
    assert given.classes == NAMES["classes"] and given.numbers.keys() == {"age", "dose"}
    seen = given.features(given.columns(y))[:, -2:]
    torch.testing.assert_close(seen.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std(0, correction=0), torch.ones(2))
    exposed = given.seen(given.columns(y))[:, -1]
    torch.testing.assert_close(exposed.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    vae = counting(given=given)
    Trainer(vae, guides.BottomUp(vae)).save(tmp_path / "model.pt")
    other = load(tmp_path / "model.pt").model
    assert torch.equal(other.condition.loc, given.loc)
    assert torch.equal(other.condition.scale, given.scale)
    assert repr(other) == repr(vae)


def test_one_for_all_and_a_row_for_each():
    vae, y = counting(), told()
    z = {"z1": torch.randn(N, 3), "z2": torch.randn(N, 2)}
    same = {name: value[:1].expand(N) for name, value in y.items()}
    one = {name: value[0] for name, value in y.items()}
    means = [
        vae.decode(z, y=labels).mean for labels in (same, one, {k: v[:1] for k, v in y.items()})
    ]
    assert torch.equal(means[0], means[1]) and torch.equal(means[0], means[2])
    column = {name: value[:, None] for name, value in y.items()}
    assert torch.equal(vae.decode(z, y=column).mean, vae.decode(z, y=y).mean)
    assert vae(y=y).shape == (N, 4)


def test_a_dataset_holds_them_by_row():
    y = told() | {"site": ["b", "a", "c"] * (N // 3)}
    d = data.Dataset(counts(), y)
    assert d.names == {"site": ("a", "b", "c")}
    assert torch.equal(d[5:8].y["age"], y["age"][5:8])
    assert d[4][1]["site"] == 0 and d.batch(torch.tensor([4, 0]))[1]["site"].tolist() == [0, 1]
    assert (
        repr(d) == f"Dataset({N} x (4,), labels=(site, sex, age, dose, exposure), binarize=None)"
    )
    plain = VAE((4,), 2, likelihood=Counts(), hidden=(6,))
    assert math.isfinite(fitted(plain, guides.BottomUp(plain), d).history[-1]["elbo"])


def test_columns_of_a_file(tmp_path):
    lines = [f"{'RB'[i % 2]},{20 + i},{100 + 10 * i},{i},{3 + i % 4}" for i in range(20)]
    (tmp_path / "t.csv").write_text("\n".join(["site,age,total,a,b", *lines]))
    d = data.load(tmp_path / "t.csv", labels=["site"], numbers=["age"], exposure="total")
    assert [column.name for column in d.columns] == ["a", "b"]
    assert d.labels == {"site": ("B", "R")}
    given = Covariates.standardized(d.train)
    assert repr(given) == "Covariates(site: one of 2, age, exposure)"
    x, y = d.train.x, d.train.y
    assert torch.equal(y["exposure"], 100 + 10 * x[:, 0])
    assert torch.equal(y["age"], 20 + x[:, 0]) and torch.equal(y["site"], 1 - x[:, 0].long() % 2)
    rates = Counts.standardized(x, offset=y["exposure"].log())
    torch.testing.assert_close(
        rates.loc.exp(), (x.sum(0) + 0.5) / y["exposure"].sum(), rtol=1e-4, atol=0
    )


BAD = {
    "a class out of range": ({"site": torch.full((N,), 3)}, r"y\['site'\].*labels from 0 to 2"),
    "a class never seen": (
        {"site": torch.zeros(N).long()},
        r"y\['site'\]: expected data of all 3 classes, got none of class 1, 2",
    ),
    "no whole numbers": ({"site": torch.rand(N)}, r"y\['site'\]: expected whole numbers"),
    "NaN": ({"age": torch.full((N,), torch.nan)}, r"y\['age'\]: expected finite numbers, got 24"),
    "two numbers": ({"age": torch.randn(N, 2)}, r"y\['age'\]: expected shape \(24,\)"),
    "an unknown name": ({"aeg": torch.randn(N)}, r"got 'aeg'; did you mean 'age'\?"),
    "no exposure": ({"exposure": None}, "expected 'exposure' as well"),
    "no age": ({"age": None}, "expected 'age' as well"),
    "exposure 0": ({"exposure": torch.arange(N)}, r"y\['exposure'\]: .*the first 0 in row 0"),
    "both": ({"offset": torch.zeros(N)}, "got both: leave one out"),
}


@pytest.mark.parametrize("change, message", BAD.values(), ids=BAD)
def test_bad_labels_are_told_before_training(change, message):
    vae, y = counting(), {k: v for k, v in (told() | change).items() if v is not None}
    trainer = Trainer(vae, guides.BottomUp(vae))
    with pytest.raises(ValueError, match=message):
        trainer.fit((counts(), y), epochs=1, progress=False)
    assert not trainer.history and trainer.step == 0


def test_numbers_far_from_one_are_told():
    vae = counting()
    y = told() | {"age": 40 + 12 * torch.randn(N)}
    with pytest.warns(UserWarning, match=r"far from 1.*Covariates\.standardized"):
        fitted(vae, guides.BottomUp(vae), (counts(), y), epochs=1)


def test_no_labels_at_all_and_labels_of_one_kind():
    vae = counting()
    for labels in (None, torch.arange(N) % 3):
        data_ = counts() if labels is None else (counts(), labels)
        with pytest.raises(ValueError, match="expected a mapping, got"):
            fitted(vae, guides.BottomUp(vae), data_)
    plain = VAE((4,), 2, likelihood=Counts(), hidden=(6,), condition=3)
    with pytest.raises(TypeError, match="got a mapping of 'site'"):
        fitted(plain, guides.BottomUp(plain), (counts(), told()))


def test_one_number_may_be_a_scalar_and_batch_norm_moves_once():
    given = Covariates(classes=3, numbers=1, offset=True)
    vae = counting(given=given, norm=torch.nn.BatchNorm1d, latents=(3, 2))
    assert vae.sample(4, y={"classes": 1, "numbers": 0.5, "exposure": 2}).shape == (4, 4)
    y = {"classes": torch.arange(N) % 3, "numbers": torch.randn(N), "exposure": torch.ones(N)}
    svi = SVI(vae, guides.Ladder(vae), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    svi.step(counts(), y=y | {"numbers": y["numbers"][:, None]})
    moved = {
        int(m.num_batches_tracked)
        for m in vae.conditionals["z1"].modules()
        if hasattr(m, "num_batches_tracked")
    }
    assert moved == {1}


def test_numbers_of_several_columns_have_names_too():
    y = {"panel": 3 + torch.randn(N, 5), "age": torch.rand(N), "sex": torch.arange(N) % 2}
    given = Covariates.standardized(y)
    assert repr(given) == "Covariates(sex: one of 2, panel: 5, age)"
    again = Covariates({"sex": 2}, {"panel": 5, "age": 1}, loc=given.loc, scale=given.scale)
    assert torch.equal(again.features(again.columns(y)), given.features(given.columns(y)))
    name, values, _ = given.varied("age", None)
    assert name == "age" and values[2] == pytest.approx(float(y["age"].mean()))
