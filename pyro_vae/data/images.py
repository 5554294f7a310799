"""Pictures in files, as 8-bit pixels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps

from ..ground.machine import memory

Background = str | tuple[int, int, int]
# Numbers of a picture that nobody chose a size for; a decoder of more is hardly ever meant
MOST_NUMBERS = 2**24
_SAMPLES_PER_PIXEL = 277


def read_images(
    paths: Sequence[Path],
    *,
    size: int | tuple[int, ...] | None,
    grey: bool,
    background: Background | None = None,
) -> torch.Tensor:
    """Read images as 8-bit pixels, upright, opaque, all of one size: ``uint8`` (n, 1 or 3, h, w).

    Palettes, CMYK, grey, black and white become red, green and blue (or grey); transparent pixels
    show the background, and the orientation of a camera (EXIF) is applied. Refused, since a part
    of them would be lost: animations, further channels, and grey pixels of more than 8 bits.
    Refused unread: images of more than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels, which are made to
    fill a memory, and more images than fit into it.

    The options are those of ``load``, with a ``size`` (h, w); images of another size are resized,
    and squashed if their proportions differ. Raises ``ValueError`` for files that are no image,
    broken or refused, the first five of them named, for a size or colour that is none, and for
    pictures that are too large or too many. Warns of transparent pixels without a ``background``.
    """
    if isinstance(size, int):
        size = (size, size)
    if size is not None and not (
        len(size) == 2 and all(isinstance(s, int) and s > 0 for s in size)
    ):
        raise ValueError(
            f"size: expected pixels (h, w) or one number, both at least 1, got {size}: "
            "leave it out for the size of the first image"
        )
    ground = _colour("white" if background is None else background)
    pixels: np.ndarray | None = None
    broken: list[str] = []
    transparent = 0
    for i, path in enumerate(paths):
        try:
            image, seen_through = _read_image(path, "L" if grey else "RGB", ground)
        except Exception as error:  # whatever a broken file provokes in a decoder
            broken.append(f"{path} ({str(error) or type(error).__name__})")
            continue
        transparent += seen_through
        if pixels is None:
            shape = (1 if grey else 3, *(size or (image.height, image.width)))
            _check_room(len(paths), shape, None if size else path)
            pixels = np.empty((len(paths), *shape), dtype=np.uint8)
        height, width = pixels.shape[2:]
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels[i] = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
    if broken:
        more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
        raise ValueError(
            f"images: expected whole files of one picture each, got {len(broken)} others: "
            f"{', '.join(broken[:5])}{more}: remove or replace them"
        )
    if transparent and background is None:
        warnings.warn(
            f"{transparent} of {len(paths)} images have transparent pixels, which become white: "
            'pass background="white" if this is right, or the colour that they shall have',
            # Through read_folder and load
            stacklevel=4,
        )
    return torch.from_numpy(pixels)


def _colour(background: Background) -> tuple[int, ...]:
    try:
        colour = ImageColor.getrgb(background) if isinstance(background, str) else background
        if len(colour) == 3 and all(0 <= int(c) == c <= 255 for c in colour):
            return tuple(map(int, colour))
    except (TypeError, ValueError):
        pass
    raise ValueError(
        'background: expected the name of a colour, such as "white" or "#ff8800", or red, green '
        f"and blue from 0 to 255, got {background!r}: leave it out for white"
    )


def _check_room(n: int, shape: tuple[int, ...], first: Path | None) -> None:
    numbers, (height, width) = math.prod(shape), shape[1:]
    if first is not None and numbers > MOST_NUMBERS:
        raise ValueError(
            f"size: expected at most {MOST_NUMBERS:,} numbers in a datum, got {numbers:,} in "
            f"{first} of {height} x {width} pixels: pass size=64, or any number of pixels; "
            f"size=({height}, {width}) keeps them all"
        )
    if n * numbers > memory() / 2:
        raise ValueError(
            f"images: expected data that take half of the memory at most, got {n} of {height} x "
            f"{width} pixels, {n * numbers / 1e9:.1f} GB for {memory() / 1e9:.1f}: pass a smaller "
            "size=, or grey=True"
        )


def _read_image(path: Path, mode: str, ground: tuple[int, ...]) -> tuple[Image.Image, bool]:
    """The picture, and whether the background is to be seen."""
    with warnings.catch_warnings():
        # A large image is a warning of Pillow's, and an error from twice the size on
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            opened = Image.open(path)
        except Image.UnidentifiedImageError as error:
            raise ValueError(f"{error}{_channels_advice(path)}") from error
    with opened:
        if (frames := getattr(opened, "n_frames", 1)) > 1:
            kind = "a stack" if opened.format == "TIFF" else "an animation"
            raise ValueError(
                f"{kind} of {frames} frames; save those you want one by one"
                f"{_channels_advice(path)}"
            )
        channels = getattr(opened, "tag_v2", {}).get(_SAMPLES_PER_PIXEL, 1)
        if channels > len(opened.getbands()):
            raise ValueError(
                f"{channels} channels, {len(opened.getbands())} of them colours"
                f"{_channels_advice(path)}"
            )
        image = ImageOps.exif_transpose(opened)
        return _opaque(image, mode, ground)


def _opaque(image: Image.Image, mode: str, ground: tuple[int, ...]) -> tuple[Image.Image, bool]:
    """The picture on a ground, and whether this is to be seen."""
    if image.mode[0] in "IF":
        raise ValueError(
            f"pixels of more than 8 bits, mode {image.mode}, would be clipped; use an .npy file"
        )
    if "transparency" not in image.info and image.mode not in ("RGBA", "LA", "PA"):
        return image.convert(mode), False
    image = image.convert("RGBA")
    seen_through = image.getchannel("A").getextrema()[0] < 255
    opaque = Image.alpha_composite(Image.new("RGBA", image.size, (*ground, 255)), image)
    return opaque.convert(mode), seen_through


def _channels_advice(path: Path) -> str:
    if path.suffix.lower() not in (".tif", ".tiff"):
        return ""
    return "; tifffile.imread(path) reads all channels, numpy.save stores them for data.load"


def as_pixels(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Open pictures of one size as ``uint8`` (n, 1 or 3, h, w): one channel where all are grey.

    Raises:
        ValueError: unequal sizes, pixels of more than 8 bits, or transparent ones.
    """
    sizes = sorted({picture.size for picture in pictures})
    if len(sizes) > 1:
        raise ValueError(
            f"x: expected pictures of one size, got {', '.join(map(str, sizes[:3]))}, ...: pass "
            f"[p.resize({sizes[0]}) for p in pictures]"
        )
    drawn = [_opaque(picture, "RGB", (255, 255, 255)) for picture in pictures]
    if any(seen_through for _, seen_through in drawn):
        raise ValueError(
            "x: expected opaque pictures, got some with transparent pixels: choose what these "
            'become; for white, pass [PIL.Image.alpha_composite(PIL.Image.new("RGBA", p.size, '
            '"white"), p.convert("RGBA")) for p in pictures]'
        )
    pixels = np.stack([np.asarray(picture).transpose(2, 0, 1) for picture, _ in drawn])
    return one_channel_if_grey([torch.from_numpy(pixels)])[0]


def one_channel_if_grey(parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Pixels (n, 3, h, w) as (n, 1, h, w), where red, green and blue are equal in all parts."""
    equal = all(bool((x[:, :1] == x).all()) for x in parts)
    return [x[:, :1].contiguous() if equal else x for x in parts]
