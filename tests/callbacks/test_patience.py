"""``fit(patience=)``: the best epoch by validation, and the end of a run that stands still."""

import math

import pytest
import torch

from pyro_vae import Trainer, callbacks, guides, likelihoods, schedules
from pyro_vae.callbacks.stopping import Patience
from pyro_vae.models import VAE

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


def trainer(**options):
    torch.manual_seed(0)
    vae = VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(8,))
    return Trainer(vae, guides.BottomUp(vae), **{"seed": 0, "lr": 1e-2, **options})


class Scored:
    """Given objectives on validation data, and the state of each epoch."""

    def __init__(self, *numbers):
        self.numbers, self.states = list(numbers), []

    def on_epoch_end(self, trainer, row, **kwargs):
        row["validation"]["objective"] = float(self.numbers[row["epoch"] - 1])
        self.states.append([p.detach().clone() for p in trainer.parameters()])


def run(numbers, patience, *, epochs=None, t=None, **options):
    t, scored = t or trainer(**options), Scored(*numbers)
    t.fit(
        X,
        validation=X[:10],
        epochs=epochs or len(numbers),
        patience=patience,
        callbacks=[scored],
        progress=False,
    )
    kept = [row["epoch"] for row in t.history if row.get("kept")]
    return t, scored, kept


def same(t, state):
    return all(torch.equal(p, q) for p, q in zip(t.parameters(), state, strict=True))


@pytest.mark.parametrize(
    ("numbers", "patience", "epochs", "best"),
    [
        ([1, 2, 3, 4], 1, 4, 4),
        ([1, 3, 2, 2, 9, 9], 2, 4, 2),
        ([1, 3, 2, 4, 2, 2, 9], 2, 6, 4),
        ([5, 1, 1, 1], 10, 4, 1),
    ],
)
def test_the_best_epoch_is_kept_and_the_run_ends(numbers, patience, epochs, best):
    t, scored, kept = run(numbers, patience)
    assert len(t.history) == epochs and kept == [best]
    assert same(t, scored.states[best - 1])
    assert best == epochs or not same(t, scored.states[-1])


def test_while_beta_moves_nothing_counts():
    """Beta rises in the first three epochs: their numbers are those of other objectives."""
    numbers = [9, 8, 7, 1, 2, 1, 1, 9]
    t, scored, kept = run(numbers, 2, beta=schedules.WarmUp(epochs=3))
    assert len(t.history) == 7 and kept == [5] and same(t, scored.states[4])


def test_a_beta_that_moves_to_the_end_keeps_the_last_epoch():
    t, scored, kept = run([3, 2, 1, 0], 1, beta=schedules.WarmUp(epochs=4))
    assert len(t.history) == 4 and kept == [] and same(t, scored.states[-1])


def test_a_beta_per_site():
    beta = {"z1": schedules.WarmUp(epochs=2)}
    t, _, kept = run([9, 9, 1, 2, 0, 0, 0], 2, beta=beta)
    assert len(t.history) == 6 and kept == [4]


def test_it_is_off_by_default():
    t, scored, kept = run([3, 2, 1, 0, 0, 0, 0, 0], None)
    assert len(t.history) == 8 and kept == [] and same(t, scored.states[-1])


def test_a_new_fit_waits_anew():
    t, _, _ = run([9, 1, 1, 1], 2)
    t, _, kept = run([9, 1, 1, 5, 4, 3, 2, 1], 2, epochs=5, t=t)
    assert [row["epoch"] for row in t.history] == [1, 2, 3, 4, 5, 6] and kept == [1, 4]


@pytest.mark.parametrize(("number", "epochs"), [(-1e9, 3), (-math.inf, 2), (math.nan, 2)])
def test_a_start_that_no_epoch_is_better_than_comes_back(number, epochs):
    before = [p.clone() for p in trainer().parameters()]
    t, scored, kept = run([number] * 5, 2)
    assert len(t.history) == epochs and kept == [] and same(t, before)
    assert (
        [row["kept"] for row in t.history if "kept" in row] == [False] == [t.history[-1]["kept"]]
    )
    assert not same(t, scored.states[0])


def test_epochs_that_are_worse_than_the_start_are_waited_for_while_they_rise():
    t, scored, kept = run([-1e9, -1e8, -1e7, 1, 0, 0], 2)
    assert len(t.history) == 6 and kept == [4] and same(t, scored.states[3])


def test_while_beta_moves_the_start_does_not_count():
    t, scored, kept = run([-1e9] * 8, 2, beta=schedules.WarmUp(epochs=2))
    assert len(t.history) == 6 and kept == [4] and same(t, scored.states[3])


def spoiled(folder=None, stop=None):
    """A trained pair, and its bound, before it is trained on with steps that are too large."""
    t = trainer()
    t.fit(X, epochs=20, progress=False)
    before = [p.clone() for p in t.parameters()]
    t.lr = 10.0
    options = {"epochs": 5, "patience": 5, "validation": X[:10], "progress": False}
    t.fit(X, callbacks=[Stop(stop)], checkpoint=folder, **options)
    return t, before


class Stop(callbacks.Callback):
    """Ctrl-C in a step of a run."""

    def __init__(self, step):
        self.step, self.taken = step, 0

    def on_step_end(self, trainer, **kwargs):
        self.taken += 1
        if self.taken == self.step:
            raise KeyboardInterrupt

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_a_trained_pair_is_never_worse_for_another_fit():
    t, before = spoiled()
    assert len(t.history) == 25 and same(t, before)
    assert [row["epoch"] for row in t.history if "kept" in row] == [25]


def test_a_resumed_run_knows_its_start(tmp_path):
    _, before = spoiled(tmp_path, stop=2)
    again = Trainer.resume(tmp_path)
    again.fit(X, validation=X[:10], callbacks=[Stop(None)], progress=False)
    assert len(again.history) == 25 and same(again, before)


def test_a_run_of_an_older_file_goes_on_from_its_best_epoch():
    kept = {"best": -3.0, "best_epoch": 4, "state": None, "names": None, "waited": 1, "beta": 1.0}
    patience = Patience(2)
    patience.load_state_dict(kept)
    assert patience.state_dict() == {**kept, "highest": -3.0, "compared": True}


def test_what_was_trained_stays_where_no_epoch_is_whole():
    t, before = spoiled(stop=1)
    assert t.history[-1]["interrupted"] and "kept" not in t.history[-1] and not same(t, before)


def test_what_it_watches_is_the_objective_on_the_validation_data():
    t = trainer(lr=0.1)
    t.fit(X[:8], validation=X[8:], epochs=60, patience=5, progress=False)
    objective = t.history.column("validation.objective")
    best = 1 + objective.index(max(objective))
    assert [row["epoch"] for row in t.history if row.get("kept")] == [best]
    assert len(t.history) == best + 5 < 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 3}, "patience: expected validation= beside it"),
        ({"patience": 0, "validation": X}, "patience: expected a whole number of at least 1"),
        ({"patience": 1.5, "validation": X}, "patience: expected a whole number of at least 1"),
    ],
)
def test_bad_patience(options, message):
    with pytest.raises(ValueError, match=message):
        trainer().fit(X, epochs=2, progress=False, **options)
