"""A trained pair on one page: a self-contained HTML file that opens offline."""

from .page import write_report
from .pictures import render

__all__ = ["render", "write_report"]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
