"""The runs of a panel: a model trains with one of its guides at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch

from ..callbacks import check_callbacks
from ..data import DataSplits
from ..ground.arguments import at_least, known, positive, whole
from ..ground.streams import RandomStream
from ..ground.turns import turn
from ..programs.methods import as_program
from ..programs.program import Guide, Model
from ..training.trainer import Trainer
from .watching import Listener, Watch

Factory = Callable[[Model], Guide]


class Runs:
    """One training run per model, and what is chosen for it; arguments are those of ``Panel``."""

    def __init__(
        self,
        models: Mapping[str, Model],
        guides: Mapping[str, Factory],
        data: DataSplits | Mapping[str, Any] | Any,
        *,
        beta: float = 1.0,
        lr: float = 1e-3,
        batch_size: int | None = 128,
        images: int = 10,
        seed: int = 0,
    ) -> None:
        for argument, given in (("models", models), ("guides", guides)):
            if not isinstance(given, Mapping):
                raise TypeError(
                    f"{argument}: expected a mapping from a name, got {type(given).__name__}: "
                    'pass {"bottom-up": guides.BottomUp} and the like'
                )
            if not given:
                raise ValueError(f"{argument}: expected at least one, got an empty mapping")
        self.models, self.factories = dict(models), dict(guides)
        self.data = dict(data) if isinstance(data, Mapping) else dict.fromkeys(models, data)
        if missing := [name for name in self.models if name not in self.data]:
            raise ValueError(
                f"data: expected some for each model, got none for {missing}: pass "
                "{name of the model: its data}"
            )
        self.lr, self.images, self.seed = positive("lr", lr), whole("images", images), seed
        self.batch_size = None if batch_size is None else whole("batch_size", batch_size)
        self._guides: dict[str, dict[str, Guide]] = {name: {} for name in self.models}
        self._trainers: dict[str, Trainer] = {}
        # Of each model, the guide of each row of its history
        self._trained: dict[str, list[str | None]] = {name: [] for name in self.models}
        self._beta, self._freeze = beta, False
        self._model, self._guide = next(iter(self.models)), next(iter(self.factories))
        self._watch: Watch | None = None
        self._thread: threading.Thread | None = None
        self._listener: Listener | None = None
        # What was measured last, and its bound
        self._found: tuple[Any, float] | None = None
        self._settle()

    @property
    def model(self) -> Model:
        """The chosen model."""
        return self.models[self._model]

    @property
    def guide(self) -> Guide:
        """The chosen guide of the chosen model."""
        return self.guides[self._guide]

    @property
    def guides(self) -> dict[str, Guide]:
        """The guides that were built for the chosen model so far, by name."""
        return self._guides[self._model]

    @property
    def trainer(self) -> Trainer:
        """The training run of the chosen model."""
        return self._trainers[self._model]

    @property
    def chosen(self) -> dict[str, Any]:
        """What is chosen, as ``choose`` takes it."""
        return {
            "model": self._model,
            "guide": self._guide,
            "beta": self._beta,
            "freeze_model": self._freeze,
            "lr": self.lr,
        }

    def choose(
        self,
        *,
        model: str | None = None,
        guide: str | None = None,
        beta: float | None = None,
        freeze_model: bool | None = None,
        lr: float | None = None,
    ) -> Self:
        """Choose what the next epochs train, and how; what is not given stays.

        Args:
            model: a name in ``models``.
            guide: a name in ``guides``.
            beta: weight of the KL, a number >= 0.
            freeze_model: train the guide alone.
            lr: learning rate of all runs, a positive number; it may be chosen while the panel
                trains, for the next step.

        Returns:
            This panel.

        Raises:
            ValueError: an unknown name, a beta that is no number >= 0, a learning rate that is
                not positive, or a guide that does not fit the model; the choice is then as before.
            RuntimeError: something else than ``lr`` while the panel trains.
        """
        rate = self.lr if lr is None else positive("lr", lr)
        others = {"model": model, "guide": guide, "beta": beta, "freeze_model": freeze_model}
        if self._watch is not None and any(value is not None for value in others.values()):
            raise RuntimeError(
                "choose: expected a panel at rest, this one is training: call panel.stop(), or "
                "choose lr alone"
            )
        before = self._model, self._guide, self._beta, self._freeze
        try:
            if model is not None:
                self._model = known("model", model, self.models)
            if guide is not None:
                self._guide = known("guide", guide, self.factories)
            if beta is not None:
                self._beta = beta
            if freeze_model is not None:
                self._freeze = bool(freeze_model)
            if self._watch is None:
                self._settle()
        # A factory may raise anything
        except Exception:
            self._model, self._guide, self._beta, self._freeze = before
            raise
        self.lr = rate
        if lr is not None:
            for trainer in self._trainers.values():
                trainer.lr = rate
        if self._listener is not None:
            self._listener.follow()
        return self

    def _settle(self) -> None:
        """Bring the trainer of the chosen model to what is chosen."""
        at_least("beta", self._beta)
        guide = self.guides.get(self._guide)
        if guide is None:
            with RandomStream(self.seed).on(torch.device("cpu")):
                guide = self.factories[self._guide](self.model)
        if self._model not in self._trainers:
            trainer = Trainer(self.model, guide, lr=self.lr, seed=self.seed)
            self._trainers[self._model] = trainer
        self._attribute()
        if (self.trainer.guide, self.trainer.frozen) != (as_program(guide), self._freeze):
            self.trainer.swap_guide(guide, freeze_model=self._freeze)
        self.guides[self._guide], self.trainer.beta = guide, self._beta

    def _attribute(self) -> list[str | None]:
        """Which guide each epoch trained; those since the last look had the trainer's present."""
        programs = {name: as_program(guide) for name, guide in self.guides.items()}
        present = (name for name, guide in programs.items() if guide == self.trainer.guide)
        trained = self._trained[self._model]
        trained += [next(present, None)] * (len(self.trainer.history) - len(trained))
        return trained

    def train(self, epochs: int = 1, **options: Any) -> Self:
        """Train for some more epochs, with the test data for validation.

        Args:
            epochs: passes over the training data.
            **options: passed to ``Trainer.fit``, such as ``callbacks`` or ``progress=True``.

        Returns:
            This panel, also after ``stop``.

        Raises:
            RuntimeError: the panel is training already.
        """
        if self._watch is not None:
            raise RuntimeError(
                "train: expected a panel at rest, this one is training: call panel.stop()"
            )
        d, callbacks = self.data[self._model], options.pop("callbacks", ())
        check_callbacks(callbacks)
        train, validation = (d.train, d.test) if self._has_test else (d, None)
        own = {"batch_size": self.batch_size, "progress": False, "validation": validation}
        watch = self._watch = Watch(self._listener)
        try:
            callbacks = [*callbacks, watch]
            self.trainer.fit(train, epochs=epochs, callbacks=callbacks, **own | options)
        except KeyboardInterrupt:
            if not watch.stopping:
                raise
        finally:
            self._watch = None
            if self._listener is not None:
                self._listener.follow()
        return self

    def stop(self) -> Self:
        """End training after the step that is running; the trainer can go on from there.

        Returns:
            This panel, at rest where a button began the run.
        """
        self._ask_to_stop()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            with turn:
                while thread.is_alive():
                    # It may not have begun by then
                    self._ask_to_stop()
                    turn.give_way()
                    thread.join(0.01)
        return self

    def _ask_to_stop(self) -> None:
        if (watch := self._watch) is not None:
            watch.stopping = True

    @property
    def _has_test(self) -> bool:
        return isinstance(self.data[self._model], DataSplits)
