"""Variational autoencoders as probabilistic programs: Pyro models and guides, parts to swap."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from . import (
        callbacks,
        codebooks,
        data,
        diagnostics,
        estimators,
        export,
        guides,
        handlers,
        infer,
        likelihoods,
        models,
        notebook,
        plots,
        priors,
        ranks,
        regularizers,
        schedules,
    )
    from .ground.recorded import Recorded
    from .training.saving import load, save
    from .training.trainer import Trainer

__all__ = [
    "Recorded",
    "Trainer",
    "__version__",
    "callbacks",
    "codebooks",
    "data",
    "diagnostics",
    "estimators",
    "export",
    "guides",
    "handlers",
    "infer",
    "likelihoods",
    "load",
    "models",
    "notebook",
    "plots",
    "priors",
    "ranks",
    "regularizers",
    "save",
    "schedules",
]

# Names that are no rooms -> where they are
_PLACES = {
    "Recorded": "ground.recorded",
    "Trainer": "training.trainer",
    "load": "training.saving",
    "save": "training.saving",
}


if "IPython" in sys.modules:
    from .ground.completing import complete_in
    from .ground.tracebacks import shorten_in

    shorten_in(sys.modules["IPython"].get_ipython())
    complete_in(sys.modules["IPython"].get_ipython())


if not TYPE_CHECKING:  # for type checkers there are no other names than those above

    def __getattr__(name: str) -> Any:
        """A room or a name of one, imported when it is asked for."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = importlib.import_module(f".{_PLACES.get(name, name)}", __name__)
        value = getattr(found, name) if name in _PLACES else found
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
