"""Values that a distribution gives probability: looked at in all data, not in the first batch."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions.constraints import Constraint, independent, real

from ..data.arguments import Arguments, Data, Key, named
from ..ground.internals import unchecked
from ..ground.streams import forked
from ..ground.turns import turn
from .calling import arguments_of
from .modes import evaluating
from .sites import kinds
from .values import span_of

# Real numbers that are rates, scales and probabilities as well
_FEATURES = (0.5, 0.75)
# Data at once, where each has bounds of its own
_ROWS = 1000


def check_support(likelihood: nn.Module, x: Tensor) -> None:
    """Raise ``ValueError`` for data (n, *event) outside the support of ``likelihood(features)``.

    A support that depends on the features, as that of a ``Uniform``, is not looked at.
    """

    def made() -> dict[str, Sequence[Any]]:
        # A copy, since feature_shape may make parameters
        probe = copy.deepcopy(likelihood).to(x.device).eval()
        shape = getattr(probe, "feature_shape", tuple)(x.shape[1:])
        features = [x.new_full((1, *shape), value) for value in _FEATURES]
        return {type(likelihood).__name__: [probe(f) for f in features]}

    _check(made, x)


def check_observed_support(model: Callable, x: Data, y: Tensor | None) -> None:
    """The same for sites that observe the data as they are, of a program run on the first two.

    Where the support is one of these data alone it is run on all of them.
    """
    own = isinstance(x, Arguments)
    for key, column in {key: x[key] for key in x.columns}.items() if own else [("x", x)]:

        def made(key: Key = key, rows: Any = slice(2)) -> dict[str, Sequence[Any]]:
            few, labels = x[rows], None if y is None else y[rows]
            args, kwargs = arguments_of(model, few, labels)
            with evaluating(model):
                traces = [poutine.trace(model).get_trace(*args, **kwargs) for _ in range(2)]
            values = {s: traces[0].nodes[s]["value"] for s in kinds(traces[0]).observed}
            seen = few[key] if own else few
            return {
                f"site {site!r}": [trace.nodes[site]["fn"] for trace in traces]
                for site, value in values.items()
                if isinstance(value, Tensor)
                and value.shape == seen.shape
                and (value == seen).all()
            }

        if not _check(made, column, named(key)):
            for rows in torch.arange(len(column), device=column.device).split(_ROWS):
                _check(functools.partial(made, rows=rows), column[rows], named(key))


def _check(made: Callable[[], Mapping[str, Sequence[Any]]], x: Tensor, name: str = "x") -> bool:
    """Compare data with the support that all distributions of a name have.

    Not where they cannot be made, nor where they were made with ``validate_args=False``: what is
    wrong with a program is told when it is run. False for a support of other data than these.
    """
    with turn, forked(x.device), torch.no_grad(), pyro.validation_enabled(True):
        try:
            supports = {of: _common(found) for of, found in made().items()}
        except Exception:
            return True
    there = [(support, of) for of, support in supports.items() if support is not None]
    return all([_refuse_outside(support, x, of, name) for support, of in there])


def support_of(distribution: Any) -> Constraint | None:
    """Where the numbers of a distribution's values are; None where it does not tell."""
    try:
        support = distribution.support
    except NotImplementedError:
        return None
    while isinstance(support, type(independent(real, 1))):
        support = support.base_constraint
    return support


def _common(distributions: Sequence[Any]) -> Constraint | None:
    if any(_unchecked(d) for d in distributions):
        return None
    first, *others = map(support_of, distributions)
    return first if all(_alike(first, other) for other in others) else None


def _unchecked(distribution: object) -> bool:
    base = getattr(distribution, "base_dist", None)
    return unchecked(distribution) or (base is not None and _unchecked(base))


def _alike(one: object, other: object) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, Constraint):
        inside = vars(one).items()
        return type(one) is type(other) and all(_alike(v, vars(other)[k]) for k, v in inside)
    return one == other


def _told(support: Constraint) -> str:
    bounds = [v for v in vars(support).values() if isinstance(v, Tensor) and v.ndim]
    name = type(support).__name__.lstrip("_")
    return f"{name} with bounds for each datum" if bounds else repr(support)


def _refuse_outside(support: Constraint, x: Tensor, of: str, name: str) -> bool:
    """Raise ``ValueError`` naming how many values, or data, are outside of a support.

    False where it has bounds for each of other data.
    """
    try:
        outside = ~support.check(x)
    except RuntimeError:
        return False
    if outside.any():
        first = x[outside][0]
        got = f"{float(first):.4g}" if first.ndim == 0 else "one of " + span_of(first)
        raise ValueError(
            f"{name}: {of} gives probability to {_told(support)}, got {int(outside.sum())} "
            f"outside, the first {got}: round, clip or leave out what is no such value, or use a "
            "likelihood for these data"
        )
    return True
