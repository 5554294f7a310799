"""One file for modules and what belongs to them: arguments as JSON text, plus tensors."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..ground.arguments import is_whole
from ..ground.classes import Chosen
from ..ground.files import write_atomically
from ..ground.recorded import decode, encode
from ..ground.streams import forked
from . import sealed
from .limits import limited

_FORMAT, _VERSION, _WITH_CHECKSUM = "pyro_vae", 3, 2
# Values that may be built: a model has buffers that no file holds, and tensors that repeat theirs
_PER_BYTE, _ALWAYS = 4, 2**25
_DEEPEST = 100
# What a file holds besides modules is called so since format 1
_REST = "trainer"
_COMPILED = "_orig_mod"
DAMAGED = "damaged or changed: take another copy, or write it again with save(trainer, path)"


class NewerFormatError(ValueError):
    """A file that only a newer version of this library can read."""


def write(
    path: str | Path,
    kind: str,
    modules: Mapping[str, nn.Module],
    *,
    plain: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
    arguments: bool = True,
) -> None:
    """Write modules, and what belongs to them, to one file, all of it or nothing.

    The path is as for ``saving.save``, with the errors. Of modules go the tensors, which of them
    are frozen, parts in evaluation mode and, unless told otherwise, the ``arguments``. ``plain``
    is what JSON can hold, recorded objects among it; ``tensors`` are containers of tensors and
    plain data.
    """
    seen: dict[int, int] = {}
    description = described(kind, modules if arguments else {}, modules, seen)
    content: dict[str, Any] = {
        "format": _FORMAT,
        "version": _VERSION,
        "modules": {name: state_of(module) for name, module in modules.items()},
    }
    if plain is not None:
        description[_REST] = encode(plain, _REST, seen)
        content[_REST] = tensors
    content["json"] = json.dumps(description)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, sealed.seal(buffer.getvalue()))


def described(
    kind: str,
    built: Mapping[str, nn.Module],
    modules: Mapping[str, nn.Module],
    seen: dict[int, int],
) -> dict[str, Any]:
    """What JSON holds of modules: the arguments of those that are ``built`` from them, and modes.

    Raises ``TypeError`` for an argument that it cannot hold.
    """
    return {
        "kind": kind,
        "parts": {name: encode(module, name, seen) for name, module in built.items()},
        "frozen": {name: _frozen(module) for name, module in modules.items()},
        "evaluating": {name: _evaluating(module) for name, module in modules.items()},
    }


def opened(
    path: Path, device: torch.device, classes: Chosen
) -> contextlib.AbstractContextManager[Archive]:
    """Read a file, and name it in whatever the use of its content provokes.

    Classes of a user's own are those of ``classes``, which is for this file alone. Torch's random
    stream is as it was afterwards. Raises ``NewerFormatError`` for a version that
    only a newer library reads, ``ValueError`` for what is not a file of ``write``, or a damaged or
    forged one, ``OSError`` for a file that cannot be read.
    """
    return unpacked(path, *_read(path, device), classes)


@contextlib.contextmanager
def unpacked(
    path: Path, content: Mapping[str, Any], size: int, classes: Chosen
) -> Iterator[Archive]:
    """Have the content of a file of so many bytes, and name it in all that its use provokes.

    ``ValueError`` for whatever is wrong with it.
    """
    try:
        with forked():
            yield Archive(content, _PER_BYTE * size + _ALWAYS, classes)
    except torch.OutOfMemoryError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path}: it lacks {error}: {DAMAGED}") from error
    except Exception as error:  # whatever a changed description provokes in a constructor
        raise ValueError(f"{path}: {error}: {DAMAGED}") from error


def is_newer(path: Path) -> bool:
    """Whether a file is sound, and of a version that only a newer library reads."""
    try:
        _read(path, torch.device("cpu"))
    except (ValueError, OSError) as error:
        return isinstance(error, NewerFormatError)
    return False


class Archive:
    """The ``content`` of a file as ``torch.load`` gave it, for which so many values may be built.

    ``kind`` is what was written, such as "model"; ``tensors`` are containers of tensors besides
    the modules, None where there are none.
    """

    def __init__(self, content: Mapping[str, Any], values: int, classes: Chosen) -> None:
        self._states, self._values = content["modules"], values
        self._described = _described(content["json"])
        self._classes, classes.described = classes, self._described
        self._built: dict[int, Any] = {}
        self.kind, self.tensors = self._described["kind"], content.get(_REST)

    def limited(self) -> contextlib.AbstractContextManager[None]:
        """Refuse to build far more than the file holds, before memory is asked for."""
        return limited(self._values)

    def modules(
        self, given: Mapping[str, nn.Module], device: torch.device | None
    ) -> dict[str, nn.Module]:
        """The modules, each built from the file, or the ``given`` one filled with its tensors.

        Without a device they are on the CPU, and given ones where they are.
        """
        described = self._described
        found: dict[str, nn.Module] = {}
        for name, state in self._states.items():
            with self.limited():
                module = found[name] = self._module(name, given)
            if name not in given:
                tensors = [v for v in state.values() if isinstance(v, Tensor)]
                module.to(dtype=next((t.dtype for t in tensors if t.is_floating_point()), None))
            if device is not None:
                module.to(device)
            _fill(name, module, state)
            parameters = _by_plain_name(module.named_parameters())
            for key in described["frozen"][name]:
                parameters[key].requires_grad_(False)
            for key in described.get("evaluating", {}).get(name, ()):
                module.get_submodule(key).training = False
        return found

    def plain(self) -> dict[str, Any]:
        """What was written besides modules and tensors; after ``modules``, which it may name."""
        with self.limited():
            return decode(self._described[_REST], self._built, self._classes)

    def _module(self, name: str, given: Mapping[str, nn.Module]) -> nn.Module:
        described = self._described["parts"]
        if name in given:
            if not isinstance(given[name], nn.Module):
                raise ValueError(
                    f"it holds the tensors of the {name}, a module, got a plain function: pass "
                    f"load(path, {name}=...) the module"
                )
            if name in described:
                self._built[described[name]["$id"]] = given[name]
            return given[name]
        if name not in described:
            raise ValueError(
                f"it holds the tensors of the {name} without its arguments: build it yourself and "
                f"pass load(path, {name}=...)"
            )
        module = decode(described[name], self._built, self._classes)
        if not isinstance(module, nn.Module):
            raise ValueError(f"its {name} is described as a {type(module).__name__}: {DAMAGED}")
        return module


def _by_plain_name(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Values by their names without what ``torch.compile(network)`` puts into them."""
    found = {}
    for key, value in items:
        parts = key.split(".") if _COMPILED in key else ()
        found[".".join([part for part in parts if part != _COMPILED]) if parts else key] = value
    return found


