import dataclasses
import math

import pytest

from pyro_vae.schedules import Constant, Cyclical, WarmUp, as_schedule

TABLES = [
    (Constant(), 1, {0: 1, 10**9: 1}),
    (Constant(0), 1, {0: 0, 7: 0}),
    (WarmUp(steps=4), 1, {0: 0, 1: 0.25, 3: 0.75, 4: 1, 5: 1, 10**9: 1}),
    (WarmUp(epochs=2), 10, {0: 0, 1: 0.05, 10: 0.5, 19: 0.95, 20: 1, 21: 1}),
    (WarmUp(epochs=0.5), 4, {0: 0, 1: 0.5, 2: 1, 3: 1}),
    (WarmUp(epochs=3), 1, {1: 1 / 3, 2: 2 / 3, 3: 1}),
    (WarmUp(steps=4, start=0.5, end=4), 1, {0: 0.5, 2: 2.25, 4: 4, 9: 4}),
    (WarmUp(steps=2, start=1, end=0), 1, {0: 1, 1: 0.5, 2: 0}),
    (WarmUp(steps=4), 1000, {2: 0.5}),
    (Cyclical(steps=4), 1, {0: 0, 1: 0.5, 2: 1, 3: 1, 4: 0, 5: 0.5, 6: 1, 403: 1}),
    (Cyclical(epochs=1, ratio=1), 4, {0: 0, 1: 0.25, 3: 0.75, 4: 0, 7: 0.75}),
    # Lengths that are no whole number of steps
    (WarmUp(epochs=0.5), 5, {1: 0.4, 2: 0.8, 3: 1}),
    (Cyclical(epochs=0.5, ratio=1), 5, {1: 0.4, 2: 0.8, 3: 0.2, 4: 0.6, 5: 0, 8: 0.2}),
    # 1.1 * 50 is above 55 in floating point
    (Cyclical(epochs=1.1, ratio=1), 50, {54: 54 / 55, 55: 0, 56: 1 / 55, 110: 0, 5_500_000: 0}),
    (Cyclical(epochs=0.5, ratio=0.25, start=1, end=3), 16, {0: 1, 1: 2, 2: 3, 7: 3, 8: 1, 9: 2}),
]


@pytest.mark.parametrize(("schedule", "steps_per_epoch", "table"), TABLES)
def test_values(schedule, steps_per_epoch, table):
    got = {step: schedule(step, steps_per_epoch) for step in table}
    assert got == pytest.approx(table)
    assert all(type(value) is float for value in got.values())


@pytest.mark.parametrize(("schedule", "steps_per_epoch", "table"), TABLES)
def test_a_schedule_is_a_pure_function(schedule, steps_per_epoch, table):
    forward = [schedule(step, steps_per_epoch) for step in range(30)]
    backward = [schedule(step, steps_per_epoch) for step in reversed(range(30))]
    assert forward == backward[::-1]
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.start = 3.0


@pytest.mark.parametrize("kind", [WarmUp, Cyclical])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected one of epochs= and steps=, got epochs=None, steps=None"),
        ({"epochs": 2, "steps": 3}, "expected one of epochs= and steps=, got epochs=2, steps=3"),
        ({"epochs": 0}, "expected a positive finite number, got 0"),
        ({"steps": -1}, "expected a positive finite number, got -1"),
        ({"epochs": math.inf}, "expected a positive finite number, got inf"),
        ({"epochs": math.nan}, "expected a positive finite number, got nan"),
        ({"steps": 3, "start": -0.1}, "start: expected a finite number >= 0, got -0.1"),
        ({"steps": 3, "end": math.inf}, "end: expected a finite number >= 0, got inf"),
    ],
)
def test_errors(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


@pytest.mark.parametrize("ratio", [0, -0.5, 1.1, math.nan])
def test_the_rising_part_of_a_cycle_is_a_fraction(ratio):
    with pytest.raises(ValueError, match=r"ratio: expected a number in \(0, 1\]"):
        Cyclical(steps=4, ratio=ratio)


@pytest.mark.parametrize("beta", [-1, -1e-9, math.nan, math.inf, 1e39])
def test_beta_is_finite_and_not_negative(beta):
    for make in (Constant, as_schedule, lambda beta: WarmUp(steps=1, end=beta)):
        with pytest.raises(ValueError, match=r"(beta|end): expected a finite number >= 0"):
            make(beta)


def test_numbers_become_constants_and_schedules_stay():
    warm_up = WarmUp(epochs=3)
    assert as_schedule(warm_up) is warm_up
    assert as_schedule(2) == Constant(2.0)
