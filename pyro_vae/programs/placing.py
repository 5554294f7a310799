"""Where programs and data are: devices, floating types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Dataset
from ..data.arguments import Arguments, Data
from .methods import held_by

_CPU = torch.device("cpu")


def like(*programs: Callable, default: Tensor | None = None) -> Any:
    """The first floating parameter of the programs, ``default`` where there is none."""
    for program in programs:
        for module in (program,) if isinstance(program, nn.Module) else held_by(program):
            for parameter in module.parameters():
                if parameter.is_floating_point():
                    return parameter
    return default


def device_of(*programs: Callable, default: torch.device = _CPU) -> torch.device:
    """The device of the programs' first parameter, ``default`` where there is none."""
    return default if (found := like(*programs)) is None else found.device


def dtype_of(*programs: Callable, default: torch.dtype) -> torch.dtype:
    """The floating type of the programs' first parameter, ``default`` where there is none."""
    return default if (found := like(*programs)) is None else found.dtype


def usable_device(device: torch.device | str) -> torch.device:
    """A device that torch can use here; ``ValueError`` for any other."""
    try:
        probe = torch.zeros(1, device=device)
        # A device such as "meta" has tensors without values
        probe.item()
        return probe.device
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ValueError(
            f"device: expected one that torch can use here, such as 'cpu', got {str(device)!r} "
            f"({str(error).splitlines()[0].split(',')[0]})"
        ) from error


def seen_values(data: Dataset | Arguments) -> Data:
    """What the likelihood may see, without drawing: 0 and 1 under dynamic binarisation."""
    return data.x.round() if data.binarize else data.x