def state_of(module: nn.Module) -> Mapping[str, Any]:
    """Its tensors; as torch gives them, with the modules' versions, where no name changes."""
    state = module.state_dict()
    plain = _by_plain_name(state.items())
    return state if plain.keys() == state.keys() else plain


def _fill(name: str, module: nn.Module, state: Mapping[str, Any]) -> None:
    own = list(module.state_dict())
    names = _by_plain_name(zip(own, own, strict=True))
    if own != list(names):
        state = {names.get(key, key): value for key, value in state.items()}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"its {name} does not fit: {error}") from error


def _frozen(module: nn.Module) -> list[str]:
    named = _by_plain_name(module.named_parameters())
    return [key for key, parameter in named.items() if not parameter.requires_grad]


def _evaluating(module: nn.Module) -> list[str]:
    """Names of the modules in evaluation mode under one that trains."""
    return [key for key, m in module.named_modules() if module.training and not m.training]


def _described(text: Any) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"its description is no JSON object ({error}): {DAMAGED}") from error


def _read(path: Path, device: torch.device) -> tuple[dict[str, Any], int]:
    """The content of a file, and its size in bytes."""
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
        raise ValueError(f"{path}: its format version is {version!r}: {DAMAGED}")
    if version > _VERSION:
        raise NewerFormatError(
            f"{path}: written by a newer pyro_vae (format {version}, this one reads up to "
            f"{_VERSION}): upgrade pyro_vae"
        )
    if version >= _WITH_CHECKSUM and not checked:
        raise ValueError(f"{path}: its checksum is missing: {DAMAGED}")
    size = path.stat().st_size
    values = _PER_BYTE * size + _ALWAYS
    try:
        entries, largest = _claims(content, {})
    except ValueError as error:
        raise ValueError(f"{path}: {error}: {DAMAGED}") from error
    if entries > size or largest > values:
        what = "tensors claim more values" if largest > values else "containers claim more"
        raise ValueError(f"{path}: its {what} than it holds: {DAMAGED}")
    return content, size


def _claims(container: Any, known: dict[int, tuple[int, int]], depth: int = 0) -> tuple[int, int]:
    """What nested containers claim, looked at once where they are shared.

    Entries, each as often as it is referred to, and the elements of the largest tensor, for one
    that repeats a few values needs no room in a file. Raises ``ValueError`` for containers nested
    without end, or deeper than any that ``write`` writes.
    """
    if depth > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    entries, largest = 1, 0
    for value in container.values() if isinstance(container, dict) else container:
        inside = 1, value.numel() if isinstance(value, Tensor) else 0
        if isinstance(value, dict | list | tuple | set):
            if id(value) not in known:
                known[id(value)] = _claims(value, known, depth + 1)
            inside = known[id(value)]
        entries, largest = entries + inside[0], max(largest, inside[1])
    return entries, largest
