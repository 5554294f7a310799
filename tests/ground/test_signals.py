import builtins
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from processes import started

from pyro_vae import Trainer, guides, likelihoods
from pyro_vae.cli import main, training
from pyro_vae.infer import SVI
from pyro_vae.models import VAE

X = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))


def trainer():
    torch.manual_seed(0)
    vae = VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(8,))
    return Trainer(vae, guides.BottomUp(vae), seed=0)


def fit(t, **options):
    return t.fit(X, **{"epochs": 3, "batch_size": 8, "progress": False, **options})


def values(t):
    return [p.detach().clone() for p in t.parameters()]


def rows(t):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in t.history]


class Send:
    """Send signals to this process within a step."""

    def __init__(self, at, *numbers):
        self.at, self.numbers = at, numbers

    def on_step_end(self, trainer, **kwargs):
        if trainer.step == self.at:
            for number in self.numbers:
                signal.raise_signal(number)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


HANDLERS = signal.SIGINT, signal.SIGTERM


@pytest.fixture(autouse=True)
def as_in_a_terminal():
    """Ctrl-C as Python handles it: a shell starts jobs in the background with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("at", [1, 7, 10, 21])
@pytest.mark.parametrize("number", HANDLERS)
def test_a_signal_ends_the_run_after_its_step_and_the_run_can_go_on(number, at, tmp_path):
    expected = fit(trainer())
    before = [signal.getsignal(n) for n in HANDLERS]
    t, send = trainer(), Send(at, number)
    ends = (
        pytest.raises(SystemExit, match="143")
        if number == signal.SIGTERM
        else (contextlib.nullcontext())
    )
    with ends:
        fit(t, checkpoint=tmp_path, callbacks=[send])
    assert [signal.getsignal(n) for n in HANDLERS] == before
    assert t.step == at and t.history[-1]["interrupted"] and t.history[-1]["step"] == at
    again = Trainer.resume(tmp_path)
    assert again.step == at
    again.fit(X, progress=False, callbacks=[Send(0)])
    assert rows(again) == rows(expected)
    assert all(map(torch.equal, values(again), values(expected)))
    assert fit(t, epochs=1).step == at + 7, "the trainer is usable"


def test_without_a_folder_the_trainer_is_usable():
    t = trainer()
    with pytest.raises(SystemExit):
        fit(t, callbacks=[Send(2, signal.SIGTERM)])
    assert t.step == 2 and fit(t, epochs=1).step == 9


def test_a_second_interrupt_ends_the_run_at_once(tmp_path):
    t = trainer()
    fit(t, checkpoint=tmp_path, callbacks=[Send(2, signal.SIGINT, signal.SIGINT)])
    assert t.history[-1]["interrupted"]
    assert Trainer.resume(tmp_path).step == 0, "the step was not finished"


def test_a_second_interrupt_within_a_step_lets_it_end(monkeypatch):
    """Statistics of BatchNorm are those of whole steps: the trainer is as after so many."""
    t, sent = trainer(), []
    gradient = SVI.gradient

    def interrupted(self, *args, **kwargs):
        if t.step == 2 and not sent:
            sent.extend(signal.raise_signal(signal.SIGINT) or n for n in (1, 2))
        return gradient(self, *args, **kwargs)

    monkeypatch.setattr(SVI, "gradient", interrupted)
    fit(t)
    assert t.step == 3 and t.history[-1]["interrupted"]
    whole = trainer()
    fit(whole, callbacks=[Send(3, signal.SIGINT)])
    assert all(map(torch.equal, values(t), values(whole)))


def test_a_third_interrupt_ends_a_step_that_hangs(monkeypatch):
    t = trainer()

    def hangs(self, *args, **kwargs):
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        pytest.fail("it hangs")

    monkeypatch.setattr(SVI, "gradient", hangs)
    fit(t)
    assert t.step == 0


@pytest.mark.parametrize(
    ("notebook", "asked", "raises"),
    [(True, None, True), (False, None, False), (True, "return", False), (False, "raise", True)],
)
def test_an_interrupt_stops_the_cells_below(notebook, asked, raises, monkeypatch):
    if notebook:
        monkeypatch.setattr(builtins, "__IPYTHON__", True, raising=False)
    t = trainer()
    expected = pytest.raises(KeyboardInterrupt) if raises else contextlib.nullcontext()
    with expected:
        fit(t, callbacks=[Send(2, signal.SIGINT)], on_interrupt=asked)
    assert t.history[-1]["interrupted"] and t.step == 2
    assert fit(t, epochs=1).step == 9


def test_what_an_interrupt_leads_to_is_checked():
    with pytest.raises(ValueError, match=r"on_interrupt: expected .* got 'stop'"):
        fit(trainer(), on_interrupt="stop")


def test_an_error_within_an_epoch_leaves_a_marked_row():
    class Fail:
        def on_step_end(self, trainer, **kwargs):
            if trainer.step == 9:
                raise RuntimeError("mine")

    t = trainer()
    with pytest.raises(RuntimeError, match="mine"):
        fit(t, callbacks=[Fail()])
    assert [row.get("failed") for row in t.history] == [None, True]
    assert t.history[-1]["step"] == t.step == 9
    assert "2 (failed)" in t.history.to_html()


def test_a_handler_of_a_persons_own_is_called_after_the_run():
    called = []
    before = signal.signal(signal.SIGTERM, lambda *args: called.append(t.step))
    try:
        t = trainer()
        fit(t, callbacks=[Send(3, signal.SIGTERM)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert called == [3] and t.history[-1]["interrupted"]


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        t = fit(trainer(), callbacks=[Send(3, signal.SIGTERM)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert t.step == 21


def test_a_run_in_another_thread_installs_nothing():
    found = []

    class Look:
        def on_step_end(self, **kwargs):
            found.append([signal.getsignal(n) for n in HANDLERS])

    t = trainer()
    thread = threading.Thread(target=fit, args=(t,), kwargs={"callbacks": [Look()]})
    thread.start()
    thread.join()
    assert t.step == 21
    assert all(f == [signal.getsignal(n) for n in HANDLERS] for f in found)


def endless(folder):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    fit(trainer(), checkpoint=folder, epochs=10**6)


def test_a_process_that_is_terminated_ends_with_status_143(tmp_path):
    process = started(endless, tmp_path)
    while not list(tmp_path.glob("step-*.pt")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)
    process.terminate()
    assert process.wait(60) == 143
    t = Trainer.resume(tmp_path)
    assert t.step > 0
    expected = fit(trainer(), epochs=len(t.history) + 1)
    assert rows(t.fit(X, epochs=len(t.history) + 1, progress=False)) == rows(expected)


TINY = ["--importance-samples", "0", "--hidden", "8", "--latents", "2", "--batch-size", "256"]


def history(folder):
    return [{**row, "seconds": 0} for row in json.loads((folder / "history.json").read_text())]


@pytest.mark.parametrize("number", HANDLERS)
def test_the_command_line_goes_on_after_a_signal(number, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "write_report", lambda *args, **kwargs: None)
    options = ["train", "--epochs", "5", "--quiet", *TINY, "--out"]
    assert main([*options, str(tmp_path / "whole")]) == 0

    def send(self, trainer, row, **kwargs):
        if row["epoch"] == 2:
            signal.raise_signal(number)

    with monkeypatch.context() as patched:
        patched.setattr(training._Log, "on_epoch_end", send)
        interrupted = [*options, str(tmp_path / "run"), "--checkpoint", "4"]
        if number == signal.SIGTERM:
            with pytest.raises(SystemExit, match="143"):
                main(interrupted)
        else:
            assert main(interrupted) == 130
            assert history(tmp_path / "run")[-1]["interrupted"]
    assert main(["train", "--resume", str(tmp_path / "run"), "--lr", "1"]) == 2
    assert main(interrupted) == 2
    assert main(["train", "--resume", str(tmp_path / "whole")]) == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert "--resume: expected no --lr beside it" in first
    assert f"go on from there with --resume {tmp_path / 'run'}," in second
    assert "--resume: expected the --out of a run with --checkpoint" in third
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert history(tmp_path / "run") == history(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_program_ends_with_the_status_of_the_signal_and_goes_on(number, status, tmp_path):
    def program(*arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "pyro_vae", "train", *map(str, arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.DEVNULL,
        )

    options = ["--epochs", 10, *TINY]
    process = program("--out", tmp_path / "run", "--checkpoint", 10, *options)
    while not list(tmp_path.glob("run/checkpoints/step-*.pt")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(300) == status
    assert program("--resume", tmp_path / "run").wait(300) == 0
    assert program("--out", tmp_path / "whole", *options).wait(300) == 0
    assert history(tmp_path / "run") == history(tmp_path / "whole")
    assert len(history(tmp_path / "run")) == 10
