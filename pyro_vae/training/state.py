"""All that training changes besides tensors: what a file holds of a trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pyro.distributions.constraints import Constraint
from torch import Tensor, nn

from .. import ranks
from ..ground import streams
from ..ground.arguments import is_whole
from ..ground.streams import RandomStream
from ..programs import stored
from ..programs.freezing import Freezing
from .history import History
from .moments import Moments, check_moments
from .totals import Totals

# As files name them
_OF_RUN = ("epochs", "done", "every", "keep", "finished", "stopping")
_OF_LOOP = ("buffers", "optimizer", "states")


@dataclass
class Position:
    """Where a run is in an epoch that has begun, which has had so many ``batches``.

    ``random`` are torch's random streams at its start, which the order of its data comes from;
    ``totals`` is what its steps found, and ``skipped`` how many of them were left out.
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

    A run that goes on has to share the ``facts`` with the interrupted one. There are ``every``
    steps between two checkpoints, 0 without checkpoints, of which the last ``keep`` stay. ``done``
    epochs of so many ``steps`` are finished; ``stopping`` tells whether the run ends after this
    one, and ``position`` where it is in it. Of a run from a file, ``folder`` is where its
    checkpoints are, ``each`` has the position of each process and its random streams, and
    ``found`` what its loop takes up: states of callbacks, of the optimizer, and of buffers that no
    state dict holds.
    """

    epochs: int
    facts: dict[str, Any]
    every: int = 0
    keep: int = 0
    done: int = 0
    finished: bool = False
    stopping: bool = False
    position: Position | None = None
    steps: int = 0
    each: list[tuple[Position | None, dict[str, Tensor]]] = field(default_factory=list)
    folder: Path | None = None
    found: dict[str, Any] = field(default_factory=dict)

    def asked(self) -> dict[str, Any]:
        """Arguments of ``fit`` that the run was given, for the call that goes on with it."""
        own = {"epochs": self.epochs, "every": self.every, "keep": self.keep}
        of_facts = {name: self.facts[name] for name in ("batch_size", "patience", "accumulate")}
        return {**own, **of_facts, "checkpoint": self.folder}

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
        """What ``plain`` gave, for process 0; ``KeyError`` or ``ValueError`` for anything else."""
        rest = dict(plain)
        run = {name: rest.pop(name) for name in _OF_RUN}
        whole = [is_whole(value) and value >= 0 for value in run.values()][:4]
        if not all(whole) or not {type(run[name]) for name in _OF_RUN[4:]} == {bool}:
            raise ValueError("its run cannot be one of a trainer")
        found = {name: rest.pop(name) for name in _OF_LOOP}
        own = {name: rest.pop(name) for name in ("position", "random")}
        each = [
            (None if (at := process["position"]) is None else Position.of(at), process["random"])
            for process in (own, *rest.pop("others", ()))
        ]
        facts = {"patience": None, "accumulate": 1, **rest}
        return cls(**run, facts=facts, position=each[0][0], each=each, found=found)


@dataclass
class TrainState:
    """What training changes: the random stream, and all else that a run leaves behind.

    ``history``, ``step`` and ``swapped`` are those of the ``Trainer``, which explains them.
    ``moments`` are what the optimizer keeps of each parameter, and ``freezing`` tells which
    parameters of the model rest while the guide is trained alone. The collapse of the latent sites
    ``told_collapsed`` was told. ``stored`` are the ``pyro.param`` sites that were trained and are
    in Pyro's store alone, with the constraints that they were declared with. ``written`` maps a
    folder to the name of the checkpoint that was written there last. ``run`` is the present run,
    the last one, or one that a file tells of.
    """

    stream: RandomStream
    history: History = field(default_factory=History)
    step: int = 0
    swapped: bool = False
    moments: Moments = field(default_factory=Moments)
    freezing: Freezing = field(default_factory=Freezing)
    told_collapsed: set[str] = field(default_factory=set)
    stored: dict[str, Constraint] = field(default_factory=dict)
    written: dict[Path, str] = field(default_factory=dict)
    run: Run | None = None

    def plain(self, parameters: list[nn.Parameter]) -> dict[str, Any]:
        """As a file holds it, besides its run: tensors, and under "plain" what JSON can hold."""
        return {
            "run": None,
            "moments": [self.moments.get(p) for p in parameters],
            "random": self.stream.states(),
            "store": stored.written(self.stored),
            "plain": {
                "history": list(self.history),
                "step": self.step,
                "swapped": self.swapped,
                "frozen": self.freezing.names,
            },
        }

    def load(
        self,
        state: Mapping[str, Any],
        model: Callable,
        parameters: list[nn.Parameter],
        known: bool,
    ) -> None:
        """Take over what ``plain`` gave, if it can be of a run with this model.

        ``parameters`` are those of the modules; others are put into Pyro's store. Otherwise it
        raises ``ValueError``, or ``KeyError`` where something is not there. Moments are checked if
        the optimizer is ``known``, one of torch.
        """
        # There is none in a file of 0.1
        sites = stored.read(state.get("store", {}))
        others = [value for _, (value, _) in sorted(sites.items()) if value is not None]
        parameters = [*parameters, *others]
        plain, moments = state["plain"], state["moments"]
        frozen, names = plain.get("frozen"), set()
        if isinstance(model, nn.Module):
            names = {name for name, _ in model.named_parameters()}
        right = {
            "history": all(isinstance(row, dict) and "elbo" in row for row in plain["history"]),
            "step": is_whole(plain["step"]) and plain["step"] >= 0,
            "swapped": isinstance(plain["swapped"], bool),
            "frozen": set(frozen or ()) <= names,
        }
        for name, is_right in right.items():
            if not is_right:
                raise ValueError(f"its {name} cannot be that of a run")
        _check_random(state["random"])
        if known:
            check_moments(moments, parameters)
        self.history, self.step = History(plain["history"]), plain["step"]
        self.swapped = plain["swapped"]
        if frozen is not None:
            self.freezing.freeze(model, frozen)
        self.stream.load(state["random"])
        self.moments.update(Moments.of(zip(parameters, moments, strict=True)))
        self.run = None if (run := state.get("run")) is None else Run.of(run)
        self.stored |= {site: constraint for site, (_, constraint) in sites.items()}
        stored.put(sites)


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
