import functools
import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_vae import Trainer, data, guides, infer, likelihoods, schedules
from pyro_vae.handlers import corrupt
from pyro_vae.models import VAE

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
GREY = data.Dataset(X.sigmoid(), binarize="dynamic")
HIERARCHY = (3, 2)
FROZEN = 1e-12  # a learning rate below the resolution of single precision


def pair(latents=2, guide=guides.BottomUp, likelihood=None, **options):
    torch.manual_seed(0)
    likelihood = likelihood or likelihoods.Gaussian()
    vae = VAE((6,), latents, likelihood=likelihood, hidden=(8,), **options)
    return vae, guide(vae)


def fitted(programs=None, data=X, *, epochs=2, batch_size=16, validation=None, callbacks=(), **k):
    trainer = Trainer(*(programs or pair()), **{"seed": 0, "lr": 1e-2, **k})
    return more(trainer, data, epochs, batch_size, validation=validation, callbacks=callbacks)


def more(trainer, data=X, epochs=2, batch_size=16, **options):
    return trainer.fit(data, epochs=epochs, batch_size=batch_size, progress=False, **options)


def rows(trainer, *without):
    return [
        {k: v for k, v in row.items() if k not in ("seconds", *without)} for row in trainer.history
    ]


def values(*programs):
    return {
        f"{i}.{name}": p.detach().clone()
        for i, program in enumerate(programs)
        for name, p in program.named_parameters()
    }


def changed(before, *programs):
    return {name for name, p in values(*programs).items() if not torch.equal(p, before[name])}


class Hook:
    """A callback from keyword functions."""

    def __init__(self, **hooks):
        self.__dict__.update(hooks)


def mean_and_error(numbers):
    numbers = torch.tensor(numbers, dtype=torch.float64)
    return float(numbers.mean()), float(numbers.std() / math.sqrt(len(numbers)))


# The objective


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
    assert abs(found - float(exact)) < 3 * error


def test_analytic_objective_has_the_closed_form_kl(linear):
    x, guide = linear.data(64), linear.guide(shift=0.3, widen=1.4)
    trainer = fitted((linear.vae, guide), x, elbo="analytic", lr=FROZEN, epochs=40)
    mean, sd = linear.posterior(x)
    mean, sd = mean + 0.3, 1.4 * sd
    kl = float(linear.kl(mean, sd).mean())
    assert trainer.history.column("kl.z1") == pytest.approx([kl] * 40, rel=1e-5)
    found, error = mean_and_error(trainer.history.column("objective"))
    assert abs(found - float(linear.reconstruction(x, mean, sd).mean() - kl)) < 3 * error


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


# The optimisation


def by_hand(optimizer, *, epochs=2, batch_size=16, clip_norm=math.inf):
    """The loop that a person would write over stock Pyro."""
    vae, guide = pair()
    parameters = [*vae.parameters(), *guide.parameters()]
    optimizer = optimizer(parameters, lr=1e-2)
    torch.manual_seed(0)
    for _ in range(epochs):
        for index in torch.randperm(len(X)).split(batch_size):
            optimizer.zero_grad()
            loss = Trace_ELBO().differentiable_loss(vae, guide, X[index]) / len(index)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, clip_norm)
            optimizer.step()
    return values(vae, guide)


OPTIMIZERS = [
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.SGD,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, foreach=True),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_is_that_of_a_loop_written_by_hand(optimizer):
    trainer = fitted(optimizer=optimizer)
    torch.testing.assert_close(
        values(trainer.model, trainer.guide), by_hand(optimizer), rtol=1e-4, atol=1e-6
    )


def test_clip_norm_clips():
    trainer = fitted(optimizer=torch.optim.SGD, clip_norm=0.1)
    expected = by_hand(torch.optim.SGD, clip_norm=0.1)
    torch.testing.assert_close(values(trainer.model, trainer.guide), expected)
    assert expected.keys() == changed(by_hand(torch.optim.SGD), trainer.model, trainer.guide)


@pytest.mark.parametrize(
    "same",
    [(X, None), [X, None], (X, torch.zeros(40, dtype=torch.long)), data.Dataset(X), X.double()],
    ids=["pair", "list", "labels", "Dataset", "double"],
)
def test_every_form_of_data_trains_alike(same):
    assert rows(fitted(data=same)) == rows(fitted())


def test_explicit_device_trains_alike():
    trainer = fitted(device="cpu")
    assert trainer.device == torch.device("cpu")
    assert rows(trainer) == rows(fitted())


