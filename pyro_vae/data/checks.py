"""What is stored from what a person passes: conversions, and errors that name the fix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ground.arguments import whole
from ..ground.kinds import KINDS, Kind
from . import kinds


def tensor(value: Any, argument: str) -> Tensor:
    """A tensor of real numbers, detached; arrays are copied."""
    found = kinds.array(value, argument)
    if isinstance(found, np.ndarray) and found.dtype.kind in "biuf":
        # a copy in native byte order: torch takes neither swapped nor negative-stride nor
        # read-only arrays, and nothing more precise than double
        dtype = np.float64 if found.dtype.char == "g" else found.dtype.newbyteorder("=")
        found = torch.from_numpy(np.array(found, dtype=dtype))
    if not isinstance(found, Tensor) or found.is_complex():
        raise TypeError(
            f"{argument}: expected real numbers, got {type(value).__name__} of {found.dtype}: "
            + _real(found, argument)
        )
    return found.detach()


def _real(found: Tensor | np.ndarray, argument: str) -> str:
    """How to make real numbers of others."""
    if isinstance(found, Tensor) or found.dtype.kind == "c":
        library = "torch" if isinstance(found, Tensor) else "numpy"
        return f"pass {library}.stack([{argument}.real, {argument}.imag], 1)"
    if found.dtype.kind in "UT":
        return (
            "leave text out, or number a column with numpy.unique(column, return_inverse=True)[1]"
        )
    return f"pass {argument}.astype({'int' if found.dtype.kind in 'mM' else 'float'})"


# What else can be done about NaN among data
MISSING = "; or train handlers.missing(model), to which NaN means missing"
_COLOURS = (1, 3, 4)
_ALONG = {kind.name: kind.dims for kind in KINDS.values()}
_BYTES = (torch.uint8, torch.bool)


def as_values(stored: Tensor) -> Tensor:
    """What stored values stand for: ``uint8`` k / 255, ``bool`` 0 or 1, others themselves."""
    if stored.dtype not in _BYTES:
        return stored
    values = stored.float()
    # A tensor on the device: CUDA multiplies by the reciprocal of a Python number, which is not
    # the float32 nearest to k / 255
    return values if stored.dtype == torch.bool else values / values.new_full((), 255.0)


def not_empty(x: Tensor) -> None:
    """Raise unless there is a datum with an element."""
    if x.numel() == 0:
        raise ValueError(
            f"x: expected at least one datum with at least one element, got shape "
            f"{tuple(x.shape)}: check the file, or the rows that were selected"
        )


def values(value: Any, *, channels: str | None = "first") -> Tensor:
    """``x`` as it is stored, shape (n, *event), finite or missing (NaN), and not empty.

    ``uint8`` and ``bool`` stay, and double tensors; all else becomes ``float32``.
    """
    x = tensor(value, "x")
    if x.ndim < 2:
        raise ValueError(
            f"x: expected shape (n, *event), a vector or more per datum, got {tuple(x.shape)}: "
            "pass x[:, None] for one number per datum, x[None] for a single datum"
        )
    not_empty(x)
    x = _channels_first(x, channels)
    if x.dtype == torch.uint8 and x.max() == 1:
        raise ValueError(
            "x: expected 8-bit pixels from 0 to 255, as uint8 is divided by 255, got no value "
            "above 1: pass x > 0 for data that is 0 or 1"
        )
    if x.dtype in _BYTES:
        return x
    # A double tensor was made on purpose; a double array is what NumPy makes of anything
    if not (isinstance(value, Tensor) and x.dtype == torch.float64):
        if x.dtype != torch.float32 and x.device.type == "cpu":
            kinds.check_room(x.shape, 4, "x")
        x = x.to(torch.float32)
    # What is NaN is missing, unless nothing is there
    if not (finite := x.isfinite()).all() and (x.isinf().any() or not finite.any()):
        raise ValueError(_not_finite(finite) + "remove or fill them")
    return x


def rate(value: int, kind: Kind) -> None:
    """Raise unless this is a number of samples per second, of signals."""
    whole("rate", value, advice="pass the samples per second, such as 8000")
    if kind.name != "signal":
        raise ValueError(
            f"rate: expected only for signals, got {value} for data of kind {kind.name!r}: leave "
            'it out, or pass kind="signal" for what is one'
        )


def complete(x: Tensor) -> None:
    """Raise unless no value is missing."""
    if not (finite := x.isfinite()).all():
        raise ValueError(_not_finite(finite) + "remove or fill them" + MISSING)


def _not_finite(finite: Tensor) -> str:
    first = ", ".join(map(str, (~finite).nonzero()[0].tolist()))
    return (
        f"x: expected finite values, got {int((~finite).sum())} NaN or infinite, the first at "
        f"x[{first}]: "
    )


def _channels_first(x: Tensor, channels: str | None) -> Tensor:
    if channels not in ("first", "last", None):
        raise ValueError(
            f'channels: expected "first" or "last", got {channels!r}: leave it out for "first"'
        )
    if channels == "last":
        if x.ndim < 3:
            raise ValueError(
                f'channels: expected shape (n, ..., channels) for "last", got {tuple(x.shape)}: '
                "leave channels out"
            )
        return x.movedim(-1, 1).contiguous()
    if channels is None and x.ndim == 4:
        high, wide, last = x.shape[1:]
        if last in _COLOURS and last < min(high, wide):
            raise ValueError(
                f"x: expected pictures (n, channels, h, w), got shape {tuple(x.shape)}, which "
                f"looks like {last} channels behind {high} x {wide} pixels: pass "
                f'channels="last", or x.permute(0, 3, 1, 2) of a tensor; if these are {high} '
                'channels, pass channels="first"'
            )
    return x


def layout(kind: str | None, shape: Sequence[int], channels: str | None) -> None:
    """Raise where data (n, *event) said to be signals or video seem to have channels elsewhere."""
    if channels is not None or kind not in ("signal", "video") or len(shape) != 2 + _ALONG[kind]:
        return
    first, second, last = shape[1], shape[2], shape[-1]
    behind = last in _COLOURS or (kind == "signal" and last == 2)
    if behind and last < min(shape[1:-1]):
        raise ValueError(
            f"x: expected a {kind} (n, channels, ...), got shape {tuple(shape)}, which looks like "
            f'{last} channels behind all else: pass channels="last"; if these are {first} '
            'channels, pass channels="first"'
        )
    if kind == "video" and second in _COLOURS and first not in _COLOURS:
        raise ValueError(
            f"x: expected a video (n, channels, t, h, w), got shape {tuple(shape)}, which looks "
            f"like {first} frames of {second} channels: pass x.transpose(1, 2) of a tensor; if "
            f'these are {first} channels, pass channels="first"'
        )


def probabilities(x: Tensor) -> None:
    """Raise unless all stored values lie in [0, 1]."""
    if x.dtype in _BYTES:
        return
    if not (finite := x.isfinite()).all():
        raise ValueError(
            _not_finite(finite) + "binarise before values go missing, "
            "Dataset(x).binarized(generator).x, or use binarize=None"
        )
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        raise ValueError(
            f"x: expected values in [0, 1] to binarise, got values from {low:.4g} to {high:.4g}: "
            "rescale x (8-bit pixels: x / 255, or pass them as uint8), or use binarize=None"
        )


def names(names: Sequence[str] | None, y: Tensor | None) -> tuple[str, ...]:
    """Class names, enough for the labels, of which -1 are missing."""
    result = () if names is None else tuple(map(str, names))
    if result and y is not None and not -1 <= int(y.min()) <= int(y.max()) < len(result):
        raise ValueError(
            f"names: expected a name for each label {int(y.min())} to {int(y.max())}, got "
            f"{len(result)} for 0 to {len(result) - 1}: number the classes from 0 and name all"
        )
    return result


def factors(value: Tensor | np.ndarray, names: Sequence[str], x: Tensor) -> Tensor:
    """Factors in ``float32``, shape (n, f), a name for each."""
    factors = tensor(value, "factors").to(x.device, torch.float32)
    if factors.shape != (len(x), len(names)):
        raise ValueError(
            f"factors: expected shape ({len(x)}, {len(names)}), rows of x by factor_names, got "
            f"{tuple(factors.shape)}: give each column a name in factor_names"
        )
    return factors
