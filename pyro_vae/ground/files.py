"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def expanded(argument: str, path: str | Path) -> Path:
    """A path with ``~`` in full; ``ValueError`` for the home of nobody here."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{argument}: expected a path, got {str(path)!r}, in the home of a user that this "
            "machine does not have: write the path in full"
        ) from error


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write a file under a temporary name beside it, then rename; an old file stays on failure.

    Text is written as UTF-8. Raises ``OSError``, which names ``path``, where the folder is missing
    or not writable, or the disk is full.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: its folder does not exist: create {path.parent} first")
    data = content.encode() if isinstance(content, str) else content
    try:
        _replace(path, data)
    except OSError as error:
        reason = error.strerror or error
        raise type(error)(error.errno, f"cannot write {path}: {reason}") from error


def _replace(path: Path, data: bytes) -> None:
    # Shortened, for a name may be as long as a file system allows
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:32]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        # What went wrong first is what a person has to know
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
