"""Published comparisons as programs: one module per table, each with ``main(argv)``.

``pyro-vae experiment NAME --help`` tells what a program takes; ``--quick`` runs it in a minute.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence

__all__ = ["NAMES", "run"]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


_SHARED = (
    "pairing",
    "pictures",
    "provenance",
    "rates",
    "real_tables",
    "running",
    "standing",
    "tables",
)
NAMES = tuple(
    sorted(
        m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if m.name not in _SHARED
    )
)


def run(name: str, argv: Sequence[str]) -> int:
    """Run an experiment.

    Args:
        name: one of ``NAMES``.
        argv: its arguments.

    Returns:
        The exit status.
    """
    module = importlib.import_module(f".{name.replace('-', '_')}", __package__)
    return module.main(argv)
