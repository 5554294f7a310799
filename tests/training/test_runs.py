import errno
import functools
import io
import multiprocessing
import os
import random
import shutil
import time

import pytest
import torch
from torch import nn

from pyro_vae import (
    Trainer,
    callbacks,
    codebooks,
    data,
    guides,
    likelihoods,
    load,
    models,
    schedules,
)
from pyro_vae.ground import files
from pyro_vae.models import VAE
from pyro_vae.storage import folder as folders
from pyro_vae.storage.sealed import seal

X = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
GREY = data.Dataset(X.sigmoid(), binarize="dynamic")
TEST = X[:20] + 0.1
STEPS = 7  # per epoch, of 8 data, the last of 2


def vae(latents=2, likelihood=None, **options):
    torch.manual_seed(0)
    likelihood = likelihood or likelihoods.Gaussian("learned")
    return VAE((6,), latents, likelihood=likelihood, **{"hidden": (8,), **options})


def trainer(model=None, guide=guides.BottomUp, **options):
    model = model or vae()
    return Trainer(model, guide(model), **{"seed": 0, "lr": 1e-2, **options})


def fit(t, x=X, **options):
    return t.fit(x, **{"epochs": 3, "batch_size": 8, "progress": False, **options})


def on(t, x=X, **options):
    return t.fit(x, progress=False, **options)


def outcome(t):
    """All that a run leaves: tensors of the pair and of the optimizer, history, random streams."""
    tensors = [v.clone() for module in t.modules() for v in module.state_dict().values()]
    kept = t.state.moments
    kept.keep(t.optimizer)
    moments = [v for p in t.parameters() for v in kept.get(p, {}).values()]
    moments = [torch.as_tensor(v).clone() for v in moments]
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in t.history]
    frozen = [p.requires_grad for p in t.parameters()]
    return tensors, moments, list(t.state.stream.states().values()), rows, t.step, t.lr, frozen


def assert_same(one, other):
    for first, second in zip(one[:3], other[:3], strict=True):
        assert len(first) == len(second)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert one[3:] == other[3:]


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
ladder = functools.partial(vae, (3, 2), hidden=((8,), (8,)), norm=nn.BatchNorm1d)
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


def checkpoints(folder):
    return sorted(folder.glob("step-*.pt"))


def copy_of_one(path, folder):
    folder.mkdir()
    shutil.copy(path, folder)
    return folder


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


class Stop(Exception):
    pass


class Break(callbacks.Callback):
    """Raise at a step."""

    def __init__(self, at, error=Stop):
        self.at, self.error = at, error

    def on_step_end(self, trainer, **kwargs):
        if trainer.step == self.at:
            raise self.error

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def broken(folder, at=12, **options):
    with pytest.raises(Stop):
        fit(trainer(), checkpoint=folder, callbacks=[Break(at)], every=3, **options)
    return [Break(10**9)]


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


# Folders


def test_the_run_of_another_trainer_is_not_overwritten(tmp_path):
    fit(trainer(), checkpoint=tmp_path)
    before = {p.name: p.read_bytes() for p in checkpoints(tmp_path)}
    for other in (trainer(), load(checkpoints(tmp_path)[-1])):
        with pytest.raises(ValueError, match=r"holds the run of another .*Trainer.resume\("):
            fit(other, checkpoint=tmp_path)
    assert {p.name: p.read_bytes() for p in checkpoints(tmp_path)} == before


def test_a_run_that_went_on_elsewhere_is_not_overwritten(tmp_path):
    hooks = broken(tmp_path)
    late = Trainer.resume(tmp_path)
    on(Trainer.resume(tmp_path), callbacks=hooks)
    with pytest.raises(ValueError, match=r"up to step-000000021\.pt"):
        on(late, callbacks=hooks)