def test_labels_reach_the_pair():
    y = torch.arange(40) % 3
    vae, guide = pair(condition=3, guide=guides.Delta)
    trainer = fitted((vae, guide), (X, y), beta=0.0, lr=FROZEN, epochs=1)
    one_hot = torch.eye(3)[y]
    z = guide.conditionals["z1"](X, one_hot).mean
    exact = vae.likelihood(vae.decoder(z, one_hot)).log_prob(X).sum(-1).mean()
    assert trainer.history[0]["objective"] == pytest.approx(exact.item(), rel=1e-5)


def test_a_pair_of_plain_functions_learns_the_exact_posterior():
    """h ~ N(0, 1), x|h ~ N(h + b, 1): b is the mean of x, h|x ~ N((x - b) / 2, 1/2)."""
    x = 1 + math.sqrt(2) * torch.randn(500, 1)
    encoder = nn.Linear(1, 1)

    def model(x):
        shift = pyro.param("shift", torch.tensor(0.0))
        with pyro.plate("rows", len(x)):
            h = pyro.sample("h", dist.Normal(0.0, 1.0))
            pyro.sample("observed", dist.Normal(h + shift, 1.0), obs=x[:, 0])

    def guide(x):
        pyro.module("encoder", encoder)
        sd = pyro.param("sd", torch.tensor(2.0), constraint=dist.constraints.positive)
        with pyro.plate("rows", len(x)):
            pyro.sample("h", dist.Normal(encoder(x)[:, 0], sd))

    trainer = Trainer(model, guide, seed=0, beta={"h": 1.0}, elbo="analytic")
    for trainer.lr in (0.1, 0.02, 0.004):
        more(trainer, x, 80, 500)

    shift = float(x.mean())
    assert pyro.param("shift").item() == pytest.approx(shift, abs=0.02)
    assert pyro.param("sd").item() == pytest.approx(math.sqrt(0.5), abs=0.02)
    assert encoder.weight.item() == pytest.approx(0.5, abs=0.02)
    assert encoder.bias.item() == pytest.approx(-shift / 2, abs=0.05)
    evidence = dist.Normal(shift, math.sqrt(2)).log_prob(x).mean()
    assert trainer.history[-1]["elbo"] == pytest.approx(float(evidence), abs=0.05)
    assert set(trainer.history[-1]["kl"]) == {"h"}


# Random streams


def test_same_seed_same_history_to_the_last_bit():
    first, second = fitted(seed=3), fitted(seed=3)
    assert rows(first) == rows(second)
    assert not changed(values(first.model, first.guide), second.model, second.guide)
    assert rows(first) != rows(fitted(seed=4))


def test_without_seed_the_global_stream_is_used():
    def run(seed):
        programs = pair()
        torch.manual_seed(seed)
        return rows(fitted(programs, seed=None))

    assert run(1) == run(1)
    assert run(1) != run(2)


@pytest.mark.parametrize("training", [X, GREY], ids=["values", "dynamic"])
def test_a_seeded_trainer_leaves_the_global_stream_alone(training):
    programs = pair(likelihood=None if training is X else likelihoods.Bernoulli())
    before = torch.get_rng_state()
    fitted(programs, training, validation=training)
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_does_not_disturb_training():
    assert rows(fitted(validation=X[:9]), "validation") == rows(fitted())


def test_validation_is_the_bound_of_the_whole_set():
    vae, guide = pair(HIERARCHY, guides.Delta)
    row = fitted((vae, guide), validation=X[:9], epochs=1).history[0]["validation"]
    terms = infer.elbo_terms(vae, guide, X[:9])
    assert row["reconstruction"] == pytest.approx(float(terms.reconstruction.mean()))
    assert row["kl"] == pytest.approx({s: float(kl.mean()) for s, kl in terms.kl.items()})
    assert row["elbo"] == pytest.approx(float(terms.elbo.mean()))
    assert row["elbo_se"] == pytest.approx(float(terms.elbo.std()) / 3)


def test_dynamic_binarisation_is_drawn_anew_each_epoch():
    """With a constant code log p(x|z) is linear in x: its mean is that of the intensities."""
    vae, guide = pair(guide=guides.Delta, likelihood=likelihoods.Bernoulli())
    nn.init.zeros_(guide.conditionals["z1"].loc.weight)
    options = {"beta": 0.0, "lr": FROZEN, "epochs": 60, "batch_size": 40}
    found = fitted((vae, guide), GREY, **options).history.column("objective")
    assert len(set(found)) == 60
    logits = vae.decoder(guide.encode(X).mean["z1"]).detach()
    expected = (GREY.x * logits - nn.functional.softplus(logits)).sum(-1).mean()
    mean, error = mean_and_error(found)
    assert abs(mean - float(expected)) < 3 * error
    static = GREY.binarized(torch.Generator().manual_seed(0))
    once = fitted((vae, guide), static, **options).history.column("objective")
    assert once == pytest.approx(once[:1] * 60, rel=1e-6)


