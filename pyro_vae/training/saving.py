"""One file for a trained object: constructor arguments as JSON text, plus tensors."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..ground.files import write_atomically
from ..ground.recorded import decode, encode
from ..networks import is_whole
from ..programs.placing import usable_device
from ..programs.program import Guide, Model
from ..storage import sealed
from ..storage.limits import limited
from .resuming import check_moments, check_progress, check_random
from .trainer import Trainer

_FORMAT, _VERSION, _WITH_CHECKSUM = "pyro_vae", 3, 2
# Values that may be built: a model has buffers that no file holds, and tensors that repeat theirs
_PER_BYTE, _ALWAYS = 4, 2**25
_DEEPEST = 100
_DAMAGED = "damaged or changed: take another copy, or write it again with save(trainer, path)"


class NewerFormatError(ValueError):
    """A file that only a newer version of this library can read."""


def save(obj: Trainer | Model | Guide, path: str | Path, *, arguments: bool = True) -> None:
    """Write a trainer, a model or a guide to one file, all of it or nothing.

    The file holds constructor arguments as JSON text and tensors: parameters (which of them are
    frozen, too), buffers, parts in evaluation mode and, for a trainer, the optimizer's state, the
    history, the step and the random stream. A checksum over all of it tells damage.

    Args:
        obj: a ``Trainer``, a model, or a guide (which takes its model along).
        path: file to write; an existing one is replaced.
        arguments: False to write tensors only, for pairs with networks of your own.

    Raises:
        TypeError: an argument that JSON cannot hold; the message names it and the way out.
        OSError: the file cannot be written; nothing is left behind.

    Example:
        >>> import tempfile
        >>> from pyro_vae import likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(vae, folder + "/vae.pt")
        ...     again = load(folder + "/vae.pt")
        >>> bool((again.decoder.layers[0].weight == vae.decoder.layers[0].weight).all())
        True
    """
    parts = _parts(obj)
    description: dict[str, Any] = {"kind": _kind(obj), "parts": {}}
    seen: dict[int, int] = {}
    if arguments:
        for name, part in parts.items():
            description["parts"][name] = encode(part, name, seen)
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "modules": {
            name: _renamed(state := part.state_dict(), {key: _plain(key) for key in state})
            for name, part in parts.items()
        },
    }
    description["frozen"] = {
        name: [_plain(key) for key, p in part.named_parameters() if not p.requires_grad]
        for name, part in parts.items()
    }
    description["evaluating"] = {name: _evaluating(part) for name, part in parts.items()}
    if isinstance(obj, Trainer):
        state = obj.state_dict()
        plain = state.pop("plain")
        if not arguments and not _encodable(plain["arguments"]["optimizer"]):
            del plain["arguments"]["optimizer"]
        description["trainer"] = encode(plain, "trainer", seen)
        content["trainer"] = state
    content["json"] = json.dumps(description)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, sealed.seal(buffer.getvalue()))


def load(
    path: str | Path,
    *,
    model: Model | None = None,
    guide: Guide | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    device: torch.device | str | None = None,
) -> Any:
    """Read what ``save`` wrote, with ``weights_only=True``: no code in the file is ever run.

    The checksum is verified first (files of format 1 have none), and a file that describes far
    more than it holds is refused before memory is asked for.

    Args:
        path: a file written by ``save``.
        model: your own model to load the tensors into, in place of one built from the file.
        guide: your own guide, likewise; its model comes along where none is given.
        optimizer: the trainer's optimizer, where the file could not hold it.
        device: where to put the tensors; default: the CPU.

    Returns:
        A ``Trainer``, a model or a guide, as it was saved.

    Raises:
        ValueError: not a checkpoint, a damaged or forged one, one of a newer version, or one
            without arguments when no model and guide are given; it names the file.
        FileNotFoundError: there is no such file.
        OSError: the file cannot be read.
    """
    device = None if device is None else usable_device(device)
    content, values = _read(Path(path), device or torch.device("cpu"))
    if model is None:
        model = getattr(guide, "model", None)
    given = {"model": model, "guide": guide, "optimizer": optimizer}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        with torch.random.fork_rng(devices=[]):
            return _rebuild(content, values, given, device)
    except torch.OutOfMemoryError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path}: it lacks {error}: {_DAMAGED}") from error
    except Exception as error:  # whatever a changed description provokes in a constructor
        raise ValueError(f"{path}: {error}: {_DAMAGED}") from error


def _rebuild(
    content: Mapping[str, Any], values: int, given: Mapping[str, Any], device: torch.device | None
) -> Any:
    description = _described(content["json"])
    built: dict[int, Any] = {}
    parts: dict[str, Any] = {}
    for name, state in content["modules"].items():
        with limited(values):
            part = parts[name] = _part(name, description["parts"], given, built)
        if name not in given:
            tensors = (v for v in state.values() if isinstance(v, Tensor))
            part.to(dtype=next((t.dtype for t in tensors if t.is_floating_point()), None))
        if device is not None:
            part.to(device)
        try:
            own = {_plain(key): key for key in part.state_dict()}
            part.load_state_dict(_renamed(state, own))
        except RuntimeError as error:
            raise ValueError(f"its {name} does not fit: {error}") from error
        parameters = {_plain(key): parameter for key, parameter in part.named_parameters()}
        for key in description["frozen"][name]:
            parameters[key].requires_grad_(False)
        for key in description.get("evaluating", {}).get(name, ()):
            part.get_submodule(key).training = False
    if description["kind"] != "trainer":
        return parts[description["kind"]]
    with limited(values):
        plain = decode(description["trainer"], built)
    arguments = plain.pop("arguments")
    if "optimizer" in given:
        arguments["optimizer"] = given["optimizer"]
    if "optimizer" not in arguments:
        raise ValueError("it does not hold its optimizer: pass load(path, optimizer=...) as well")
    if arguments.get("engine") == "auto":  # of 0.1
        arguments["engine"] = "graph"
        warnings.warn(
            "its engine 'auto' decided by the clock and is gone: it goes on with engine='graph'",
            stacklevel=4,
        )
    with limited(values):
        trainer = Trainer(**parts, device=device, **arguments)
    state = content["trainer"]
    try:
        check_progress(plain, trainer.model)
        check_random(state["random"])
        # An optimizer of the user's own keeps what it likes
        if "optimizer" not in given:
            trained = [p for module in trainer.modules() for p in module.parameters()]
            check_moments(state["moments"], trained)
    except ValueError as error:
        raise ValueError(f"{error}: {_DAMAGED}") from error
    trainer.load_state_dict({**state, "plain": plain})
    return trainer


def _evaluating(part: nn.Module) -> list[str]:
    """Names of the modules in evaluation mode under one that trains."""
    return [key for key, m in part.named_modules() if part.training and not m.training]


def _plain(key: str) -> str:
    """The name of a tensor without what ``torch.compile(network)`` puts into it."""
    return ".".join(part for part in key.split(".") if part != "_orig_mod")


def _renamed(state: Mapping[str, Any], names: Mapping[str, str]) -> Mapping[str, Any]:
    """The same tensors; as it is, with its modules' versions, where no name changes."""
    if all(names.get(key, key) == key for key in state):
        return state
    return {names.get(key, key): value for key, value in state.items()}


