"""Training one pair in many processes, as in one process with the whole batch."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .. import ranks
from ..data.arguments import Data
from ..ground.internals import BatchNorm
from ..infer.engine.internals import check_dimensions
from ..infer.engine.traced import Pair
from ..infer.objectives.elbo import ELBOTerms, Estimator
from ..infer.objectives.pyro_elbo import PyroELBO
from ..programs.methods import Method
from ..programs.unwrapping import name_of
from .feeds import Loaded, Resident


def check_parallel(
    feed: Resident | Loaded, *programs: Callable, estimator: Estimator | None = None
) -> None:
    """Raise for what several processes cannot share; a process alone can do it all."""
    if ranks.size() == 1:
        return
    if isinstance(estimator, PyroELBO):
        raise TypeError(
            "elbo: a run of several processes expects an estimator of pyro_vae, whose gradient "
            f"they can share, got {type(estimator.elbo).__name__}: pass elbo='trace'"
        )
    for program in programs:
        if not isinstance(program, nn.Module):
            raise TypeError(
                "a run of several processes expects modules, got the plain function "
                f"{name_of(program)}: make it the forward of an nn.Module"
            )
    if isinstance(feed, Resident):
        ranks.check_batches(feed.count, feed.batch_size)


class Parallel:
    """An estimator under ``DistributedDataParallel``: gradients are those of the whole batch.

    Each process computes the loss of its part; after the backward pass every parameter's gradient
    is that of the loss over the parts of all, whatever their sizes. What the estimator computes
    from a batch as a whole (free bits, regularisers such as DIP and MMD) it computes from the
    part.
    """

    def __init__(self, estimator: Estimator) -> None:
        self.estimator, self.reduction = estimator, estimator.reduction
        self._parallel: DistributedDataParallel | None = None
        self._key: list[int] = []
        self._whole: Data | None = None

    def check(self, stored: Iterable[str]) -> None:
        """Raise ``TypeError`` for trained sites in Pyro's store, of which each has its own."""
        if sites := sorted(stored):
            raise TypeError(
                "a run of several processes expects parameters of modules, which they share, got "
                f"pyro.param sites {sites}: make each an nn.Parameter of its module"
            )

    def __call__(
        self, model: nn.Module, guide: nn.Module, x: Data, y: Tensor | None = None
    ) -> tuple[Tensor, ELBOTerms]:
        """Loss and terms of this part; the loss's gradient is weighted for the whole batch."""
        if not torch.is_grad_enabled():
            return self.estimator(model, guide, x, y)
        parameters = [p for m in (model, guide) for p in m.parameters() if p.requires_grad]
        key = [id(model), id(guide), *map(id, parameters)]
        if key != self._key:
            pair = Pair(model, guide, self.estimator)
            # A method may leave parts of its module unused
            methods = any(isinstance(m, Method) for m in pair.modules())
            self._parallel = DistributedDataParallel(pair, find_unused_parameters=methods)
            self._key = key
        loss, *terms = self._parallel(x, y)
        # DistributedDataParallel takes the mean over the processes
        weight = float(ranks.size())
        if self.reduction == "mean":
            whole = x if self._whole is None else self._whole
            weight = weight * len(whole) / ranks.count(whole)
        loss.register_hook(lambda gradient: gradient * weight)
        return loss, ELBOTerms(*terms)

    @contextlib.contextmanager
    def within(self, x: Data, last: bool) -> Iterator[None]:
        """A part of x comes, whose gradient is added to those before; all share it at the last."""
        apart = contextlib.nullcontext()
        if not (last or self._parallel is None):
            apart = self._parallel.no_sync()
        self._whole = x
        try:
            with apart:
                yield
        finally:
            self._whole = None

    def release(self) -> None:
        """Let go of the group of processes, which may end before the trainer does."""
        self._parallel, self._key = None, []


@contextlib.contextmanager
def synchronised(*programs: Callable) -> Iterator[None]:
    """Batch normalisation by the statistics of the whole batch, in all processes.

    Does nothing where a process is alone. On a CPU too, where ``torch.nn.SyncBatchNorm`` does not
    work.
    """
    modules = [m for p in programs if isinstance(p, nn.Module) for m in p.modules()]
    norms = [m for m in dict.fromkeys(modules) if isinstance(m, BatchNorm)]
    if ranks.size() == 1:
        norms = []
    try:
        for norm in norms:
            norm.forward = functools.partial(_normalised, norm)
        yield
    finally:
        for norm in norms:
            del norm.forward


class _Total(torch.autograd.Function):
    """The sum over the processes; every process's loss depends on every summand."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return ranks.total(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return ranks.total(gradient)


def _normalised(norm: BatchNorm, x: Tensor) -> Tensor:
    if not norm.training:
        return type(norm).forward(norm, x)
    check_dimensions(norm, x)
    dims = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    values = x.float() if x.dtype == torch.bfloat16 else x
    n = ranks.total(values.new_full((), values.numel() / values.shape[1]))
    mean = _Total.apply(values.sum(dims)) / n
    centred = values - mean.view(shape)
    variance = _Total.apply(centred.square().sum(dims)) / n
    if norm.running_mean is not None:
        norm.num_batches_tracked.add_(1)
        rate = norm.momentum
        if rate is None:
            rate = 1 / norm.num_batches_tracked.to(n.dtype)
        norm.running_mean.lerp_(mean.detach(), rate)
        norm.running_var.lerp_(variance.detach() * n / (n - 1), rate)
    result = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        result = result * norm.weight.view(shape) + norm.bias.view(shape)
    return result.to(x.dtype)
