"""A folder that other tools read: tensors, the recorded constructor, and a model card."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..ground.classes import Chosen
from ..ground.files import write_atomically
from ..ground.optional import needed
from ..ground.tables import Tabular
from ..version import __version__
from . import archive

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TENSORS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
_EXTRA = "hub"
_HERE = """\
import pyro_vae

folder = "."
"""
_FETCHED = """\
import huggingface_hub
import pyro_vae

folder = huggingface_hub.snapshot_download("{}")
"""
_AGAIN = "take another copy, or write it again with to_safetensors(folder)"


def write(folder: str | Path, modules: Mapping[str, nn.Module], card: str) -> None:
    """Write modules to a folder, which is made where it is missing; each file whole or not at all.

    The tensors come first and the configuration, which has their checksum, last. Raises
    ``TypeError`` for an argument that JSON cannot hold, ``OSError`` where it cannot be written.
    """
    save = needed("safetensors.torch", _EXTRA, "to_safetensors").save
    description = archive.described([*modules][-1], modules, modules, {})
    tensors, shared = _flat(modules)
    content = save(tensors, {**shared, "format": "pt"})
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / TENSORS, content)
    write_atomically(folder / CARD, card)
    config = {
        "library_name": "pyro_vae",
        "pyro_vae_version": __version__,
        "sha256": hashlib.sha256(content).hexdigest(),
        **description,
    }
    write_atomically(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def is_folder(path: str | Path) -> bool:
    """Whether a path is a folder that ``write`` wrote, some files of which may be missing."""
    return any((Path(path) / name).is_file() for name in (CONFIG, TENSORS))


def read(
    folder: str | Path,
    given: Mapping[str, nn.Module],
    device: torch.device | None,
    classes: Chosen,
) -> nn.Module:
    """What ``write`` wrote: a guide with its model, or a model; built anew, or the ``given`` ones.

    Classes of a user's own are those of ``classes``, which is for this folder alone. Raises
    ``FileNotFoundError`` where files are missing, ``ValueError`` for damaged or foreign ones.
    """
    folder = Path(folder)
    safetensors = needed("safetensors.torch", _EXTRA, "load")
    content, config = ((folder / name).read_bytes() for name in (TENSORS, CONFIG))
    description = _described(folder, config)
    if hashlib.sha256(content).hexdigest() != description.get("sha256"):
        raise ValueError(f"{folder / TENSORS}: its checksum is not that of {CONFIG}: {_AGAIN}")
    try:
        tensors = safetensors.load(content)
    except needed("safetensors", _EXTRA, "load").SafetensorError as error:
        raise ValueError(f"{folder / TENSORS}: {error}: {_AGAIN}") from error
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    for name, other in header.get("__metadata__", {}).items():
        if other in tensors:
            tensors[name] = tensors[other]
    states: dict[str, dict[str, Tensor]] = {name: {} for name in description["parts"]}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        states.setdefault(part, {})[name] = value
    unpacked = {"modules": states, "json": config}
    with archive.unpacked(folder, unpacked, len(content), classes) as found:
        return found.modules(given, device)[found.kind]


def _described(folder: Path, config: bytes) -> dict[str, Any]:
    try:
        found = json.loads(config)
        if isinstance(found["parts"], dict):
            return found
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise ValueError(f"{folder / CONFIG}: expected what to_safetensors writes: {_AGAIN}")


def _flat(modules: Mapping[str, nn.Module]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors by part and name, and which names stand for the same ones as others do."""
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    names: dict[Any, str] = {}
    for part, module in modules.items():
        for key, value in archive.state_of(module).items():
            name = f"{part}.{key}"
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"{name}: expected tensors in a state dict, as safetensors holds nothing "
                    f"else, got {type(value).__name__}: save(trainer, path) holds plain data, too"
                )
            place = value.data_ptr(), value.shape, value.stride(), value.dtype
            if value.numel() and place in names:
                shared[name] = names[place]
            else:
                names[place] = name
                # Of a tensor that is a part of another one, its own values alone
                tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return tensors, shared


