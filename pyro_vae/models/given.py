"""Labels of several kinds as a model reads them: rows per datum, of the right types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from ..data.arguments import Arguments, as_column

RESERVED = EXPOSURE, OFFSET = "exposure", "offset"


class Given(Arguments):
    """Covariates of n data as programs are given them: classes, numbers, log exposures."""

    def told(self, name: str, classes: Tensor) -> Given:
        """With others in place of some classes, (..., n): of each datum, or all that may be."""
        columns = [key for key in self.kwargs if key != name or classes.dim() == 1]
        kwargs = {**self.kwargs, name: classes}
        return self.replace(kwargs=kwargs, columns=tuple(columns), size=len(self))


def read(name: str, value: Any) -> Tensor:
    """One of them as a tensor; ``TypeError`` for text and what holds no numbers."""
    number = isinstance(value, int | float)
    return torch.tensor(value) if number else as_column(value, f"y[{name!r}]")


def log_exposure(found: Mapping[str, Any]) -> Tensor:
    """The logarithm of the exposure, from either."""
    if OFFSET in found:
        return read(OFFSET, found[OFFSET]).double()
    exposure = read(EXPOSURE, found[EXPOSURE]).double()
    wrong = ~(exposure > 0) | exposure.isinf()
    if pyro.infer.util.is_validation_enabled() and wrong.any():
        raise ValueError(
            f"y[{EXPOSURE!r}]: expected positive finite numbers, {_first(wrong, exposure)}: leave "
            "out these rows, of which no counts are possible"
        )
    return exposure.log()


def check_finite(name: str, value: Tensor) -> None:
    """Raise ``ValueError`` for values that are NaN or infinite, with the first of them."""
    wrong = ~value.isfinite()
    if wrong.any():
        raise ValueError(
            f"y[{name!r}]: expected finite numbers, {_first(wrong, value)}: leave out these rows, "
            "or fill them, such as with the mean of the others"
        )


def _first(wrong: Tensor, values: Tensor) -> str:
    rows = wrong.reshape(len(wrong) if wrong.dim() else 1, -1)
    row = int(rows.any(1).long().argmax())
    told = values.reshape(rows.shape)[row][rows[row]][0].item()
    return f"got {int(wrong.sum())} others, the first {told:.4g} in row {row}"


def laid(name: str, value: Tensor, shape: tuple[int, ...], n: int) -> Tensor:
    """A row per datum, (n, *shape), from so many or one for all."""
    got, one = tuple(value.shape), shape in ((), (1,))
    if got == (n, *shape):
        return value
    if got in (shape, (1, *shape)) or (one and value.numel() == 1):
        return value.reshape(shape).expand(n, *shape)
    # A column of a table, and numbers of which there is one
    if one and got in ((n, 1), (n,)):
        return value.reshape(n, *shape)
    raise ValueError(
        f"y[{name!r}]: expected shape {(n, *shape)}, a row per datum, or {shape} for all, got "
        f"{got}: pass as many as there are data"
    )
