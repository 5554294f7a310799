"""The KL of each unit, kept in the history."""

import json

import pytest
import torch

from pyro_vae import Trainer, callbacks, data, guides, handlers, infer, likelihoods, load, priors
from pyro_vae.models import VAE

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


def trainer(guide=guides.BottomUp, latents=(3, 2), **options):
    torch.manual_seed(0)
    vae = VAE((6,), latents, likelihood=likelihoods.Gaussian(), hidden=(8,), **options)
    return Trainer(vae, guide(vae), seed=0, lr=1e-2)


def fit(t, epochs, *hung, **options):
    return t.fit(X, epochs=epochs, batch_size=16, callbacks=hung, progress=False, **options)


def test_the_row_has_what_elbo_terms_tells():
    t = fit(trainer(latents=3), 2, callbacks.UnitKL(X, estimator=infer.AnalyticELBO()))
    terms = infer.elbo_terms(t.model, t.guide, X, per_unit=True, estimator=infer.AnalyticELBO())
    row = t.history[-1]["unit_kl"]
    expected = terms.per_unit["z1"].double().mean(0)
    torch.testing.assert_close(torch.tensor(row["z1"], dtype=torch.float64), expected)
    assert row.keys() == {"z1"}


def test_draws_are_means_of_many():
    t = fit(trainer(latents=3), 1, callbacks.UnitKL(X, samples=400))
    terms = infer.elbo_terms(t.model, t.guide, X, per_unit=True, estimator=infer.AnalyticELBO())
    expected = terms.per_unit["z1"].mean(0)
    torch.testing.assert_close(
        torch.tensor(t.history[-1]["unit_kl"]["z1"]), expected, rtol=0.2, atol=0.05
    )


def test_training_is_the_same_without():
    one, other = fit(trainer(), 3), fit(trainer(), 3, callbacks.UnitKL(X[:11]))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert one.history.column("elbo") == other.history.column("elbo")
    assert "unit_kl" not in one.history[-1]
    sizes = {s: len(kl) for s, kl in other.history[-1]["unit_kl"].items()}
    assert sizes == {"z1": 3, "z2": 2}


def test_every_so_many_epochs():
    t = fit(trainer(), 5, callbacks.UnitKL(X, every=2))
    assert [row["epoch"] for row in t.history if "unit_kl" in row] == [2, 4]
    for bad in ({"every": 0}, {"samples": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))}: expected"):
            callbacks.UnitKL(X, **bad)


def test_batches_are_not_too_large():
    t, sizes = trainer(), []
    hung = callbacks.UnitKL(X, batch_size=15)
    fit(t, 1, hung)
    t.guide.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    hung.on_epoch_end(t, {"epoch": 1})
    assert max(sizes) == 15


class Stop(callbacks.Callback):
    """Ctrl-C after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, trainer, **kwargs):
        if trainer.step == self.step:
            raise KeyboardInterrupt

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_files_and_resumed_runs_keep_it(tmp_path):
    whole = fit(trainer(), 3, callbacks.UnitKL(X))
    rows = whole.history.column("unit_kl")
    for told, row in zip(json.loads(whole.history.to_json()), rows, strict=True):
        assert {site: tuple(kl) for site, kl in told["unit_kl"].items()} == row
    whole.save(tmp_path / "t.pt")
    assert load(tmp_path / "t.pt").history.column("unit_kl") == rows
    options = {"checkpoint": tmp_path / "run", "every": 1}
    hung = callbacks.UnitKL(X), Stop(5)
    assert fit(trainer(), 3, *hung, **options, on_interrupt="return").step == 5
    resumed = Trainer.resume(tmp_path / "run")
    fit(resumed, 3, callbacks.UnitKL(X), Stop(99), **options)
    assert resumed.history.column("unit_kl") == rows


def test_labels_come_along():
    y = torch.arange(40) % 3
    t = trainer(condition=3)
    hung = [callbacks.UnitKL(data.Dataset(X, y))]
    t.fit((X, y), epochs=1, callbacks=hung, progress=False)
    assert len(t.history[-1]["unit_kl"]["z1"]) == 3


def test_what_does_not_fit_is_told_before_there_is_training():
    for t, hung, told in (
        (trainer(guides.Flow), callbacks.UnitKL(X), "no latent site has a KL per unit, 'z"),
        (trainer(), callbacks.UnitKL(X[:, :5]), "expected .*6"),
        (trainer(), callbacks.UnitKL(X, estimator=infer.AnalyticELBO()), "is wrong here"),
    ):
        with pytest.raises(ValueError, match=told):
            fit(t, 1, hung)
        assert t.step == 0


def test_sites_without_units_are_left_out():
    t = trainer()
    model = handlers.replace_prior(t.model, priors.MixturePrior(2, components=3))
    t = fit(Trainer(model, t.guide, seed=0), 1, callbacks.UnitKL(X))
    assert t.history[-1]["unit_kl"].keys() == {"z1"}
