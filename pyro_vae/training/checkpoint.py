"""The file of a trainer: its pair, its arguments and its state."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO
from torch import nn

from ..ground.classes import Chosen, Given
from ..ground.recorded import encode
from ..infer.objectives.elbo import Estimator
from ..programs.methods import as_program
from ..programs.placing import usable_device
from ..programs.unwrapping import name_of
from ..storage import archive
from ..storage.folder import RunFolder
from .pair import TrainedPair

# Arguments of a trainer that a file need not hold
_HANDED_IN = "optimizer", "elbo"
_PAIR = "model", "guide"


def write(
    path: str | Path,
    trainer: TrainedPair,
    *,
    run: Mapping[str, Any] | None = None,
    arguments: bool | None = True,
) -> None:
    """Write a trainer to one file as ``saving.save`` does, and what a ``run`` that goes on needs.

    Where ``arguments`` is None, they are written if JSON can hold them.
    """
    if arguments is None:
        with contextlib.suppress(TypeError):
            return write(path, trainer, run=run)
    state = {**trainer.state_dict(), "run": run}
    plain = state.pop("plain")
    made = {**trainer.objective.arguments(), "seed": trainer.state.stream.seed}
    if trainer.plate is not None:
        made["plate"] = trainer.plate
    for name in () if arguments else _HANDED_IN:
        try:
            encode(made[name], name)
        except TypeError:
            del made[name]
    plain = {**plain, "arguments": made}
    programs = {role: getattr(trainer, role) for role in _PAIR}
    modules = {role: p for role, p in programs.items() if isinstance(p, nn.Module)}
    archive.write(path, "trainer", modules, plain=plain, tensors=state, arguments=bool(arguments))


def load(
    make: Callable[..., Any],
    path: str | Path,
    model: Callable | None,
    guide: Callable | None,
    optimizer: Callable[..., torch.optim.Optimizer] | None,
    device: torch.device | str | None,
    elbo: Estimator | ELBO | None = None,
    classes: Given | None = None,
) -> Any:
    """Read a file as ``saving.load`` does; ``make`` is the class of a trainer."""
    device = None if device is None else usable_device(device)
    if model is None:
        model = getattr(guide, "model", None)
    given = dict(zip(_PAIR, (model, guide), strict=True))
    given = {name: as_program(p) for name, p in given.items() if p is not None}
    own = Chosen(classes)
    with archive.opened(Path(path), device or torch.device("cpu"), own) as file:
        modules = file.modules(given, device)
        if file.kind != "trainer":
            return modules[file.kind]
        functions = {r: _function(r, given) for r in _PAIR if r not in modules}
        plain = file.plain()
        arguments = plain.pop("arguments")
        for name, own in zip(_HANDED_IN, (optimizer, elbo), strict=True):
            if own is not None:
                arguments[name] = own
            if name not in arguments:
                raise ValueError(
                    f"it does not hold its {name}: pass load(path, {name}=...) as well"
                )
        if arguments.get("engine") == "auto":  # of 0.1
            arguments["engine"] = "graph"
            warnings.warn(
                "its engine 'auto' decided by the clock and is gone: it goes on with "
                "engine='graph'",
                stacklevel=4,
            )
        with file.limited():
            # A scheduler may have ended at 0, where no run begins
            lr = arguments["lr"]
            trainer = make(**modules, **functions, device=device, **{**arguments, "lr": lr or 1.0})
            trainer.objective = dataclasses.replace(trainer.objective, lr=lr)
        try:
            # An optimizer of the user's own keeps what it likes
            state = {**file.tensors, "plain": plain}
            trainer.load_state_dict(state, known=optimizer is None)
        except ValueError as error:
            raise ValueError(f"{error}: {archive.DAMAGED}") from error
        return trainer


def _function(role: str, given: Mapping[str, Callable]) -> Callable:
    """The plain function that a file has nothing of but its sites in Pyro's store."""
    program = given.get(role)
    if program is None or isinstance(program, nn.Module):
        got = "none" if program is None else f"the module {name_of(program)}"
        raise ValueError(
            f"its {role} was a plain function, which is in no file, got {got}: pass the function, "
            f"load(path, {role}=...)"
        )
    return program


def resume(make: Callable[..., Any], folder: str | Path, **given: Any) -> Any:
    """The trainer of the newest checkpoint that can be read; see ``Trainer.resume``."""
    run = RunFolder(folder)
    files, errors = run.newest_first(), []
    for path in files:
        try:
            trainer = load(make, path, **given)
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
    if trainer.state.run is None:
        raise ValueError(
            f"{path}: a file of trainer.save(...), not one of fit(..., checkpoint=...): read it "
            "with pyro_vae.load"
        )
    trainer.state.written[run.where] = files[0].name
    trainer.state.run.folder = run.path
    return trainer
