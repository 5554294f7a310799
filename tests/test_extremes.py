"""The ends of what a person may pass: training to finite numbers, or a clear error."""

import math

import pytest
import torch
from torch import nn

from pyro_vae import Trainer, data, guides, likelihoods, schedules
from pyro_vae.models import VAE
from pyro_vae.programs.placing import usable_device

IMAGE = (1, 8, 8)


def train(x, latents=2, likelihood=None, hidden=(8,), guide=guides.BottomUp, **options):
    """Two epochs; the rows of the history, all of them finite."""
    torch.manual_seed(0)
    names = ("norm", "condition", "skip")
    of_model = {name: options.pop(name) for name in names if name in options}
    likelihood = likelihood or likelihoods.Bernoulli()
    shape = x.event_shape if isinstance(x, data.Dataset) else x.shape[1:]
    model = VAE(shape, latents, likelihood=likelihood, hidden=hidden, **of_model)
    fitting = {"batch_size": options.pop("batch_size", 8)}
    trainer = Trainer(model, guide(model), seed=0, **options)
    trainer.fit(x, epochs=2, progress=False, **fitting)
    for row in trainer.history:
        bounds = [row["elbo"], row["objective"], row["reconstruction"], *row["kl"].values()]
        assert all(map(math.isfinite, bounds))
    return trainer


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize(
    "likelihood",
    [
        likelihoods.Bernoulli,
        likelihoods.ContinuousBernoulli,
        likelihoods.Gaussian,
        lambda: likelihoods.Gaussian("learned"),
        lambda: likelihoods.Gaussian("optimal"),
        lambda: likelihoods.Gaussian("predicted"),
        lambda: likelihoods.Gaussian("per_pixel"),
        likelihoods.DiscretizedLogistic,
        lambda: likelihoods.Categorical(2),
    ],
)
def test_data_of_one_colour(value, likelihood):
    trainer = train(torch.full((16, *IMAGE), value), likelihood=likelihood(), lr=1e-2)
    assert trainer.history[-1]["elbo"] > trainer.history[0]["elbo"]


@pytest.mark.parametrize("guide", [guides.BottomUp, guides.Ladder, guides.FullCovariance])
def test_a_single_datum(guide):
    x = torch.rand(1, 6).round()
    assert train(x, (3, 2), guide=guide).step == 2


def test_a_batch_of_one_under_batch_normalisation_is_refused_before_training():
    x = torch.rand(9, 6).round()
    for size, better in ((1, 3), (8, 9)):  # the last batch has one datum
        with pytest.raises(ValueError, match=rf"last batch of one .* pass batch_size={better}"):
            train(x, norm=nn.BatchNorm1d, batch_size=size)
        assert train(x, norm=nn.BatchNorm1d, batch_size=better).step == 2 * (9 // better)


@pytest.mark.parametrize("hidden", [None, (4,), ()])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (1,), (1, 1)])
def test_images_of_one_pixel(shape, hidden):
    assert train(torch.rand(16, *shape).round(), 1, hidden=hidden).step == 4


def test_one_latent():
    assert train(torch.rand(16, 6).round(), 1).history[-1]["kl"].keys() == {"z1"}
    assert train(torch.rand(16, 6).round(), (1, 1, 1), guide=guides.Ladder).step == 4


def test_vectors_of_a_hundred_thousand_dimensions():
    x = torch.rand(4, 100_000, generator=torch.Generator().manual_seed(0)).round()
    trainer = train(x, hidden=(4,), lr=1e-4)
    # Fair coins: at the start each costs about ln 2
    assert trainer.history[0]["reconstruction"] / 100_000 == pytest.approx(-math.log(2), rel=0.1)


KINDS = ("LearnedSigma", "OptimalSigma", "PerPixelSigma", "PredictedSigma")


@pytest.mark.filterwarnings("ignore:sigma has reached its floor")
@pytest.mark.parametrize("kind", KINDS)
def test_data_without_noise_go_to_the_floor_of_sigma_and_no_further(kind):
    floor, x = 0.1, torch.zeros(16, 6)
    likelihood = likelihoods.Gaussian(getattr(likelihoods, kind)(floor=floor))
    trainer = train(x, likelihood=likelihood, lr=0.03, beta=0.0)
    trainer.fit(x, epochs=200, batch_size=16, progress=False)
    # log N(0; 0, floor) per dimension is the most that there can be
    most = -6 * (math.log(floor) + 0.5 * math.log(2 * math.pi))
    assert most - 1 < trainer.history[-1]["reconstruction"] <= most + 1e-3


def test_a_fixed_sigma_as_small_as_single_precision_allows():
    trainer = train(torch.zeros(16, 6), likelihood=likelihoods.Gaussian(1e-12), lr=1e-3)
    assert trainer.history[-1]["elbo"] < -1e10
    with pytest.raises(ValueError, match="sigma: expected a positive"):
        likelihoods.Gaussian(0.0)


@pytest.mark.parametrize("guide", [guides.BottomUp, guides.Ladder])
def test_beta_of_zero_and_of_a_million(guide):
    x = torch.rand(16, 6, generator=torch.Generator().manual_seed(0)).round()
    free = train(x, (3, 2), guide=guide, beta=0.0).history[-1]
    assert free["objective"] == pytest.approx(free["reconstruction"], rel=1e-6)
    closed = train(x, (3, 2), guide=guide, beta=1e6)
    row = closed.history[-1]
    expected = row["reconstruction"] - 1e6 * sum(row["kl"].values())
    assert row["objective"] == pytest.approx(expected, rel=1e-4)
    rising = train(x, (3, 2), guide=guide, beta=schedules.WarmUp(steps=4, end=1e6))
    assert rising.history[-1]["beta"] is not None


def test_nothing_but_the_prior_is_worth_a_million_nats():
    x = torch.rand(16, 6, generator=torch.Generator().manual_seed(0)).round()
    trainer = train(x, beta=1e6, elbo="analytic", lr=1e-2)
    trainer.fit(x, epochs=100, batch_size=16, progress=False)
    assert trainer.history[-1]["kl"]["z1"] < 0.01 < trainer.history[0]["kl"]["z1"]


@pytest.mark.filterwarnings("ignore:Encountered")
@pytest.mark.filterwarnings("ignore:data. the values, from .* are far from 1")
def test_data_of_huge_values_overflow_with_an_error():
    x = 1e30 * torch.randn(16, 6)
    with pytest.raises(FloatingPointError, match=r"NaN or infinite.*lower lr"):
        train(x, likelihood=likelihoods.Gaussian())
    with pytest.raises(FloatingPointError, match=r"loc of a Normal became NaN .*rescale data"):
        train(
            3e38 * torch.randn(16, 6).sign(), likelihood=likelihoods.Gaussian(), hidden=(8, 8, 8)
        )


@pytest.mark.filterwarnings("ignore:Encountered")
def test_a_learning_rate_that_destroys_the_pair_is_an_error():
    with pytest.raises(FloatingPointError, match=r"NaN or infinite at step"):
        train(torch.rand(16, 6).round(), lr=1e30)


def test_devices_without_values_are_refused():
    vae = VAE((6,), 2, likelihood=likelihoods.Bernoulli())
    for device in ("meta", "hpu", "nonsense"):
        with pytest.raises(ValueError, match=f"device: expected one .*got '{device}'"):
            Trainer(vae, guides.BottomUp(vae), device=device)
    assert usable_device("cpu") == torch.device("cpu")