def card(
    program: nn.Module,
    *,
    title: str,
    kind: str,
    evaluation: Tabular | None,
    licence: str | None,
    tags: Sequence[str],
    where: str = "",
) -> str:
    """A model card in Markdown, behind what the hub reads."""
    described = ["library_name: pyro_vae"]
    if licence is not None:
        described.append(f"license: {json.dumps(licence)}")
    all_tags = dict.fromkeys(["pyro_vae", "pytorch", "pyro", "variational-autoencoder", *tags])
    described += ["tags:", *(f"- {json.dumps(tag)}" for tag in all_tags)]
    head = "\n".join(["---", *described, "---"])
    use = _FETCHED.format(where) if where else _HERE
    use += f"{kind} = pyro_vae.load(folder)\n" + "model = guide.model\n" * (kind == "guide")
    if evaluation is None:
        measured = "None was handed in when these files were written."
    else:
        measured = evaluation.to_markdown()
    return (
        f"{head}\n\n# {title}\n\n```\n{program!r}\n```\n\n## Evaluation\n\n{measured}\n\n"
        f"## Use\n\n```\npip install 'pyro_vae[hub]'\n```\n\n```python\n{use}print(model)\n```\n"
    )


class Exported:
    """Writes a model or a guide for other tools, and reads it again; a mixin."""

    def to_safetensors(
        self,
        folder: str | Path,
        *,
        evaluation: Tabular | None = None,
        licence: str | None = None,
        tags: Sequence[str] = (),
        title: str | None = None,
    ) -> None:
        """Write it to a folder in the layout of the Hugging Face hub; a guide with its model.

        The files are ``model.safetensors``, the tensors, of which those with several names are
        written once; ``config.json``, the constructor's arguments as plain data, from which
        ``pyro_vae.load(folder)`` builds it again; and ``README.md``, a model card. Files of these
        names are replaced, each whole or not at all. What a trainer knows besides is in
        ``pyro_vae.save`` alone.

        Args:
            folder: made where it is missing.
            evaluation: what to tell in the card, ``diagnostics.evaluate(...)`` or another table.
            licence: of the weights, by the hub's identifier, such as "apache-2.0".
            tags: by which it is found, besides those of this library.
            title: of the card; default the name of the class.

        Raises:
            ModuleNotFoundError: safetensors is not installed; the message names the command.
            TypeError: an argument that JSON cannot hold; the message names it.
            OSError: the folder cannot be written to.
        """
        options = {"evaluation": evaluation, "licence": licence, "tags": tags, "title": title}
        self._export(folder, "", **options)

    def push_to_hub(
        self,
        repo: str,
        *,
        api: HfApi | None = None,
        private: bool | None = None,
        message: str = "A model of pyro_vae",
        evaluation: Tabular | None = None,
        licence: str | None = None,
        tags: Sequence[str] = (),
        title: str | None = None,
    ) -> str:
        """Write it to a repository of the Hugging Face hub, made where it is missing.

        Args:
            repo: its id, "name/model".
            api: the hub's client; default ``huggingface_hub.HfApi()``, with the token that
                ``hf auth login`` left.
            private: whether a repository that is made is private; default as the hub does.
            message: of the commit.
            evaluation: as of ``to_safetensors``.
            licence: the same.
            tags: the same.
            title: the same.

        Returns:
            The address of the commit.

        Raises:
            ModuleNotFoundError: safetensors or huggingface_hub is not installed.
            TypeError: an argument that JSON cannot hold; the message names it.
        """
        client = needed("huggingface_hub", _EXTRA, "push_to_hub").HfApi() if api is None else api
        options = {"evaluation": evaluation, "licence": licence, "tags": tags, "title": title}
        with tempfile.TemporaryDirectory() as folder:
            self._export(folder, repo, **options)
            client.create_repo(repo, private=private, exist_ok=True)
            upload = client.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
        return str(upload.commit_url)

    def _parts(self) -> dict[str, nn.Module]:
        """What goes into the folder, the object itself last."""
        return {"model": self}

    def _export(self, folder: str | Path, where: str, title: str | None, **options: Any) -> None:
        modules = self._parts()
        kind, title = [*modules][-1], title or type(self).__name__
        write(folder, modules, card(self, title=title, kind=kind, where=where, **options))
