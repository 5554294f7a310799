"""What goes wrong is told before a parameter moves, or at the step where it shows."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting import FROZEN, GREY, HIERARCHY, Hook, X, changed, fitted, more, pair, values
from torch import nn

from pyro_vae import Trainer, guides, likelihoods
from pyro_vae.models import VAE


class Prior(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self):
        return dist.Normal(self.loc, 1.0).to_event(1)


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("conditionals.z1.loc", "^KL of site 'z1' became NaN or infinite at step 5: lower lr"),
        ("decoder.layers.1.bias", "^reconstruction of the observed sites became NaN"),
    ],
)
def test_a_bound_that_is_not_finite_names_step_and_site(parameter, message):
    vae, guide = pair(top_down={"z1": Prior()})

    def spoil(trainer, **kwargs):
        if trainer.step == 4:
            vae.get_parameter(parameter).data.fill_(math.nan)

    before = torch.get_rng_state()
    with pytest.raises(FloatingPointError, match=message):
        fitted(
            (vae, guide),
            callbacks=[Hook(on_step_end=spoil)],
            optimizer=torch.optim.SGD,
            batch_size=14,
        )
    assert torch.equal(torch.get_rng_state(), before)


def test_an_objective_that_is_not_finite_is_an_error_too():
    beta = torch.tensor(1.0)
    spoil = Hook(on_step_end=lambda trainer, **kwargs: beta.fill_(math.nan))
    with pytest.raises(FloatingPointError, match=r"^objective became NaN or infinite at step 2"):
        fitted(beta=beta, epochs=1, batch_size=20, lr=FROZEN, callbacks=[spoil])


def no_z2(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z1", dist.Normal(torch.zeros(3), 1.0).to_event(1))


def narrower(vae):
    return guides.BottomUp(VAE((5,), 3, likelihood=likelihoods.Gaussian(), hidden=(4,)))


LABELS = torch.arange(40) % 3
BERNOULLI = {"likelihood": likelihoods.Bernoulli()}


@pytest.mark.parametrize(
    ("programs", "fit", "options", "message"),
    [
        ({}, {"data": X[:, :5]}, {}, r"data: site 'x': expected shape \(n, 6\)"),
        ({}, {"data": X[:0]}, {}, "x: expected at least one datum"),
        ({}, {"data": X.log()}, {}, "x: expected finite values"),
        ({}, {"data": (X, LABELS[:3])}, {}, r"y: expected shape \(40,\)"),
        ({}, {"validation": X[:, :5]}, {}, r"validation: site 'x': expected shape \(n, 6\)"),
        (BERNOULLI, {"data": X.sigmoid()}, {}, "data: .*ContinuousBernoulli.*dynamic"),
        (BERNOULLI, {"validation": X, "data": GREY}, {}, "validation: .*0 and 1"),
        ({"condition": 3}, {}, {}, "data: y: .*3 classes.* pass y="),
        ({"condition": 3}, {"data": (X, LABELS + 1)}, {}, "data: y: .*0 to 2, got 1 to 3"),
        ({"condition": 3}, {"data": (X, LABELS), "validation": X}, {}, "validation: y: .*pass y="),
        ({"latents": HIERARCHY, "guide": lambda vae: no_z2}, {}, {}, "'z2'.*missing in the guide"),
        ({"latents": HIERARCHY}, {}, {"elbo": "analytic"}, "site 'z1': elbo='analytic' is wrong"),
        ({}, {"epochs": 0}, {}, "epochs: expected a whole number of at least 1, got 0"),
        ({}, {"epochs": 1.5}, {}, "epochs: .*got 1.5"),
        ({}, {"batch_size": -2}, {}, "batch_size: .*got -2"),
    ],
)  # fmt: skip
def test_bad_input_is_an_error_before_any_parameter_moves(programs, fit, options, message):
    vae, guide = pair(**programs)
    trainer = Trainer(vae, guide, seed=0, **options)
    before, state = values(*trainer.modules()), torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        more(trainer, **{"data": X, **fit})
    assert not changed(before, *trainer.modules())
    assert trainer.history == [] and trainer.step == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_data_of_another_type_is_an_error():
    with pytest.raises(TypeError, match="x: expected a tensor, an array, a list"):
        fitted(data=object())


def test_nothing_to_train_is_an_error():
    vae, guide = pair()
    vae.requires_grad_(False)
    guide.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameters"):
        fitted((vae, guide))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"beta": -1.0}, ValueError, "beta: expected a finite number >= 0, got -1"),
        ({"beta": math.nan}, ValueError, "beta: expected a finite number >= 0, got nan"),
        ({"beta": torch.tensor(-1.0)}, ValueError, "beta: expected a finite number >= 0"),
        ({"beta": torch.ones(2)}, ValueError, r"beta: expected a 0-d tensor, got shape \(2,\)"),
        ({"beta": {"z1": math.inf}}, ValueError, r"beta\['z1'\]: expected a finite number >= 0"),
        ({"beta": "4"}, TypeError, "beta: expected a number, a schedule"),
        ({"beta": None}, TypeError, "beta: expected a number, a schedule"),
        ({"lr": 0.0}, ValueError, "lr: expected a positive finite number, got 0"),
        ({"lr": -1e-3}, ValueError, "lr: expected a positive finite number"),
        ({"lr": math.nan}, ValueError, "lr: expected a positive finite number"),
        ({"clip_norm": 0}, ValueError, "clip_norm: expected a positive number"),
        (
            {"elbo": "iwae"},
            ValueError,
            "elbo: expected 'trace' or 'analytic' or 'enumerate', got 'iwae'",
        ),
    ],
)
def test_bad_settings_are_an_error_at_once(options, error, message):
    with pytest.raises(error, match=message):
        Trainer(*pair(), **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"beta": {"z3": 1.0}}, ValueError, "beta: .*no latent site 'z3', it has .*z1"),
        ({"optimizer": torch.optim.LBFGS}, TypeError, "optimizer: LBFGS evaluates"),
        ({"optimizer": "adam"}, TypeError, "optimizer: expected a class .*torch.optim.Adam"),
        ({"optimizer": pyro.optim.Adam({"lr": 1e-3})}, TypeError, "optimizer: expected a class"),
        ({"engine": "fast"}, ValueError, "engine: expected 'eager' or 'graph'"),
        ({"device": "gpu"}, ValueError, "device: expected one .*'cpu', got 'gpu'"),
    ],
)
def test_bad_options_are_errors_of_the_constructor(options, error, message):
    with pytest.raises(error, match=message):
        Trainer(*pair(), **options)


def test_a_guide_for_other_latents_is_an_error_of_constructor_and_swap():
    vae, guide = pair()
    with pytest.raises(ValueError, match=r"guide: it was built for another model, .* this one"):
        Trainer(vae, pair(latents=HIERARCHY)[1])
    trainer = fitted((vae, guide))
    optimizer = trainer.optimizer
    with pytest.raises(ValueError, match=r"guide: .* of data \(5,\) and latents .*'z1': \(3,\)"):
        trainer.swap_guide(narrower(vae))
    assert trainer.guide is guide and trainer.optimizer is optimizer


def test_no_progress_bar_is_left_by_a_failed_check(capsys):
    vae, _ = pair()
    with pytest.raises(ValueError, match="build the guide for this model"):
        Trainer(vae, no_z2).fit(X, epochs=1, progress=True)
    assert capsys.readouterr().err == ""


def test_beta_cannot_be_assigned_within_a_run():
    def assign(trainer, **kwargs):
        trainer.beta = 0.5

    with pytest.raises(RuntimeError, match="beta: assign it between calls of fit"):
        fitted(callbacks=[Hook(on_epoch_end=assign)])


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (Hook(on_epoch_end=print), r"callbacks: .*callbacks=\[...\]"),
        ([Hook], r"callbacks: .*the class Hook: write Hook\(...\)"),
    ],
)
def test_bad_callbacks(callbacks, message):
    with pytest.raises(TypeError, match=message):
        fitted(callbacks=callbacks)
