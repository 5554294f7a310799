"""Names and messages of the library in the words of the command line."""

from __future__ import annotations

import re
import sys
from typing import Any

# Exit statuses
DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130


def kebab(name: str) -> str:
    """The option's name of a class.

    Example:
        >>> kebab("BottomUp")
        'bottom-up'
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


_OPTIONS: tuple[tuple[str, Any], ...] = (
    (r'data\.load\("([\w-]+)", download=True\)', r"--data \1 --download"),
    (r"likelihoods\.(\w+)\(\)", lambda match: f"--likelihood {kebab(match[1])}"),
    (r"or use binarize=None", "or use --likelihood gaussian --binarize none"),
    (r"\bbinarize=None", "--binarize none"),
    (r'\bbinarize="(\w+)"(?: in data\.load / Dataset)?', r"--binarize \1"),
    (r"\bimportance_samples\b", "--importance-samples"),
    (r"(?<!\()\blevels=", "--levels"),
    (r"\broot=", "--data-root"),
    (r"^source:", "--data:"),
    (r"^(size|kind|channels|blocks|length|rate):", r"--\1:"),
    (r"\blength=(\d+)", r"--length \1"),
    (r"\bkind='(\w+)'", r"--kind \1"),
    (r"\bhidden=", "--hidden "),
    (r"^root:", "--data-root:"),
    (r"\blower lr, set clip_norm", "lower --lr, set --clip-norm"),
    (r", a tensor, an array or a Dataset will do, too", " will do, too"),
    (r"Trainer\.resume\('(.*)/checkpoints'\)", r"--resume \1"),
    (r"use Dataset\(x\) instead", "add data"),
    (r"fewer components", "lower --components"),
    (r"\bbuild the model with one on top,.*", "train it with --latents 32"),
)


def in_options(message: str) -> str:
    r"""A message of the library in one line, with its Python arguments as options.

    Example:
        >>> in_options("x: expected k / 255: use\nlikelihoods.Gaussian(), or binarize=None")
        'x: expected k / 255: use --likelihood gaussian, or --binarize none'
    """
    message = " ".join(message.split())
    for pattern, option in _OPTIONS:
        message = re.sub(pattern, option, message)
    return message


def note(text: str) -> None:
    """Tell something that is no result and no error."""
    print(f"pyro-vae: note: {text}", file=sys.stderr)
