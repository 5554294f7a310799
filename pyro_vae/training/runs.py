"""The folder of a run: checkpoints from which training goes on to the last bit."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .. import ranks
from ..data import Dataset

try:
    import fcntl
except ImportError:  # where there are no such locks, two runs in one folder go unnoticed
    fcntl = None

if TYPE_CHECKING:
    from .trainer import Trainer

EVERY, KEEP = 1000, 3
_LOCK, _MOST_BYTES = "lock", 2**26
# What file systems without locks answer
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_NAME = re.compile(r"step-(\d{9,})\.pt")
_locked: set[Path] = set()


class RunFolder:
    """A folder with the last checkpoints of one run, for one process at a time.

    Each file is written under a temporary name, flushed to the disk and renamed, so that a
    process that dies at any moment leaves the checkpoints from before.

    Args:
        path: the folder; made where it is missing.
        every: steps between two checkpoints.
        keep: checkpoints that stay, the latest.

    Attributes:
        facts: what a run that goes on has to share with the interrupted one.

    Raises:
        ValueError: ``every`` or ``keep`` below 1.
    """

    def __init__(self, path: str | Path, *, every: int = EVERY, keep: int = KEEP) -> None:
        for name, value in (("every", every), ("keep", keep)):
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        self.path, self.every, self.keep = Path(path), int(every), int(keep)
        self.facts: dict[str, Any] = {}
        self._arguments = True

    @contextlib.contextmanager
    def held(self, trainer: Trainer) -> Iterator[RunFolder]:
        """Keep other runs out of the folder while ``trainer`` writes to it.

        Raises:
            OSError: the folder cannot be made or written to, or another run is using it.
            ValueError: it holds checkpoints that ``trainer`` does not come from.
        """
        where = self.path.resolve()
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
            self._check(trainer)
            self._put_aside(trainer)
            for left in self.path.glob(".step-*"):
                left.unlink(missing_ok=True)
            yield self
        finally:
            _locked.discard(where)
            _unlock(handle)
            os.close(handle)

    def describe(self, feed: Any, validation: Dataset | None, callbacks: Sequence[Any]) -> None:
        """Take down the ``facts``; ``TypeError`` for a callback that no checkpoint can hold."""
        check_storable(callbacks)
        self.facts = {
            "batch_size": feed.batch_size,
            "callbacks": [type(callback).__name__ for callback in callbacks],
            "data": identity(feed.data),
            "validation": identity(validation),
        }

    def check_same(self, progress: Mapping[str, Any], epochs: int) -> None:
        """Raise ``ValueError`` unless the ``facts`` are those of the run that goes on."""
        processes = 1 + len(progress.get("others", ()))
        if processes != ranks.size():
            raise ValueError(
                f"processes: expected {processes}, as in the run that goes on, each with a random "
                f"stream of its own, got {ranks.size()}: start {processes}, or read its last "
                "checkpoint with pyro_vae.load to begin another run"
            )
        least = progress["done"] + (progress["position"] is not None)
        if epochs < least:
            raise ValueError(
                f"epochs: expected at least {least}, those that the run which goes on has begun, "
                f"got {epochs}: leave epochs out to finish it as it was meant to be"
            )
        for name, got in self.facts.items():
            expected = progress.get(name)
            if isinstance(expected, dict) and isinstance(got, dict) and got != expected:
                key = next(key for key in got if expected.get(key) != got[key])
                name, expected, got = f"{name}: {key}", expected.get(key), got[key]
            if expected != got:
                raise ValueError(
                    f"{name}: expected {expected!r}, as in the run that goes on, got {got!r}: "
                    "pass what that run was given, or read its last checkpoint with pyro_vae.load "
                    "to begin another run"
                )

    def _busy(self, owner: object) -> BlockingIOError:
        return BlockingIOError(
            f"checkpoint: {self.path} is in use by another run (process {owner}): give each run "
            "a folder of its own"
        )

    def _check(self, trainer: Trainer) -> None:
        newest = max(self.files(), default=None)
        if newest is not None and trainer.written.get(self.path.resolve()) != newest.name:
            raise ValueError(
                f"checkpoint: {self.path} holds the run of another trainer, up to "
                f"{newest.name}: go on from there with Trainer.resume({str(self.path)!r}), or "
                "choose another folder"
            )

    def _put_aside(self, trainer: Trainer) -> None:
        """Rename checkpoints ahead of the trainer that a newer version wrote, and tell."""
        from .saving import NewerFormatError, load

        for path in self.files():
            if int(_NAME.fullmatch(path.name)[1]) <= trainer.step:
                continue
            try:
                load(path)
            except NewerFormatError as error:
                aside = path.with_name(f"newer-{path.name}")
                path.rename(aside)
                trainer.written[self.path.resolve()] = max(self.files()).name
                warnings.warn(
                    f"{error}; this run goes on from step {trainer.step} beside it, and it is "
                    f"kept as {aside.name}",
                    stacklevel=5,
                )
            except (ValueError, OSError):
                pass  # damaged: the run that goes on writes another in its place

    def files(self) -> list[Path]:
        """The checkpoints."""
        return [path for path in self.path.glob("step-*.pt") if _NAME.fullmatch(path.name)]

    def write(self, trainer: Trainer) -> None:
        """Write a checkpoint, then remove those that are too many.

        Raises:
            OSError: the checkpoint cannot be written; those from before are as they were.
            TypeError: the trainer has parts that no file can hold.
        """
        from .saving import save

        path = self.path / f"step-{trainer.step:09}.pt"
        try:
            try:
                save(trainer, path, arguments=self._arguments)
            except TypeError:
                if not self._arguments:
                    raise
                # Networks of a person's own: their tensors only
                save(trainer, path, arguments=False)
                self._arguments = False
        except OSError as error:
            last = max(self.files(), default=None)
            rest = "there is no checkpoint yet" if last is None else f"{last.name} is still good"
            raise type(error)(
                error.errno,
                f"checkpoint: {error.strerror or error}; {rest}: make room, then go on with "
                f"Trainer.resume({str(self.path)!r})",
            ) from error
        trainer.written[self.path.resolve()] = path.name
        earlier = sorted(p for p in self.files() if p.name <= path.name)
        for old in set(self.files()) - set(earlier[-self.keep :]):
            old.unlink(missing_ok=True)


def folder(path: str | Path | None, *, every: int | None, keep: int | None) -> RunFolder | None:
    """The folder that ``fit`` is asked to write to, if any."""
    if path is None:
        for name, value in (("every", every), ("keep", keep)):
            if value is not None:
                raise ValueError(
                    f"{name}: expected None without checkpoint=, got {value!r}: pass the folder "
                    "to write to as well"
                )
        return None
    return RunFolder(
        path, every=EVERY if every is None else every, keep=KEEP if keep is None else keep
    )


def resume(folder: str | Path, **given: Any) -> Trainer:
    """The trainer of the newest checkpoint that can be read; see ``Trainer.resume``."""
    from .saving import load

    run = RunFolder(folder)
    files = sorted(run.files(), reverse=True)
    if not files:
        raise FileNotFoundError(
            f"{folder}: expected a folder with checkpoints, got none: write them with "
            "fit(..., checkpoint=folder)"
        )
    errors: list[Exception] = []
    for path in files:
        try:
            trainer = load(path, **given)
            break
        except (ValueError, OSError) as error:
            errors.append(error)
    else:
        raise errors[0]
    if errors:
        warnings.warn(
            f"{errors[0]}; going on from {path.name}, the newest checkpoint that can be read",
            stacklevel=3,
        )
    if trainer.progress is None:
        raise ValueError(
            f"{path}: a file of trainer.save(...), not one of fit(..., checkpoint=...): read it "
            "with pyro_vae.load"
        )
    trainer.written[run.path.resolve()] = files[0].name
    trainer.going_on = run.path
    return trainer


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


def identity(data: Dataset | None) -> dict[str, Any] | None:
    """What tells data from others at little cost: sizes, and a checksum of evenly spaced rows."""
    if data is None:
        return None
    found: dict[str, Any] = {
        "length": len(data),
        "event shape": list(data.event_shape),
        "binarize": data.binarize,
        "labels": None if data.y is None else zlib.crc32(data.y.cpu().numpy().tobytes()),
    }
    row = data[:1].x
    step = -(-len(data) * row.nbytes // _MOST_BYTES)
    values = data[::step].x.cpu().contiguous().numpy()
    return {**found, "dtype": str(row.dtype), "checksum": zlib.crc32(values)}


def check_sources(data: Any, validation: Any) -> None:
    """Raise ``TypeError`` for data whose order no checkpoint can tell."""
    for name, source in (("data", data), ("validation", validation)):
        if not isinstance(source, Dataset | None):
            raise TypeError(
                f"{name}: expected a Dataset or tensors where checkpoint= is given, got a "
                "DataLoader, whose order no checkpoint can tell: leave checkpoint= out, and save "
                "the trainer after each call of fit"
            )


def check_storable(callbacks: Sequence[Any]) -> None:
    """Raise ``TypeError`` for a callback whose state no checkpoint can hold."""
    for callback in callbacks:
        if not all(hasattr(callback, name) for name in ("state_dict", "load_state_dict")):
            name = type(callback).__name__
            raise TypeError(
                f"callbacks: {name} has no state_dict() and load_state_dict(state), so that a "
                "resumed run would not go on where it stopped: add both (they may return {} and "
                "do nothing where it keeps nothing), or leave checkpoint= out"
            )


def hidden_buffers(modules: Sequence[nn.Module]) -> list[torch.Tensor]:
    """Buffers that a state dict leaves out, such as what the last batch told."""
    found = []
    for module in modules:
        held = module.state_dict(keep_vars=True).keys()
        found += [buffer for name, buffer in module.named_buffers() if name not in held]
    return found


def optimizer_groups(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]
) -> list[dict[str, Any]]:
    """Options of an optimizer, and the numbers of its parameters in their order."""
    number = {id(p): i for i, p in reversed(list(enumerate(parameters)))}
    return [
        {
            # What a pair no longer has, such as a sigma that is predicted now, is never updated
            "parameters": [number[id(p)] for p in group["params"] if id(p) in number],
            **{k: list(v) if isinstance(v, tuple) else v for k, v in group.items() if _kept(k, v)},
        }
        for group in optimizer.param_groups
    ]


def _kept(key: str, value: Any) -> bool:
    plain = bool | int | float | str | None | torch.Tensor
    return key != "params" and all(
        isinstance(v, plain) for v in (value if isinstance(value, tuple) else (value,))
    )


def restore_groups(
    optimizer: torch.optim.Optimizer,
    groups: Sequence[dict[str, Any]],
    parameters: Sequence[nn.Parameter],
    moments: Callable[[nn.Parameter], dict[str, Any] | None],
) -> None:
    """Put back what ``optimizer_groups`` gave, and the state of each parameter."""
    for group, stored in zip(optimizer.param_groups, groups, strict=True):
        group["params"][:] = [parameters[i] for i in stored["parameters"]]
        for key in stored.keys() - {"parameters"}:
            value = stored[key]
            group[key] = tuple(value) if isinstance(value, list) else value
        for parameter in group["params"]:
            if state := moments(parameter):
                optimizer.state[parameter] = state
