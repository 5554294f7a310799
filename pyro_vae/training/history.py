"""The record of a training run: one plain dict per epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..ground.tables import Cell, Table, Tabular, flat, lookup, pandas_or

if TYPE_CHECKING:
    from typing import NotRequired

    import pandas
    from matplotlib.figure import Figure
    from typing_extensions import TypedDict

    class Validation(TypedDict):
        """The bound of validation data, in nats per datum."""

        elbo: float
        elbo_se: float
        objective: float
        reconstruction: float
        kl: dict[str, float]

    class Row(TypedDict, extra_items=float):
        """An epoch; numbers that a module tells by ``logged()`` have names of their own."""

        epoch: int
        step: int
        elbo: float
        objective: float
        reconstruction: float
        kl: dict[str, float]
        kl_global: NotRequired[dict[str, float]]
        beta: float | dict[str, float]
        lr: float
        guide: str
        frozen: bool
        seconds: float
        active_units: dict[str, int]
        validation: Validation
        swapped: NotRequired[bool]
        interrupted: NotRequired[bool]
        failed: NotRequired[bool]
        skipped: NotRequired[int]
        kept: NotRequired[bool]
        particles: NotRequired[int]
        unit_kl: NotRequired[dict[str, list[float]]]


_ROWS = 5


class History(list["Row"], Tabular):
    """A list of JSON-able dicts, one per epoch, in nats per datum.

    Keys: ``epoch`` and ``step`` (counted from 1 over all calls of ``fit``), ``elbo`` (without
    beta), ``objective`` (with beta), ``reconstruction``, ``kl`` per site, ``beta`` of the last
    step, ``lr``, ``guide``, ``frozen`` (the guide alone was trained), ``seconds``,
    ``active_units`` per site of vectors (units whose posterior mean has a variance above 0.01
    over the validation data, or over the first 1000 of the training data; of a ``DataLoader``
    over its first batch), ``validation`` with
    ``elbo``, ``elbo_se``, ``objective``, ``reconstruction`` and ``kl`` where there are validation
    data, ``swapped`` on the first epoch after a guide swap, ``interrupted`` on an epoch ended by
    Ctrl-C or SIGTERM, ``failed`` on one ended by an error, ``skipped`` with the number of steps
    that were left out because they were not finite, ``kept`` on the epoch whose state a run with
    ``patience`` ended with, or as False on its last one where that is the state it began with. For
    a guide that is a point mass ``elbo`` is log p(x, z), no bound, ``kl`` is -log p(z), and there
    are no active units. Of latents outside the data plate, which
    all data share, ``kl`` is the equal part of each datum, and ``kl_global`` has their KL in nats
    per data set. With ``infer.ImportanceWeightedELBO`` the
    row tells its ``particles`` and ``objective`` is the importance-weighted bound; ``elbo``,
    ``reconstruction`` and ``kl`` remain those of the ELBO, averaged over the particles. Under an
    objective of ``pyro.infer`` they are so, too; where it sums sites out, ``kl`` is empty, the
    other three are minus its loss, with beta and all scales, and there is no ``elbo_se``. Numbers
    that a module tells by a method ``logged() -> dict[str, float]`` are there too, such as
    ``sigma``. ``callbacks.UnitKL(data)`` adds ``unit_kl``, the KL of each unit per site.

    Example:
        >>> history = History([{"epoch": 1, "elbo": -9.0, "validation": {"elbo": -9.5}}])
        >>> history.column("validation.elbo")
        [-9.5]

    ``history.to_frame()`` has all of it as a table.
    """

    def column(self, key: str) -> list[Any]:
        """The values of a dotted key such as "validation.elbo"; None where a row lacks it."""
        return [lookup(row, key) for row in self]

    def plot(self) -> Figure:
        """Training curves: bound, KL per site, beta where it moves."""
        from ..plots.curves import history as picture  # with matplotlib, slow to import

        return picture(self)

    def _repr_html_(self) -> str:
        """The last epochs as a table, for notebooks; in text a history is the list that it is."""
        return self.table(_ROWS)._repr_html_()

    def table(self, epochs: int | None = None) -> Table:
        """Bound, objective, reconstruction and KL of the last so many epochs; default: all."""
        last = self if epochs is None else self[-epochs:]
        sites = [(key, s) for key in ("kl", "kl_global") for row in last for s in row.get(key, ())]
        kl = dict.fromkeys(f"{key}.{site}" for key, site in sites)
        keys = ["elbo", "objective", "reconstruction", *kl, "validation.elbo", "seconds"]
        keys = [key for key in keys if any(lookup(row, key) is not None for row in last)]
        rows = [
            [
                Cell(_epoch(row), {"": row.get("epoch")}),
                str(row.get("guide", "")),
                *(lookup(row, key) for key in keys),
            ]
            for row in last
        ]
        caption = f"last {len(last)} of {len(self)} epochs, nats per datum"
        if any("kl_global" in row for row in last):
            caption += "; kl_global, nats per data set"
        return Table(caption, ["epoch", "guide", *keys], rows)

    def to_frame(self) -> pandas.DataFrame:
        """All that the rows have as a flat ``pandas.DataFrame``, indexed by epoch.

        What is by site has a column for each, such as "kl/z1" and "validation/kl/z1", and what is
        by unit "unit_kl/z1/0". Flags that a row lacks are False, other whole numbers <NA>, and
        real ones NaN.

        Raises:
            ImportError: pandas is not installed.
        """
        pandas = pandas_or("history, a list of plain dicts, or to_json()")
        rows = [flat(row) for row in self]
        names = dict.fromkeys(["epoch", *(name for row in rows for name in row)])
        columns = {name: _typed([row.get(name) for row in rows]) for name in names}
        epochs, kind = columns.pop("epoch")
        index = pandas.Index(epochs, name="epoch", dtype=kind)
        series = {n: pandas.Series(v, index, kind) for n, (v, kind) in columns.items()}
        return pandas.DataFrame(series, index)

    def to_json(self) -> str:
        """The rows as JSON text; null for what is NaN or infinite, which JSON does not have."""
        return json.dumps(_finite(list(self)), indent=1, allow_nan=False)


def _typed(values: list[Any]) -> tuple[list[Any], str | None]:
    """The values of a column and their type, that of pandas for text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return [bool(value) for value in values], "bool"
    if kinds == {int} or not values:
        return values, "Int64" if None in values else "int64"
    return values, "float64" if kinds <= {int, float} else None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inside) for inside in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _epoch(row: Mapping[str, Any]) -> str:
    part = next((how for how in ("interrupted", "failed") if row.get(how)), None)
    return f"{row.get('epoch', '')}" + (f" ({part})" if part else "")
