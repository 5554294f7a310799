"""Optimizers and losses of stock Pyro as arguments of ``SVI``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.infer
import torch
from pyro import poutine
from pyro.optim import PyroOptim
from torch import Tensor, nn

from ..data.arguments import Data
from ..programs.calling import call
from ..programs.registration import register
from ..programs.running import traced


class StockOptimizer(torch.optim.Optimizer):
    """A ``pyro.optim`` object as a torch optimizer: it keeps state, rates and clipping itself.

    That is ``inner``, such as ``pyro.optim.Adam({"lr": 1e-3})``. The parameters of ``modules`` get
    names in Pyro's store, for options that depend on them.
    """

    def __init__(
        self, parameters: list[nn.Parameter], inner: PyroOptim, modules: list[nn.Module]
    ) -> None:
        super().__init__(parameters, {})
        self.inner, self.modules = inner, modules

    def step(self) -> None:
        """One step of each parameter's own optimizer."""
        for module in self.modules:
            register(module, always=True)
        self.inner([p for group in self.param_groups for p in group["params"]])


class StockLoss:
    """A ``pyro.infer`` objective, such as ``Trace_ELBO()``, with its own value and gradient.

    It runs the programs at each step, and gives no terms.
    """

    def __init__(self, elbo: pyro.infer.ELBO) -> None:
        self.elbo = elbo

    def __call__(
        self, model: Callable, guide: Callable, x: Data, y: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """The loss without a gradient."""
        return self._run(self.elbo.loss, model, guide, x, y), None

    def backward(
        self, model: Callable, guide: Callable, x: Data, y: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """The loss, and its gradient in ``grad`` of each parameter."""
        return self._run(self.elbo.loss_and_grads, model, guide, x, y), None

    @staticmethod
    def _run(
        loss: Callable, model: Callable, guide: Callable, x: Data, y: Tensor | None
    ) -> Tensor:
        value = loss(*(_declared(program, x, y) for program in (model, guide)))
        return torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.double)


def _declared(program: Callable, x: Data, y: Tensor | None) -> Callable:
    """The program with its parameters among its sites, without which Pyro takes no gradient."""

    def run() -> Any:
        result = call(program, x, y)
        if isinstance(program, nn.Module):
            register(program, always=True)
        return result

    return run


def as_loss(loss: Any) -> Callable:
    """An estimator as it is, an objective of ``pyro.infer`` as a ``StockLoss``.

    Anything else, an objective's class, and one that compiles itself is a ``TypeError``.
    """
    name = getattr(loss, "__name__", type(loss).__name__)
    if isinstance(loss, type):
        raise TypeError(f"loss: expected an object, got the class {name}: pass {name}()")
    if isinstance(loss, pyro.infer.ELBO):
        if name.startswith("Jit"):
            raise TypeError(
                f"loss: {name} compiles by torch.jit, which does not train modules: pass "
                f"loss=pyro.infer.{name.removeprefix('Jit')}(), or loss=TraceELBO(), "
                'engine="compile"'
            )
        return StockLoss(loss)
    if not callable(loss) or isinstance(loss, pyro.infer.EnergyDistance):
        raise TypeError(
            f"loss: expected an estimator such as TraceELBO(), or one of pyro.infer such as "
            f"Trace_ELBO(), got {loss!r}: pass TraceELBO()"
        )
    return loss


def instead_of(elbo: pyro.infer.ELBO) -> str:
    """What a ``Trainer`` takes in place of an objective of ``pyro.infer``."""
    particles = elbo.num_particles
    same = {
        pyro.infer.Trace_ELBO: 'elbo="trace"',
        pyro.infer.TraceMeanField_ELBO: 'elbo="analytic"',
    }
    found = same.get(type(elbo)) if particles == 1 else None
    if isinstance(elbo, pyro.infer.RenyiELBO) and elbo.alpha == 0:
        found = f'elbo=infer.ImportanceWeightedELBO({particles}, "mean")'
    svi = f"infer.SVI(model, guide, loss=pyro.infer.{type(elbo).__name__}(...)), which takes it"
    return f"pass {found}, or train with {svi}" if found else f"train with {svi}"


def run_pair(model: Callable, guide: Callable, x: Data, y: Tensor | None = None) -> None:
    """Run the guide, and the model on what it drew, for what they declare to Pyro."""
    trace = traced(guide, x, y)
    traced(poutine.replay(model, trace=trace), x, y)