# One run after another


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("beta", [2.0, schedules.WarmUp(steps=9)], ids=str)
def test_two_fits_equal_one_long_fit(optimizer, beta):
    twice = more(fitted(optimizer=optimizer, beta=beta))
    once = fitted(optimizer=optimizer, beta=beta, epochs=4)
    assert rows(twice) == rows(once)
    assert [(row["epoch"], row["step"]) for row in twice.history] == [
        (1, 3),
        (2, 6),
        (3, 9),
        (4, 12),
    ]
    assert not changed(values(once.model, once.guide), twice.model, twice.guide)


def test_two_fits_equal_one_long_fit_under_dynamic_binarisation():
    def programs():
        return pair(likelihood=likelihoods.Bernoulli())

    assert rows(more(fitted(programs(), GREY), GREY)) == rows(fitted(programs(), GREY, epochs=4))


def moments(trainer, program):
    state = trainer.optimizer.state
    return [{k: v.clone() for k, v in state[p].items()} for p in program.parameters()]


def test_a_swap_keeps_weights_and_optimizer_state_of_the_model():
    vae, first = pair()
    trainer = fitted((vae, first))
    before, model_moments = values(vae), moments(trainer, vae)
    first_moments, first_values = moments(trainer, first), values(first)
    second = guides.BottomUp(vae, hidden=(5,))
    found = {}

    def look(trainer, **kwargs):
        found.update(model=moments(trainer, vae), state=trainer.optimizer.state)
        found["first"] = moments(trainer, first) if trainer.guide is first else None
        found["second"] = [p for p in second.parameters() if p in trainer.optimizer.state]

    def swap(guide):
        trainer.swap_guide(guide).fit(
            X, epochs=2, batch_size=16, progress=False, callbacks=[Hook(on_fit_begin=look)]
        )

    assert not changed(before, trainer.swap_guide(second).model)
    swap(second)
    torch.testing.assert_close(found["model"], model_moments, rtol=0, atol=0)
    assert found["second"] == []
    assert moments(trainer, second)[0]["step"] == 6 and moments(trainer, vae)[0]["step"] == 12
    assert not changed(first_values, first)
    model_moments, second_values = moments(trainer, vae), values(second)
    swap(first)
    torch.testing.assert_close(found["model"], model_moments, rtol=0, atol=0)
    torch.testing.assert_close(found["first"], first_moments, rtol=0, atol=0)
    assert changed(first_values, first) == set(first_values)
    assert not changed(second_values, second)
    assert changed(before, vae) == set(before)
    assert [row.get("swapped") for row in trainer.history] == [None, None, True, None, True, None]
    assert trainer.history.column("epoch") == [1, 2, 3, 4, 5, 6]


def test_a_swap_before_training_is_none():
    vae, guide = pair()
    trainer = Trainer(vae, guide, seed=0).swap_guide(guides.Delta(vae))
    assert more(trainer).history.column("swapped") == [None, None]
    assert trainer.history.column("guide") == ["Delta", "Delta"]


def test_the_learning_rate_may_be_assigned_at_any_time():
    def halve(trainer, **kwargs):
        trainer.lr /= 2

    trainer = fitted(callbacks=[Hook(on_epoch_end=halve)])
    trainer.lr = 0.5
    trainer.swap_guide(guides.BottomUp(trainer.model))
    more(trainer, epochs=1)
    trainer.lr = FROZEN
    before = values(*trainer.modules())
    more(trainer, epochs=1)
    assert trainer.history.column("lr") == [1e-2, 5e-3, 0.5, FROZEN]
    assert not changed(before, *trainer.modules())


def test_frozen_parameters_stay_bit_equal():
    vae, guide = pair()
    vae.decoder.layers[0].requires_grad_(False)
    guide.conditionals["z1"].loc.bias.requires_grad_(False)
    before = values(vae, guide)
    trainer = fitted((vae, guide))
    frozen = {
        n
        for n, p in zip(before, [*vae.parameters(), *guide.parameters()], strict=True)
        if not p.requires_grad
    }
    assert changed(before, vae, guide) == set(before) - frozen and len(frozen) == 3

    vae.requires_grad_(False)
    guide.requires_grad_(True)
    before = values(vae, guide)
    more(trainer)
    assert changed(before, vae, guide) == {name for name in before if name.startswith("1.")}


