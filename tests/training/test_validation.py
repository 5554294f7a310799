"""What a trainer measures after each epoch, against closed forms."""

import gc
import warnings
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import (
    Trainer,
    callbacks,
    data,
    diagnostics,
    guides,
    infer,
    likelihoods,
    load,
    schedules,
)
from pyro_vae.data import Dataset
from pyro_vae.handlers import scale_latents
from pyro_vae.infer.posterior import active, posterior_means
from pyro_vae.models import VAE, VQVAE
from pyro_vae.training.validation import Validation, active_units

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


def pair(latents=2, **options):
    torch.manual_seed(0)
    vae = VAE((6,), latents, likelihood=likelihoods.Gaussian(), hidden=(8,), **options)
    return vae, guides.BottomUp(vae)


def fit(trainer, x=X, epochs=2, **options):
    return trainer.fit(x, epochs=epochs, batch_size=16, progress=False, **options)


def with_units(guide, scales):
    """A linear posterior mean z1[i] = scales[i] * x[i]."""
    head = guide.conditionals["z1"]
    head.network = nn.Identity()
    head.loc, head.raw_scale = nn.Linear(6, len(scales)), nn.Linear(6, len(scales))
    with torch.no_grad():
        head.loc.weight.zero_().fill_diagonal_(1.0).mul_(torch.tensor(scales)[:, None])
    return guide


def test_active_units_are_those_whose_posterior_mean_varies():
    _, guide = pair(4)
    x = torch.randn(500, 6)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    with_units(guide, [1.0, 0.0, 0.1 + 1e-4, 0.1 - 1e-4])  # variances around 0.01
    assert active_units(guide, Dataset(x), without=()) == {"z1": 2}
    means = posterior_means(guide, Dataset(x), batch_size=37)["z1"]
    torch.testing.assert_close(means, guide.encode(x).mean["z1"])
    assert active(means).tolist() == [True, False, True, False]
    assert active(means, 0.5).sum() == 1


def test_a_unit_is_active_in_all_reports_or_in_none():
    """Between the thresholds that n and n - 1 would give: one unit each side, for few data."""
    n, threshold = 5, 0.01
    x = torch.randn(n, 6)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    vae, guide = pair(2)
    with_units(guide, [0.1 * (n / (n - 1)) ** 0.25, 0.1 * ((n - 1) / n) ** 0.25])
    means = posterior_means(guide, Dataset(x))["z1"]
    expected = [True, False]
    assert active(means, threshold).tolist() == expected
    assert diagnostics.layers(vae, guide, x)["z1"].active.tolist() == expected
    units = diagnostics.collapse(vae, guide, x).units["z1"]
    assert (units.variance > units.threshold).tolist() == expected and units.active == 1
    assert active_units(guide, Dataset(x), without=()) == {"z1": 1}


def test_history_counts_active_units_on_the_validation_data():
    vae, guide = pair((3, 2))
    trainer = fit(Trainer(vae, guide, seed=0, lr=1e-2), validation=X[:20] * 3)
    found = {
        site: int((mean.var(0, correction=0) > 0.01).sum())
        for site, mean in guide.encode(X[:20] * 3).mean.items()
    }
    assert trainer.history[-1]["active_units"] == found
    assert set(found) == {"z1", "z2"}


def test_without_validation_data_the_first_thousand_are_encoded():
    vae, guide = pair(4)
    with_units(guide, [0.0, 0.0, 0.0, 0.0])
    for p in guide.parameters():
        p.requires_grad_(False)
    guide.conditionals["z1"].loc.weight.data[0, 0] = 1.0
    x = torch.randn(1100, 6)
    x[:1000, 0] = 1.0
    assert fit(Trainer(vae, guide, seed=0), x, 1).history[0]["active_units"] == {"z1": 0}
    x[999, 0] = 10.0
    assert fit(Trainer(vae, guide, seed=0), x, 1).history[0]["active_units"] == {"z1": 1}


