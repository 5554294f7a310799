"""By what a table was made."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shlex
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pyro
import torch

from ..version import __version__

# What does not change a number, and where things lie on one machine
_ASIDE = ("out", "data_root", "threads", "progress", "quiet", "train_only")


class Options(argparse.ArgumentParser):
    """A parser that keeps what tells a run from the default one, as ``command``.

    ``small`` holds other defaults, for ``--quick``.
    """

    small: Mapping[str, Any] = MappingProxyType({})

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:
        """As usual; ``command`` can be typed again."""
        found, small = super().parse_args(args, namespace), {}
        if found.quick:
            small = self.small
            # What is there already is a default of less right than what is typed
            found = super().parse_args(args, argparse.Namespace(**small))
        words = self.prog.split()
        for name, value in vars(found).items():
            if name in _ASIDE or value == small.get(name, self.get_default(name)):
                continue
            words.append(f"--{name.replace('_', '-')}")
            if value is not True:
                words += map(str, value if isinstance(value, list) else [value])
        found.command = shlex.join(words)
        return found


def made(command: str) -> dict[str, Any]:
    """By what a table was made: command, day, machine and versions."""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, threads "
    machine += str(torch.get_num_threads())
    if torch.cuda.is_initialized():
        machine += f", {torch.cuda.get_device_name()}"
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine,
        "versions": {
            "pyro_vae": __version__,
            "torch": torch.__version__,
            "pyro": pyro.__version__,
        },
    }
