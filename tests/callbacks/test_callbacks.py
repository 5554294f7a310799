import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.optim import lr_scheduler

from pyro_vae import Trainer, callbacks, guides, likelihoods, schedules
from pyro_vae.models import VAE

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


def trainer(guide=guides.BottomUp, **options):
    torch.manual_seed(0)
    vae = VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(8,))
    return Trainer(vae, guide(vae), **{"seed": 0, "lr": 1e-2, **options})


def fit(t, epochs, *hung, validation=None):
    return t.fit(
        X, epochs=epochs, batch_size=16, callbacks=hung, validation=validation, progress=False
    )


def tensors(t):
    return [v.clone() for module in t.modules() for v in module.state_dict().values()]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class Script:
    """Puts given numbers into the rows, before the callbacks that come after it see them."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def on_epoch_end(self, row, **kwargs):
        row["score"] = self.numbers.pop(0)


# Hooks


class Recorder:
    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda **kwargs: self.calls.append((name, kwargs))


def test_hooks_come_in_order_with_their_arguments():
    recorder, t = Recorder(), trainer()
    fit(t, 2, recorder)
    epoch = ["on_step_end"] * 3 + ["on_epoch_end"]
    assert [name for name, _ in recorder.calls] == [
        "on_fit_begin", *epoch, *epoch, "on_fit_end"
    ]  # fmt: skip
    assert all(kwargs["trainer"] is t for _, kwargs in recorder.calls)
    steps = [kwargs["loss"] for name, kwargs in recorder.calls if name == "on_step_end"]
    batches = torch.tensor([16.0, 16.0, 8.0])
    objective = -(torch.stack(steps).view(2, 3) * batches).sum(1) / 40
    assert t.history.column("objective") == pytest.approx(objective.tolist())
    ends = [kwargs["row"] for name, kwargs in recorder.calls if name == "on_epoch_end"]
    assert all(row is kept for row, kept in zip(ends, t.history, strict=True))


def test_the_optimizer_exists_before_the_first_step():
    class Look:
        def on_fit_begin(self, trainer, **kwargs):
            self.found = trainer.optimizer

    look, t = Look(), trainer()
    assert t.optimizer is None
    fit(t, 1, look)
    assert look.found is t.optimizer


def test_an_object_with_one_hook_will_do_and_may_write_into_the_row():
    assert fit(trainer(), 2, Script(5.0, 6.0)).history.column("score") == [5.0, 6.0]


def test_the_end_of_a_run_is_told_whatever_ended_it():
    class Fail:
        def on_epoch_end(self, **kwargs):
            raise RuntimeError("mine")

    recorder = Recorder()
    with pytest.raises(RuntimeError, match="mine"):
        fit(trainer(), 2, Fail(), recorder)
    assert recorder.calls[-1][0] == "on_fit_end"


def test_the_base_class_changes_nothing():
    plain, with_base = trainer(), trainer()
    fit(plain, 2)
    fit(with_base, 2, callbacks.Callback())
    assert same(tensors(plain), tensors(with_base))


# EarlyStopping and KeepBest


@pytest.mark.parametrize(
    ("scores", "options", "epochs"),
    [
        ([1, 2, 3, 4, 5, 6], {"patience": 1}, 6),
        ([1, 2, 2, 4, 5, 6], {"patience": 1}, 3),
        ([1, 2, 1, 1, 5, 6], {"patience": 2}, 4),
        ([1, 2, 1, 3, 1, 1], {"patience": 2}, 6),
        ([1, 1.5, 2, 2.5, 3, 9], {"patience": 2, "min_delta": 0.9}, 6),
        ([1, 1.5, 2, 2.5, 3, 9], {"patience": 1, "min_delta": 0.9}, 2),
        ([math.nan, math.nan, 1, 2, 3, 4], {"patience": 2}, 2),
    ],
)
def test_early_stopping_waits_for_a_better_epoch(scores, options, epochs):
    t = fit(trainer(), 6, Script(*scores), callbacks.EarlyStopping("score", **options))
    assert len(t.history) == epochs


def test_early_stopping_starts_anew_with_each_fit():
    t, stop = trainer(), callbacks.EarlyStopping("score", patience=1)
    fit(t, 5, Script(9, 8), stop)
    fit(t, 5, Script(1, 2, 1), stop)
    assert t.history.column("score") == [9, 8, 1, 2, 1]


def test_early_stopping_watches_the_validation_bound_by_default():
    constant = trainer(guides.Delta, lr=1e-12)
    fit(constant, 20, callbacks.EarlyStopping(patience=3), validation=X)
    assert len(constant.history) == 4


@pytest.mark.parametrize("best", [1, 2, 4])
def test_keep_best_restores_the_very_state(best):
    scores = [1.0, 1.0, 1.0, 1.0]
    scores[best - 1] = 2.0
    keep = callbacks.KeepBest("score")
    t = fit(trainer(), 4, Script(*scores), keep)
    assert same(tensors(t), tensors(fit(trainer(), best)))
    assert not same(tensors(t), tensors(fit(trainer(), best % 4 + 1)))
    assert (keep.best, keep.best_epoch) == (2.0, best)


def test_keep_best_restores_buffers():
    torch.manual_seed(0)
    decoder = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 6))
    vae = VAE((6,), 2, likelihood=likelihoods.Gaussian(), decoder=decoder)
    t = Trainer(vae, guides.BottomUp(vae), seed=0)
    seen = []

    class Look:
        def on_epoch_end(self, **kwargs):
            seen.append(decoder[0].running_mean.clone())

    fit(t, 3, Script(2, 1, 1), Look(), callbacks.KeepBest("score"))
    assert torch.equal(decoder[0].running_mean, seen[0])
    assert not torch.equal(seen[0], seen[2])


def test_keep_best_restores_the_parameters_of_plain_functions():
    import pyro
    import pyro.distributions as dist

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
            pyro.sample("x", dist.Normal(z, scale), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    seen = []

    class Look:
        def on_epoch_end(self, **kwargs):
            seen.append((pyro.param("scale").item(), pyro.param("loc").item()))

    t = Trainer(model, guide, seed=0, lr=0.1)
    fit(t, 3, Script(1, 2, 1), Look(), callbacks.KeepBest("score"))
    assert (pyro.param("scale").item(), pyro.param("loc").item()) == seen[1] != seen[2]


def test_keep_best_also_when_the_run_failed():
    class Fail:
        def on_step_end(self, trainer, **kwargs):
            if trainer.step == 8:
                raise RuntimeError("mine")

    t = trainer()
    with pytest.raises(RuntimeError, match="mine"):
        fit(t, 9, Script(2, 1), callbacks.KeepBest("score"), Fail())
    assert same(tensors(t), tensors(fit(trainer(), 1)))


class Worse:
    """From the first epoch on far from the data."""

    def on_epoch_end(self, trainer, row, **kwargs):
        row["validation"]["objective"] -= 100.0


def test_keep_best_counts_the_start_on_validation_data():
    t = fit(trainer(), 3)
    before, keep = tensors(t), callbacks.KeepBest()
    fit(t, 2, Worse(), keep, validation=X)
    assert keep.best_epoch == 0 and same(tensors(t), before)
    fit(t, 2, keep, validation=X)
    assert keep.best_epoch > 3 and not same(tensors(t), before)
    # What is not measured at the start has no start to count
    training = callbacks.KeepBest("elbo")
    fit(t, 1, training, validation=X)
    assert training.best_epoch == 8


def test_a_run_without_an_epoch_to_compare_leaves_what_was_trained():
    class Fail:
        def on_step_end(self, trainer, **kwargs):
            raise RuntimeError("mine")

    t = trainer()
    before = tensors(t)
    with pytest.raises(RuntimeError, match="mine"):
        fit(t, 1, callbacks.KeepBest(), Fail(), validation=X)
    assert not same(tensors(t), before)


@pytest.mark.parametrize("callback", [callbacks.EarlyStopping(), callbacks.KeepBest()])
def test_a_monitor_without_values_is_an_error(callback):
    with pytest.raises(ValueError, match=r"monitor: .*no 'validation.objective': pass val"):
        fit(trainer(), 1, callback)


# LRScheduler

step = functools.partial(lr_scheduler.StepLR, step_size=2, gamma=0.1)
SCHEDULERS = {
    "StepLR": (step, [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4]),
    "LambdaLR": (
        functools.partial(lr_scheduler.LambdaLR, lr_lambda=lambda epoch: (1 + epoch) / 10),
        [1e-3 * k for k in (1, 2, 3, 4, 5, 6)],
    ),
    "CosineAnnealingLR": (
        functools.partial(lr_scheduler.CosineAnnealingLR, T_max=6),
        [5e-3 * (1 + math.cos(math.pi * k / 6)) for k in range(6)],
    ),
}


@pytest.mark.parametrize("parts", [(6,), (3, 3), (1, 2, 3)], ids=str)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_learning_rate_follows_its_scheduler_over_several_fits(name, parts):
    factory, expected = SCHEDULERS[name]
    t, scheduler = trainer(), callbacks.LRScheduler(factory)
    for epochs in parts:
        fit(t, epochs, scheduler)
    assert t.history.column("lr") == pytest.approx(expected, rel=1e-4)


def test_parts_of_a_scheduled_run_equal_the_whole():
    parts, whole = trainer(), trainer()
    scheduler = callbacks.LRScheduler(step)
    fit(fit(parts, 3, scheduler), 3, scheduler)
    fit(whole, 6, callbacks.LRScheduler(step))
    assert same(tensors(parts), tensors(whole))


def test_a_plateau_lowers_the_learning_rate_over_several_fits():
    factory = functools.partial(
        lr_scheduler.ReduceLROnPlateau, mode="max", factor=0.1, patience=1, threshold=0.0
    )
    t, scheduler = trainer(), callbacks.LRScheduler(factory, monitor="score")
    fit(t, 3, Script(1, 2, 1), scheduler)
    fit(t, 4, Script(1, 3, 1, 1), scheduler)
    fit(t, 1, Script(1), scheduler)
    # Two epochs below the best: the fourth and the seventh
    assert t.history.column("lr") == pytest.approx([1e-2] * 4 + [1e-3] * 3 + [1e-4])


def test_a_scheduler_goes_on_after_a_swap():
    t, scheduler = trainer(), callbacks.LRScheduler(step)
    fit(t, 3, scheduler)
    t.swap_guide(guides.BottomUp(t.model))
    fit(t, 3, scheduler)
    assert t.history.column("lr") == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4])


# TensorBoard


def events(folder):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_every_number_of_the_history(tmp_path):
    pytest.importorskip("tensorboard")
    t, board = trainer(), callbacks.TensorBoard(tmp_path)
    fit(t, 2, board, validation=X)
    fit(t, 1, board)
    found = events(tmp_path)
    board.writer.close()
    expected = {
        key.replace(".", "/"): [
            (epoch, pytest.approx(value))
            for epoch, value in zip((1, 2, 3), t.history.column(key), strict=True)
            if value is not None
        ]
        for key in (
            *("epoch", "step", "elbo", "objective", "reconstruction", "kl.z1", "beta", "lr"),
            *("seconds", "validation.elbo", "validation.elbo_se", "validation.reconstruction"),
            *("validation.objective", "validation.kl.z1", "active_units.z1"),
        )
    }
    assert found == expected


def test_without_tensorboard_the_command_is_named(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match="pip install tensorboard"):
        callbacks.TensorBoard(tmp_path)


def test_an_autoencoder_keeps_the_epoch_of_its_own_objective():
    """Its log p(x, z) falls while the reconstruction that it is trained for rises."""
    vae = VAE((6,), 3, likelihood=likelihoods.Gaussian(0.1), hidden=(8,))
    t = Trainer(vae, guides.Delta(vae), beta=0.0, lr=1e-2, seed=0)
    best = callbacks.KeepBest()
    fit(t, 10, best, validation=X)
    objective = t.history.column("validation.objective")
    assert objective == pytest.approx(t.history.column("validation.reconstruction"))
    assert best.best == max(objective) and best.best_epoch == 1 + objective.index(best.best)
    assert best.best_epoch > 1


def test_while_beta_changes_the_bound_is_monitored():
    vae = VAE((6,), 3, likelihood=likelihoods.Gaussian(), hidden=(8,))
    t = Trainer(vae, guides.BottomUp(vae), beta=schedules.WarmUp(epochs=5), seed=0)
    best = callbacks.KeepBest()
    fit(t, 5, best, validation=X)
    assert best.best == max(t.history.column("validation.elbo"))


def test_options_of_a_scheduler():
    t = trainer()
    fit(t, 4, callbacks.LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.1))
    assert t.history.column("lr") == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3])


# What nothing goes through


def collapsing(epochs=4, hung=(), **options):
    """The data are noise, which no latent explains; beta makes the KL vanish soon."""
    t = trainer(beta=20.0, lr=3e-2, **options)
    return t.fit(X, validation=X, epochs=epochs, callbacks=hung, progress=False)


def test_a_run_that_ends_without_a_latent_says_so_once(capsys):
    t = collapsing(20)
    kl = t.history[-1]["validation"]["kl"]["z1"]
    assert kl <= 0.05
    told = capsys.readouterr().out
    assert told.startswith(f"latent variables collapse: KL in nats after epoch 20: z1 {kl:.2g}.")
    assert told.count("\n") == 1
    fit(t, 5, validation=X)
    assert capsys.readouterr().out == ""


def test_a_latent_in_use_is_no_news(capsys):
    t = trainer(beta=0.01)
    fit(t, 20, validation=X)
    assert t.history[-1]["validation"]["kl"]["z1"] > 0.05
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("options", [{"epochs": 3}, {"hung": [callbacks.CollapseWarning(100)]}])
def test_neither_a_start_nor_a_run_with_a_warning_of_its_own_says_so(options, capsys):
    collapsing(**options)
    assert capsys.readouterr().out == ""


class Chain(torch.nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(()), 1.0))
            z2 = pyro.sample("z2", dist.Normal(z1, 0.3))
            pyro.sample("x", dist.Normal(z2, 1.0), obs=x)


def test_the_negative_term_of_a_guide_in_another_order_is_no_collapse(capsys):
    torch.manual_seed(0)
    model, x = Chain(), X[:, 0]
    t = Trainer(model, guides.BottomUp(model, like=x, hidden=()), lr=5e-2, seed=0)
    fit_x = {"epochs": 20, "batch_size": 16, "progress": False}
    t.fit(x, validation=x, callbacks=[callbacks.CollapseWarning(20)], **fit_x)
    t.fit(x, validation=x, **fit_x)
    assert t.history[-1]["validation"]["kl"]["z2"] < -0.3
    assert capsys.readouterr().out == ""


def test_a_beta_of_zero_collapses_nothing(capsys):
    t = trainer(beta=0.0, lr=1e-9)
    for parameter in t.guide.parameters():
        torch.nn.init.zeros_(parameter)
    head = t.guide.conditionals["z1"]
    torch.nn.init.constant_(head.raw_scale.bias, math.log(math.expm1(1 - head.min_scale)))
    fit(t, 5, validation=X)
    assert t.history[-1]["validation"]["kl"]["z1"] == pytest.approx(0, abs=1e-3)
    assert capsys.readouterr().out == ""
