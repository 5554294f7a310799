"""Text drawn as lines: sentences below each other, with what they are beside them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.arguments import Arguments
from ..data.text import Vocabulary
from ..ground.drawing import new_axes, shown
from ..models import Translation
from ..programs.encoding import encode_means
from ..programs.running import measuring
from ..programs.unwrapping import innermost

# Characters of a line; sizes in inches
_WIDE = 90
_LINE, _CHARACTER, _GAP, _FONT = 0.22, 0.075, 0.4, 9.0
_LINES = "lines"


def lines_axes(
    lines: Sequence[str], labels: Sequence[str], *, block: int = 0, ax: Axes | None = None
) -> Axes:
    """Draw lines of text, long ones over several.

    Args:
        lines: the text.
        labels: of the lines, as many.
        block: lines that belong together, with a gap after them; 0 for none.
        ax: axes to draw on; by default those of a new figure.
    """
    texts = [shown("\n".join(textwrap.wrap(line, _WIDE))) for line in lines]
    labels = [*map(shown, labels)]
    high = np.array([text.count("\n") + 1.0 for text in texts])
    gaps = np.arange(len(lines)) // block * _GAP if block else np.zeros(len(lines))
    tops = np.concatenate([[0.0], high.cumsum()[:-1]]) + gaps
    total = tops[-1] + high[-1]
    width = max(len(part) for text in texts for part in text.split("\n")) + 2
    if ax is None:
        beside = _CHARACTER * max(map(len, labels))
        (ax,) = new_axes(1, 1, (_CHARACTER * width + beside + 0.4, _LINE * total + 0.3))
        font = _FONT
    else:
        box, dots = ax.get_window_extent(), ax.figure.dpi
        font = _FONT / max(
            1.0, dots * _LINE * total / box.height, dots * _CHARACTER * width / box.width
        )
    for line, text, top in zip(lines, texts, tops, strict=True):
        va = "top" if "\n" in text else "center_baseline"
        # The label keeps the line as it was
        ax.text(1, top + 0.5, text, va=va, fontsize=font, label=line)
    ax.set(xlim=(0, width), ylim=(total, 0), xticks=[])
    ax.set_yticks(tops + 0.5, labels, fontsize=font)
    ax.tick_params(length=0)
    ax.set_frame_on(False)
    ax.set_gid(f"{_LINES} {block or len(lines)}")
    return ax


def lines_of(figure: Figure) -> list[tuple[str, str]]:
    """What stands beside the lines of a figure of text alone, and these; none of any other."""
    if not all(str(ax.get_gid()).startswith(_LINES) for ax in figure.axes):
        return []
    return [
        (beside.get_text().replace(r"\$", "$"), text.get_label())
        for ax in figure.axes
        for beside, text in zip(ax.get_yticklabels(), ax.texts, strict=True)
    ]


def together_of(figure: Figure) -> list[bool]:
    """Of the lines of a figure of text alone, which begin those that belong together."""
    return [
        i % int(ax.get_gid().split()[1]) == 0 for ax in figure.axes for i in range(len(ax.texts))
    ]


def translations(
    model: Translation, guide: Callable, x: Arguments, *, ax: Axes | None = None
) -> Axes:
    """Draw sources and targets, and what the model makes of the sources.

    It is what it finds most probable, given z, the mean of q(z | target, source), and without it.
    """
    source, target = model.sides(x)
    with measuring(model, guide, device=x.device):
        told = {
            "source": model.source.text(source),
            "target": model.target.text(target),
            "given z": model.target.text(model.translate(source, z=encode_means(guide, x)["z1"])),
            "translation": model.target.text(model.translate(source)),
        }
    return _beside(told, ax)


def drawn_translations(model: Translation, n: int, x: Arguments, ax: Axes | None) -> Axes:
    """Draw ``n`` sources, the first ones again where there are fewer, and a draw for each."""
    source = model.sides(x)[0]
    source = source[torch.arange(n, device=source.device) % len(source)]
    with measuring(model, device=source.device):
        drawn = model.translate(source, z=model.prior(source).sample())
    told = {"source": model.source.text(source), "drawn": model.target.text(drawn)}
    return _beside(told, ax)


def _beside(told: Mapping[str, Sequence[str]], ax: Axes | None) -> Axes:
    """Sentences of several kinds in turns."""
    first, *others = told
    rows = [*zip(*told.values(), strict=True)]
    labels = [label for i in range(len(rows)) for label in (f"{i}  {first}", *others)]
    return lines_axes([line for row in rows for line in row], labels, block=len(told), ax=ax)


def check_no_pairs(model: Callable) -> None:
    """Raise ``ValueError`` for a model of pairs of sentences, which has no such picture."""
    if isinstance(innermost(model), Translation):
        raise ValueError(
            "model: expected one of data that are drawn one by one, got a Translation, of pairs: "
            "use plots.reconstructions(model, guide, x) with its arguments x, or "
            "model.translate(lines, z=z)"
        )


def check_no_text(model: Callable, instead: str) -> None:
    """Raise ``ValueError`` for a model of text, which has no such picture."""
    check_no_pairs(model)
    vocabulary = getattr(getattr(innermost(model), "likelihood", None), "vocabulary", None)
    if isinstance(vocabulary, Vocabulary):
        raise ValueError(
            f"model: expected one of data that are drawn, got one of text, {vocabulary!r}: use "
            f"{instead}"
        )
