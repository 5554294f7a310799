"""Models as estimators of scikit-learn, which is imported with the first of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .transformer import VAETransformer

__all__ = ["VAETransformer"]


if not TYPE_CHECKING:  # for type checkers there are no other names than those above

    def __getattr__(name: str) -> Any:
        """An estimator, imported when it is asked for."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import transformer

        return getattr(transformer, name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