def interrupt_at(step):
    def hook(trainer, **kwargs):
        if trainer.step == step:
            raise KeyboardInterrupt

    return Hook(on_step_end=hook)


def test_ctrl_c_leaves_a_usable_trainer(capsys):
    same = X[:1].expand(40, 6)
    vae, guide = pair(guide=guides.Delta)
    vae.eval()
    trainer = Trainer(vae, guide, seed=0, lr=FROZEN)
    more(trainer, same, epochs=9, batch_size=10, callbacks=[interrupt_at(6)])
    assert "Ctrl-C after 6 steps" in capsys.readouterr().out
    assert trainer.history.column("interrupted") == [None, True]
    assert trainer.history.column("step") == [4, 6]
    whole, partial = trainer.history.column("objective")
    assert partial == pytest.approx(whole, rel=1e-6)
    assert not vae.training and guide.training
    more(trainer, same, epochs=1, batch_size=10)
    assert trainer.history.column("step") == [4, 6, 10]


@pytest.mark.parametrize("step", [3, 4])
def test_after_ctrl_c_training_goes_on_with_its_moments(step):
    trainer = fitted(epochs=9, callbacks=[interrupt_at(step)])
    assert moments(trainer, trainer.model)[0]["step"] == step
    more(trainer, epochs=1)
    assert moments(trainer, trainer.model)[0]["step"] == step + 3
    assert [row["epoch"] for row in trainer.history] == list(range(1, len(trainer.history) + 1))


def test_modes_are_restored_and_dropout_is_on_while_training():
    seen = []

    class Watched(nn.Linear):
        def forward(self, x):
            seen.append(self.training)
            return super().forward(x)

    vae = VAE((6,), 2, likelihood=likelihoods.Gaussian(), decoder=Watched(2, 6))
    guide = guides.BottomUp(vae)
    vae.eval()
    step = Hook(on_step_end=lambda **kwargs: modes.append(seen[-1]))
    modes = []
    fitted((vae, guide), validation=X, callbacks=[step])
    assert modes == [True] * 6 and seen[-1] is False
    assert not vae.training and guide.training


# The history


def test_history_is_json():
    trainer = fitted(pair(HIERARCHY), validation=X, beta={"z1": torch.tensor(0.5)})
    assert json.loads(trainer.history.to_json()) == trainer.history
    assert {type(row) for row in trainer.history} == {dict}


def test_history_keys():
    row = fitted(epochs=1).history[0]
    assert set(row) == {
        *("epoch", "step", "elbo", "objective", "reconstruction", "kl"),
        *("beta", "lr", "guide", "frozen", "active_units", "seconds"),
    }
    assert (row["lr"], row["guide"]) == (1e-2, "BottomUp") and row["seconds"] > 0


def test_print_tells_how_far_training_went():
    trainer = fitted()
    text = f"Trainer after 2 epochs, 6 steps, elbo {trainer.history[-1]['elbo']:.2f}"
    assert repr(trainer) == f"{text}\n{trainer.model!r}\n{trainer.guide!r}"


def test_progress_shows_the_bound(capsys):
    trainer = Trainer(*pair(), seed=0).fit(X, epochs=1)
    assert f"elbo={trainer.history[0]['elbo']:.2f}" in capsys.readouterr().err


# What goes wrong


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


def test_parameters_without_gradient_are_told_once_an_epoch_has_gone_by():
    vae, guide = pair()
    guide.forgotten = nn.Linear(2, 2)
    with pytest.warns(infer.UntrainedWarning) as caught:
        fitted((vae, guide), epochs=3)
    (message,) = [str(warning.message) for warning in caught]
    assert "no gradient in 3 steps: guide.forgotten.weight, guide.forgotten.bias" in message


class Expert(nn.Module):
    """Another network for the data of a label that some batches lack."""

    def __init__(self, vae):
        super().__init__()
        self.usual, self.rare = guides.BottomUp(vae), nn.Linear(6, 2)

    def forward(self, x, *, y):
        loc = self.usual.conditionals["z1"](x).mean
        if y.any():
            loc = torch.where(y.bool()[:, None], self.rare(x), loc)
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(loc, 1.0).to_event(1))


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_an_expert_of_a_rare_label_trains_without_a_warning(optimizer):
    vae, guide = pair(guide=Expert)
    guide.usual.conditionals["z1"].raw_scale.requires_grad_(False)
    y = torch.zeros(40, dtype=torch.long)
    y[7] = 1
    before = values(guide.rare)
    fitted((vae, guide), (X, y), epochs=1, batch_size=4, optimizer=optimizer)
    assert len(changed(before, guide.rare)) == 2


