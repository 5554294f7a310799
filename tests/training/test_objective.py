"""What a trainer maximises, and what it says of it: closed forms."""

import math

import pytest
import torch
from chance import excess
from fitting import FROZEN, HIERARCHY, Hook, X, fitted, mean_and_error, more, pair

from pyro_vae import guides, infer, schedules


@pytest.mark.parametrize("batch_size", [1, 7, 40, 1000])
def test_objective_is_per_datum_whatever_the_batch_size(batch_size):
    vae, guide = pair(guide=guides.Delta)
    trainer = fitted((vae, guide), beta=0.0, lr=FROZEN, epochs=1, batch_size=batch_size)
    exact = vae.likelihood(vae.decoder(guide.encode(X).mean["z1"])).log_prob(X).sum(-1).mean()
    assert trainer.history[0]["objective"] == pytest.approx(exact.item(), rel=1e-5)
    assert trainer.step == math.ceil(40 / batch_size)


@pytest.mark.parametrize("batch_size", [9, 64])
@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_objective_has_the_closed_form_as_its_expectation(linear, beta, batch_size):
    x, guide = linear.data(64), linear.guide(shift=0.3, widen=1.4)
    trainer = fitted(
        (linear.vae, guide), x, beta=beta, lr=FROZEN, epochs=40, batch_size=batch_size
    )
    mean, sd = linear.posterior(x)
    mean, sd = mean + 0.3, 1.4 * sd
    exact = (linear.reconstruction(x, mean, sd) - beta * linear.kl(mean, sd)).mean()
    found, error = mean_and_error(trainer.history.column("objective"))
    assert excess((found - float(exact)) / error, draws=40) < 1


def test_analytic_objective_has_the_closed_form_kl(linear):
    x, guide = linear.data(64), linear.guide(shift=0.3, widen=1.4)
    trainer = fitted((linear.vae, guide), x, elbo="analytic", lr=FROZEN, epochs=40)
    mean, sd = linear.posterior(x)
    mean, sd = mean + 0.3, 1.4 * sd
    kl = float(linear.kl(mean, sd).mean())
    assert trainer.history.column("kl.z1") == pytest.approx([kl] * 40, rel=1e-5)
    found, error = mean_and_error(trainer.history.column("objective"))
    exact = float(linear.reconstruction(x, mean, sd).mean()) - kl
    assert excess((found - exact) / error, draws=40) < 1


@pytest.mark.parametrize(
    "beta",
    [
        0.0,
        1.0,
        0.5,
        4,
        schedules.Constant(3.0),
        torch.tensor(0.25),
        {"z1": 0.5, "z2": 2.0},
        {"z2": 0.0},
        {"z1": torch.tensor(3.0), "z2": schedules.Constant(0.1)},
    ],
    ids=str,
)
def test_objective_and_bound_from_their_terms(beta):
    trainer = fitted(pair(HIERARCHY), beta=beta)
    for row in trainer.history:
        weights = (
            row["beta"] if isinstance(row["beta"], dict) else dict.fromkeys(row["kl"], row["beta"])
        )
        weighted = sum(weights.get(site, 1.0) * kl for site, kl in row["kl"].items())
        assert row["objective"] == pytest.approx(row["reconstruction"] - weighted, abs=1e-4)
        assert row["elbo"] == pytest.approx(row["reconstruction"] - sum(row["kl"].values()))
        assert set(row["kl"]) == {"z1", "z2"}


def test_recorded_beta_is_the_one_that_was_given():
    numbers = fitted(pair(HIERARCHY), beta={"z1": torch.tensor(3.0), "z2": 0.5})
    assert numbers.history.column("beta") == [{"z1": 3.0, "z2": 0.5}] * 2


def test_beta_follows_its_schedule_step_by_step():
    schedule = schedules.WarmUp(epochs=3, end=2.0)
    trainer = fitted(beta=schedule, epochs=5, batch_size=len(X))
    expected = [0.0, 2 / 3, 4 / 3, 2.0, 2.0]
    assert trainer.history.column("beta") == pytest.approx(expected)
    for row, beta in zip(trainer.history, expected, strict=True):
        assert row["objective"] == pytest.approx(
            row["reconstruction"] - beta * row["kl"]["z1"], abs=1e-5
        )


def test_the_schedule_counts_epochs_in_steps():
    trainer = fitted(beta=schedules.WarmUp(epochs=2), epochs=3, batch_size=10)
    assert trainer.history.column("beta") == pytest.approx([3 / 8, 7 / 8, 1.0])


def test_beta_may_be_filled_in_place_between_steps():
    beta = torch.tensor(0.0)
    fill = Hook(on_step_end=lambda **kwargs: beta.add_(1.0))
    trainer = fitted(beta=beta, epochs=3, batch_size=len(X), callbacks=[fill])
    assert trainer.history.column("beta") == [0.0, 1.0, 2.0]
    for row in trainer.history:
        assert row["objective"] == pytest.approx(
            row["reconstruction"] - row["beta"] * row["kl"]["z1"], abs=1e-5
        )


def test_beta_may_be_assigned_between_fits():
    trainer = fitted(epochs=1)
    trainer.beta = {"z1": 0.0}
    more(trainer, epochs=1)
    assert trainer.history.column("beta") == [1.0, {"z1": 0.0}]
    row = trainer.history[1]
    assert row["objective"] == pytest.approx(row["reconstruction"], abs=1e-5)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_history_is_per_datum_whatever_the_reduction_of_the_estimator(reduction):
    options = {"lr": FROZEN, "epochs": 1, "batch_size": 7}
    own = fitted(pair(), elbo=infer.TraceELBO(reduction), **options)
    assert own.history[0]["objective"] == pytest.approx(fitted(**options).history[0]["objective"])


def test_the_validation_objective_is_that_of_training():
    trainer = fitted(beta={"z1": 0.25}, validation=X)
    for row in trainer.history:
        v = row["validation"]
        assert v["objective"] == pytest.approx(v["reconstruction"] - 0.25 * v["kl"]["z1"])