@pytest.mark.parametrize("binarize", [None, "dynamic"])
def test_measuring_changes_no_state(monkeypatch, binarize):
    d = Dataset(X.sigmoid(), binarize=binarize)
    runs = []
    for skip in (False, True):
        vae, _ = pair()
        encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        guide = guides.BottomUp(vae, encoder=encoder)
        if skip:
            monkeypatch.setattr("pyro_vae.training.loop.active_units", lambda *a, **k: {})
        trainer = fit(Trainer(vae, guide, seed=0), d, 3)
        assert skip or "active_units" in trainer.history[-1]
        runs.append([*vae.state_dict().values(), *guide.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


class Untold(dist.Normal):
    @property
    def mean(self):
        raise NotImplementedError


def skipping(q, shape, p=None):
    p = p or (lambda n: dist.Normal(torch.zeros(n, *shape), 1.0).to_event(len(shape)))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", p(len(x)))
                m = self.loc + z.reshape(len(x), -1).sum(1, keepdim=True).expand(-1, 6)
                pyro.sample("x", dist.Normal(m, 1.0).to_event(1), obs=x)

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(shape))

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", q(self.loc.expand(len(x), *shape)))

    return Model(), Guide()


GRID = (2, 2, 3)
CASES = {
    "grid": skipping(lambda m: dist.Normal(m, 1.0).to_event(3), GRID),
    "one-hot grid": skipping(
        lambda m: dist.OneHotCategorical(logits=m).to_event(2),
        GRID,
        lambda n: dist.OneHotCategorical(logits=torch.zeros(n, *GRID)).to_event(2),
    ),
    "infinite mean": skipping(lambda m: dist.Cauchy(m, torch.ones(())).to_event(1), (3,)),
    "scalar": skipping(lambda m: dist.Normal(m, 1.0), ()),
}


@pytest.mark.parametrize("name", CASES)
def test_layers_without_active_units_train_without_the_entry(name):
    trainer = fit(Trainer(*CASES[name], seed=0, engine="eager"), validation=X)
    assert trainer.history.column("active_units") == [None, None]
    assert all("z" in row["validation"]["kl"] for row in trainer.history)


def test_units_of_a_guide_without_a_formula_for_its_mean_are_counted_by_draws():
    programs = skipping(lambda m: Untold(m, 1.0).to_event(1), (3,))
    trainer = fit(Trainer(*programs, seed=0, engine="eager"), validation=X)
    assert trainer.history.column("active_units") == [{"z": 0}, {"z": 0}]


def test_a_point_mass_has_no_active_units():
    vae, _ = pair()
    trainer = fit(Trainer(vae, guides.Delta(vae), beta=0.0, seed=0))
    assert trainer.history.column("active_units") == [None, None]


def test_one_datum_has_no_variance():
    _, guide = pair()
    assert active_units(guide, Dataset(X[:1]), without=()) == {}


# The validation row


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("beta", [1.0, {"z1": 0.5, "z2": 2.0}])
def test_validation_objective_from_its_terms(reduction, beta):
    programs = [scale_latents(p, beta) for p in pair((3, 2))]
    row = Validation(*programs, Dataset(X), infer.TraceELBO(reduction))()
    weights = dict.fromkeys(("z1", "z2"), beta) if beta == 1.0 else beta
    expected = row["reconstruction"] - sum(weights[s] * kl for s, kl in row["kl"].items())
    assert row["objective"] == pytest.approx(expected, rel=1e-5)
    assert row["elbo"] == pytest.approx(row["reconstruction"] - sum(row["kl"].values()), rel=1e-5)


def test_validation_objective_is_the_importance_weighted_bound(linear):
    x, guide = linear.data(2000), linear.guide(shift=0.5, widen=1.5)
    exact, bound = linear.evidence().log_prob(x).mean(), linear.bound(guide, x).mean()
    row = Validation(linear.vae, guide, Dataset(x), infer.ImportanceWeightedELBO(200))()
    assert abs(row["objective"] - exact) < 0.02
    assert abs(row["elbo"] - bound) < 0.02
    assert bound < exact - 0.1


# Validation that replays


@pytest.fixture
def early(monkeypatch):
    monkeypatch.setattr("pyro_vae.training.validation.CALLS_BEFORE_A_GRAPH", 1)
    monkeypatch.setattr("pyro_vae.training.step._STEPS_BEFORE_A_GRAPH", 1)
    monkeypatch.setattr("pyro_vae.training.validation._ROWS", 9)


def ladder():
    torch.manual_seed(0)
    hidden = [(8,), (4,)]
    vae = VAE((6,), (3, 2), likelihood=likelihoods.Gaussian(), hidden=hidden, norm=nn.BatchNorm1d)
    return vae, guides.Ladder(vae), X, None


def conditional():
    torch.manual_seed(0)
    vae = VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(8,), condition=3)
    return vae, guides.BottomUp(vae), X, torch.arange(40) % 3


def vqvae():
    torch.manual_seed(0)
    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1)).round()
    model = VQVAE((1, 8, 8), 5, 3, likelihood=likelihoods.Bernoulli())
    return model, guides.NearestCode(model), x, None


@pytest.mark.parametrize("make", [lambda: (*pair((3, 2)), X, None), ladder, conditional, vqvae])
def test_validation_is_the_same_epoch_after_epoch_whether_it_replays_or_not(early, make, graphs):
    histories, states = [], []
    for engine in ("graph", "eager"):
        model, guide, x, y = make()
        trainer = Trainer(model, guide, seed=0, beta=schedules.WarmUp(epochs=4), engine=engine)
        graphs.clear()
        fit(trainer, (x, y), 5, validation=Dataset(x, y))
        validating = [g for kind in graphs.keys() - {infer.Graph} for g in graphs[kind]]
        assert any(g.records for g in validating) == (engine == "graph")
        histories.append([row["validation"] for row in trainer.history])
        states.append([*model.state_dict().values(), *guide.state_dict().values()])
    assert histories[0] == histories[1]
    assert len({row["elbo"] for row in histories[0]}) == 5  # the weights of the epoch
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_a_guide_that_comes_later_is_the_one_validated(early):
    histories = []
    for engine in ("graph", "eager"):
        vae, guide = pair((3, 2))
        trainer = fit(Trainer(vae, guide, seed=0, engine=engine), epochs=4, validation=X)
        torch.manual_seed(5)
        fit(trainer.swap_guide(guides.Ladder(vae)), epochs=4, validation=X)
        trainer.beta = 0.3
        histories.append([r["validation"] for r in fit(trainer, epochs=4, validation=X).history])
    assert histories[0] == histories[1]
    last = histories[0][-1]
    assert last["objective"] > last["elbo"]


