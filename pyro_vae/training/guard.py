"""Steps whose numbers are not finite: found before they spoil a pair, undone, and explained."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import pyro
import torch
from torch import Tensor, nn

from .. import ranks
from ..data.arguments import Data, named
from ..ground import streams
from ..ground.arguments import whole
from ..ground.internals import version
from ..infer import SVI
from ..infer.engine.internals import buffers, copy_each, norm_of_each
from ..programs.missing import takes_missing
from ..programs.registration import unregistered
from ..programs.running import trace_pair
from ..programs.stored import tensors
from .totals import ADVICE

LIMIT = 10
_BETWEEN_COPIES = 100
_MOST_NAMES, _SMALL = 4, 2**14
_MORE_ADVICE = (
    "Warm beta up, look at the data for outliers, or leave such steps out: "
    'fit(..., on_nonfinite="skip")'
)


class Skip:
    """Leave out steps whose loss or gradient is not finite.

    Args:
        limit: how many in an epoch, before that is an error.

    Raises:
        ValueError: a limit below 1.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = whole("limit", limit)


def limit_of(on_nonfinite: Literal["raise", "skip"] | Skip) -> int:
    """How many steps of an epoch may be left out; ``ValueError`` for no such ``on_nonfinite``."""
    if isinstance(on_nonfinite, Skip):
        return on_nonfinite.limit
    if on_nonfinite not in ("raise", "skip"):
        raise ValueError(
            f"on_nonfinite: expected 'raise', 'skip' or training.Skip(limit), got {on_nonfinite!r}"
        )
    return LIMIT if on_nonfinite == "skip" else 0


