"""Archives of tensors under a checksum, read without running or believing what they say."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

_SEAL = re.compile(rb"sha256 [0-9a-f]{64}")
_LENGTH = len("sha256 ") + 64
# A zip file ends with this record of 22 bytes, whose last two are the length of the comment
_END, _END_LENGTH = b"PK\x05\x06", 22
_ADVICE = "write one with save(trainer, path)"
_WRONG = "not a checkpoint of pyro_vae, or a damaged one"


def seal(payload: bytes) -> bytes:
    """An archive of ``torch.save`` with its SHA-256 as the comment; still a whole archive.

    Example:
        >>> buffer = io.BytesIO()
        >>> torch.save({"x": torch.zeros(2)}, buffer)
        >>> torch.load(io.BytesIO(seal(buffer.getvalue())), weights_only=True)
        {'x': tensor([0., 0.])}
    """
    comment = b"sha256 " + hashlib.sha256(payload).hexdigest().encode()
    return payload[:-2] + len(comment).to_bytes(2, "little") + comment


def read(path: Path, device: torch.device | str) -> tuple[Any, bool]:
    """What ``torch.save`` wrote, on ``device``, and whether it was under a checksum.

    The checksum, and that no entry claims to be larger than the file, are checked first; nothing
    but tensors and plain containers is ever unpickled (``weights_only=True``). An archive without
    a checksum is checked by the CRC of its entries. Raises ``ValueError`` for anything but a whole
    archive of tensors, ``OSError`` for a file that cannot be read.
    """
    payload, digest = _unsealed(path.read_bytes())
    if digest is not None and hashlib.sha256(payload).hexdigest().encode() != digest:
        raise ValueError(
            f"{path}: {_WRONG}: its checksum is not that of its content: take another copy, or "
            f"{_ADVICE}"
        )
    try:
        _check_archive(payload, with_crc=digest is None)
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    except torch.OutOfMemoryError:
        raise
    except pickle.UnpicklingError as error:
        # without torch's text, which advises to run what the file says
        raise ValueError(
            f"{path}: {_WRONG}: it holds something other than tensors and plain data, and no code "
            f"in a file is ever run: {_ADVICE}"
        ) from error
    except Exception as error:  # whatever a damaged or foreign file provokes in the readers
        raise ValueError(f"{path}: {_WRONG}: {_ADVICE}") from error
    return content, digest is not None


def _unsealed(data: bytes) -> tuple[bytes, bytes | None]:
    start, comment = data[: -_LENGTH - 2], data[-_LENGTH:]
    if _SEAL.fullmatch(comment) and data[len(start) : -_LENGTH] == _LENGTH.to_bytes(2, "little"):
        return start + b"\0\0", comment[len("sha256 ") :]
    return data, None


def _check_archive(payload: bytes, *, with_crc: bool) -> None:
    """Raise unless every entry is stored as it is, and all of them together fit into the file."""
    end = payload[-_END_LENGTH:]
    # Without a comment there is one place where the directory can be, for any reader
    if not (end.startswith(_END) and end.endswith(b"\0\0")):
        raise ValueError("no archive, or the end of it is missing")
    with zipfile.ZipFile(io.BytesIO(payload)) as archive:
        entries = archive.infolist()
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise ValueError(f"{entry.filename}: expected an entry without compression")
        claimed = sum([entry.file_size for entry in entries])
        if claimed > len(payload):
            raise ValueError(f"its entries claim {claimed} bytes in a file of {len(payload)}")
        if with_crc and (broken := archive.testzip()) is not None:
            raise ValueError(f"{broken}: its CRC is not that of its content")