def test_a_pair_that_cannot_be_recorded_is_told_of_once(early):
    class Reading(guides.BottomUp):
        def forward(self, x, *, y=None):
            assert float(x.abs().max()) > 0
            return super().forward(x, y=y)

    vae, _ = pair()
    trainer = Trainer(vae, Reading(vae), seed=0, engine="graph")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit(trainer, epochs=4, validation=X)
    assert len([w for w in told if "runs eagerly" in str(w.message)]) == 1
    assert len(trainer.history.column("validation")) == 4


def test_what_is_refused_in_a_later_epoch_is_refused_in_a_replay(early, graphs):
    vae, guide = pair()
    validate = Validation(vae, guide, Dataset(X), infer.TraceELBO())
    for _ in range(4):
        validate()
    [[graph]] = graphs.values()
    assert graph.records
    with torch.no_grad():
        guide.conditionals["z1"].loc.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="loc of a Normal became NaN"):
        validate()


def test_nothing_keeps_a_validated_pair_alive(early):
    vae, guide = pair()
    trainer = fit(Trainer(vae, guide, seed=0), epochs=4, validation=X)
    gone = [weakref.ref(p) for p in (vae, guide)]
    del vae, guide, trainer
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


# Training with the importance-weighted bound


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_fine_tuning_goes_on_with_the_same_weights_and_moments(engine, graphs):
    vae, guide = pair((3, 2))
    trainer = fit(Trainer(vae, guide, seed=0, lr=1e-2, engine=engine))
    before = {p: int(s["step"]) for p, s in trainer.optimizer.state.items()}
    trainer.elbo = infer.ImportanceWeightedELBO(10, reduction="mean")
    decay = callbacks.LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.75)
    fit(trainer, epochs=60, validation=X, callbacks=[decay])
    assert engine == "eager" or graphs[infer.Graph][-1].records
    assert all(int(trainer.optimizer.state[p]["step"]) == s + 180 for p, s in before.items())
    first, last = trainer.history[1], trainer.history[-1]
    assert (first.get("particles"), last["particles"]) == (None, 10)
    assert first["objective"] == pytest.approx(first["elbo"], rel=1e-5)
    assert last["objective"] > last["elbo"]
    assert last["validation"]["objective"] > last["validation"]["elbo"]
    rates = trainer.history.column("lr")
    assert rates[:5] == pytest.approx([1e-2, 1e-2, 1e-2, 1e-2, 7.5e-3])


def test_engines_give_the_same_fine_tuning(graphs):
    def history(engine):
        trainer = fit(Trainer(*pair((3, 2)), seed=0, engine=engine), epochs=1)
        trainer.elbo = infer.ImportanceWeightedELBO(5, reduction="mean")
        fit(trainer, epochs=60)
        assert engine == "eager" or graphs[infer.Graph][-1].records
        return [{k: v for k, v in row.items() if k != "seconds"} for row in trainer.history]

    assert history("graph") == history("eager")


def test_a_file_keeps_the_bound(tmp_path):
    trainer = fit(Trainer(*pair(), seed=0))
    trainer.elbo = infer.ImportanceWeightedELBO(4, reduction="mean")
    trainer.save(tmp_path / "file.pt")
    again = load(tmp_path / "file.pt")
    assert (again.elbo.particles, again.elbo.reduction) == (4, "mean")
    assert [r["objective"] for r in fit(again).history] == [
        r["objective"] for r in fit(trainer).history
    ]


def test_the_bound_is_assigned_between_fits_with_the_same_reduction():
    trainer = Trainer(*pair(), seed=0)
    trainer.elbo = infer.TraceELBO("sum")
    trainer.elbo = "trace"

    class Assign:
        def on_epoch_end(self, trainer, **kwargs):
            trainer.elbo = "trace"

    with pytest.raises(RuntimeError, match="elbo: assign it between calls of fit"):
        fit(trainer, callbacks=[Assign()])
    with pytest.raises(ValueError, match=r"expected reduction='mean', .* got 'sum'"):
        trainer.elbo = infer.ImportanceWeightedELBO(10)
    with pytest.raises(ValueError, match="elbo: expected 'trace' or 'analytic'"):
        trainer.elbo = "iwae"
    assert trainer.elbo.reduction == "mean"


def test_labels_reach_the_encoder():
    torch.manual_seed(0)
    vae = VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(8,), condition=3)
    d = data.Dataset(X, torch.arange(40) % 3)
    trainer = fit(Trainer(vae, guides.BottomUp(vae), seed=0), d)
    found = trainer.guide.encode(d.x, y=d.y).mean["z1"].var(0, correction=0) > 0.01
    assert trainer.history[-1]["active_units"] == {"z1": int(found.sum())}
