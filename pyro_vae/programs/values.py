"""What data may be, whatever the program."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from ..data import Dataset, DataSplits, checks
from ..data.arguments import Arguments

_SUCH_AS = {"model": "models.VAE(...)", "guide": "guides.BottomUp(model)"}


def check_programs(model: Any, *guides: Any) -> None:
    """Raise ``TypeError`` unless a model, and guides if any, are programs."""
    check_program("model", model)
    for guide in guides:
        check_program("guide", guide)


def check_program(name: str, program: Any) -> None:
    """Raise ``TypeError`` for what cannot be run, or is the class of what can."""
    if not callable(program):
        raise TypeError(
            f"{name}: expected a Pyro program, an nn.Module or a function, got {program!r}: "
            f"pass one, such as {_SUCH_AS[name]}"
        )
    if isinstance(program, type):
        raise TypeError(
            f"{name}: expected a Pyro program, got the class {program.__name__}: pass "
            f"{program.__name__}({'model' if name == 'guide' else '...'})"
        )


def check_codes(model: Any, name: str = "model", advice: str = "build one first") -> None:
    """Raise ``TypeError`` for what is no model with codes."""
    if not hasattr(model, "codebook"):
        raise TypeError(f"{name}: expected a models.VQVAE, got {type(model).__name__}: {advice}")


def check_tensor(x: Any, name: str = "x") -> None:
    """Raise ``TypeError`` unless data are a tensor."""
    if not isinstance(x, Tensor):
        if isinstance(x, DataSplits | Dataset):
            advice = "its .test.x" if isinstance(x, DataSplits) else "its .x"
        elif isinstance(x, TensorDataset):
            advice = "its .tensors[0]"
        elif isinstance(x, Arguments) or (
            isinstance(x, tuple) and any(isinstance(v, Tensor) for v in x)
        ):
            advice = "x alone, one tensor"
        elif np.ndim(x) < 2 and isinstance(x, np.ndarray | list | tuple):
            advice = "torch.from_numpy(numpy.array(..., dtype='float32'))"
        else:
            advice = "data.Dataset(...).x"
        raise TypeError(
            f"{name}: expected a tensor (n, ...), got {type(x).__name__}: pass {advice}"
        )


def span_of(value: Any) -> str:
    """Least and largest value, for errors."""
    value = torch.as_tensor(value)
    return f"values from {float(value.min()):.4g} to {float(value.max()):.4g}"


def check_finite(value: Tensor, name: str = "x", of_nan: str = checks.MISSING) -> None:
    """Raise ``ValueError`` if any entry is NaN or infinite; ``of_nan`` is what else NaN may be."""
    if value.is_floating_point() and not (finite := value.isfinite()).all():
        raise ValueError(
            f"{name}: expected finite values, got {int((~finite).sum())} NaN or infinite: "
            "remove or fill these entries" + (of_nan if value.isnan().any() else "")
        )


def refuse(x: Tensor, outside: Tensor, expected: str, remedy: str) -> None:
    """Raise ``ValueError`` if values of data (n, ...) are ``outside``: how many, and the first.

    Example:
        >>> refuse(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool), "zeros", "")
    """
    if outside.any():
        datum, *_ = first = tuple(outside.nonzero()[0].tolist())
        raise ValueError(
            f"x: {expected}, got {int(outside.sum())} others, the first {float(x[first]):.4g} in "
            f"datum {datum}: {remedy}"
        )
