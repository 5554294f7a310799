"""Figures as pictures of a page: panel by panel, for light screens and for dark ones."""

from __future__ import annotations

import base64
import html
import io
import itertools
import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import LinearSegmentedColormap, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from ..plots.sentences import lines_of, together_of

_DPI = 144
_CSS_PIXELS_PER_INCH = 96
# Below this share of its size the words of a picture are too small: it scrolls
_LEAST = 0.6
_WHITE = "#ffffff"
# What black and white become, the ink and the cards of a dark page
DARK = ("#e6e8ea", "#1e2226")
_BRIGHTNESS = np.array([0.2126, 0.7152, 0.0722])
_SHADES = LinearSegmentedColormap.from_list("dark", [DARK[1], "#35698f"]).with_extremes(
    bad=DARK[1]
)
_COLORED = ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor")


def render(drawn: Figure | Axes, format: str = "png", *, dpi: int = _DPI) -> bytes:
    """The bytes of a picture file, the same for the same picture; the figure is closed.

    Args:
        drawn: a figure, or axes of it.
        format: "png", "pdf", "svg" or another one that matplotlib writes.
        dpi: dots per inch.

    Returns:
        The content of the file.

    Raises:
        ValueError: a format that matplotlib does not write.
    """
    figure = _figure(drawn)
    buffer = io.BytesIO()
    # matplotlib signs PNG files with its web address, which a file for offline use can miss
    options: dict[str, Any] = {"metadata": {"Software": None}} if format == "png" else {}
    try:
        figure.savefig(buffer, format=format, dpi=dpi, facecolor=_WHITE, **options)
    finally:
        plt.close(figure)
    return buffer.getvalue()


def pictures(title: str, drawn: Figure | Axes) -> str:
    """A figure as HTML, its panels as pictures that stack on narrow screens; it is closed.

    Lines of text are a table of them.
    """
    figure = _figure(drawn)
    if lines := lines_of(figure):
        plt.close(figure)
        return _written_out(lines, together_of(figure))
    try:
        figure.set_dpi(_DPI)
        light = _pixels(figure, _WHITE)
        # Where all stands is known from here on
        figure.set_layout_engine("none")
        boxes = _panels(figure)
        darken(figure)
        dark = _pixels(figure, DARK[1])
    finally:
        plt.close(figure)
    least = _LEAST if any(t.get_text().strip() for t in figure.findobj(Text)) else 0
    shown = (_picture(title, least, _png(light, box), _png(dark, box)) for box in boxes)
    return f"<figure>{''.join(shown)}</figure>"


def _written_out(lines: Sequence[tuple[str, str]], begins: Sequence[bool]) -> str:
    rows = "".join(
        f"<tr{' class=first' * begin}><th>{html.escape(label)}</th><td>{html.escape(text)}</td>"
        "</tr>"
        for (label, text), begin in zip(lines, begins, strict=True)
    )
    return f'<table class="lines">{rows}</table>'


def _picture(title: str, least: float, light: bytes, dark: bytes) -> str:
    # Where a PNG file has its width
    width = round(int.from_bytes(light[16:20]) * _CSS_PIXELS_PER_INCH / _DPI)
    source, other = (base64.b64encode(content).decode() for content in (light, dark))
    return (
        '<picture><source media="(prefers-color-scheme: dark)" '
        f'srcset="data:image/png;base64,{other}"><img alt="{html.escape(title)}" width="{width}" '
        f'style="min-width: {round(least * width)}px" src="data:image/png;base64,{source}">'
        "</picture>"
    )


def darken(figure: Figure) -> None:
    """Make black and white of a figure those of a dark page, and dim colours brighter."""
    artists = figure.findobj()
    boxes = [box for t in artists if isinstance(t, Text) and (box := t.get_bbox_patch())]
    # All at once, as a figure and its background are two artists of one colour
    changes = []
    for artist, name in itertools.product([*artists, *boxes], _COLORED):
        getter, setter = (getattr(artist, f"{verb}_{name}", None) for verb in ("get", "set"))
        if getter and setter and (found := _darkened(getter())) is not None:
            changes.append((setter, found))
    for setter, found in changes:
        setter(found)
    for artist in artists:
        # Numbers of a table are written on it
        if isinstance(artist, QuadMesh) and min(artist.get_cmap()(0.0)) > 0.9:
            artist.set_cmap(_SHADES)


def _darkened(color: Any) -> np.ndarray | None:
    """Colours for a dark page; None for those that stay."""
    try:
        found = to_rgba_array(color)
    except (TypeError, ValueError):
        return None  # no colour but a word for where it comes from
    rgb, visible = found[:, :3], found[:, 3] > 0
    grey = visible & (np.ptp(rgb, axis=1) < 0.02)
    dim = visible & ~grey & (rgb @ _BRIGHTNESS < 0.4)
    if not (grey | dim).any():
        return None
    # Of a tuple of two the oldest matplotlib takes the second for an opacity
    black, white = to_rgba_array([*DARK])[:, :3]
    share = rgb[grey, :1]
    rgb[grey] = (1 - share) * black + share * white
    rgb[dim] += 0.4 * (1 - rgb[dim])
    return found if len(found) > 1 else found[0]


def _figure(drawn: Figure | Axes) -> Figure:
    return drawn if isinstance(drawn, Figure) else drawn.figure


def _panels(figure: Figure) -> list[tuple[int, int, int, int] | None]:
    """The parts of a figure whose axes stand side by side, in pixels; otherwise all of it."""
    specs = [ax.get_subplotspec() for ax in figure.axes]
    if len(specs) < 2 or any(s is None or s.get_gridspec().nrows > 1 for s in specs):
        return [None]
    width, height = figure.canvas.get_width_height()
    padded = [ax.get_tightbbox().padded(figure.dpi / 50) for ax in figure.axes]
    return [
        (
            max(math.floor(box.x0), 0),
            max(math.floor(height - box.y1), 0),
            min(math.ceil(box.x1), width),
            min(math.ceil(height - box.y0), height),
        )
        for box in padded
    ]


def _pixels(figure: Figure, facecolor: str) -> Image.Image:
    figure.set_facecolor(facecolor)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _png(picture: Image.Image, box: tuple[int, int, int, int] | None) -> bytes:
    buffer = io.BytesIO()
    (picture if box is None else picture.crop(box)).save(buffer, format="png")
    return buffer.getvalue()
