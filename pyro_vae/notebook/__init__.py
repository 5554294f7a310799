"""Swap parts while a pair trains: a panel for notebooks, with widgets or by plain calls."""

from .panel import Panel

__all__ = ["Panel"]
