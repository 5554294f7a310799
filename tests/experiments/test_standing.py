"""Where an experiment stands, with a clock that is set by hand."""

import time
from types import SimpleNamespace

import pytest
import torch

from pyro_vae import Trainer, guides, likelihoods, models
from pyro_vae.data import Dataset
from pyro_vae.experiments import gallery
from pyro_vae.experiments.running import Results, keys, parser
from pyro_vae.experiments.standing import Standing


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: now.seconds)
    return now


def train(standing, clock, epochs, seconds, done=0):
    """What ``fit`` calls."""
    standing.on_fit_begin(SimpleNamespace(history=[None] * done))
    for epoch in range(done + 1, epochs + 1):
        clock.seconds += seconds
        standing.on_epoch_end(None, {"epoch": epoch, "elbo": -1.5})


def lines(capsys):
    said = capsys.readouterr()
    assert not said.out
    return said.err.splitlines()


def test_time_left_is_at_the_pace_so_far(clock, capsys):
    standing = Standing()
    for row in standing.over(["a", "b", "c"], epochs=20):
        train(standing, clock, 20, seconds=3)
        clock.seconds += 30
        if row == "a":
            first = lines(capsys)
            # Three rows of 20 epochs, of which one is done
            assert first[0] == (
                "row 1 of 3 (a): epoch 1 of 20, elbo -1.50, about 3 min left, evaluation aside"
            )
            assert [line.split()[6] for line in first] == [*map(str, (1, *range(2, 21, 2)))]
            assert first[-1].endswith(
                "epoch 20 of 20, elbo -1.50, about 2 min left, evaluation aside"
            )
        if row == "b":
            second = lines(capsys)
            assert second[0] == "row 1 of 3 (a): done in 2 min, about 3 min left"
            # 18 + 20 epochs and 2 evaluations
            assert second[1] == "row 2 of 3 (b): epoch 2 of 20, elbo -1.50, about 3 min left"
            assert second[-1].endswith("epoch 20 of 20, elbo -1.50, about 2 min left")
    assert lines(capsys)[-1] == "row 3 of 3 (c): done in 2 min"


def test_slow_epochs_are_told_each_minute(clock, capsys):
    standing = Standing()
    for _ in standing.over(["a"], epochs=2000):
        train(standing, clock, 5, seconds=40)
    assert [line.split()[6] for line in lines(capsys)[:-1]] == ["1", "3", "5"]


def test_what_earlier_runs_did_takes_no_time(clock, capsys):
    """Two rows are there, and the third goes on at epoch 90 of 100."""
    standing, had = Standing(), {"a", "b"}
    for row in standing.over(list("abcd"), epochs=100, there=had.__contains__):
        if row not in had:
            train(standing, clock, 100, seconds=6, done=90 if row == "c" else 0)
    said = lines(capsys)
    assert said[0] == "2 of 4 rows are there already"
    assert said[1].startswith("row 3 of 4 (c): epoch 91 of 100") and "about 11 min left" in said[1]
    assert said[3] == "row 3 of 4 (c): done in 1 min, about 10 min left"
    assert len(said) == 4 + 10 + 1


def test_what_another_process_does_meanwhile_takes_no_time(clock, capsys):
    standing, had = Standing(), set()
    for row in standing.over(list("abc"), epochs=10, there=had.__contains__):
        if row == "a":
            train(standing, clock, 10, seconds=60)
            had |= {"a", "b"}
    assert lines(capsys)[-2:] == [
        "row 1 of 3 (a): done in 10 min, about 10 min left",
        "row 3 of 3 (c): done in 0 s",
    ]


def test_rows_that_end_early_make_those_to_come_shorter(clock, capsys):
    standing = Standing()
    for _ in standing.over(list("ab"), epochs=1000):
        train(standing, clock, 10, seconds=6)
    assert "row 1 of 2 (a): done in 1 min, about 1 min left" in lines(capsys)


def test_quiet(clock, capsys):
    standing = Standing(quiet=True)
    for _ in standing.over(["a"], epochs=1):
        train(standing, clock, 1, seconds=100)
    assert lines(capsys) == []


@pytest.mark.parametrize("quiet", [False, True])
def test_results_say_where_they_stand_and_go_on(tmp_path, capsys, quiet):
    options = parser("some-name", "About.", epochs=2, batch_size=20)
    args = options.parse_args(["--quiet"] * quiet)
    x = Dataset(torch.randn(40, 6))

    def build():
        vae = models.VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=())
        return Trainer(vae, guides.BottomUp(vae), seed=0)

    def run(seeds):
        results = Results(tmp_path, {"epochs": 2}, args.command, quiet=args.quiet)

        def compute(key):
            return {"ELBO": results.train(key, build, x, args).history[-1]["elbo"]}

        results.fill(keys(system=["VAE"], seed=seeds), compute, lambda rows, settings: "table")
        said = capsys.readouterr()
        assert said.out == "table\n"
        return said.err.splitlines()

    first, second = run([0]), run([0, 1])
    if quiet:
        assert first == second == []
        return
    assert len(first) == 3 and first[0].startswith("row 1 of 1 (system VAE, seed 0): epoch 1 of 2")
    assert second[0] == "1 of 2 rows are there already"
    assert second[-1].startswith("row 2 of 2 (system VAE, seed 1): done in ")
    assert args.command == "pyro-vae experiment some-name"


def test_the_gallery_has_a_row_per_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gallery, "PICTURES", dict.fromkeys(["one", "two"], lambda bench: None))
    monkeypatch.setattr(gallery, "save", lambda figure, path: None)
    argv = ["--data", "digits", "--systems", "one", "two", "--out", str(tmp_path)]
    assert gallery.main([*argv, "--threads", "1"]) == 0
    assert len(capsys.readouterr().err.splitlines()) == 2
