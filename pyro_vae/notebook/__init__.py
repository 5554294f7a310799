"""Swap parts while a pair trains: a panel for notebooks, with widgets or by plain calls."""

from .panel import Panel

__all__ = ["Panel"]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
