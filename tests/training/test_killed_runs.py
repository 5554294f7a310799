"""Processes killed at any moment."""

import random
import time

import pytest
from checkpointed import assert_same, checkpoints, fit, ladder, outcome, trainer
from test_run_folders import child, wait_for

from pyro_vae import Trainer, guides


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
