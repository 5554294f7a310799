"""Means over test data and seeds with their errors, and paired differences of systems."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# Of one system: seed -> name -> a value per datum, (n,)
Seeds = Mapping[int, Mapping[str, np.ndarray]]


class Estimate(NamedTuple):
    """A mean over data and seeds; its standard error, and what data and seeds alone make of it."""

    mean: float
    standard_error: float
    over_data: float
    over_seeds: float


def estimate(values: Sequence[Any]) -> Estimate:
    """Mean over seeds and data, to be expected of other seeds and other data alike.

    With values v_si = m + a_s + b_i + e_si of seed s = 1..S and datum i = 1..n, all parts
    independent with mean 0, the mean of all has the variance

        var(a) / S + var(b) / n + var(e) / (S n).

    The sample variance of the means of seeds, divided by S, has the expectation
    var(a) / S + var(e) / (S n) (``over_seeds`` squared); that of the means of data, divided by n,
    var(b) / n + var(e) / (S n) (``over_data`` squared). Their sum has var(e) twice, so that

        1 / (S n) * sum_si (v_si - v_s. - v_.i + v..)^2 / ((S - 1) (n - 1))

    is taken off, where the rest is no less than either. The variance over few seeds is itself
    known poorly: with three it has two degrees of freedom. Of one seed the error is that over the
    data alone, and ``over_seeds`` is NaN.

    Source: the two-way layout with random effects, Scheffe, "The Analysis of Variance" (1959).

    Args:
        values: a row per seed, (S, n), in nats per datum, say; differences of two systems, row
            by row, for a paired comparison.

    Raises:
        ValueError: fewer than two data, or seeds with other data.

    Example:
        >>> found = estimate([[0.0, 4.0], [2.0, 6.0]])
        >>> found.mean, found.over_data, found.over_seeds, round(found.standard_error, 3)
        (3.0, 2.0, 1.0, 2.236)
    """
    v = np.stack([np.asarray(row, dtype=np.float64) for row in values])
    if v.ndim != 2 or v.shape[1] < 2:
        raise ValueError(f"values: expected seeds x data, two data at least, got {v.shape}")
    seeds, data = v.shape
    of_data, of_seeds = v.mean(0), v.mean(1)
    mean = float(v.mean())
    over_data = of_data.var(ddof=1) / data
    if seeds == 1:
        return Estimate(mean, math.sqrt(over_data), math.sqrt(over_data), math.nan)
    over_seeds = of_seeds.var(ddof=1) / seeds
    rest = v - of_seeds[:, None] - of_data + mean
    twice = (rest**2).sum() / ((seeds - 1) * (data - 1) * seeds * data)
    variance = max(over_data + over_seeds - twice, over_data, over_seeds)
    return Estimate(mean, *map(math.sqrt, (variance, over_data, over_seeds)))


def compared(
    systems: Mapping[tuple[Any, ...], Seeds],
    by: Sequence[str],
    references: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """A row per system: each of its values, and what it is above references, with errors.

    Args:
        systems: the entries ``by`` of a system -> what it has per datum.
        by: names of these entries.
        references: what differences are called after -> the entries in which the reference
            differs from the system at hand.

    Returns:
        Rows of the entries ``by``, "seeds", and under the name of each value, and under
        "value - reference", a pair (mean, standard error), see ``estimate``. Differences are
        paired, datum by datum, over the seeds that both have.
    """
    rows = []
    for group, own in systems.items():
        key = dict(zip(by, group, strict=True))
        row = {**key, "seeds": len(own)}
        bases = {n: systems.get(tuple((key | o).values()), {}) for n, o in references.items()}
        for value in next(iter(own.values())):
            row[value] = estimate([arrays[value] for arrays in own.values()])[:2]
            for name, base in bases.items():
                both = [seed for seed in own if value in base.get(seed, ()) and base is not own]
                if both:
                    difference = [own[seed][value] - base[seed][value] for seed in both]
                    row[f"{value} - {name}"] = estimate(difference)[:2]
        rows.append(row)
    return rows


def seed_by_seed(
    rows: Sequence[Mapping[str, Any]],
    by: Sequence[str],
    references: Mapping[str, Mapping[str, Any]],
    entries: Sequence[str],
) -> list[dict[str, Any]]:
    """``compared`` for entries of rows that are one number per seed, such as a distance.

    The standard error of a difference is that of its mean over the seeds that both have, NaN for
    one seed. Entries that are None in a row, and systems without differences, are left out.
    """
    found: dict[tuple[Any, ...], dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[k] for k in by), {})[row["seed"]] = row
    lines = []
    for group, own in found.items():
        key = dict(zip(by, group, strict=True))
        line = dict(key)
        for name, other in references.items():
            base = found.get(tuple((key | other).values()), {})
            both = [(own[s], base[s]) for s in own if s in base and base is not own]
            for entry in entries:
                pairs = [(a[entry], b[entry]) for a, b in both]
                values = [a - b for a, b in pairs if a is not None and b is not None]
                if values:
                    error = math.nan
                    if len(values) > 1:
                        error = statistics.stdev(values) / math.sqrt(len(values))
                    line[f"{entry} - {name}"] = (statistics.fmean(values), error)
        if line != key:
            lines.append(line)
    return lines
