"""What the text of an option may be; each parser says what it expected and what it got."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from matplotlib.figure import Figure

from ..data.writing import WRITERS, writable
from ..ground import arguments
from ..ground.parsing import integer
from ..programs.placing import usable_device
from . import media

_T = TypeVar("_T")
MODEL = "model.pt"


def _real(text: str, expected: str, check: Callable[[str, float], float]) -> float:
    try:
        return check("", float(text))
    except ValueError:
        raise ArgumentTypeError(f"expected a finite number {expected} 0, got {text!r}") from None


def not_negative(text: str) -> float:
    """A finite number of at least 0."""
    return _real(text, "of at least", arguments.at_least)


def positive(text: str) -> float:
    """A finite number above 0."""
    return _real(text, "above", arguments.positive)


def sizes(text: str) -> tuple[int, ...]:
    """Whole numbers of at least 1, separated by commas."""
    try:
        return tuple(integer(1)(size.strip()) for size in text.split(","))
    except ArgumentTypeError:
        raise ArgumentTypeError(
            f"expected one size or more, such as 20 or 64,32,16, got {text!r}"
        ) from None


def latents(text: str) -> tuple[int | tuple[int, ...], ...]:
    """Sizes of vectors and shapes of maps, such as 8x14x14, separated by commas."""
    try:
        found = [tuple(map(integer(1), item.strip().split("x"))) for item in text.split(",")]
    except ArgumentTypeError:
        raise ArgumentTypeError(
            f"expected sizes, and shapes of maps as 8x14x14, such as 20 or 64,32,16, got {text!r}"
        ) from None
    return tuple(shape if len(shape) > 1 else shape[0] for shape in found)


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise ArgumentTypeError(f"expected names such as site,sex, got {text!r}")
    return found


def covariates(text: str) -> dict[str, str]:
    """Numbers and classes by names, as site=Bonn,age=40."""
    try:
        pairs = (pair.split("=") for pair in text.split(","))
        return {name.strip(): value.strip() for name, value in pairs}
    except ValueError:
        raise ArgumentTypeError(
            f"expected a number or a class for each name such as site=1,age=40, got {text!r}"
        ) from None


def hidden(text: str) -> tuple[int, ...] | None:
    """Widths, () for ``linear``, None (the model's own choice) for ``conv``."""
    words: dict[str, tuple[int, ...] | None] = {"linear": (), "conv": None}
    return words[text] if text in words else sizes(text)


def pixels(text: str) -> int | tuple[int, int]:
    """Height and width of a picture, as 48x64, or one number for both."""
    try:
        sides = [integer(1)(side) for side in text.lower().split("x")]
        if len(sides) > 2:
            raise ArgumentTypeError
    except ArgumentTypeError:
        raise ArgumentTypeError(
            f"expected height and width in pixels such as 48x64, or 64 for both, got {text!r}"
        ) from None
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def number_or_word(text: str) -> float | str:
    """A number, or the text as it is."""
    try:
        return float(text)
    except ValueError:
        return text


def device(text: str) -> torch.device:
    """A device that this machine has."""
    try:
        return usable_device(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error).removeprefix("device: ")) from None


def model(text: str) -> Path:
    """The path of a trainer's file, or of the folder that ``train`` wrote it into."""
    path = Path(text)
    inside = path / MODEL
    return inside if inside.is_file() else path


def named(table: Mapping[str, _T]) -> Callable[[str], _T]:
    """A parser of the names in ``table``, in any case and spelling, to what they stand for."""

    def plain(name: str) -> str:
        return re.sub("[-_]", "", name).lower()

    names = {plain(name): name for name in table}

    def parse(text: str) -> _T:
        if plain(text) not in names:
            meant = arguments.guess(text, table)
            raise ArgumentTypeError(f"expected one of {', '.join(table)}, got {text!r}{meant}")
        return table[names[plain(text)]]

    return parse


def picture(text: str) -> Path:
    """The path of a picture in a format that matplotlib writes."""
    if Path(text).suffix.lower() not in (endings := _pictures()):
        raise ArgumentTypeError(
            f"expected the name of a picture such as picture.png, got {text!r}: "
            f"end it with one of {', '.join(endings)}{_ending(text, endings)}"
        )
    return Path(text)


def table(text: str) -> Path:
    """The path of a file of numbers in a format that ``data.write`` knows."""
    try:
        return writable("", text)
    except ValueError as error:
        raise ArgumentTypeError(str(error).removeprefix(": ")) from None


def samples(text: str) -> Path:
    """The path of a picture, a table, a sound or a video."""
    endings = [*dict.fromkeys([*WRITERS, *media.WRITERS, *_pictures()])]
    if Path(text).suffix.lower() not in endings:
        raise ArgumentTypeError(
            f"expected a name such as samples.csv, or of a picture, such as picture.png, got "
            f"{text!r}: end it with one of {', '.join(endings)}{_ending(text, endings)}"
        )
    return table(text) if Path(text).suffix.lower() in WRITERS else Path(text)


def _pictures() -> list[str]:
    return sorted(f".{name}" for name in Figure().canvas.get_supported_filetypes())


def _ending(text: str, endings: Iterable[str]) -> str:
    return arguments.guess(Path(text).suffix, endings) if Path(text).suffix else ""
