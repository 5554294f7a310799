"""What of the machine a run uses."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .arguments import whole

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_threads(threads: Any) -> None:
    """Raise ``ValueError`` unless ``threads`` is None or a whole number of at least 1."""
    if threads is not None:
        whole("threads", threads, advice="leave it out for torch's choice")


@contextlib.contextmanager
def using_threads(threads: int | None) -> Iterator[None]:
    """So many threads of the CPU for torch's operations, as before afterwards; None leaves them.

    Example:
        >>> with using_threads(1):
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(int(threads))
        yield
    finally:
        if threads is not None:
            torch.set_num_threads(before)


def memory() -> int:
    """Bytes of main memory that this process can have: the machine's, or its container's."""
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):  # where a system does not tell
        found = [2**62]
    for path in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path(path).read_text()))
    return min(found)


def free_memory(device: torch.device) -> int | None:
    """Bytes that tensors may still take there, as far as the system tells; None where it does not.

    Example:
        >>> free_memory(torch.device("cpu")) is None or free_memory(torch.device("cpu")) > 0
        True
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    found = [memory()]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
        found.append(1024 * int(line.split()[1]))
    return min(found)
