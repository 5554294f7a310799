"""Folders of runs: held by one of them, damaged, full, or of another run."""

import errno
import io
import multiprocessing
import os
import shutil
import time

import pytest
import torch
from checkpointed import Break, Stop, assert_same, broken, checkpoints, fit, on, outcome, trainer
from processes import started

from pyro_vae import Trainer, load
from pyro_vae.storage import folder as folders
from pyro_vae.storage.sealed import seal
from pyro_vae.training import plan


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
    process = started(endless, tmp_path)
    try:
        wait_for(lambda: checkpoints(tmp_path), 120)
        with pytest.raises(BlockingIOError, match=f"in use by another run .process {process.pid}"):
            fit(trainer(), checkpoint=tmp_path)
    finally:
        process.kill()
        process.wait()
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


def fail(*args, **kwargs):
    raise Stop


@pytest.mark.parametrize("fails_at_first", [False, True])
def test_a_newest_checkpoint_of_a_newer_format_is_kept_and_told(
    fails_at_first, tmp_path, monkeypatch
):
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
        if fails_at_first:
            with monkeypatch.context() as patch, pytest.raises(Stop):
                patch.setattr(plan.Plan, "receive_data", fail)
                on(t, callbacks=hooks)
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
    expected, written, replace = outcome(fit(trainer())), [], os.replace

    def fail(path, target):
        written.append(target)
        if len(written) > 3:
            raise OSError(code, os.strerror(code))
        replace(path, target)

    monkeypatch.setattr(os, "replace", fail)
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
