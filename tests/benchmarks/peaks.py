"""Peaks of two pieces of work, for a process of its own that imports no more than this."""

import memory
import torch


def peaks():
    torch.ones(2**26)
    peak = memory.Peak()
    torch.ones(2**24)
    held = torch.ones(2**22)
    return peak.megabytes(), memory.Peak().megabytes(), len(held)