def _described(text: Any) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"its description is no JSON object ({error}): {_DAMAGED}") from error


def _part(
    name: str, described: dict[str, Any], given: dict[str, Any], built: dict[int, Any]
) -> nn.Module:
    if name not in given:
        if name not in described:
            raise ValueError(
                f"it holds the tensors of the {name} without its arguments: build it yourself and "
                f"pass load(path, {name}=...)"
            )
        part = decode(described[name], built)
        if not isinstance(part, nn.Module):
            raise ValueError(f"its {name} is described as a {type(part).__name__}: {_DAMAGED}")
        return part
    if name in described:
        built[described[name]["$id"]] = given[name]
    return given[name]


def _kind(obj: Any) -> str:
    for kind, cls in (("trainer", Trainer), ("model", Model), ("guide", Guide)):
        if isinstance(obj, cls):
            return kind
    raise TypeError(
        f"obj: expected a Trainer, a model or a guide of pyro_vae, got {type(obj).__name__}: "
        "for other modules use torch.save(obj.state_dict(), path)"
    )


def _parts(obj: Any) -> dict[str, Any]:
    if isinstance(obj, Trainer):
        parts = {"model": obj.model, "guide": obj.guide}
    else:
        parts = {"model": obj.model, "guide": obj} if _kind(obj) == "guide" else {"model": obj}
    for name, part in parts.items():
        if not isinstance(part, nn.Module):
            raise TypeError(
                f"{name}: a plain function keeps its parameters in Pyro's store: save them with "
                "pyro.get_param_store().save(path), or make it the forward of an nn.Module"
            )
    return parts


def _encodable(value: Any) -> bool:
    try:
        encode(value, "")
    except TypeError:
        return False
    return True


def _read(path: Path, device: torch.device) -> tuple[dict[str, Any], int]:
    """The content of a file, and how many values may be built for it."""
    if path.is_dir():
        raise ValueError(f"{path}: expected a checkpoint file, got a folder")
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: there is no such file, expected a checkpoint written by save(...)"
        )
    if not path.is_file():
        raise ValueError(f"{path}: expected a checkpoint file, got a device or a pipe")
    content, checked = sealed.read(path, device)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(
            f"{path}: not a checkpoint of pyro_vae, or a damaged one: write one with "
            "save(trainer, path)"
        )
    version = content.get("version")
    if not is_whole(version) or version < 1:
        raise ValueError(f"{path}: its format version is {version!r}: {_DAMAGED}")
    if version > _VERSION:
        raise NewerFormatError(
            f"{path}: written by a newer pyro_vae (format {version}, this one reads up to "
            f"{_VERSION}): upgrade pyro_vae"
        )
    if version >= _WITH_CHECKSUM and not checked:
        raise ValueError(f"{path}: its checksum is missing: {_DAMAGED}")
    size = path.stat().st_size
    values = _PER_BYTE * size + _ALWAYS
    try:
        entries, largest = _claims(content, {})
    except ValueError as error:
        raise ValueError(f"{path}: {error}: {_DAMAGED}") from error
    if entries > size or largest > values:
        what = "tensors claim more values" if largest > values else "containers claim more"
        raise ValueError(f"{path}: its {what} than it holds: {_DAMAGED}")
    return content, values


def _claims(value: Any, known: dict[int, tuple[int, int]], depth: int = 0) -> tuple[int, int]:
    """What nested containers claim, looked at once where they are shared.

    Returns:
        Entries, each as often as it is referred to, and the elements of the largest tensor, for
        one that repeats a few values needs no room in a file.

    Raises:
        ValueError: they are nested without end, or deeper than any that ``save`` writes.
    """
    if isinstance(value, Tensor):
        return 1, value.numel()
    if not isinstance(value, dict | list | tuple | set):
        return 1, 0
    if depth > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    if id(value) not in known:
        inside = [
            _claims(v, known, depth + 1)
            for v in (value.values() if isinstance(value, dict) else value)
        ]
        entries, largest = 1 + sum(n for n, _ in inside), max((m for _, m in inside), default=0)
        known[id(value)] = entries, largest
    return known[id(value)]
