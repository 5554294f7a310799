"""Steps of torch optimizers without their bookkeeping."""

from __future__ import annotations

import inspect
import itertools
import operator
from typing import Any

import torch
from torch import Tensor

from . import internals

_KINDS = (torch.optim.Adam, torch.optim.AdamW)
_options, _gradient = operator.attrgetter("options"), operator.attrgetter("grad")
_kind = operator.itemgetter("fused", "amsgrad", "differentiable", "capturable")
_PLAIN = (True, False, False, False)


class Stepper:
    """``optimizer.step()``, to the same bits, without looking everything up at each step.

    The parameters and moments of a fused Adam or AdamW go straight to torch's kernel as long as
    they are those of the step before. Any other optimizer steps by itself, and so does one with
    hooks or with a ``step`` that something replaced, as torch's schedulers do. Its options, such
    as ``lr``, are read at each step.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> step = Stepper(torch.optim.Adam([weight], lr=0.1, fused=True))
        >>> weight.grad = torch.ones(3)
        >>> step()
        >>> [round(value, 4) for value in weight.tolist()]
        [0.9, 0.9, 0.9]
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._groups: list[_Group] = []

    def __call__(self) -> None:
        """One step with the gradients in ``grad`` of the parameters."""
        optimizer, options = self.optimizer, [*map(_options, self._groups)]
        plain = (
            "step" not in optimizer.__dict__
            and not any(internals.step_hooks(optimizer))
            and not any(internals.HOOKS_ON_STEPS)
        )
        if (
            plain
            and options != []
            and len(options) == len(optimizer.param_groups)
            and all(map(operator.is_, options, optimizer.param_groups))
            and all([*map(_Group.ready, self._groups)])
        ):
            with torch.no_grad():
                for group in self._groups:
                    group.step()
            return
        kinds = [*map(_kind, optimizer.param_groups)] if type(optimizer) in _KINDS else [None]
        if plain and kinds.count(_PLAIN) == len(kinds):
            # Without torch's compiler, whose import takes a second
            with torch.no_grad():
                inspect.unwrap(type(optimizer).step)(optimizer)
        else:
            optimizer.step()
        self._groups = self._found()

    def _found(self) -> list[_Group]:
        optimizer = self.optimizer
        if type(optimizer) not in _KINDS:
            return []
        groups = [_Group(optimizer, options) for options in optimizer.param_groups]
        return groups if all([group.suits for group in groups]) else []


class _Group:
    """Parameters of one group with their moments."""

    def __init__(self, optimizer: torch.optim.Optimizer, options: dict[str, Any]) -> None:
        self.options = options
        self.parameters = list(options["params"])
        self._optimizer, self._state = optimizer, optimizer.state
        self._states = [optimizer.state.get(p, {}) for p in self.parameters]
        self._values = [*itertools.chain.from_iterable(map(dict.values, self._states))]
        self._gradients: list[Tensor | None] = []
        kinds = {(p.dtype, p.device) for p in self.parameters}
        numbers = (*options["betas"], options["eps"], options["weight_decay"])
        self.suits = (
            len(kinds) == 1
            and _kind(options) == _PLAIN
            and all(map(operator.contains, self._states, itertools.repeat("step")))
            and not any(map(isinstance, numbers, itertools.repeat(Tensor)))
        )
        if self.suits:
            moments = map(operator.itemgetter("exp_avg", "exp_avg_sq", "step"), self._states)
            self._averages, self._squares, self._steps = map(list, zip(*moments, strict=True))

    def ready(self) -> bool:
        """Whether all is as it was, and each parameter has a gradient."""
        given = self.options["params"]
        self._gradients = [*map(_gradient, given)]
        values = itertools.chain.from_iterable(map(dict.values, self._states))
        return (
            _kind(self.options) == _PLAIN
            and self._optimizer.state is self._state
            and len(given) == len(self.parameters)
            and all(map(operator.is_, given, self.parameters))
            and all(map(operator.is_, map(self._state.get, given), self._states))
            and all(map(operator.is_, values, self._values))
            and not any(map(operator.is_, self._gradients, itertools.repeat(None)))
        )

    def step(self) -> None:
        """As ``Adam.step``."""
        options, (beta1, beta2) = self.options, self.options["betas"]
        decoupled = options["decoupled_weight_decay"]
        kernel = internals.adamw if decoupled else internals.adam
        internals.add_to_each(self._steps, 1)
        kernel(
            self.parameters,
            self._gradients,
            self._averages,
            self._squares,
            [],
            self._steps,
            lr=options["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=options["weight_decay"],
            eps=options["eps"],
            amsgrad=False,
            maximize=options["maximize"],
        )
