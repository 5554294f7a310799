"""A process of its own for a function of a test: a fork would inherit autograd's threads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def started(function: Callable[[Path], object], folder: Path) -> subprocess.Popen[bytes]:
    """A new interpreter that calls a function of a test module on a folder."""
    module, path = function.__module__, str(folder)
    code = f"import pathlib, {module}; {module}.{function.__name__}(pathlib.Path({path!r}))"
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", code], env=found)
