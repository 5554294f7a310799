"""One file for a trained object: constructor arguments as JSON text, plus tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from pyro.infer import ELBO
from torch import nn

from ..ground.classes import Chosen, Given
from ..ground.recorded import Recorded
from ..infer.objectives.elbo import Estimator
from ..programs.placing import usable_device
from ..programs.program import Guide, Model
from ..storage import archive, safetensors
from . import checkpoint
from .pair import G, M
from .trainer import Trainer

T = TypeVar("T", bound=nn.Module)


def save(obj: Trainer | nn.Module, path: str | Path, *, arguments: bool = True) -> None:
    """Write a trainer, a model, a guide or a prior to one file, all of it or nothing.

    The file holds constructor arguments as JSON text and tensors: parameters (which of them are
    frozen, too), buffers, parts in evaluation mode and, for a trainer, the optimizer's state, the
    history, the step, the random stream, and the ``pyro.param`` sites that it has trained, with
    their constraints as names and numbers. A checksum over all of it tells damage.

    Args:
        obj: a ``Trainer``, a model, a guide (which takes its model along), or any other module
            that derives from ``Recorded``: a fitted prior, a likelihood, a network of your own.
        path: file to write; an existing one is replaced.
        arguments: False to write tensors only, for pairs with networks of your own.

    Raises:
        TypeError: an object that is none of these, an argument that JSON cannot hold, a
            ``pyro.param`` site under a constraint that is none of Pyro's standard ones; the
            message names it and the way out.
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
    if isinstance(obj, Trainer):
        obj.save(path, arguments=arguments)
    elif isinstance(obj, Model):
        archive.write(path, "model", {"model": obj}, arguments=arguments)
    elif isinstance(obj, Guide):
        if not isinstance(obj.model, nn.Module):
            raise TypeError(
                "obj: expected a guide whose model is a module, got one of a plain function: "
                "save the trainer of both"
            )
        archive.write(path, "guide", {"model": obj.model, "guide": obj}, arguments=arguments)
    elif isinstance(obj, Recorded) and isinstance(obj, nn.Module) and arguments:
        archive.write(path, "part", {"part": obj})
    else:
        raise TypeError(
            "obj: expected a Trainer, a model or a guide of pyro_vae, or another module that "
            f"derives from pyro_vae.Recorded, with its arguments, got {type(obj).__name__}: for "
            "the tensors of other modules use torch.save(obj.state_dict(), path)"
        )


@overload
def load(path: str | Path, *, expect: type[Trainer], **given: Any) -> Trainer[Model, Guide]: ...
@overload
def load(path: str | Path, *, expect: type[T], **given: Any) -> T: ...
@overload
def load(path: str | Path, *, model: M, guide: G, **given: Any) -> Trainer[M, G]: ...
@overload
def load(path: str | Path, **given: Any) -> Trainer[Model, Guide] | Model | Guide: ...
def load(
    path: str | Path,
    *,
    model: Callable | None = None,
    guide: Callable | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    elbo: Estimator | ELBO | None = None,
    device: torch.device | str | None = None,
    expect: type | None = None,
    classes: Given | None = None,
) -> Any:
    """Read what ``save`` wrote, with ``weights_only=True``: no code in the file is ever run.

    The checksum is verified first (files of format 1 have none), and a file that describes far
    more than it holds is refused before memory is asked for.

    The ``pyro.param`` sites of a trainer are put into Pyro's store, in place of what it has under
    their names, as ``pyro.get_param_store().load`` does; its other entries stay.

    Args:
        path: a file written by ``save``, or a folder by ``to_safetensors`` of a model or a guide,
            such as ``huggingface_hub.snapshot_download(repo)`` fetches.
        model: your own model to load the tensors into, in place of one built from the file; a
            method where it was one, ``model=vae.model, guide=vae.guide``, or the plain function
            that it was.
        guide: your own guide, likewise; its model comes along where none is given.
        optimizer: the trainer's optimizer, where the file could not hold it.
        elbo: the trainer's objective, likewise: an object of your own class.
        device: where to put the tensors; default: the CPU.
        expect: what the file is to hold, such as ``Trainer`` or ``models.VAE``, which tells type
            checkers, too. Default: anything.
        classes: your own classes that the file names, which derive from ``Recorded``:
            ``[Decoder, Encoder]``, or a mapping from names in the file. Those that are not among
            them have to be defined already, where they were when the file was written.

    Returns:
        A ``Trainer``, a model, a guide or a prior, as it was saved.

    Raises:
        TypeError: the file holds something else than ``expect``, or ``classes`` something else
            than classes that derive from ``Recorded``.
        ValueError: not a checkpoint, a damaged or forged one, one of a newer version, or one
            without arguments when no model and guide are given; it names the file.
        FileNotFoundError: there is no such file.
        OSError: the file cannot be read.
    """
    if safetensors.is_folder(path):
        given = {"model": model, "guide": guide}
        given = {name: part for name, part in given.items() if part is not None}
        place = None if device is None else usable_device(device)
        found = safetensors.read(path, given, place, Chosen(classes))
    else:
        found = checkpoint.load(Trainer, path, model, guide, optimizer, device, elbo, classes)
    for name, part in {"optimizer": optimizer, "elbo": elbo}.items():
        if part is not None and not isinstance(found, Trainer):
            raise ValueError(
                f"{name}: expected none, as {path} holds a {type(found).__name__} without a "
                f"trainer, got {part!r}: leave it out, and pass it to Trainer(model, guide, "
                f"{name}=...)"
            )
    if expect is not None and not isinstance(found, expect):
        raise TypeError(
            f"{path}: expected a {expect.__name__}, got a {type(found).__name__}: pass "
            f"expect={type(found).__name__}, or none"
        )
    return found
