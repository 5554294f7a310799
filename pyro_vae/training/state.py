"""All that training changes besides tensors: what a file holds of a trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import ranks
from ..ground import streams
from ..ground.arguments import is_whole
from ..ground.streams import RandomStream
from ..programs.freezing import Freezing
from .history import History
from .moments import Moments, check_moments
from .totals import Totals

# As files name them
_OF_RUN = ("epochs", "done", "every", "keep", "finished", "stopping")
_OF_LOOP = ("buffers", "optimizer", "states")


@dataclass
class Position:
    """Where a run is in an epoch that has begun.

    Attributes:
        random: torch's random streams at its start, which the order of its data comes from.
        totals: what its steps found.
        batches: how many it has had.
        skipped: steps that were left out.
        seconds: how long it has taken.
    """

    random: dict[str, Tensor]
    totals: Totals
    batches: int = 0
    skipped: int = 0
    seconds: float = 0.0

    def plain(self) -> dict[str, Any]:
        """As a file holds it."""
        return {**vars(self), "totals": self.totals.state()}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Position:
        """What ``plain`` gave."""
        return cls(**{**plain, "totals": Totals.of(plain["totals"])})


@dataclass
class Run:
    """One call of ``Trainer.fit``.

    Attributes:
        epochs: of the run in all.
        facts: what a run that goes on has to share with the interrupted one.
        every: steps between two checkpoints; 0 without checkpoints.
        keep: how many checkpoints stay.
        done: epochs that are finished.
        finished: whether all is done.
        stopping: whether it ends after this epoch.
        position: within the epoch that has begun, or None.
        random: torch's random streams when it was written to a file.
        processes: how many take part.
        folder: where the checkpoints are from which it goes on, or None.
        found: of a run that was read from a file, what its loop takes up: states of callbacks, of
            the optimizer, and of buffers that no state dict holds.
    """

    epochs: int
    facts: dict[str, Any]
    every: int = 0
    keep: int = 0
    done: int = 0
    finished: bool = False
    stopping: bool = False
    position: Position | None = None
    random: dict[str, Tensor] = field(default_factory=dict)
    processes: int = 1
    folder: Path | None = None
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def begun(self) -> int:
        """Epochs that are finished or have begun."""
        return self.done + (self.position is not None)

    def plain(self, device: torch.device, found: Mapping[str, Any]) -> dict[str, Any]:
        """As a file holds it, with what its loop has ``found``; in all processes."""
        # What differs between the processes
        own, *others = ranks.each(
            {
                "position": None if self.position is None else self.position.plain(),
                "random": streams.positions(device),
            }
        )
        run = {name: getattr(self, name) for name in _OF_RUN}
        return {**run, **self.facts, **own, "others": others, **found}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Run:
        """What ``plain`` gave, for this process.

        Raises:
            KeyError: something is not there.
            ValueError: something cannot be of a run.
        """
        rest = dict(plain)
        run = {name: rest.pop(name) for name in _OF_RUN}
        whole = [is_whole(value) and value >= 0 for value in run.values()][:4]
        if not all(whole) or not {type(run[name]) for name in _OF_RUN[4:]} == {bool}:
            raise ValueError("its run cannot be one of a trainer")
        found = {name: rest.pop(name) for name in _OF_LOOP}
        others = rest.pop("others", ())
        own = {name: rest.pop(name) for name in ("position", "random")}
        if ranks.rank() in range(1, 1 + len(others)):
            own = others[ranks.rank() - 1]
        position = None if own["position"] is None else Position.of(own["position"])
        return cls(
            **run,
            facts={"patience": None, **rest},
            position=position,
            random=own["random"],
            processes=1 + len(others),
            found=found,
        )


@dataclass
class TrainState:
    """What training changes.

    Attributes:
        stream: the trainer's random stream.
        history: a dict per epoch.
        step: optimizer steps taken so far.
        swapped: whether the guide was swapped after the last epoch.
        moments: what the optimizer keeps of each parameter.
        freezing: which parameters of the model rest while the guide is trained alone.
        told_collapsed: latent sites whose collapse was told.
        written: folder -> name of the checkpoint that was written there last.
        run: the present run, or one that a file tells of.
    """

    stream: RandomStream
    history: History = field(default_factory=History)
    step: int = 0
    swapped: bool = False
    moments: Moments = field(default_factory=Moments)
    freezing: Freezing = field(default_factory=Freezing)
    told_collapsed: set[str] = field(default_factory=set)
    written: dict[Path, str] = field(default_factory=dict)
    run: Run | None = None

    def plain(
        self, parameters: list[nn.Parameter], run: Mapping[str, Any] | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As a file holds it: what JSON can hold, and tensors.

        Args:
            parameters: of model and guide.
            run: what the present run gives, for a file from which it goes on.
        """
        plain = {
            "history": list(self.history),
            "step": self.step,
            "swapped": self.swapped,
            "frozen": self.freezing.names,
        }
        tensors = {
            "run": run,
            "moments": [self.moments.get(p) for p in parameters],
            "random": self.stream.states(),
        }
        return plain, tensors

    def load(
        self,
        plain: Mapping[str, Any],
        tensors: Mapping[str, Any],
        model: nn.Module,
        parameters: list[nn.Parameter],
        *,
        known: bool,
    ) -> None:
        """Take over what ``plain`` gave, if it can be of a run with this model.

        Args:
            plain: what JSON held.
            tensors: the rest.
            model: generative program.
            parameters: of model and guide.
            known: whether the optimizer is one of torch, whose moments are known.

        Raises:
            ValueError: it cannot be.
            KeyError: something is not there.
        """
        names, frozen = {name for name, _ in model.named_parameters()}, plain.get("frozen")
        right = {
            "history": all(isinstance(row, dict) and "elbo" in row for row in plain["history"]),
            "step": is_whole(plain["step"]) and plain["step"] >= 0,
            "swapped": isinstance(plain["swapped"], bool),
            "frozen": set(frozen or ()) <= names,
        }
        for name, is_right in right.items():
            if not is_right:
                raise ValueError(f"its {name} cannot be that of a run")
        _check_random(tensors["random"])
        if known:
            check_moments(tensors["moments"], parameters)
        self.history, self.step = History(plain["history"]), plain["step"]
        self.swapped = plain["swapped"]
        if frozen is not None:
            self.freezing.freeze(model, frozen)
        self.stream.load(tensors["random"])
        self.moments = Moments.of(zip(parameters, tensors["moments"], strict=True))
        self.run = None if (run := tensors.get("run")) is None else Run.of(run)


def _check_random(states: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for what is no state of a random number generator."""
    try:
        for device, state in states.items():
            if device == "cpu":
                torch.Generator().set_state(state.cpu())
            elif state.dtype != torch.uint8 or state.dim() != 1:
                raise TypeError(f"{state.dtype} of shape {tuple(state.shape)}")
    except (AttributeError, RuntimeError, TypeError) as error:
        raise ValueError(f"its random state cannot be restored ({error})") from error
