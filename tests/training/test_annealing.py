import pytest
import torch

from pyro_vae import Trainer, guides, likelihoods, models
from pyro_vae.schedules import Constant, WarmUp
from pyro_vae.training.annealing import Annealing


def started(beta):
    annealing = Annealing(beta)
    annealing.start(torch.device("cpu"))
    return annealing


@pytest.mark.parametrize(
    ("beta", "values"),
    [
        (2.0, [2.0, 2.0]),
        (WarmUp(steps=4), [0.0, 0.75]),
        (WarmUp(epochs=3), [0.0, 0.5]),
        (
            {"z1": WarmUp(steps=4), "z2": Constant(3.0)},
            [{"z1": 0.0, "z2": 3.0}, {"z1": 0.75, "z2": 3.0}],
        ),
    ],
)
def test_values_at_steps_0_and_3_of_2_per_epoch(beta, values):
    annealing = started(beta)
    for step, expected in zip((0, 3), values, strict=True):
        annealing.set(step, steps_per_epoch=2)
        assert annealing.values() == expected


def test_a_tensor_is_read_and_never_written():
    beta = torch.tensor(0.5)
    annealing = started(beta)
    annealing.set(7, 1)
    assert annealing.values() == 0.5
    beta.fill_(3.0)
    assert annealing.values() == 3.0


def test_a_weight_that_someone_reset_is_filled_when_the_schedule_moves():
    annealing = started(WarmUp(steps=4))
    tensor = annealing.weights[None]
    for step in range(6):
        annealing.set(step, 1)
        assert float(tensor) == min(1.0, step / 4)
    assert annealing.weights[None] is tensor, "programs hold this very tensor"


def test_beta_of_one_leaves_the_program_alone():
    vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
    assert started(1.0).scale(vae) is vae
    assert started(WarmUp(steps=4)).scale(vae) is not vae


@pytest.mark.parametrize(
    ("beta", "error", "message"),
    [
        (-1.0, ValueError, "beta: expected a finite number >= 0"),
        (float("nan"), ValueError, "beta: expected a finite number >= 0"),
        ({"z1": float("inf")}, ValueError, r"beta\['z1'\]: expected a finite"),
        (torch.tensor([1.0]), ValueError, "0-d tensor"),
        ("warm-up", TypeError, "beta: expected a number"),
    ],
)
def test_bad_beta(beta, error, message):
    with pytest.raises(error, match=message):
        Annealing(beta)


def test_unknown_site():
    with pytest.raises(ValueError, match=r"no latent site 'z3', it has \('z2', 'z1'\)"):
        Annealing({"z3": 1.0}).check(("z2", "z1"))


def test_a_mapping_changed_between_two_fits_takes_effect():
    vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian(), hidden=(4,))
    beta = {"z1": 0.5}
    trainer = Trainer(vae, guides.BottomUp(vae), beta=beta, seed=0)
    trainer.fit(torch.randn(8, 6), epochs=1, progress=False)
    beta["z1"] = 2.0
    trainer.fit(torch.randn(8, 6), epochs=1, progress=False)
    assert trainer.history.column("beta") == [{"z1": 0.5}, {"z1": 2.0}]
    for row in trainer.history:
        expected = row["reconstruction"] - row["beta"]["z1"] * row["kl"]["z1"]
        assert row["objective"] == pytest.approx(expected, rel=1e-5)
