"""Samples as files that are no pictures: by an ending, what writes one."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import data, plots
from ..programs.unwrapping import innermost
from .messages import DONE, note

Writer = Callable[[Tensor], int]


def _wav(args: argparse.Namespace, x: Tensor) -> int:
    """Signals, one after another, at the sample rate given, else that of training."""
    record = args.model.with_name("run.json")
    try:
        rate = args.rate or json.loads(record.read_text())["data"]["rate"]
    except (OSError, ValueError, LookupError, TypeError):
        raise ValueError(
            f"--out: expected a {record} that tells the sample rate, got none: add --rate HZ, or "
            "name a picture such as samples.png"
        ) from None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        data.write_wav(args.out, x, rate)
    for warning in caught:
        note(str(warning.message).partition(": ")[0])
    return _told(args.out)


def _gif(args: argparse.Namespace, x: Tensor) -> int:
    """Videos beside each other, moving."""
    plots.animation(x).save(args.out)
    return _told(args.out)


def _told(path: Path) -> int:
    print("wrote", path)
    return DONE


# Ending -> the kind of data that it is for, and what writes them
WRITERS: dict[str, tuple[str, Callable[[argparse.Namespace, Tensor], int]]] = {
    ".wav": ("signal", _wav),
    ".gif": ("video", _gif),
}


def writer(args: argparse.Namespace, model: Any) -> Writer | None:
    """What writes samples into --out; None for a picture, which .gif is of other data."""
    kind, write = WRITERS.get(args.out.suffix.lower(), (None, None))
    got = getattr(innermost(model), "kind", None)
    if write is None or (got != kind and write is _gif):
        return None
    if got != kind:
        raise ValueError(
            f"--out: expected a model of signals for {args.out}, got one of kind {got!r}: name a "
            "picture such as samples.png"
        )
    return partial(write, args)