@pytest.mark.parametrize("hook", ["on_step_end", "on_epoch_end"])
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_what_a_callback_unfreezes_or_replaces_trains_from_then_on(engine, hook):
    vae, guide = pair()
    vae.decoder.requires_grad_(False)
    before, done = values(vae, guide), []

    def change(trainer, **kwargs):
        if not done:
            assert not {name for name in changed(before, vae, guide) if "decoder" in name}
            vae.decoder.requires_grad_(True)
            guide.conditionals["z1"].loc = nn.Linear(8, 2)
            before.update(values(vae, guide))
            done.append(True)

    trainer = fitted((vae, guide), engine=engine, callbacks=[Hook(**{hook: change})])
    assert changed(before, vae, guide) == set(before)
    assert all(trainer.optimizer.state[p] for p in trainer.parameters())


def test_a_parameter_that_is_thawed_within_a_run_goes_on_with_its_own_moments():
    """Frozen when the second run began, it finds what the optimizer knew of it in the first."""
    vae, guide = pair()
    trainer = fitted((vae, guide), epochs=1, batch_size=40)
    first = trainer.optimizer.state[vae.decoder.layers[0].weight]["exp_avg"].clone()
    vae.decoder.requires_grad_(False)
    seen = []

    def thaw(trainer, **kwargs):
        vae.decoder.requires_grad_(True)

    def look(trainer, **kwargs):
        state = trainer.optimizer.state[vae.decoder.layers[0].weight]
        seen.append((int(state["step"]), state["exp_avg"].clone()) if state else None)

    hooks = [Hook(on_epoch_end=look), Hook(on_epoch_end=thaw)]
    more(trainer, epochs=2, batch_size=40, callbacks=hooks)
    assert seen[0] is None and seen[1][0] == 2
    gradient = vae.decoder.layers[0].weight.grad
    torch.testing.assert_close(seen[1][1], 0.9 * first + 0.1 * gradient)


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
        ({"elbo": "iwae"}, ValueError, "elbo: expected 'trace' or 'analytic', got 'iwae'"),
    ],
)
def test_bad_settings_are_an_error_at_once(options, error, message):
    with pytest.raises(error, match=message):
        Trainer(*pair(), **options)


def test_engines_give_the_same_history_to_the_last_bit():
    x = torch.randn(150, 6)

    def history(engine):
        torch.manual_seed(0)
        vae = VAE((6,), (4, 3), likelihood=likelihoods.Gaussian(), hidden=(16,))
        trainer = Trainer(
            vae, guides.BottomUp(vae), beta=schedules.WarmUp(epochs=3), seed=0, engine=engine
        )
        trainer.fit(x, epochs=30, batch_size=32, progress=False)
        trainer.swap_guide(guides.BottomUp(vae, hidden=(8,)))
        trainer.fit(x, epochs=30, batch_size=32, progress=False)
        assert engine == "eager" or trainer.steps.running._recorded, "the run was recorded"
        return [{k: v for k, v in row.items() if k != "seconds"} for row in trainer.history]

    assert history("graph") == history("eager")


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
    with pytest.raises(ValueError, match=r"guide: .* of data \(5,\) and latents .*'z1': 3"):
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


def test_rows_name_the_guide_under_its_handlers():
    vae, guide = pair()
    assert fitted((vae, corrupt(guide, 0.1))).history[0]["guide"] == "BottomUp"


def test_the_validation_objective_is_that_of_training():
    trainer = fitted(beta={"z1": 0.25}, validation=X)
    for row in trainer.history:
        v = row["validation"]
        assert v["objective"] == pytest.approx(v["reconstruction"] - 0.25 * v["kl"]["z1"])


def test_double_precision():
    """A double model with double, single and dynamically binarised data."""
    vae, guide = (p.double() for p in pair(likelihood=likelihoods.ContinuousBernoulli()))
    for given in (X.sigmoid().double(), X.sigmoid(), GREY):
        trainer = Trainer(vae, guide, seed=0).fit(
            given, validation=given, epochs=1, batch_size=20, progress=False
        )
        assert trainer.steps.svi.terms.elbo.dtype == torch.float64
        assert math.isfinite(trainer.history[0]["validation"]["elbo"])
