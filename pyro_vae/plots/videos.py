"""Moving pictures: videos as GIF."""

from __future__ import annotations

import base64
import html
import io
import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..ground.arguments import positive, whole
from ..ground.files import write_atomically
from ..ground.kinds import maps_of

_SIDE, _GAP, _GREYS = 96, 2, 255


class Animation:
    """A GIF, which a notebook shows; see ``animation``.

    Attributes:
        content: the bytes of its file.
        frames: number of pictures.
        size: width and height in pixels.
    """

    def __init__(self, content: bytes, frames: int, size: tuple[int, int]) -> None:
        self.content, self.frames, self.size = content, frames, size

    def save(self, path: str | Path) -> None:
        """Write the file, all of it or nothing.

        Raises:
            ValueError: a name that does not end in .gif.
            OSError: the file cannot be written; nothing is left behind.
        """
        if Path(path).suffix.lower() != ".gif":
            raise ValueError(
                f"path: expected the name of a GIF, got {str(path)!r}: pass "
                f"{str(Path(path).with_suffix('.gif'))!r}"
            )
        write_atomically(path, self.content)

    def __repr__(self) -> str:
        """Frames and pixels."""
        return f"Animation({self.frames} frames of {self.size[0]} x {self.size[1]} pixels)"

    def _repr_html_(self) -> str:
        """The GIF itself, for notebooks."""
        content = base64.b64encode(self.content).decode()
        return f'<img alt="{html.escape(repr(self))}" src="data:image/gif;base64,{content}">'


def animation(
    x: Tensor, *, columns: int | None = None, fps: float = 8.0, enlarge: int | None = None
) -> Animation:
    """Draw videos as moving pictures beside each other, which begin anew at their end.

    Args:
        x: videos (n, channels, frames, h, w) or (n, frames, h, w), their values clipped to
            [0, 1]; of one or three channels, of others the mean.
        columns: videos per row; by default one row of up to 8, beyond that about a square.
        fps: frames per second.
        enlarge: how often each pixel is repeated; by default until a side has 96 pixels.

    Returns:
        An ``Animation``: ``save(path)`` writes it, and a notebook shows it.

    Raises:
        ValueError: another shape, or numbers that are not positive.

    Example:
        >>> animation(torch.rand(3, 1, 5, 16, 16), columns=3, enlarge=2)
        Animation(5 frames of 104 x 36 pixels)
    """
    if x.dim() not in (4, 5) or x.numel() == 0:
        raise ValueError(
            "x: expected videos (n, channels, frames, h, w) or (n, frames, h, w), got "
            f"{tuple(x.shape)}: pass x[None] for a single one"
        )
    positive("fps", fps, advice="pass such as 8")
    videos = x.detach().float().cpu().reshape(len(x), *maps_of(x.shape[1:], 3)).clamp(0, 1)
    if videos.shape[1] not in (1, 3):
        videos = videos.mean(1, keepdim=True)
    n, _, frames, *size = videos.shape
    if columns is None:
        columns = max(8, math.ceil(math.sqrt(n)))
    columns = min(n, whole("columns", columns))
    times = max(1, _SIDE // max(size)) if enlarge is None else whole("enlarge", enlarge)
    videos = videos.repeat_interleave(times, -1).repeat_interleave(times, -2)
    videos = torch.nn.functional.pad(videos, (_GAP, 0, _GAP, 0), value=1.0)
    missing = -n % columns
    blank = torch.ones_like(videos[:1]).expand(missing, *videos.shape[1:])
    grid = torch.cat([videos, blank]).unflatten(0, (-1, columns))
    # (rows, columns, c, t, h, w) as frames (t, h, w, c)
    drawn = grid.permute(3, 0, 4, 1, 5, 2).flatten(3, 4).flatten(1, 2)
    drawn = torch.nn.functional.pad(drawn, (0, 0, 0, _GAP, 0, _GAP), value=1.0)
    pixels = (drawn * _GREYS).round().byte().numpy()
    pictures = [Image.fromarray(p[..., 0] if p.shape[-1] == 1 else p) for p in pixels]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 / fps),
        loop=0,
        optimize=False,
        disposal=1,
    )
    return Animation(buffer.getvalue(), frames, pictures[0].size)
