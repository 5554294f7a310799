import functools

import pytest
import torch
from checkpointed import (
    GREY,
    STEPS,
    TEST,
    Break,
    Stop,
    X,
    assert_same,
    broken,
    checkpoints,
    copy_of_one,
    fit,
    ladder,
    on,
    outcome,
    trainer,
    vae,
)
from torch import nn

from pyro_vae import Trainer, callbacks, codebooks, guides, likelihoods, load, models, schedules


class StopAt:
    """Ends the run after the epoch of a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, trainer, **kwargs):
        if trainer.step == self.step:
            trainer.stop()

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def vq():
    torch.manual_seed(0)
    codebook = codebooks.MovingAverage(8, 4, initializer=codebooks.KMeans())
    return models.VQVAE(
        (1, 8, 8), codebook=codebook, likelihood=likelihoods.Gaussian(), channels=(4, 5), blocks=1
    )


IMAGES = torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(2))

momentum = functools.partial(torch.optim.SGD, momentum=0.9)
one_cycle = functools.partial(
    callbacks.LRScheduler, torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=9
)
plateau = functools.partial(
    callbacks.LRScheduler,
    torch.optim.lr_scheduler.ReduceLROnPlateau,
    mode="max",
    patience=0,
    threshold=100.0,
    monitor="validation.elbo",
)


class Unfreeze(callbacks.Callback):
    """Lets the decoder train from a step on, just before a checkpoint of it."""

    def on_step_end(self, trainer, **kwargs):
        if trainer.step == 9:
            trainer.model.decoder.requires_grad_(True)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def resting():
    t = trainer(clip_norm=0.5)
    t.model.decoder.requires_grad_(False)
    return t


RUNS = {
    "plain": (trainer, {}),
    "BatchNorm ladder": (lambda: trainer(ladder(), guides.Ladder), {}),
    "binarised": (lambda: trainer(vae(likelihood=likelihoods.Bernoulli())), {"x": GREY}),
    "optimal sigma": (lambda: trainer(vae(likelihood=likelihoods.Gaussian("optimal"))), {}),
    "warm-up, momentum, clipping": (
        lambda: trainer(beta=schedules.WarmUp(epochs=2), optimizer=momentum, clip_norm=0.5),
        {},
    ),
    "EMA codebook": (lambda: trainer(vq(), guides.NearestCode, lr=1e-3), {"x": IMAGES}),
    "graph": (lambda: trainer(engine="graph"), {"epochs": 20, "every": 45}),
    "dropout": (lambda: trainer(vae(decoder=dropout())), {}),
    "validation": (trainer, {"validation": TEST}),
    "EarlyStopping": (
        trainer,
        {
            "callbacks": lambda: [callbacks.EarlyStopping("elbo", patience=2, min_delta=0.8)],
            "epochs": 9,
        },
    ),
    "stop() within an epoch": (
        trainer,
        {"callbacks": lambda: [StopAt(STEPS + 3)], "epochs": 5, "every": 2},
    ),
    "KeepBest": (
        lambda: trainer(lr=0.3),
        {"callbacks": lambda: [callbacks.KeepBest()], "validation": TEST, "epochs": 4},
    ),
    "patience": (
        lambda: trainer(lr=0.3, beta=schedules.WarmUp(epochs=1)),
        {"patience": 2, "validation": TEST, "epochs": 9},
    ),
    "OneCycleLR": (trainer, {"callbacks": lambda: [one_cycle()]}),
    "ReduceLROnPlateau": (trainer, {"callbacks": lambda: [plateau()], "validation": TEST}),
    "PredictSigma": (
        lambda: trainer(clip_norm=0.5),
        {"callbacks": lambda: [callbacks.PredictSigma(1, alone=1)], "epochs": 4},
    ),
    "unfrozen by a callback": (resting, {"callbacks": lambda: [Unfreeze()]}),
    "UpdateSigma": (trainer, {"callbacks": lambda: [callbacks.UpdateSigma(X)]}),
    "CollapseWarning": (
        lambda: trainer(beta=50.0),
        {"callbacks": lambda: [callbacks.CollapseWarning(threshold=1e-9)]},
    ),
}  # fmt: skip


def dropout():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.3), nn.Linear(8, 6))


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_to_the_last_bit_from_every_checkpoint(name, tmp_path):
    build, options = RUNS[name]
    options = dict(options)
    x, hooks = options.pop("x", X), options.pop("callbacks", list)
    options = {"every": 3, "epochs": 3, **options}
    plain = {k: v for k, v in options.items() if k != "every"}
    expected = outcome(fit(build(), x, callbacks=hooks(), **plain))
    t = fit(build(), x, callbacks=hooks(), checkpoint=tmp_path / "run", keep=99, **options)
    assert_same(outcome(t), expected)
    found = checkpoints(tmp_path / "run")
    steps = [int(p.stem[5:]) for p in found]
    assert steps == sorted({*range(0, t.step, options["every"]), t.step})
    for i, path in enumerate(found):
        folder = copy_of_one(path, tmp_path / str(i))
        # A decoder of a person's own, whose arguments no file holds
        own = build() if name == "dropout" else None
        given = {} if own is None else {"model": own.model, "guide": own.guide}
        again = Trainer.resume(folder, **given)
        assert again.step == steps[i]
        validation = {k: v for k, v in options.items() if k == "validation"}
        on(again, x, callbacks=hooks(), **validation)
        assert_same(outcome(again), expected)


def test_a_run_goes_on_after_a_swap_and_into_the_next(tmp_path):
    def run(folder=None):
        t = fit(trainer(), checkpoint=folder)
        t.swap_guide(guides.BottomUp(t.model, hidden=(5,)), freeze_model=True)
        return fit(t, checkpoint=folder, **({} if folder is None else {"every": 4, "keep": 99}))

    expected = outcome(run())
    t = run(tmp_path / "run")
    assert_same(outcome(t), expected)
    found = [p for p in checkpoints(tmp_path / "run") if int(p.stem[5:]) >= 3 * STEPS]
    assert len(found) == 7
    for i, path in enumerate(found[:-1]):
        again = on(Trainer.resume(copy_of_one(path, tmp_path / str(i))))
        assert_same(outcome(again), expected)
    for each in (t, again):
        torch.manual_seed(0)
        fit(each.swap_guide(guides.Delta(each.model)), epochs=1)
    assert_same(outcome(t), outcome(again))


def test_without_a_seed_the_global_stream_goes_on(tmp_path):
    torch.manual_seed(7)
    t = trainer(seed=None)
    torch.manual_seed(8)
    fit(t, checkpoint=tmp_path / "run", every=5, keep=99)
    expected, after = outcome(t), torch.get_rng_state()
    for i, path in enumerate(checkpoints(tmp_path / "run")[:-1]):
        torch.manual_seed(i)
        again = on(Trainer.resume(copy_of_one(path, tmp_path / str(i))))
        assert_same(outcome(again), expected)
        assert torch.equal(torch.get_rng_state(), after)


def test_a_finished_run_stays_unless_more_epochs_are_asked_for(tmp_path):
    fit(trainer(), checkpoint=tmp_path)
    expected = outcome(fit(trainer(), epochs=5))
    assert on(Trainer.resume(tmp_path)).step == 3 * STEPS
    assert on(Trainer.resume(tmp_path), epochs=3).step == 3 * STEPS
    assert_same(outcome(on(Trainer.resume(tmp_path), epochs=5)), expected)
    assert on(on(Trainer.resume(tmp_path)), epochs=1, batch_size=8).step == 6 * STEPS


def test_the_last_checkpoints_are_kept_and_nothing_else(tmp_path):
    fit(trainer(), checkpoint=tmp_path, every=2, keep=2)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-000000020.pt", "step-000000021.pt"]
    assert {p.name for p in tmp_path.iterdir()} - {p.name for p in checkpoints(tmp_path)} == {
        "lock"
    }
    plain = load(checkpoints(tmp_path)[-1])
    assert on(plain, epochs=1, batch_size=8).step == 4 * STEPS, "load begins a run of its own"


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
    expected = outcome(fit(trainer()))
    hooks = broken(tmp_path)
    newest = checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:-1000])
    with pytest.warns(UserWarning, match="step-000000009.pt.*going on from step-000000006.pt"):
        t = Trainer.resume(tmp_path)
    assert t.step == 6
    assert_same(outcome(on(t, callbacks=hooks)), expected)
    for path in checkpoints(tmp_path):
        path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"step-000000021\.pt: not a checkpoint"):
        Trainer.resume(tmp_path)


def test_a_damaged_checkpoint_is_gone_once_the_run_has_gone_on(tmp_path):
    hooks = broken(tmp_path)
    checkpoints(tmp_path)[-1].write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="going on from step-000000006.pt"):
        t = Trainer.resume(tmp_path)
    with pytest.raises(Stop):
        on(t, callbacks=[Break(7)])
    assert Trainer.resume(tmp_path).step == 6
    on(Trainer.resume(tmp_path), callbacks=hooks)


OTHERS = {
    "shorter": (X[:48], "data: length: expected 50, as in the run that goes on, got 48"),
    "other values": (X.flip(0), "data: checksum: expected"),
    "labels": ((X, torch.zeros(50, dtype=int)), "data: labels: expected None"),
}


@pytest.mark.parametrize(("other", "message"), OTHERS.values(), ids=OTHERS)
def test_other_data_are_an_error(other, message, tmp_path):
    hooks = broken(tmp_path)
    t = Trainer.resume(tmp_path)
    with pytest.raises(ValueError, match=message):
        on(t, other, callbacks=hooks)
    assert_same(outcome(on(t, callbacks=hooks)), outcome(fit(trainer())))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 16}, "batch_size: expected 8, as in the run that goes on, got 16"),
        ({"validation": X}, "validation: expected None"),
        ({"callbacks": []}, r"callbacks: expected \['Break'\].*got \[\]"),
        ({"epochs": 1}, "epochs: expected at least 2"),
    ],
)
def test_other_arguments_are_an_error(options, message, tmp_path):
    hooks = broken(tmp_path)
    with pytest.raises(ValueError, match=message):
        on(Trainer.resume(tmp_path), **{"callbacks": hooks, **options})


def test_a_callback_that_no_file_can_hold_is_refused(tmp_path):
    class Print:
        def on_epoch_end(self, **kwargs):
            pass

    with pytest.raises(TypeError, match=r"callbacks: Print has no state_dict\(\)"):
        fit(trainer(), checkpoint=tmp_path / "run", callbacks=[Print()])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["every", "keep"])
def test_bad_numbers(option, tmp_path):
    with pytest.raises(ValueError, match=f"{option}: expected a whole number of at least 1, got"):
        fit(trainer(), checkpoint=tmp_path, **{option: 0})
    with pytest.raises(ValueError, match=f"{option}: expected None without checkpoint="):
        fit(trainer(), **{option: 5})
