"""Values that a distribution gives probability: looked at in all data, not in the first batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pyro
import torch
from torch import Tensor, nn
from torch.distributions.constraints import Constraint, independent, real

from ..ground.streams import forked

# Real numbers that are rates, scales and probabilities as well
_FEATURES = (0.5, 0.75)


def check_support(likelihood: nn.Module, x: Tensor) -> None:
    """Raise ``ValueError`` for data outside of the support of ``likelihood(features)``.

    A support that depends on the features, as that of a ``Uniform``, is not looked at.

    Args:
        likelihood: a module from features to a distribution.
        x: (n, *event).
    """

    def made() -> Sequence[object]:
        # A copy, since feature_shape may make parameters
        probe = copy.deepcopy(likelihood).to(x.device).eval()
        shape = getattr(probe, "feature_shape", tuple)(x.shape[1:])
        return [probe(x.new_full((1, *shape), value)) for value in _FEATURES]

    support = fixed_support(made)
    if support is not None:
        refuse_outside(support, x, type(likelihood).__name__)


def fixed_support(make: Callable[[], Sequence[object]]) -> Constraint | None:
    """The support that the distributions have in common, None where there is none.

    None, too, where they cannot be made, or were made with ``validate_args=False``: what is wrong
    with a program is told when it is run.
    """
    try:
        with forked(), torch.no_grad(), pyro.validation_enabled(True):
            distributions = make()
            if any(_unchecked(d) for d in distributions):
                return None
            first, *others = [d.support for d in distributions]
    except Exception:
        return None
    return first if all(_alike(first, other) for other in others) else None


def _unchecked(distribution: object) -> bool:
    base = getattr(distribution, "base_dist", None)
    asked_for = vars(distribution).get("_validate_args") is False
    return asked_for or (base is not None and _unchecked(base))


def _alike(one: object, other: object) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, Constraint):
        inside = vars(one).items()
        return type(one) is type(other) and all(_alike(v, vars(other)[k]) for k, v in inside)
    return one == other


def refuse_outside(support: Constraint, x: Tensor, name: str) -> None:
    """Raise ``ValueError`` naming how many values, or data, are outside of a support."""
    while isinstance(support, type(independent(real, 1))):
        support = support.base_constraint
    outside = ~support.check(x)
    if outside.any():
        first = x[outside][0]
        got = f"{float(first):.4g}" if first.ndim == 0 else "one of " + _span(first)
        raise ValueError(
            f"x: {name} gives probability to {support!r}, got {int(outside.sum())} "
            f"outside, the first {got}: round, clip or leave out what is no such value, or use a "
            "likelihood for these data"
        )


def _span(x: Tensor) -> str:
    return f"values from {float(x.min()):.4g} to {float(x.max()):.4g}"