def test_two_runs_in_one_folder_of_one_process(tmp_path):
    class Second(Break):
        def on_step_end(self, **kwargs):
            with pytest.raises(BlockingIOError, match=f"in use by another run .*{os.getpid()}"):
                fit(trainer(), checkpoint=tmp_path)

    fit(trainer(), checkpoint=tmp_path, callbacks=[Second(0)], epochs=1)


def child(target, *args):
    process = multiprocessing.get_context("fork").Process(target=target, args=args)
    process.start()
    return process


def endless(folder):
    fit(trainer(), checkpoint=folder, epochs=10**6)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_folder_in_use_by_another_process_and_then_by_a_dead_one(tmp_path):
    process = child(endless, tmp_path)
    try:
        wait_for(lambda: checkpoints(tmp_path))
        with pytest.raises(BlockingIOError, match=f"in use by another run .process {process.pid}"):
            fit(trainer(), checkpoint=tmp_path)
    finally:
        process.kill()
        process.join()
    on(Trainer.resume(tmp_path), epochs=1)


def test_a_folder_that_was_copied_is_still_in_use(tmp_path):
    class Copy(Break):
        def on_step_end(self, trainer, **kwargs):
            if trainer.step != 1:
                return
            shutil.copytree(tmp_path / "run", tmp_path / "copy")
            process = child(busy, tmp_path / "run")
            process.join()
            assert process.exitcode == 0

    fit(trainer(), checkpoint=tmp_path / "run", callbacks=[Copy(0)], epochs=1)
    # Not held by those that were forked meanwhile
    fit(Trainer.resume(tmp_path / "run"), callbacks=[Copy(0)], epochs=2)


def busy(folder):
    # As a new process would: what this one has locked itself is of its parent
    folders._locked.clear()
    with pytest.raises(BlockingIOError, match="in use by another run"):
        fit(trainer(), checkpoint=folder)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(code, tmp_path, monkeypatch):
    expected = outcome(fit(trainer()))

    def flock(handle, how):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(folders.fcntl, "flock", flock)
    t = trainer()
    with pytest.warns(UserWarning, match="this file system has no locks .*folder of its own"):
        fit(t, checkpoint=tmp_path)
    assert_same(outcome(t), expected)


def test_a_newest_checkpoint_of_a_newer_format_is_kept_and_told(tmp_path):
    expected = outcome(fit(trainer()))
    hooks = broken(tmp_path)
    newest = checkpoints(tmp_path)[-1]
    value = torch.load(newest, weights_only=True)
    value["version"] += 1
    buffer = io.BytesIO()
    torch.save(value, buffer)
    newest.write_bytes(seal(buffer.getvalue()))
    written = newest.read_bytes()
    with pytest.warns(UserWarning, match="newer pyro_vae.*going on from step-000000006.pt"):
        t = Trainer.resume(tmp_path)
    assert newest.read_bytes() == written
    with pytest.warns(UserWarning, match="newer pyro_vae.* kept as newer-step-000000009.pt"):
        on(t, callbacks=hooks)
    assert_same(outcome(t), expected)
    assert (tmp_path / "newer-step-000000009.pt").read_bytes() == written
    assert on(Trainer.resume(tmp_path), callbacks=hooks).step == t.step


def test_a_newest_checkpoint_nested_without_end_gives_way(tmp_path):
    hooks = broken(tmp_path)
    newest = checkpoints(tmp_path)[-1]
    value = torch.load(newest, weights_only=True)
    value["trainer"]["run"]["states"].append(value)
    buffer = io.BytesIO()
    torch.save(value, buffer)
    newest.write_bytes(seal(buffer.getvalue()))
    with pytest.warns(UserWarning, match="nested more than.*going on from step-000000006.pt"):
        assert Trainer.resume(tmp_path).step == 6
    assert hooks


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(OSError, match="checkpoint: expected a folder that can be written to"):
        fit(trainer(), checkpoint=tmp_path / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="checkpoint: expected a folder that can be written to"):
        fit(trainer(), checkpoint=tmp_path / "run")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_fills_up(code, tmp_path, monkeypatch):
    """The write fails; one error tells so, and the run goes on from the checkpoint before."""
    expected, written, replace = outcome(fit(trainer())), [], files._replace

    def fail(path, content):
        written.append(path)
        if len(written) > 3:
            raise OSError(code, os.strerror(code))
        replace(path, content)

    monkeypatch.setattr(files, "_replace", fail)
    t = trainer()
    with pytest.raises(OSError, match=r"checkpoint: .*step-000000006\.pt is still good") as caught:
        fit(t, checkpoint=tmp_path, every=3)
    assert caught.value.errno == code and t.step == 9 and len(written) == 4
    monkeypatch.undo()
    assert_same(outcome(on(Trainer.resume(tmp_path))), expected)


