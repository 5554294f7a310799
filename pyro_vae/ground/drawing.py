"""What all pictures share: colours, figures, names as they are."""

from __future__ import annotations

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


def shown(text: object) -> str:
    r"""A name that matplotlib shows as it is: no dollar begins a formula, all is Unicode.

    Example:
        >>> print(shown("2$ or 3$"))
        2\$ or 3\$
    """
    return str(text).encode("utf-8", "backslashreplace").decode().replace("$", r"\$")
