"""The scale of data, which decides whether a model of real values can be trained on them."""

from __future__ import annotations

from torch import Tensor

_MOST, _LEAST, _RATIO = 100.0, 0.01, 100.0
_LOOKED_AT = 10**6


def scale_notice(x: Tensor) -> str | None:
    """What to do about data far from 1, or about columns far from each other; None for others.

    Networks start with weights for inputs near 1, and a sigma that all elements share is of no use
    to those that are much smaller than the largest. A few values beside most do not count, and are
    told where they do harm. The data are real values (n, *event).

    Example:
        >>> import torch
        >>> table = torch.randn(100, 2) * torch.tensor([1.0, 1e6])
        >>> print(scale_notice(table).split(":")[0])
        data
        >>> scale_notice(torch.randn(100, 2)) is None
        True
    """
    rows = x[:: -(-x.numel() // _LOOKED_AT)] if len(x) > 1 else x
    if x.ndim == 2 and len(rows) > 1:
        ends = rows.sort(0).values[[len(rows) // 10, (9 * len(rows)) // 10]]
        spread = ends[1] - ends[0]
        columns = (spread > 0).nonzero()[:, 0]
        if len(columns):
            low, high = (int(columns[f(spread[columns])]) for f in (Tensor.argmin, Tensor.argmax))
            if spread[high] > _RATIO * spread[low]:
                return (
                    f"data: most values of column {high} differ by {float(spread[high]):.3g}, of "
                    f"column {low} by {float(spread[low]):.3g}: the latter will not be learnt. "
                    "Bring all to 1: m, s = x.mean(0), x.std(0); x = (x - m) / s.where(s > 0, 1)"
                )
    sizes = rows.flatten()[:: -(-rows.numel() // _LOOKED_AT)].abs().sort().values
    size = float(sizes[(99 * len(sizes)) // 100])
    if size > _MOST or 0 < size < _LEAST:
        return (
            f"data: the values, from {float(x.min()):.4g} to {float(x.max()):.4g}, are far from "
            "1, for which networks and learning rates are made: divide them by the largest, "
            "x = x / x.abs().max()"
        )
    return None