def test_what_an_interrupted_write_left_is_cleared_away(tmp_path):
    hooks = broken(tmp_path)
    (tmp_path / ".step-000000012.pt.abc").write_bytes(b"half")
    on(Trainer.resume(tmp_path), callbacks=hooks)
    assert not list(tmp_path.glob(".step*"))


def test_a_folder_without_checkpoints(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match="expected a folder with checkpoints"):
            Trainer.resume(folder)


def test_a_pair_of_functions_is_refused_before_it_trains(tmp_path):
    import pyro
    import pyro.distributions as dist

    def model(x):
        shift = pyro.param("shift", torch.tensor(0.0))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + shift, 1.0), obs=x[:, 0])

    def guide(x):
        scale = pyro.param("scale", torch.tensor(1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(0.0, scale.exp()))

    t = Trainer(model, guide)
    with pytest.raises(TypeError, match="model: a plain function keeps its parameters"):
        fit(t, checkpoint=tmp_path)
    assert t.step == 0


# Killed processes


def often(folder):
    """Train, or go on; to be killed."""
    t = Trainer.resume(folder) if checkpoints(folder) else trainer(ladder(), guides.Ladder)
    fit(t, epochs=12, checkpoint=folder, every=1)


def wait_for_another(before, folder, process):
    wait_for(lambda: checkpoints(folder)[-1:] != before[-1:] or not process.is_alive())


def killed(folder, moments):
    """Go on again and again, killed each time after a random while, then to the end."""
    kills = 0
    for moment in moments:
        process = child(often, folder)
        # Not before it writes, so that each life gets a little further
        wait_for_another(checkpoints(folder), folder, process)
        time.sleep(moment)
        kills += process.is_alive()
        process.kill()
        process.join()
    process = child(often, folder)
    process.join()
    assert process.exitcode == 0
    return kills


def check_killed(folder, moments):
    expected = outcome(fit(trainer(ladder(), guides.Ladder), epochs=12))
    kills = killed(folder, moments)
    t = Trainer.resume(folder)
    assert_same(outcome(t), expected)
    return kills


def test_a_run_killed_three_times_ends_as_if_it_had_not_been(tmp_path):
    moments = random.Random(0)
    assert check_killed(tmp_path, [moments.uniform(0, 0.05) for _ in range(3)]) == 3


@pytest.mark.slow
def test_a_run_killed_at_thirty_random_moments_of_its_life(tmp_path):
    """Each of 30 runs is killed once anywhere, one more 30 times, within writes among others."""
    moments = random.Random(1)
    expected = outcome(fit(trainer(ladder(), guides.Ladder), epochs=12))
    started = time.monotonic()
    often(tmp_path / "whole")
    whole, kills = time.monotonic() - started, 0
    for i in range(30):
        folder = tmp_path / str(i)
        process = child(often, folder)
        time.sleep(moments.uniform(0, 1.2 * whole))
        kills += process.is_alive()
        process.kill()
        process.join()
        often(folder)
        t = Trainer.resume(folder)
        assert_same(outcome(t), expected)
    assert kills > 15
    check_killed(tmp_path / "many", [moments.uniform(0, 0.03) for _ in range(30)])
