"""Packages that few need, imported where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType


def needed(name: str, extra: str, what: str, instead: str = "") -> ModuleType:
    """A module of another package; ``ModuleNotFoundError`` that names the command without it.

    Args:
        name: of the module, such as "safetensors.torch".
        extra: of this package, which has it.
        what: what needs it.
        instead: what else may be done.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        # One that is there lacks something of its own
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ModuleNotFoundError(
            f"{what} needs the package {package}: pip install 'pyro_vae[{extra}]'"
            f"{instead and f', or {instead}'}",
            name=name,
        ) from error
