"""Programs and runs whose gradients are compared with those of stock Pyro."""

import torch
from torch import nn


def gradients(run, *programs):
    """What a run returns from a fixed seed, and the gradients that it leaves."""
    parameters = {n: p for m in programs for n, p in m.named_parameters()}
    for p in parameters.values():
        p.grad = None
    torch.manual_seed(3)
    result = run()
    return result, {n: p.grad for n, p in parameters.items() if p.grad is not None}


class Half(nn.Module):
    def __init__(self, whole, role):
        super().__init__()
        self.whole, self.role = whole, role

    def forward(self, x):
        return getattr(self.whole, self.role)(x)
