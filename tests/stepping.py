"""Training in tests: steps of Adam alone, recorded, at a rate that falls to nothing."""

import functools

import torch

from pyro_vae import infer


def trained(model, guide, x, *, steps, lr, loss=None, batch_size=None):
    """The guide after so many steps on all data, or each on so many that chance chooses."""
    adam = functools.partial(torch.optim.Adam, lr=lr, fused=True)
    svi = infer.SVI(model, guide, adam, loss, engine="graph")
    for left in reversed(range(steps)):
        svi.step(x if batch_size is None else x[torch.randperm(len(x))[:batch_size]])
        (group,) = svi.optimizer.param_groups
        group["lr"] = lr * (left / steps) ** 2
    return guide
