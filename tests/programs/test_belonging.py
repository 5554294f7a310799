"""Guides and models that belong together, and what is told of those that do not."""

import copy
import functools
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from pyro_vae import Trainer, data, diagnostics, guides, infer, likelihoods, load, models, priors
from pyro_vae.callbacks import Callback
from pyro_vae.handlers import corrupt, free_bits, replace_prior, scale_latents
from pyro_vae.notebook import Panel
from pyro_vae.programs.program import Guide, Model
from pyro_vae.programs.unwrapping import name_of
from pyro_vae.report import page

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(40) % 3


def vae(seed=0, **options):
    torch.manual_seed(seed)
    return models.VAE((6,), (3, 2), likelihood=likelihoods.Gaussian(), hidden=(5,), **options)


def fit(trainer, x=X, **options):
    return trainer.fit(x, **{"epochs": 2, "batch_size": 20, "progress": False, **options})


class Borrower(guides.BottomUp):
    """Holds a conditional of its model, and adds nothing of it."""

    def __init__(self, vae):
        super().__init__(vae)
        self.borrowed = vae.conditionals["z1"]


class Caller(guides.BottomUp):
    """Runs a conditional of its model without saying so."""

    def forward(self, x, *, y=None):
        self.model.conditionals["z1"](torch.zeros(len(x), 2))
        return super().forward(x, y=y)


def semi_amortized(vae):
    return guides.SemiAmortized(guides.BottomUp(vae), steps=1)


def composed(vae):
    lower = guides.BottomUp(vae, sites=["z1"])
    return guides.Composed(lower, Top(vae, sites=["z2"]))


class Top(guides.BottomUp):
    @property
    def borrowed_modules(self):
        return (self.model.decoder,)


def under_handlers(vae):
    return scale_latents(corrupt(guides.Ladder(vae), 0.0), 0.5)


BORROWING = pytest.mark.parametrize(
    "build", [guides.Ladder, semi_amortized, composed, under_handlers, Borrower]
)
FOREIGN = "guide: this .* uses the model that it was built for"


@BORROWING
def test_a_stale_guide_is_refused_by_all_that_takes_a_pair(build):
    one, two = vae(0), vae(1)
    stale = build(one)
    fit(Trainer(two, build(two), seed=0))
    uses = [
        lambda model: Trainer(model, stale),
        lambda model: Trainer(model, build(two)).swap_guide(stale),
        lambda model: infer.SVI(model, stale).step(X),
        lambda model: infer.elbo_terms(model, stale, X),
        lambda model: infer.log_likelihood(model, stale, X, importance_samples=2),
        lambda model: diagnostics.evaluate(model, stale, X),
        lambda model: infer.reconstruct(model, stale, X),
        lambda model: infer.compare_guides(model, {"stale": stale}, X),
        lambda model: priors.posterior.posterior_samples(model, stale, X),
    ]
    for use in uses:
        for model in (two, scale_latents(two, 0.5)):
            with pytest.raises(ValueError, match=FOREIGN):
                use(model)
    # What the message says
    fit(Trainer(two, build(two)))
    infer.elbo_terms(two, build(two), X)


def test_a_guide_that_runs_another_model_without_saying_so_is_refused_before_it_trains():
    one, two = vae(0), vae(1)
    trainer = Trainer(two, Caller(one), seed=0)
    before = [p.clone() for p in two.parameters()]
    with pytest.raises(ValueError, match=FOREIGN):
        fit(trainer)
    with pytest.raises(ValueError, match=FOREIGN):
        infer.SVI(two, Caller(one)).step(X)
    assert all(map(torch.equal, before, two.parameters()))
    fit(Trainer(two, Caller(two), seed=0))


@BORROWING
def test_copies_apart_do_not_belong_together_and_copies_of_the_pair_do(build):
    model = vae()
    guide = build(model)
    apart = copy.deepcopy(model), copy.deepcopy(guide)
    together = copy.deepcopy((model, guide))
    fit(Trainer(model, guide, seed=0))
    expected = infer.elbo_terms(model, guide, X).elbo
    for pair in (apart, together):
        for copied, original in zip(pair, (model, guide), strict=True):
            copied.load_state_dict(original.state_dict())
    assert torch.equal(infer.elbo_terms(*together, X).elbo, expected)
    with pytest.raises(ValueError, match=r"copy\.deepcopy\(\(model, guide\)\)"):
        infer.elbo_terms(*apart, X)


