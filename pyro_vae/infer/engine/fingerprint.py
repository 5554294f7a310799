"""Whether a pair is still what it was: what it trains, and what decides the operations it runs."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from . import internals
from .places import Cell, Names, Slots
from .reaching import Reached

# Bytes of an array that are compared at each step
_SMALL = 2**14
_END = object()
_requires_grad = operator.attrgetter("requires_grad")
_inside = operator.attrgetter("cell_contents")
_bytes = operator.methodcaller("tobytes")


class Fingerprint:
    """All that a pair can reach: modules, their tensors, attributes, and more, see ``Reached``.

    ``others`` run the programs, such as an estimator, and are looked at too. ``key`` is hashable,
    and equal for pairs that run the same operations on the same tensors; ``hooked`` tells whether
    a parameter or a module has hooks on its gradient, and ``blind`` whether it reaches what may
    change and is not looked into.
    """

    def __init__(self, *programs: nn.Module, others: tuple[Any, ...] = ()) -> None:
        self.programs = programs
        reached = Reached(*programs, *others)
        self.blind = reached.blind
        named = [place for place in reached.places if isinstance(place, Names | Slots)]
        self._parameters = [t for t in reached.tensors.values() if isinstance(t, nn.Parameter)]
        self._backward_hooks = reached.backward_hooks
        self._counted = [place.holder for place in named if place.counted]
        self._counts = [*map(len, self._counted)]
        self._holders = [place.holder for place in named]
        self._readers = [_reader(place) for place in named]
        self._cells = [p.holder for p in reached.places if isinstance(p, Cell)]
        rest = [p for p in reached.places if not isinstance(p, Names | Slots | Cell)]
        views = [view for place in rest for view in place.view()]
        self._empty = [view for view in views if not view]
        self._views = [view for view in views if view] + [(_END,)]
        self._arrays = [a for a in reached.arrays.values() if a.nbytes <= _SMALL]
        self._bytes = [*map(_bytes, self._arrays)]
        self.hooked = self._has_hooks()
        self._trainable = [*map(_requires_grad, self._parameters)]
        trainable = [p.requires_grad for p in reached.tensors.values()]
        self.key = (self.hooked, *trainable, *reached.key)
        try:
            self._contents = [*self._read(), _END]
        except ValueError:  # a variable that is not assigned yet
            self._contents = [_END]

    def holds(self, *programs: Callable) -> bool:
        """Whether ``key`` is still that of this pair; runs at each step, so in C throughout."""
        if self.programs != programs:
            return False
        try:
            return (
                [*map(len, self._counted)] == self._counts
                and [*map(_requires_grad, self._parameters)] == self._trainable
                and self._has_hooks() == self.hooked
                and not any(map(len, self._empty))
                and all(map(operator.is_, self._read(), self._contents))
                and (not self._arrays or [*map(_bytes, self._arrays)] == self._bytes)
            )
        except (KeyError, AttributeError, ValueError):  # an attribute or a variable has gone
            return False

    def _has_hooks(self) -> bool:
        hooks = map(internals.gradient_hooks, self._parameters)
        return any(itertools.chain.from_iterable(hooks)) or any(map(len, self._backward_hooks))

    def _read(self) -> Iterator[Any]:
        attributes = map(operator.call, self._readers, self._holders)
        contents = itertools.chain.from_iterable(itertools.chain(attributes, self._views))
        return itertools.chain(map(_inside, self._cells), contents) if self._cells else contents


class Watch:
    """Tells whether modules hold, or train, other parameters than when it was made.

    Of the programs, plain functions are left out.
    """

    def __init__(self, *programs: Callable) -> None:
        trees = [p.modules() for p in programs if isinstance(p, nn.Module)]
        modules = list(dict.fromkeys(itertools.chain(*trees)))
        # Live: iterating a view again tells what the module holds then
        held = [of(m) for m in modules for of in (internals.children, internals.parameters)]
        views = [contents.values() for contents in held]
        self._empty = [view for view in views if not view]
        self._views = [view for view in views if view] + [(_END,)]
        self._contents = [*itertools.chain.from_iterable(self._views)]
        self._parameters = [p for p in self._contents if isinstance(p, Tensor)]
        self._trainable = [*map(_requires_grad, self._parameters)]

    def holds(self) -> bool:
        """Whether all is as it was; runs at each step, so in C throughout."""
        now = itertools.chain.from_iterable(self._views)
        return (
            not any(map(len, self._empty))
            and all(map(operator.is_, now, self._contents))
            and [*map(_requires_grad, self._parameters)] == self._trainable
        )


def _reader(place: Names | Slots) -> Callable[[Any], tuple]:
    # Of at least two names, of which these return a tuple
    make = operator.attrgetter if isinstance(place, Slots) else operator.itemgetter
    return make(*place.names, *place.names[: max(0, 2 - len(place.names))])
