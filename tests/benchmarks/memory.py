"""Peak memory of a piece of work."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import torch


def _status(field: str) -> int:
    """A size in bytes from this process's status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


def anonymous() -> int:
    """Resident bytes of this process that are no pages of a file."""
    return _status("RssAnon")


class Peak:
    """Peak memory above what is held now: resident on the CPU, allocated by torch on a GPU.

    The highest resident size that a process has had, ``ru_maxrss``, is often that of its imports
    or, after a fork, of its parent. Linux lets a process begin to count anew.

    Args:
        device: "cpu" or that of a GPU.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device, self.known = device, True
        gc.collect()
        if device == "cpu":
            # Free memory that the allocator holds would be used before the process grows
            ctypes.CDLL(None).malloc_trim(0)
            try:
                Path("/proc/self/clear_refs").write_text("5")
            except OSError:
                self.known = False
            self._before = _status("VmRSS")
        else:
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)

    def megabytes(self) -> float | None:
        """The peak since then, in MB of 2^20 bytes; None where the system lets nobody reset it."""
        if not self.known:
            return None
        if self.device == "cpu":
            peak = _status("VmHWM")
        else:
            peak = torch.cuda.max_memory_allocated(self.device)
        return (peak - self._before) / 2**20
