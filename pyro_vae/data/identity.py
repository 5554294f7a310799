"""What tells data from others."""

from __future__ import annotations

import re
import zlib
from typing import Any

from torch import Tensor

from .arguments import Arguments, LabelData, named
from .dataset import Dataset

_MOST_BYTES = 2**26


def identity(data: Dataset | Arguments | None) -> dict[str, Any] | None:
    """What tells data from others at little cost: sizes, and a checksum of evenly spaced rows."""
    if data is None:
        return None
    if isinstance(data, Arguments):
        # Where an object lies in memory tells nothing of it
        told = {k: re.sub(r" at 0x[0-9a-f]+", "", repr(v)) for k, v in data.constants.items()}
        rest = {named(k): v for k, v in told.items()}
        tensors = {named(k): v for k, v in data.items() if isinstance(v, Tensor)}
        return rest | {name: _of_tensor(tensor) for name, tensor in tensors.items()}
    found: dict[str, Any] = {
        "length": len(data),
        "event shape": list(data.event_shape),
        "binarize": data.binarize,
        "labels": _of_labels(data.y),
    }
    row = data[:1].x
    step = -(-len(data) * row.nbytes // _MOST_BYTES)
    values = data[::step].x.cpu().contiguous().numpy()
    return {**found, "dtype": str(row.dtype), "checksum": zlib.crc32(values)}


def _of_labels(y: LabelData) -> Any:
    if isinstance(y, Arguments):
        return {named(key): _of_tensor(column) for key, column in y.items()}
    return None if y is None else zlib.crc32(y.cpu().numpy().tobytes())


def _of_tensor(value: Tensor) -> dict[str, Any]:
    rows = value.detach().reshape(len(value) if value.dim() else 1, -1)
    some = rows[:: max(1, -(-rows.nbytes // _MOST_BYTES))].cpu().contiguous().numpy()
    return {"shape": list(value.shape), "dtype": str(value.dtype), "checksum": zlib.crc32(some)}
