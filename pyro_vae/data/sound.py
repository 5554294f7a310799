"""Sound: WAV files as signals of one length and one sample rate, and signals as WAV files."""

from __future__ import annotations

import io
import warnings
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..ground.arguments import at_least, whole
from ..ground.files import write_atomically
from . import kinds
from .dataset import Dataset
from .folders import divided
from .sources import Splits

SUFFIX = ".wav"
_LEVELS = 2**15


def read_wav(path: str | Path) -> tuple[Tensor, int]:
    """Read a WAV file: whole numbers of 8 to 64 bits, the largest as 1, or floating point.

    Args:
        path: the file.

    Returns:
        ``float32`` (channels, samples), and the samples per second.

    Raises:
        ValueError: a file that is no WAV file, broken, or of another encoding.
        FileNotFoundError: there is no such file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_wav(folder + "/a.wav", torch.tensor([[0.0, 0.5, -1.0]]), 8000)
        ...     read_wav(folder + "/a.wav")
        (tensor([[ 0.0000,  0.5000, -1.0000]]), 8000)
    """
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            # A file that ends early is a warning, and so is a text beside the sound
            warnings.simplefilter("error", wavfile.WavFileWarning)
            warnings.filterwarnings("ignore", r"Chunk \(non-data\)", wavfile.WavFileWarning)
            rate, found = wavfile.read(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a broken file provokes in the reader
        raise ValueError(
            f"{path}: expected a whole WAV file of plain samples, got: "
            f"{str(error) or type(error).__name__}. Convert it, as by ffmpeg -i {Path(path).name} "
            "-c:a pcm_s16le out.wav, or remove it"
        ) from error
    if found.dtype.kind == "f":
        x = found.astype(np.float32)
    elif found.dtype == np.uint8:
        x = (found.astype(np.float32) - 128) / 128
    else:
        x = (found / 2.0 ** (8 * found.dtype.itemsize - 1)).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(np.atleast_2d(x.T))), int(rate)


def write_wav(path: str | Path, x: Tensor, rate: int, *, pause: float = 0.25) -> None:
    """Write signals as a WAV file of 16 bits, several one after another.

    A number of such a file, k / 32768, is read again as it was written.

    Args:
        path: file to write.
        x: (samples,), (channels, samples) or (n, channels, samples), from -1 to 1.
        rate: samples per second.
        pause: seconds of silence between signals.

    Raises:
        ValueError: another shape, numbers that are not finite, no positive rate.
        OSError: the file cannot be written; nothing is left behind.

    Warns:
        UserWarning: numbers beyond -1 and 1, which are clipped.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_wav(folder + "/a.wav", torch.zeros(3, 1, 4000), 8000)
        ...     read_wav(folder + "/a.wav")[0].shape
        torch.Size([1, 16000])
    """
    whole("rate", rate, advice="pass the samples per second, such as d.rate")
    at_least("pause", pause)
    shape = tuple(x.shape)
    signals = x.detach().float().cpu().reshape(*(1,) * (3 - x.dim()), *shape)
    if x.dim() > 3 or x.numel() == 0 or signals.shape[1] > signals.shape[2]:
        raise ValueError(
            "x: expected (samples,), (channels, samples) or (n, channels, samples), got "
            f"{shape}: pass one signal, x[0], or turn it, x.T"
        )
    if not signals.isfinite().all():
        raise ValueError(
            f"x: expected finite numbers, got {int((~signals.isfinite()).sum())} that are not: "
            "remove or fill them"
        )
    if beyond := int((signals.abs() > 1).sum()):
        warnings.warn(
            f"{beyond} of {x.numel()} samples were clipped, the largest is "
            f"{float(signals.abs().max()):.3g} and 1 is the loudest of a file: pass "
            "x / x.abs().max() to keep all",
            stacklevel=2,
        )
    silence = signals.new_zeros(len(signals), signals.shape[1], round(pause * rate))
    row = torch.cat([signals, silence], -1).movedim(0, 1).flatten(1)
    row = row[:, : row.shape[1] - silence.shape[2]]
    levels = (row * _LEVELS).round().clamp(-_LEVELS, _LEVELS - 1)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((len(row), 2, rate, 0, "NONE", ""))
        file.writeframes(levels.T.contiguous().numpy().astype("<i2").tobytes())
    write_atomically(path, buffer.getvalue())


def sounds_in(folder: Path, recursive: bool = True) -> list[Path]:
    """Files of a folder, and of those inside it, that are WAV by their name."""
    found = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(
        p
        for p in found
        if p.is_file() and not p.name.startswith(".") and p.suffix.lower() == SUFFIX
    )


def read_sounds(path: Path, *, length: int | None, rate: int | None) -> Splits:
    """WAV files of a folder, of its class folders, or of ``train``, ``test`` and ``val`` in it.

    Of each file the first ``length`` samples are taken.
    """
    parts = divided(path, sounds_in, "sounds")
    paths = [file for part in parts for file in part.paths]
    clips, rate = _clips(paths, length, rate)
    sets = torch.stack(clips).split([len(part.paths) for part in parts])
    return tuple(
        Dataset(x, part.y, names=part.names, kind="signal", rate=rate)
        for x, part in zip(sets, parts, strict=True)
    )


def read_recording(path: Path, *, length: int | None, rate: int | None) -> Splits:
    """One WAV file, cut into clips of ``length`` samples that follow one another."""
    x, found = read_wav(path)
    _check_rate(path, found, rate)
    if length is None or x.shape[1] < 2 * length:
        raise ValueError(
            f"length: expected the samples of a clip, into which {path} of {x.shape[1]} samples "
            f"is cut, got {length}: pass length={max(1, x.shape[1] // 10)}, or name a folder with "
            "a file for each datum"
        )
    clips = x[:, : x.shape[1] // length * length].unflatten(1, (-1, length)).movedim(1, 0)
    return (Dataset(clips, kind="signal", rate=found),)


def _clips(
    paths: Sequence[Path], length: int | None, rate: int | None
) -> tuple[list[Tensor], int]:
    """Signals (channels, length) of files that are alike, and their rate."""
    clips: list[Tensor] = []
    sizes: list[int] = []
    for path in paths:
        x, found = read_wav(path)
        rate = found if rate is None else rate
        if not clips:
            kinds.check_room((len(paths), len(x), length or x.shape[1]), 4, "x")
        _check_rate(path, found, rate, paths[0])
        if clips and len(x) != len(clips[0]):
            raise ValueError(
                f"{path}: expected {len(clips[0])} channels as in {paths[0]}, got {len(x)}: write "
                "the others anew, as by data.write_wav(path, x.mean(0), rate) for one channel"
            )
        sizes.append(x.shape[1])
        clips.append(x[:, :length])
    shortest = int(np.argmin(sizes))
    if len({clip.shape for clip in clips}) > 1 or sizes[shortest] < (length or 0):
        longest = int(np.argmax(sizes))
        raise ValueError(
            f"length: expected clips of {length or 'one length'}, got {sizes[shortest]} samples "
            f"in {paths[shortest]} and {sizes[longest]} in {paths[longest]}: pass "
            f"length={sizes[shortest]} for the first so many of each, or remove the shorter ones"
        )
    return clips, rate


def _check_rate(path: Path, found: int, rate: int | None, first: Path | None = None) -> None:
    if rate not in (None, found):
        by = "" if first in (None, path) else f" as of {first}"
        raise ValueError(
            f"rate: expected {rate} samples per second{by}, got {found} in {path}: resample it, "
            f"as by scipy.signal.resample_poly(x, {rate}, {found}, axis=-1) and data.write_wav"
        )
