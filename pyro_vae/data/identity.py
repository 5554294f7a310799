"""What tells data from others."""

from __future__ import annotations

import zlib
from typing import Any

from .dataset import Dataset

_MOST_BYTES = 2**26


def identity(data: Dataset | None) -> dict[str, Any] | None:
    """What tells data from others at little cost: sizes, and a checksum of evenly spaced rows."""
    if data is None:
        return None
    found: dict[str, Any] = {
        "length": len(data),
        "event shape": list(data.event_shape),
        "binarize": data.binarize,
        "labels": None if data.y is None else zlib.crc32(data.y.cpu().numpy().tobytes()),
    }
    row = data[:1].x
    step = -(-len(data) * row.nbytes // _MOST_BYTES)
    values = data[::step].x.cpu().contiguous().numpy()
    return {**found, "dtype": str(row.dtype), "checksum": zlib.crc32(values)}
