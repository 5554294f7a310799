"""Batch normalisation statistics of a trained pair, from the whole training data."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..data import Dataset
from ..data.arguments import Data
from ..ground.arguments import whole
from ..ground.internals import BatchNorm
from ..programs.given import matched
from ..programs.methods import held_by
from ..programs.registration import unregistered
from ..programs.running import measuring, trace_pair
from .engine.state import State, equal

# What torch and networks.normalization say of one datum
_SINGLE = re.compile("more than 1 value per channel|at least 2 data per batch")


def recalibrate_batchnorm(
    model: Callable,
    guide: Callable,
    data: Dataset | Tensor | tuple[Tensor, Tensor | None],
    *,
    batch_size: int = 500,
) -> None:
    """Recompute the running statistics of every batch normalisation of a pair, in place.

    One pass over the data, with one latent sample per datum: each layer normalises by the
    statistics of its batch, as in training, and its running mean and variance become the averages
    of these over the pass, each batch weighted by its rows (momentum None for equal batches).
    All other modules are in evaluation mode; parameters, modes, momenta and the RNG stay. Useful
    before an evaluation, where running averages lag behind the weights of the last steps.

    Sources: "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
    Covariate Shift", Ioffe, Szegedy (2015), algorithm 2; "Ladder Variational Autoencoders",
    Sonderby et al. (2016), whose code does so before each test.

    Args:
        model: generative program, an ``nn.Module``.
        guide: inference program, an ``nn.Module``.
        data: the training data: a ``Dataset``, a tensor (n, *event_shape), or a pair (x, y); in
            random order, in batches that differ by one datum at most.
        batch_size: largest batch.

    Raises:
        ValueError: a pair without running statistics, fewer than two data or rows in a batch.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> norm = torch.nn.BatchNorm1d(6)
        >>> x = 3 + torch.randn(100, 6)
        >>> recalibrate_batchnorm(vae, guides.BottomUp(vae, encoder=norm), x)
        >>> bool(torch.isclose(norm.running_mean, x.mean(0), atol=0.1).all())
        True
    """
    norms = _norms(model, guide)
    if not norms:
        raise ValueError(
            "model and guide: expected batch normalisation with running statistics, found none: "
            "such a pair needs no recalibration"
        )
    whole("batch_size", batch_size, 2)
    data = matched(data, model, guide)
    if len(data) < 2:
        raise ValueError(f"data: expected at least 2 for a variance, got {len(data)}")
    rows = dict.fromkeys(norms, 0)

    def weigh(norm: BatchNorm, inputs: tuple[Any, ...]) -> None:
        new = inputs[0].numel() // inputs[0].shape[1]
        rows[norm] += new
        norm.momentum = new / rows[norm]

    before = {norm: (norm.momentum, [b.clone() for b in norm.buffers(False)]) for norm in norms}
    hooks = [norm.register_forward_pre_hook(weigh) for norm in norms]
    finished = False
    try:
        with measuring(model, guide, device=data.device):
            for norm in norms:
                norm.reset_running_stats()
                norm.training = True
            order = torch.randperm(len(data), device=data.device)
            for index in order.tensor_split(-(-len(data) // batch_size)):
                trace_pair(model, guide, *data.batch(index))
        finished = True
    finally:
        for hook in hooks:
            hook.remove()
        for norm, (momentum, buffers) in before.items():
            norm.momentum = momentum
            if not (finished and rows[norm]):
                for buffer, value in zip(norm.buffers(False), buffers, strict=True):
                    buffer.copy_(value)


def check_single(
    model: Callable,
    guide: Callable,
    x: Data,
    y: Tensor | None,
    *,
    count: int,
    batch_size: int,
    last: int = 1,
    parts: int = 1,
) -> None:
    """Raise ``ValueError`` where a batch of one datum cannot be normalised, before it comes.

    Model and guide are in the modes that they are trained in; x is a datum, (1, *event), y its
    label; ``count`` are the data in an epoch, ``last`` those of its last batch, which is taken in
    so many ``parts``.
    """
    modules = [*held_by(model), *held_by(guide)]
    if not any(isinstance(m, BatchNorm) and m.training for p in modules for m in p.modules()):
        return
    before = State((model, guide, *modules), (), x.device)
    try:
        with torch.no_grad(), unregistered(model, guide, stored=False):
            trace_pair(model, guide, x, y)
    except ValueError as error:
        if not _SINGLE.search(str(error)):
            raise
        if last > 1:
            raise ValueError(
                "accumulate: expected parts of two data or more, from which batch normalisation "
                f"takes mean and variance, got a last batch of {last} of {count} data in {parts}: "
                f"pass accumulate={last // 2}"
            ) from error
        # None where there is but one datum
        better = next((b for b in range(batch_size + 1, count + 1) if count % b != 1), None)
        by_size = f"pass batch_size={better}, or to a DataLoader drop_last=True"
        raise ValueError(
            f"batch_size: expected batches of two data or more, from which batch normalisation "
            f"takes mean and variance, got a last batch of one of {count} data by {batch_size}: "
            f"{by_size if better else 'add data'}"
        ) from error
    finally:
        before.restore()


def taking_statistics(
    run: Callable[[], object], device: torch.device, **programs: Any
) -> list[str]:
    """The modules that look at a batch as a whole; nothing stays changed.

    A training step changes their buffers, as those of BatchNorm, or their parameters, as those of
    a codebook that begins with the first batch; or they say so, by ``of_batches``. ``run`` gives
    its loss, of ``programs`` by their roles, in the modes that they are trained in.
    """
    held = [
        (f"{role}.{name}".rstrip("."), module, [*module.buffers(False), *module.parameters(False)])
        for role, program in programs.items()
        for part in held_by(program)
        for name, module in part.named_modules()
    ]
    before = State(programs.values(), (t for *_, tensors in held for t in tensors), device)
    values = [t.clone() for t in before.tensors]
    try:
        with unregistered(*programs.values(), stored=False):
            run()
        changed = {id(t) for t, v in zip(before.tensors, values, strict=True) if not equal(t, v)}
    finally:
        before.restore()
    return [
        name
        for name, module, tensors in held
        if changed & {*map(id, tensors)} or getattr(module, "of_batches", False)
    ]


def _norms(*programs: Callable) -> list[BatchNorm]:
    modules = dict.fromkeys(m for p in programs for held in held_by(p) for m in held.modules())
    return [m for m in modules if isinstance(m, BatchNorm) and m.running_mean is not None]
