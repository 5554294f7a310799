"""Small data and short training for the command line."""

from pathlib import Path

import numpy as np
from PIL import Image

TINY = ["--epochs", "1", "--hidden", "8", "--latents", "2", "--importance-samples", "2", "--quiet"]


def images(path, n=40, shift=0, labels=True):
    generator = np.random.default_rng(0)
    x = generator.integers(0, 17, (n, 1, 8, 8)) / 16
    np.savez(path, x=x, **({"y": np.arange(n) % 3 + shift} if labels else {}))


def photographs(folder, n, size):
    """Colour pictures in a folder."""
    generator = np.random.default_rng(0)
    Path(folder).mkdir()
    for i in range(n):
        pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(Path(folder) / f"{i}.png")
