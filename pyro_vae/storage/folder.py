"""The folder of a run: its last checkpoints, for one process at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from ..ground.arguments import whole
from . import archive

try:
    import fcntl
except ImportError:  # where there are no such locks, two runs in one folder go unnoticed
    fcntl = None

_LOCK = "lock"
# What file systems without locks answer
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_NAME = re.compile(r"step-(\d{9,})\.pt")
_locked: set[Path] = set()


class RunFolder:
    """A folder with the last checkpoints of one run, for one process at a time.

    Each file is written under a temporary name, flushed to the disk and renamed, so that a process
    that dies at any moment leaves the checkpoints from before. The folder is made where it is
    missing; ``every`` counts the steps between two checkpoints, and the latest ``keep`` of them
    stay, both at least 1.
    """

    def __init__(self, path: str | Path, *, every: int = 1000, keep: int = 3) -> None:
        self.every, self.keep = whole("every", every), whole("keep", keep)
        self.path, self._written = Path(path), {}

    @property
    def where(self) -> Path:
        """The folder, however it was named."""
        return self.path.resolve()

    @contextlib.contextmanager
    def held(self, step: int, written: dict[Path, str]) -> Iterator[RunFolder]:
        """Keep other runs out of the folder while one that is at ``step`` writes to it.

        Where it has ``written`` last, or comes from, is kept up to date: folder -> file name.
        Raises ``OSError`` where the folder cannot be made or written to, or another run is using
        it, ``ValueError`` where it holds checkpoints that the run does not come from.
        """
        where = self.where
        if where in _locked:
            raise self._busy(os.getpid())
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise type(error)(
                error.errno,
                f"checkpoint: expected a folder that can be written to, got {self.path} "
                f"({error.strerror}): choose another one",
            ) from error
        _locked.add(where)
        try:
            if not _lock(handle):
                raise self._busy(_owner(handle))
            self._written = written
            self._check()
            self._put_aside(step)
            for left in self.path.glob(".step-*"):
                left.unlink(missing_ok=True)
            yield self
        finally:
            _locked.discard(where)
            _unlock(handle)
            os.close(handle)

    def _busy(self, owner: object) -> BlockingIOError:
        return BlockingIOError(
            f"checkpoint: {self.path} is in use by another run (process {owner}): give each run "
            "a folder of its own"
        )

    def _check(self) -> None:
        newest = max(self.files(), default=None)
        if newest is not None and self._written.get(self.where) != newest.name:
            raise ValueError(
                f"checkpoint: {self.path} holds the run of another trainer, up to "
                f"{newest.name}: go on from there with Trainer.resume({str(self.path)!r}), or "
                "choose another folder"
            )

    def _put_aside(self, step: int) -> None:
        """Rename checkpoints ahead of ``step`` that a newer version wrote, and tell.

        Others there are damaged: the run that goes on writes another in their place.
        """
        for path in self.files():
            if int(_NAME.fullmatch(path.name)[1]) > step and archive.is_newer(path):
                aside = path.with_name(f"newer-{path.name}")
                path.rename(aside)
                self._written[self.where] = max(self.files()).name
                warnings.warn(
                    f"{path}: written by a newer pyro_vae: upgrade pyro_vae to go on from there; "
                    f"this run goes on from step {step} beside it, and it is kept as {aside.name}",
                    stacklevel=5,
                )

    def files(self) -> list[Path]:
        """The checkpoints."""
        return [path for path in self.path.glob("step-*.pt") if _NAME.fullmatch(path.name)]

    def newest_first(self) -> list[Path]:
        """The checkpoints; ``FileNotFoundError`` where there are none."""
        files = sorted(self.files(), reverse=True)
        if not files:
            raise FileNotFoundError(
                f"{self.path}: expected a folder with checkpoints, got none: write them with "
                "fit(..., checkpoint=folder)"
            )
        return files

    def put(self, step: int, write: Callable[[Path], None]) -> None:
        """Have the checkpoint of a step written, then remove those that are too many.

        After an ``OSError`` those from before are as they were.
        """
        path = self.path / f"step-{step:09}.pt"
        try:
            write(path)
        except OSError as error:
            last = max(self.files(), default=None)
            rest = "there is no checkpoint yet" if last is None else f"{last.name} is still good"
            raise type(error)(
                error.errno,
                f"checkpoint: {error.strerror or error}; {rest}: make room, then go on with "
                f"Trainer.resume({str(self.path)!r})",
            ) from error
        self._written[self.where] = path.name
        files = self.files()
        earlier = sorted([p for p in files if p.name <= path.name])
        for old in {*files} - {*earlier[-self.keep :]}:
            old.unlink(missing_ok=True)


def _lock(handle: int) -> bool:
    """Whether the file could be locked; the system gives it up when the process dies.

    The lock belongs to this opening of the file. One of ``fcntl.lockf`` belongs to the process,
    and is given up where any other opening of the file is closed, as after copying it.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"checkpoint: this file system has no locks ({error.strerror}), so that another run "
            "in the same folder would go unnoticed: give each run a folder of its own",
            stacklevel=5,
        )
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return True


def _unlock(handle: int) -> None:
    # Closing the file is not enough where a process that was forked meanwhile has it open, too
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)


def _owner(handle: int) -> str:
    return os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
