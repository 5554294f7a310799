"""The record of a training run: one plain dict per epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .infer import ELBOTerms


class History(list[dict[str, Any]]):
    """A list of JSON-able dicts, one per epoch, in nats per datum.

    Keys: ``epoch`` and ``step`` (counted from 1 over all calls of ``fit``), ``elbo`` (without
    beta), ``objective`` (with beta), ``reconstruction``, ``kl`` per site, ``beta``, ``lr``,
    ``guide``, ``seconds``, ``validation`` with ``elbo``, ``elbo_se``, ``reconstruction`` and
    ``kl`` where there are validation data, ``swapped`` on the first epoch after a guide swap,
    ``interrupted`` on an epoch ended by Ctrl-C.

    Example:
        >>> history = History([{"epoch": 1, "elbo": -9.0, "validation": {"elbo": -9.5}}])
        >>> history.column("validation.elbo")
        [-9.5]
    """

    def column(self, key: str) -> list[Any]:
        """The values of a dotted key such as "validation.elbo"; None where a row lacks it."""
        return [lookup(row, key) for row in self]

    def plot(self) -> Figure:
        """Training curves: bound, KL per site, beta."""
        from . import plots

        return plots.history(self)

    def to_json(self) -> str:
        """The rows as JSON text."""
        return json.dumps(list(self), indent=1)


def lookup(row: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key in nested dicts, None if it is not there."""
    value: Any = row
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


class Totals:
    """Sums over an epoch, kept on the device: reading them waits for it."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, loss: Tensor, terms: ELBOTerms) -> None:
        """Add a batch: its loss, summed over the data, and the terms of its bound."""
        self.count += len(terms.reconstruction)
        parts = {"": -loss, "x": terms.reconstruction.sum()}
        parts.update({f"kl {site}": kl.sum() for site, kl in terms.kl.items()})
        for name, value in parts.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def means(self) -> dict[str, Any]:
        """The four quantities of a history row, per datum."""
        means = (torch.stack(list(self._sums.values())) / self.count).tolist()
        objective, reconstruction, *kl = means
        by_site = dict(zip(list(self._sums)[2:], kl, strict=True))
        return {
            "elbo": reconstruction - sum(kl),
            "objective": objective,
            "reconstruction": reconstruction,
            "kl": {name.removeprefix("kl "): value for name, value in by_site.items()},
        }
