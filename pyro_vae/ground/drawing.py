"""What all pictures share: colours, figures, names as they are."""

from __future__ import annotations

import re
import textwrap

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# "Accessible Color Sequences for Data Visualization", Petroff (2021): told apart by colour-blind
# readers and in this order.
COLORS = tuple(
    "#3f90da #ffa90e #bd1f01 #94a4a2 #832db6 #a96b59 #e76300 #b9ac70 #717581 #92dadd".split()
)
MARKERS = "os^D"


class ShownOnce(Figure):
    """A figure that a notebook shows once, also where it is the value of a cell."""

    def _ipython_display_(self) -> None:
        # The inline backend shows every open figure after a cell, on top of the cell's value.
        if "inline" in matplotlib.get_backend():
            plt.close(self)
        raise NotImplementedError  # makes IPython go on to its own formatters of figures


def new_axes(rows: int, columns: int, size: tuple[float, float]) -> list[Axes]:
    """Axes of a new figure of ``size`` (width, height) inches, row by row."""
    # "constrained" clips the labels beside images, which keep their aspect; "compressed" does not.
    _, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, layout="compressed", FigureClass=ShownOnce
    )
    return list(axes.flat)


def keep_within(ax: Axes) -> None:
    """Make axes smaller whose labels are cut off at the edge of a figure without a layout."""
    if ax.figure.get_layout_engine() is not None:
        return
    # Smaller axes may have other ticks, whose labels are longer
    for _ in range(3):
        inside = ax.figure.transFigure.inverted().transform_bbox(ax.get_tightbbox())
        box = ax.get_position()
        left, bottom = max(0.0, -inside.x0), max(0.0, -inside.y0)
        right, top = max(0.0, inside.x1 - 1), max(0.0, inside.y1 - 1)
        width, height = box.width - left - right, box.height - bottom - top
        if min(width, height) <= 0 or not any((left, bottom, right, top)):
            return
        ax.set_position([box.x0 + left, box.y0 + bottom, width, height])


def shown(text: object) -> str:
    r"""A name that matplotlib shows as it is: no dollar begins a formula, all is Unicode.

    Example:
        >>> print(shown("2$ or 3$"))
        2\$ or 3\$
    """
    return str(text).encode("utf-8", "backslashreplace").decode().replace("$", r"\$")


def wrapped(text: object, width: int = 24) -> str:
    """``shown`` in lines of at most so many letters, for names that leave room to a picture.

    Example:
        >>> print(wrapped("another really quite long name of a class"))
        another really quite
        long name of a class
        >>> print(wrapped("a_name_of_one_word_that_is_long"))
        a_name_of_one_
        word_that_is_long
    """
    # Names of one word may break at its underscores
    lines = textwrap.wrap(str(text).replace("_", "_\0 "), width)
    return "\n".join(shown(re.sub("\0 ?", "", line)) for line in lines) or shown(text)
