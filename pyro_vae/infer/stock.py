"""Optimizers and losses of stock Pyro as arguments of ``SVI``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pyro.infer
import torch
from pyro import poutine
from pyro.optim import PyroOptim
from pyro.poutine import Trace
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn

from ..data.arguments import Data
from ..programs.autoguides import check_messenger, is_messenger
from ..programs.calling import arguments_of, call
from ..programs.plates import PROGRAM
from ..programs.registration import register
from ..programs.running import shown_to, traced


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

    recordable = False

    def __init__(self, elbo: pyro.infer.ELBO) -> None:
        self.elbo = elbo

    def __call__(
        self, model: Callable, guide: Callable, x: Data, y: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """The loss without a gradient."""
        return run_stock(self.elbo.loss, model, guide, x, y), None

    def backward(
        self, model: Callable, guide: Callable, x: Data, y: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """The loss, and its gradient in ``grad`` of each parameter."""
        return run_stock(self.elbo.loss_and_grads, model, guide, x, y), None


def run_stock(
    method: Callable,
    model: Callable,
    guide: Callable,
    x: Data,
    y: Tensor | None,
    *,
    ran: Callable[[str, Trace], object] | None = None,
) -> Tensor:
    """What a method of a ``pyro.infer`` objective gives for a pair.

    ``ran`` is told of each run of "model" and "guide", in their order, with its trace.
    """
    pair = {"model": model, "guide": guide}
    if is_messenger(guide):
        # Pyro has to see it as it is
        check_messenger(model, guide)
        args, kwargs = arguments_of(model, x, y)
        value = method(model, guide, *args, **kwargs)
        if ran is not None:
            model_trace, guide_trace = guide.get_traces()
            ran("guide", guide_trace)
            ran("model", model_trace)
    else:
        value = method(*(_declared(program, x, y, role, ran) for role, program in pair.items()))
    return torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.double)


def _declared(
    program: Callable,
    x: Data,
    y: Tensor | None,
    role: str,
    ran: Callable[[str, Trace], object] | None,
) -> Callable:
    """The program with its parameters among its sites, without which Pyro takes no gradient."""

    def run() -> Any:
        with contextlib.nullcontext() if ran is None else TraceMessenger() as tracer:
            result = call(program, x, y)
        if isinstance(program, nn.Module):
            register(program, always=True)
        if ran is not None:
            vars(tracer.trace)[PROGRAM] = program
            ran(role, tracer.trace)
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
        check_stock("loss", loss)
        return StockLoss(loss)
    if not callable(loss) or isinstance(loss, pyro.infer.EnergyDistance):
        meant = {"analytic": "AnalyticELBO", "enumerate": "TraceEnumELBO"}
        estimator = meant.get(loss, "TraceELBO") if isinstance(loss, str) else "TraceELBO"
        raise TypeError(
            f"loss: expected an estimator such as TraceELBO(), or one of pyro.infer such as "
            f"Trace_ELBO(), got {loss!r}: pass {estimator}()"
        )
    return loss


def check_stock(name: str, elbo: pyro.infer.ELBO) -> None:
    """Raise ``TypeError`` for an argument of a name that is an objective which compiles itself."""
    cls = type(elbo).__name__
    if cls.startswith("Jit"):
        raise TypeError(
            f"{name}: {cls} compiles by torch.jit, which does not train modules: pass "
            f"{name}=pyro.infer.{cls.removeprefix('Jit')}(), or {name}=TraceELBO(), "
            'engine="compile"'
        )


def run_pair(model: Callable, guide: Callable, x: Data, y: Tensor | None = None) -> None:
    """Run the guide, and the model on what it drew, for what they declare to Pyro."""
    if is_messenger(guide):
        check_messenger(model, guide)
        args, kwargs = arguments_of(model, x, y)
        guide(*args, **kwargs)
        return
    trace = traced(guide, x, y)
    traced(poutine.replay(shown_to(guide, model), trace=trace), x, y)
