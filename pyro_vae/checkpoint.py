"""One file for a trained object: constructor arguments as JSON text, plus tensors."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .files import write_atomically
from .programs import Guide, Model
from .recorded import decode, encode
from .trainer import Trainer

_FORMAT, _VERSION = "pyro_vae", 1


def save(obj: Trainer | Model | Guide, path: str | Path, *, arguments: bool = True) -> None:
    """Write a trainer, a model or a guide to one file, all of it or nothing.

    The file holds constructor arguments as JSON text and tensors: parameters (which of them are
    frozen, too) and buffers and, for a trainer, the optimizer's state, the history, the step and
    the random stream.

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
        "modules": {name: part.state_dict() for name, part in parts.items()},
    }
    description["frozen"] = {
        name: [key for key, p in part.named_parameters() if not p.requires_grad]
        for name, part in parts.items()
    }
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
    write_atomically(path, buffer.getvalue())


def load(
    path: str | Path,
    *,
    model: Model | None = None,
    guide: Guide | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    device: torch.device | str | None = None,
) -> Any:
    """Read what ``save`` wrote, with ``weights_only=True``: no code in the file is ever run.

    Args:
        path: a file written by ``save``.
        model: your own model to load the tensors into, in place of one built from the file.
        guide: your own guide, likewise; its model comes along where none is given.
        optimizer: the trainer's optimizer, where the file could not hold it.
        device: where to put the tensors; default: the CPU.

    Returns:
        A ``Trainer``, a model or a guide, as it was saved.

    Raises:
        ValueError: not a checkpoint, one of a newer version, or one without arguments when no
            model and guide are given.
        FileNotFoundError: there is no such file.
    """
    content = _read(Path(path), device or "cpu")
    if model is None:
        model = getattr(guide, "model", None)
    given = {"model": model, "guide": guide, "optimizer": optimizer}
    try:
        with torch.random.fork_rng(devices=[]):
            return _rebuild(content, {k: v for k, v in given.items() if v is not None}, device)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _rebuild(
    content: dict[str, Any], given: dict[str, Any], device: torch.device | str | None
) -> Any:
    description = json.loads(content["json"])
    built: dict[int, Any] = {}
    parts: dict[str, Any] = {}
    for name, state in content["modules"].items():
        part = parts[name] = _part(name, description["parts"], given, built)
        if name not in given:
            part.to(dtype=next((t.dtype for t in state.values() if t.is_floating_point()), None))
        if device is not None:
            part.to(device)
        try:
            part.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"its {name} does not fit: {error}") from error
        for key in description["frozen"][name]:
            part.get_parameter(key).requires_grad_(False)
    if description["kind"] != "trainer":
        return parts[description["kind"]]
    plain = decode(description["trainer"], built)
    arguments = plain.pop("arguments")
    if "optimizer" in given:
        arguments["optimizer"] = given["optimizer"]
    if "optimizer" not in arguments:
        raise ValueError("it does not hold its optimizer: pass load(path, optimizer=...) as well")
    trainer = Trainer(**parts, device=device, **arguments)
    trainer.load_state_dict({**content["trainer"], "plain": plain})
    return trainer


def _part(
    name: str, described: dict[str, Any], given: dict[str, Any], built: dict[int, Any]
) -> nn.Module:
    if name not in given:
        if name not in described:
            raise ValueError(
                f"it holds the tensors of the {name} without its arguments: build it yourself and "
                f"pass load(path, {name}=...)"
            )
        return decode(described[name], built)
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


def _read(path: Path, device: torch.device | str) -> dict[str, Any]:
    if path.is_dir():
        raise ValueError(f"{path}: expected a checkpoint file, got a folder")
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: there is no such file, expected a checkpoint written by save(...)"
        )
    problem: Exception | None = None
    with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
        try:
            content = torch.load(file, map_location=device, weights_only=True)
        except Exception as error:  # whatever a damaged or foreign file provokes in the reader
            content, problem = None, error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(
            f"{path}: not a checkpoint of pyro_vae, or a damaged one: write one with "
            "save(trainer, path)"
        ) from problem
    if content["version"] > _VERSION:
        raise ValueError(
            f"{path}: written by a newer pyro_vae (format {content['version']}, this one reads up "
            f"to {_VERSION}): upgrade pyro_vae"
        )
    return content