class Guard:
    """Looks at loss and gradient of each step, between backward pass and update.

    On the CPU, and where steps may be left out, a bad step never reaches the optimizer. On
    another device nothing is read before ``_BETWEEN_COPIES`` steps have gone by, so that no step
    waits for the device; then all goes back to the copy of the last finite state. The same copy
    serves where an update alone made a parameter NaN or infinite.

    Up to ``limit`` steps may be left out; ``refused`` tells whether the last one was. The buffers
    of ``modules`` are restored. ``step`` is how many steps the optimizer has taken so far, and
    ``bad_step`` the one that was found bad, counted from 1.
    """

    def __init__(
        self, svi: SVI, modules: Sequence[nn.Module], step: int, device: torch.device, limit: int
    ) -> None:
        self.svi, self.modules, self.device, self.limit = svi, modules, device, limit
        self.refused, self.bad_step, self._spoiled = False, 0, False
        self._at_once = device.type == "cpu" or limit > 0
        self._step = self._first = step
        self._pending: list[Tensor] = []
        self._hold_buffers()
        self._random: dict[str, Tensor] = {}
        self._copies: list[tuple[Tensor, Tensor]] = []
        self._copied = self._held = 0
        self._generators = streams.generators(device)
        self._several = ranks.size() > 1

    def step(self, x: Data, y: Tensor | None) -> Tensor:
        """A gradient, and an update with it unless it is ``refused``; returns the loss."""
        self.refused = False
        self._remember()
        if self._step > self._first:
            loss, _ = self.svi.gradient(x, y=y)
        else:
            loss = self._first_gradient(x, y)
        if not self.refused and self._accepts(loss):
            self.svi.update()
        return loss

    def _first_gradient(self, x: Data, y: Tensor | None) -> Tensor:
        """With all of Pyro's checks, which refuse some numbers that are not finite."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Encountered NaN", UserWarning)
                return self.svi.gradient(x, y=y)[0]
        except (ValueError, FloatingPointError):
            self._undo_forward()
            streams.go_to(self.device, self._random)
            pair = self.svi.model, self.svi.guide
            with unregistered(*pair), pyro.validation_enabled(False):
                loss, self.svi.terms = self.svi.loss(*pair, x, y)
            if bool(loss.isfinite()):
                raise
            self.refused, self._step = True, self._step + 1
            self.bad_step = self._step
            return loss.detach()

    def _hold_buffers(self) -> None:
        """Find the buffers, and where each of them lies: a program may put another one there."""
        inner = dict.fromkeys([m for module in self.modules for m in module.modules()])
        self._places = [
            (buffers(m), name, b) for m in inner for name, b in buffers(m).items() if b is not None
        ]
        self._buffers = list({id(b): b for *_, b in self._places}.values())
        # Batch normalisation changes its buffers without a trace in their version
        self._small = [b.numel() <= _SMALL for b in self._buffers]
        self._versions = [-1] * len(self._buffers)
        self._before = [b.clone() for b in self._buffers]
        self._often = [
            [tensor for tensor, small in zip(tensors, self._small, strict=True) if small]
            for tensors in (self._before, self._buffers)
        ]

    def _put_back(self) -> None:
        """Have the buffers again that a forward pass has replaced."""
        for holder, name, buffer in self._places:
            if holder.get(name) is not buffer:
                holder[name] = buffer

    def _remember(self) -> None:
        """Keep what a forward pass changes: buffers and random streams."""
        if any(holder.get(name) is not buffer for holder, name, buffer in self._places):
            self._hold_buffers()
        if self._at_once:
            self._random = {name: g.get_state() for name, g in self._generators.items()}
        if self._often[0]:
            copy_each(*self._often)
        for i, buffer in enumerate(self._buffers):
            if self._versions[i] != version(buffer):
                if not self._small[i]:
                    self._before[i].copy_(buffer)
                self._versions[i] = version(buffer)

    def _accepts(self, loss: Tensor) -> bool:
        self._step += 1
        parameters = self._parameters()
        gradients = [grad for p in parameters if (grad := p.grad) is not None]
        seen = _sum([loss.detach(), *gradients])
        if self.limit > 0 and self._several:
            # A step is left out by all processes, or by none
            seen = ranks.total(seen)
        if not self._at_once:
            self._pending.append(seen)
        elif not math.isfinite(seen.item()):
            self.refused, self.bad_step = True, self._step
            return False
        late = len(parameters) != self._held
        if late or (self._step - self._first) % _BETWEEN_COPIES == 1:
            if not self.settled():
                self.refused = True
                return False
            self._copy()
        return True

    def settled(self) -> bool:
        """Whether all steps since the last look, and all parameters, are finite; it waits."""
        if self._pending:
            finite = torch.stack(self._pending).isfinite()
            if not finite.all():
                bad = int(finite.logical_not().nonzero()[0])
                self.bad_step = self._step - len(self._pending) + bad + 1
                return False
            self._pending = []
        if self._finite_parameters():
            return True
        self.bad_step, self._spoiled = self._step, True
        return False

    def _finite_parameters(self) -> bool:
        return math.isfinite(_sum([p.detach() for p in self._parameters()]).item())

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.svi.optimizer.param_groups for p in group["params"]]

    def _state(self) -> list[tuple[Tensor, Tensor]]:
        """Tensors that a step changes, and their values before this one's forward pass."""
        changed: list[Any] = []
        for parameter in self._parameters():
            changed += (parameter.data, *self.svi.optimizer.state.get(parameter, {}).values())
        tensors = [value for value in changed if isinstance(value, Tensor)]
        return [
            *zip(tensors, tensors, strict=True),
            *zip(self._buffers, self._before, strict=True),
        ]

    def _copy(self) -> None:
        state = self._state()
        old = [copy for _, copy in self._copies]
        if [c.shape for c in old] != [tensor.shape for tensor, _ in state]:
            old = [torch.empty_like(tensor) for tensor, _ in state]
        for (_, value), copy in zip(state, old, strict=True):
            copy.copy_(value)
        self._copies = [(tensor, copy) for (tensor, _), copy in zip(state, old, strict=True)]
        self._copied = self._step
        parameters = self._parameters()
        self._held = len(parameters)
        self._fresh = [p for p in parameters if not self.svi.optimizer.state.get(p)]

    @torch.no_grad()
    def undo(self) -> str:
        """Restore the last finite state; tells which one."""
        if (self._at_once and self._finite_parameters()) or not self._copies:
            self._undo_forward()
            return f"as they were before step {self.bad_step}"
        self._put_back()
        for tensor, copy in self._copies:
            tensor.copy_(copy)
        for parameter in self._fresh:
            self.svi.optimizer.state.pop(parameter, None)
        return f"as they were before step {self._copied}, when all was finite"

    @torch.no_grad()
    def _undo_forward(self) -> None:
        self._put_back()
        for i, buffer in enumerate(self._buffers):
            if version(buffer) != self._versions[i] or self._small[i]:
                buffer.copy_(self._before[i])
        self._versions = [-1] * len(self._buffers)

    def error(self, x: Data, y: Tensor | None, blamed: str | None) -> FloatingPointError:
        """Undo the step, and say what is known of it.

        ``x`` and ``y`` are its data, or other data where it was found late; ``blamed`` is what of
        the bound is not finite, None for the loss or a gradient.
        """
        missing = takes_missing(self.svi.model)
        for name, column in [("x", x)] if isinstance(x, Tensor) else x.items():
            if not isinstance(column, Tensor):
                continue
            if (finite := column.isfinite() | (column.isnan() & missing)).all():
                continue
            at = ", ".join(map(str, (~finite).nonzero()[0].tolist()))
            return FloatingPointError(
                f"The data of step {self.bad_step} have {int((~finite).sum())} NaN or infinite "
                f"values, the first at {named(name)}[{at}] of the batch: remove or fill them "
                f"where they come from. Model, guide and optimizer are {self.undo()}."
            )
        gradients = {n: p.grad for n, p in self._named() if p.grad is not None}
        bad = [name for name, grad in gradients.items() if not bool(grad.isfinite().all())]
        values = [name for name, p in self._named() if not bool(p.isfinite().all())]
        if blamed is None:
            which = _listed(bad) if self._at_once else "a parameter"
            blamed = f"parameter {values[0]}" if self._spoiled else f"gradient of {which}"
        lines = [f"{blamed} became NaN or infinite at step {self.bad_step}: {ADVICE}."]
        if values and not blamed.startswith("parameter"):
            lines.append(f"Parameters that are not finite: {_listed(values)}.")
        if self._at_once:
            lines += self._ranges(x, y)
        norm = sum(float(g.double().norm()) ** 2 for g in gradients.values()) ** 0.5
        where = f", not finite in {_listed(bad)}" if bad else ""
        lines.append(f"Norm of the gradient: {norm:.3g}{where}.")
        lines.append(f"Model, guide and optimizer are {self.undo()}.")
        if not self._at_once:
            lines += self._ranges(x, y)
        return FloatingPointError("\n".join([*lines, _MORE_ADVICE]))

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        held = {id(p) for p in self._parameters()}
        for role, program in (("model", self.svi.model), ("guide", self.svi.guide)):
            if isinstance(program, nn.Module):
                for name, parameter in program.named_parameters():
                    if id(parameter) in held:
                        held.discard(id(parameter))
                        yield f"{role}.{name}", parameter
        yield from tensors(self.svi.stored).items()

    def _ranges(self, x: Data, y: Tensor | None) -> list[str]:
        """Run the pair again on the same numbers, and look at its layers and distributions."""
        if self._random:
            self._undo_forward()
            streams.go_to(self.device, self._random)
        self._remember()
        found: list[str] = []
        try:
            with (
                unregistered(self.svi.model, self.svi.guide),
                pyro.validation_enabled(False),
                _first_bad_layer(self.svi.model, self.svi.guide) as layers,
            ):
                pair = self.svi.model, self.svi.guide
                model_trace, guide_trace = trace_pair(*pair, x, y)
        except Exception as error:  # a report must not hide what it reports
            return [f"The programs could not be run again ({type(error).__name__}: {error})."]
        finally:
            self._undo_forward()
            if self._random:
                streams.go_to(self.device, self._random)
        if layers:
            found.append(f"The first output that is not finite is that of layer {layers[0]}.")
        for name, trace in (("q", guide_trace), ("p", model_trace)):
            for site, node in trace.nodes.items():
                if node["type"] == "sample" and (text := _range(node["fn"])):
                    found.append(f"{name}({site}): {text}.")
        return found


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    """A number that is finite where all are; few operations on the device."""
    if not tensors:
        return torch.zeros(())
    if tensors[0].device.type == "cpu":
        return torch.stack([*map(torch.sum, tensors)]).sum()
    return torch.stack(norm_of_each(tensors)).sum()


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more or "all parameters together"