@BORROWING
def test_averages_and_pickles_of_a_pair_belong_together(build):
    model = vae()
    guide = build(model)
    average = AveragedModel(nn.ModuleList([model, guide]))
    fit(Trainer(model, guide, seed=0))
    average.update_parameters(nn.ModuleList([model, guide]))
    for pair in (tuple(average.module), pickle.loads(pickle.dumps((model, guide)))):
        expected = infer.elbo_terms(model, guide, X).elbo
        assert torch.equal(infer.elbo_terms(*pair, X).elbo, expected)
        fit(Trainer(*pair, seed=0))


def test_a_saved_pair_belongs_together(tmp_path):
    model = vae()
    trainer = fit(Trainer(model, guides.Ladder(model), seed=0))
    trainer.save(tmp_path / "pair.pt")
    again = load(tmp_path / "pair.pt")
    expected = infer.elbo_terms(model, trainer.guide, X).elbo
    assert torch.equal(infer.elbo_terms(again.model, again.guide, X).elbo, expected)


class Own(nn.Module):
    """A guide that knows no model."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 5)

    def forward(self, x):
        loc1, loc2 = self.net(x).split([3, 2], -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z2", dist.Normal(loc2, 1.0).to_event(1))
            pyro.sample("z1", dist.Normal(loc1, 1.0).to_event(1))


@pytest.mark.parametrize("build", [guides.BottomUp, lambda model: Own()])
def test_a_guide_of_another_model_is_told_once_where_it_is_evaluated(build):
    one, two = vae(0), vae(1)
    guide = build(one)
    fit(Trainer(one, guide, seed=0))
    with pytest.warns(UserWarning, match="belongs to another VAE than it is evaluated") as caught:
        infer.elbo_terms(two, guide, X)
        infer.reconstruct(two, guide, X)
    assert len(caught) == 1
    infer.elbo_terms(one, guide, X)
    # Trained with the other model it belongs to that one, in copies, too; no warning
    fit(Trainer(two, guide, seed=0), validation=X)
    for pair in (
        (two, guide),
        copy.deepcopy((two, guide)),
        pickle.loads(pickle.dumps((two, guide))),
    ):
        infer.elbo_terms(*pair, X)
    with pytest.warns(UserWarning, match="belongs to another VAE than it is evaluated"):
        infer.elbo_terms(one, guide, X)


def test_equal_copies_apart_are_the_same_model():
    model = vae()
    guide = guides.BottomUp(model)
    expected = infer.elbo_terms(model, guide, X).elbo
    apart = copy.deepcopy(model), copy.deepcopy(guide)
    assert torch.equal(infer.elbo_terms(*apart, X).elbo, expected)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (guides.BottomUp, r"guide: .*the class BottomUp: pass BottomUp\(model\)"),
        (None, r"guide: .*got None: pass one, such as guides.BottomUp\(model\)"),
        ("Ladder", "guide: expected a Pyro program"),
    ],
)
def test_a_class_or_nothing_is_refused_at_once(bad, message):
    model = vae()
    with pytest.raises(TypeError, match=message):
        Trainer(model, bad)
    trainer = fit(Trainer(model, guides.BottomUp(model), seed=0))
    good = trainer.guide
    with pytest.raises(TypeError, match=message):
        trainer.swap_guide(bad, freeze_model=True)
    assert trainer.guide is good and not trainer.frozen
    fit(trainer)
    with pytest.raises(TypeError, match="got the class VAE"):
        Trainer(models.VAE, good)


def z1_alone(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z1", dist.Normal(torch.zeros(len(x), 3), 1.0).to_event(1))


def test_a_failed_swap_leaves_the_good_guide_and_its_moments():
    model = vae()
    trainer = fit(Trainer(model, guides.BottomUp(model), seed=0))
    twin = copy.deepcopy(trainer)
    good, partial = trainer.guide, guides.BottomUp(model, sites=["z1"])
    state = torch.get_rng_state()
    for bad in (z1_alone, partial):
        with pytest.raises(ValueError, match="'z2' of the model is missing in the guide"):
            trainer.swap_guide(bad, freeze_model=True)
    assert trainer.guide is good and not trainer.frozen and not trainer.swapped
    assert torch.equal(torch.get_rng_state(), state)
    for t in (trainer, twin):
        fit(t)
    assert [r["elbo"] for r in trainer.history] == [r["elbo"] for r in twin.history]


# Pickles and copies of trainers


@pytest.mark.parametrize(
    "way", [lambda t: pickle.loads(pickle.dumps(t)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
@pytest.mark.parametrize(
    "elbo", ["trace", infer.ImportanceWeightedELBO(3, "mean")], ids=["trace", "importance"]
)
def test_a_trainer_can_be_pickled_and_copied_and_goes_on_like_itself(way, elbo):
    model = vae()
    optimizer = functools.partial(torch.optim.Adam, betas=(0.8, 0.99))
    trainer = fit(Trainer(model, guides.Ladder(model), seed=0, elbo=elbo, optimizer=optimizer))
    trainer.lr = 3e-3
    again = way(trainer)
    assert again.model is not trainer.model and again.guide.model is again.model
    for t in (trainer, again):
        fit(t)
        fit(t.swap_guide(guides.BottomUp(t.model), freeze_model=True), epochs=1)
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in t.history]
        for t in (trainer, again)
    ]
    assert len(rows[0]) == 5
    assert rows[0][:4] == rows[1][:4]
    for p, q in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(p, q)


class CopyInside(Callback):
    def on_epoch_end(self, trainer, **kwargs):
        self.copied = pickle.loads(pickle.dumps(trainer))


def test_a_trainer_can_be_pickled_by_a_callback():
    model, inside = vae(), CopyInside()
    trainer = fit(Trainer(model, guides.Ladder(model), seed=0), epochs=1, callbacks=[inside])
    for t in (trainer, inside.copied):
        fit(t)
    assert trainer.history[-1]["elbo"] == inside.copied.history[-1]["elbo"]


# Labels: one rule


class OwnModel(Model):
    """p(x|z1, y) with labels that are nowhere announced."""

    event_shape = (6,)
    latent_sizes = {"z1": 2}

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(5, 6)

    def forward(self, x=None, *, y, size=None):
        with pyro.plate("data", len(y)):
            z = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = self.net(torch.cat([z, nn.functional.one_hot(y, 3).float()], -1))
            return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


class OwnGuide(Guide):
    def __init__(self, model):
        super().__init__(model)
        self.latents = ("z1",)
        self.net = nn.Linear(9, 2)

    def forward(self, x, *, y):
        with pyro.plate("data", len(x)):
            loc = self.net(torch.cat([x, nn.functional.one_hot(y, 3).float()], -1))
            return {"z1": pyro.sample("z1", dist.Normal(loc, 0.5).to_event(1))}


def test_a_conditional_pair_of_ones_own_works_everywhere():
    model = OwnModel()
    guide = OwnGuide(model)
    labelled = (X, Y)
    fit(Trainer(model, guide, seed=0), labelled, validation=labelled)
    assert priors.posterior.posterior_samples(model, guide, labelled).shape == (40, 2)
    prior = priors.AggregatePosterior(2).fit(model, guide, labelled)
    assert replace_prior(model, prior).sample(3, y=[0, 1, 2]).shape == (3, 6)
    refined = guides.SemiAmortized(guide, steps=2)
    fit(Trainer(model, refined, seed=0), labelled)
    better = infer.elbo_terms(model, refined, X, y=Y).elbo.mean()
    assert better > infer.elbo_terms(model, guide, X, y=Y).elbo.mean()
    assert guide.encode(X, y=Y).mean["z1"].shape == (40, 2)
    assert infer.reconstruct(model, guide, X, y=Y).shape == (40, 6)
    assert model.decode({"z1": torch.zeros(3, 2)}, y=1).batch_shape == (3,)
    assert len(diagnostics.evaluate(model, guide, labelled, importance_samples=0).terms.kl) == 1


def test_a_panel_of_a_conditional_pair_of_ones_own():
    d = data.load(data.Dataset(torch.rand(60, 6), torch.arange(60) % 3))
    panel = Panel({"own": OwnModel()}, {"own": OwnGuide}, d).train(1)
    assert panel.show().axes is not None


def test_labels_of_a_data_set_are_nothing_to_programs_that_do_not_take_them():
    class Unlabelled(Model):
        event_shape = (6,)
        latent_sizes = {"z1": 2}

        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 6)

        def forward(self, x=None, *, size=None):
            with pyro.plate("data", size if x is None else len(x)):
                z = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)

    model = Unlabelled()
    guide = OwnGuide(model)
    fit(Trainer(model, guide, seed=0), (X, Y))
    assert model.sample(3).shape == (3, 6)
    assert infer.reconstruct(model, guide, X, y=Y).shape == (40, 6)
    assert priors.posterior.posterior_samples(model, guide, (X, Y)).shape == (40, 2)


def test_names_are_those_below_all_handlers(tmp_path, monkeypatch):
    model = vae()
    wrapped = scale_latents(free_bits(guides.Ladder(model), 0.1), 0.5)
    assert name_of(wrapped) == "Ladder"
    assert name_of(functools.partial(z1_alone, 3)) == "z1_alone"
    monkeypatch.setattr(page, "SECTIONS", ())
    trainer = fit(Trainer(scale_latents(model, 0.5), wrapped, seed=0))
    page.write_report(tmp_path / "report.html", trainer, data.load(X))
    assert "VAE with Ladder</title>" in (tmp_path / "report.html").read_text()
    assert trainer.history[-1]["guide"] == "Ladder"
