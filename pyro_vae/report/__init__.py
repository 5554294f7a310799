"""A trained pair on one page: a self-contained HTML file that opens offline."""

from .page import write_report
from .sections import is_point_mass, render

__all__ = ["is_point_mass", "render", "write_report"]