@contextlib.contextmanager
def _first_bad_layer(*programs: Callable) -> Iterator[list[str]]:
    """Collect the names of layers that make numbers that are not finite, in the order of calls."""
    found: list[str] = []
    hooks = []
    for role, program in zip(("model", "guide"), programs, strict=True):
        modules = program.named_modules() if isinstance(program, nn.Module) else ()
        for name, module in modules:
            if not list(module.children()):

                def look(
                    module: nn.Module, args: Any, output: Any, name: str = f"{role}.{name}"
                ) -> None:
                    if isinstance(output, Tensor) and not bool(output.isfinite().all()):
                        found.append(name)

                hooks.append(module.register_forward_hook(look))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _range(distribution: Any) -> str:
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    names = [n for n in ("loc", "scale") if isinstance(getattr(distribution, n, None), Tensor)]
    if not names and isinstance(getattr(distribution, "logits", None), Tensor):
        names = ["logits"]
    parts = []
    for name in names:
        value = getattr(distribution, name).detach()
        finite = value[value.isfinite()]
        if finite.numel():
            parts.append(f"{name} in [{finite.min():.3g}, {finite.max():.3g}]")
        if bad := value.numel() - finite.numel():
            parts.append(f"{bad} of {value.numel()} {name} NaN or infinite")
    return ", ".join(parts)
