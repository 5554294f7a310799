"""The bound of a pair as a recorded tensor graph: Pyro runs once, the tensors run every step."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from ...data.arguments import Arguments, Data, LabelData
from ...programs.methods import as_program
from ...programs.registration import unregistered
from ..objectives.elbo import ELBOTerms, Estimator
from .captured import Capture, captured
from .fingerprint import Fingerprint
from .records import Records
from .rewriting import recorded
from .state import Changed, Outcome, State, Tensors, alike, lying
from .traced import Traced, TracedGradient

_MOST_KEYS, _MOST_CHANGES = 128, 3
# Steps without a comparison before an epoch begins with one; where nobody tells of epochs
_UNCOMPARED, _UNCOMPARED_ALONE = 100, 200
# (recorded graph, its inputs) -> what runs on such inputs and returns the same
Compiler = Callable[[GraphModule, Sequence[Tensor]], Callable]
_ONE_BY_ONE = "launches its operations one by one, not as a CUDA graph"
_COMPILED = 'a network is compiled by itself; leave that out, and engine="compile" compiles it all'


class _Record:
    """What replays the steps of one key.

    ``traced`` keeps the pair, whose identity is part of the key, and ``fingerprint`` keeps alive
    all that the key tells of. ``run`` is the recorded function, and ``exact`` the one, without
    compiler, that is compared with the program, last at ``step``. ``tensors`` are what a run
    reads, and may change, besides the data; the ``constants`` that it closes over come last.
    ``renewed`` tells that another run has taken it up, and has not compared it yet.
    """

    def __init__(
        self,
        traced: Traced,
        constants: Sequence[Tensor],
        run: Callable,
        fingerprint: Fingerprint,
        step: int,
    ) -> None:
        self._traced, self._constants, self.run, self.exact = traced, constants, run, run
        self.tensors = (*traced.tensors, *constants)
        self.fingerprint, self.step, self.count = fingerprint, step, 0
        self.renewed, self._lay = False, [*map(lying, self.tensors)]

    def renew(self) -> bool:
        """Be taken up by another run, where all tensors lie where they lay."""
        self.renewed = not self.fingerprint.blind
        return self.renewed and [*map(lying, self.tensors)] == self._lay

    def __call__(
        self, x: Data, y: LabelData, run: Callable | None = None
    ) -> tuple[Tensor, ELBOTerms]:
        """Loss and terms of a step; a recorded gradient is added to ``grad`` of each parameter."""
        traced, data = self._traced, _data(x, y)
        with traced.replaying():
            loss, reconstruction, *rest = (run or self.run)(
                *traced.tensors, *data, *self._constants
            )
        sites = traced.sites
        for parameter, gradient in zip(traced.reached, rest[len(sites) :], strict=True):
            held = parameter.grad
            parameter.grad = gradient if held is None else held + gradient
        return loss, ELBOTerms(reconstruction, dict(zip(sites, rest, strict=False)), traced.shared)


class Graph:
    """An estimator that records ``estimator(model, guide, x, y)`` once and replays the tensors.

    The pair runs once, as ``recording.operations`` notes what it runs, with its parameters and
    buffers as inputs; replaying the recorded operations costs no Pyro, and under ``backward``,
    which records the gradient with the loss, no autograd either. Losses, gradients, buffers and
    random numbers are those of the estimator itself, bit for bit. Another graph is recorded for
    another batch shape, training mode, pair, set of parameters or set of trainable ones, and for
    a changed plain attribute of a module. Tensors that a program closes over (a 0-d beta) are
    read by reference and may change in place.

    On a GPU loss and gradient are launched together, as one CUDA graph.

    A record is accepted where the program itself, with its backward pass on the same random
    numbers, gives and leaves behind the same, in every tensor, gradient, attribute and random
    stream that the pair reaches; else, and where a program reads values of tensors while it is
    recorded, it runs as it is, with one warning that says why. Recording leaves no trace, except
    what the program prints and writes to files. Some steps, the 1st, 2nd, 4th, 8th and so on and
    the first of an epoch after 100 others, are taken by the program, with which the record is
    compared: state that cannot be watched, such as a clock or what a library holds, ends the
    record where it shows, with one warning that names the step since which results may differ.

    Attributes:
        operations: how many the latest recorded graph has, 0 before.
        step: steps taken so far.

    Args:
        estimator: ``TraceELBO(...)`` or ``AnalyticELBO(...)``.
        compile: what to make of a recorded graph and its inputs, for example a
            ``compiled.Compiler()``; default: the graph as it is.
        capture: what makes one launch of loss and gradient; default: on a GPU
            ``captured.cuda_graph``, elsewhere nothing.
        after: calls that run as they are before a graph is recorded, so that a short run does not
            pay for recording (a fraction of a second to some seconds).

    Example:
        >>> from pyro_vae import guides, infer, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> guide, x = guides.BottomUp(vae), torch.zeros(5, 6)
        >>> recorded, eager = infer.Graph(infer.TraceELBO()), infer.TraceELBO()
        >>> with torch.random.fork_rng():
        ...     loss, _ = recorded(vae, guide, x)
        >>> bool(loss == eager(vae, guide, x)[0])
        True
    """

    def __init__(
        self,
        estimator: Estimator,
        *,
        compile: Compiler | None = None,
        capture: Capture | None = None,
        after: int = 0,
    ) -> None:
        self.estimator, self.after = estimator, after
        self.compile, self.capture = compile, capture
        self._records: Records[_Record] = Records()
        self._noticed: set[str] = set()
        self.operations = self.step = 0
        # The last step that was compared, and the next one that is to be, whatever its record
        self._compared, self._next, self._epochs, self._over = 0, math.inf, False, False
        self._changes = 0
        self._latest: Fingerprint | None = None
        self._number = 0

    @property
    def records(self) -> int:
        """How many graphs it holds now."""
        return sum(record is not None for record in self._records.found.values())

    def __deepcopy__(self, memo: dict[int, Any]) -> Graph:
        """One without records, which belong to their pair."""
        options = {"compile": self.compile, "capture": self.capture, "after": self.after}
        return type(self)(copy.deepcopy(self.estimator, memo), **options)

    def __call__(
        self, model: Callable, guide: Callable, x: Data, y: LabelData = None
    ) -> tuple[Tensor, ELBOTerms]:
        """Loss with the pair's scales, and the terms without them, detached."""
        return self._step(Traced, model, guide, x, y)

    def backward(
        self, model: Callable, guide: Callable, x: Data, y: LabelData = None
    ) -> tuple[Tensor, ELBOTerms]:
        """The same, and the gradient of the loss in ``grad`` of each parameter, all None before.

        The loss is detached.
        """
        loss, terms = self._step(TracedGradient, model, guide, x, y)
        return loss.detach(), terms

    def begin_run(self) -> None:
        """Tell that a run begins, before which anything may have changed.

        Records of the run before are taken up as they are needed, each by a step that the program
        takes; where they differ from it, others are recorded. Calls go on being counted.
        """
        self._records.begin_run()
        self._latest, self._over, self._changes = None, False, 0

    def begin_epoch(self, step: int) -> None:
        """Tell that so many steps are taken, and that an epoch begins."""
        self.step, self._epochs = step, True
        self._next = step + 1 if step - self._compared >= _UNCOMPARED else math.inf

    def _step(
        self, kind: type[Traced], model: Callable, guide: Callable, x: Data, y: LabelData
    ) -> tuple[Tensor, ELBOTerms]:
        self.step += 1
        record = self._record_of(kind, model, guide, x, y)
        if record is None:
            return _taken(kind, *self._as_it_is(model, guide, x, y))
        record.count += 1
        if not record.count & (record.count - 1) or self.step >= self._next:
            return self._beside(record, kind, model, guide, x, y)
        return _taken(kind, *record(x, y))

    def _record_of(
        self, kind: type[Traced], model: Callable, guide: Callable, x: Data, y: LabelData
    ) -> _Record | None:
        """The record of such a call, or None where it is to run as it is."""
        if self._over:
            return None
        if not (isinstance(model, nn.Module) and isinstance(guide, nn.Module)):
            model, guide = as_program(model), as_program(guide)
        if not (isinstance(model, nn.Module) and isinstance(guide, nn.Module)):
            self._notice("the model or the guide is a plain function, whose state is hidden")
            return None
        if len(self._records.calls) > _MOST_KEYS or self._changes > _MOST_CHANGES:
            numbers = {number for _, number, *_ in self._records.calls}
            shapes = self._changes <= _MOST_CHANGES and len(numbers) <= _MOST_KEYS // 2
            what = "the shapes of its batches" if shapes else "its modules' attributes"
            if shapes and not isinstance(x, Tensor) and x.constants:
                what += ", or numbers among its arguments, which may be tensors,"
            self._notice(f"{what} change from step to step")
            return None
        number = self._number_of(model, guide)
        if self._latest.hooked:
            self._notice("a parameter or a module has hooks on its gradient")
            return None
        if not isinstance(x, Tensor) and x.key is None:
            self._notice("constants among its arguments cannot be told from others")
            return None
        where = x.device.type
        key = (
            Traced if x.requires_grad else kind,
            number,
            *((x.shape, x.stride(), x.dtype, x.device) if isinstance(x, Tensor) else (x.key,)),
            getattr(x, "total", None),
            (y.shape, y.stride(), y.dtype, y.device) if isinstance(y, Tensor) else y and y.key,
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled(where) and torch.get_autocast_dtype(where),
        )
        return self._records.found.get(key) or self._recorded_now(key, model, guide, x, y)

    def _number_of(self, model: nn.Module, guide: nn.Module) -> int:
        """A number for all that the fingerprint of a pair holds."""
        if self._latest is None or not self._latest.holds(model, guide):
            self._latest = Fingerprint(model, guide, others=(self.estimator,))
            self._number = self._records.number(self._latest.key)
        return self._number

    def _recorded_now(
        self, key: Any, model: nn.Module, guide: nn.Module, x: Data, y: LabelData
    ) -> _Record | None:
        records = self._records
        if key in records.found:
            return None
        calls = records.called(key)
        if records.takes_up(key):
            if (record := records.found[key]) is not None:
                self._next = self.step
            return record
        if calls <= self.after:
            return None
        kind, number, *_ = key
        records.forget_others(number)
        try:
            record = self._record(kind(model, guide, self.estimator, (x, y)), x, y)
        except Changed as change:
            self._changes += 1
            if self._changes == 1:  # as of a program that fills a cache when it first runs
                return None
            self._notice(str(change))
            record = None
        records.keep(key, record)
        return record

    def _as_it_is(
        self, model: Callable, guide: Callable, x: Data, y: LabelData
    ) -> tuple[Tensor, ELBOTerms]:
        with unregistered(model, guide), pyro.validation_enabled(False):
            return self.estimator(model, guide, x, y)

    def _beside(
        self,
        record: _Record,
        kind: type[Traced],
        model: nn.Module,
        guide: nn.Module,
        x: Tensor,
        y: LabelData,
    ) -> tuple[Tensor, ELBOTerms]:
        """A step by the program itself, with which the record is compared."""
        state = Tensors([*record.tensors, *_data(x, y)], x.device)
        found = state.outcome(lambda: _parts(*_taken(kind, *record(x, y, record.exact))))
        state.restore()
        loss, terms = _taken(kind, *self._as_it_is(model, guide, x, y))
        expected = state.outcome(lambda: _parts(loss, terms))
        if alike(found, expected, exactly=x.device.type == "cpu"):
            self._are_compared(record)
        elif record.renewed:
            self._records.forget(record)
        else:
            self._over, self._records = True, Records()
            warnings.warn(
                f"this pair runs eagerly from step {self.step} on, where its record no longer "
                "gives what the programs give: something that they read changes where it cannot "
                f"be watched. Results may differ from those of eager steps since step "
                f"{record.step}, the last one that was compared",
                stacklevel=4,
            )
        return loss, terms

    def _are_compared(self, record: _Record) -> None:
        record.step, record.renewed = self.step, False
        self._compared = self.step
        self._next = math.inf if self._epochs else self.step + _UNCOMPARED_ALONE

    def _record(self, traced: Traced, x: Data, y: LabelData) -> _Record | None:
        """A record, or None with a notice; ``Changed`` where the program changes what it reads."""
        with unregistered(*traced.programs):
            traced.prepare()
        state = State((*traced.programs, self.estimator), _data(x, y), x.device)
        if state.unwatched is not None:
            self._notice(f"it reaches {state.unwatched}, whose contents cannot be watched")
            return None
        try:
            with unregistered(*traced.programs, stored=False):
                record = self._accepted(traced, state, x, y)
        except Changed:
            raise
        except Exception as error:  # recording runs into whatever a program does
            compiled = "dynamo-optimized" in str(error)
            self._notice(_COMPILED if compiled else _reason(error))
            return None
        finally:
            state.restore()
        self._are_compared(record)
        return record

    def _accepted(self, traced: Traced, state: State, x: Data, y: LabelData) -> _Record:
        """A record that gives, and leaves behind, what the program does.

        It raises ``Changed`` where the program changes what it reads, ``RuntimeError`` where it
        gives something else, and whatever it provokes when it is recorded.
        """
        data = _data(x, y)
        inputs = (*traced.tensors, *data)
        graph, constants = recorded(traced, inputs, *traced.rewrites)
        state.restore()
        if type(traced) is TracedGradient and any(c.requires_grad for c in constants):
            # Parameters that no module holds: autograd alone finds them
            return self._accepted(Traced(*traced.programs, self.estimator, (x, y)), state, x, y)
        state.add(constants)
        record = _Record(traced, constants, graph.forward, self._latest, self.step)

        def outcome(run: Callable, check: Callable[[], object] = lambda: None) -> Outcome:
            left = state.outcome(lambda: _parts(*_taken(TracedGradient, *run(x, y))))
            check()
            state.restore()
            return left

        on_cpu = x.device.type == "cpu"
        expected = outcome(lambda x, y: self._as_it_is(*traced.programs, x, y), state.check)
        if not alike(outcome(record), expected, exactly=on_cpu):
            raise RuntimeError("its recorded operations do not leave behind what it leaves itself")
        with traced.replaying():
            if self.compile is not None:
                record.run = self.compile(graph, (*inputs, *constants))
            launch = record.run, traced.tensors, data, constants, traced.kept, self.capture
            record.run = captured(*launch, lambda e: self._notice(_reason(e), _ONE_BY_ONE))
        state.restore()
        if record.run != record.exact:
            if not alike(outcome(record), expected, exactly=False):
                raise RuntimeError("its compiled operations do not give what it gives itself")
            if not on_cpu:
                record.exact = record.run
        self.operations = len(graph.graph.nodes)
        traced.forget_data()
        return record

    def _notice(self, reason: str, does: str = "runs eagerly, not as a graph") -> None:
        if reason not in self._noticed:
            self._noticed.add(reason)
            warnings.warn(f"this pair {does}: {reason}", stacklevel=4)


def _data(x: Data, y: LabelData) -> tuple[Tensor, ...]:
    # ``tensors_of``, in the file where each step is anyway
    if not isinstance(x, Tensor):
        return x.tensors
    if isinstance(y, Arguments):
        return x, *y.tensors
    return (x,) if y is None else (x, y)


def _parts(loss: Tensor, terms: ELBOTerms) -> tuple[Tensor, ...]:
    return loss, terms.reconstruction, *terms.kl.values()


def _taken(kind: type[Traced], loss: Tensor, terms: ELBOTerms) -> tuple[Tensor, ELBOTerms]:
    """A step, with the backward pass that belongs to it."""
    if kind is TracedGradient and loss.requires_grad:
        loss.backward()
    return loss, terms


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
