"""Telling a tracker of experiments the history."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .. import ranks
from ..ground.optional import needed
from ..ground.recorded import Recorded
from ..ground.tables import flat
from ..programs.unwrapping import name_of
from .base import Callback, Training

if TYPE_CHECKING:
    from types import ModuleType

# How a run ended; "killed" by a signal, or pruned
Status = Literal["finished", "failed", "killed"]
_EXTRA = "trackers"
# What MLflow takes in the name of a metric
_UNNAMED = re.compile(r"[^\w\-. :/]")
_LONGEST = 500


class TensorBoard(Callback):
    """Write every number of the history to TensorBoard.

    Any other tracker plugs in the same way: an object with ``on_epoch_end(trainer, row)``.

    Args:
        log_dir: folder for the event files.

    Raises:
        ModuleNotFoundError: tensorboard is not installed; the message names the command.
    """

    def __init__(self, log_dir: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "TensorBoard needs the package tensorboard: pip install tensorboard"
            ) from error
        self.writer = SummaryWriter(str(log_dir))

    def state_dict(self) -> dict[str, Any]:
        """Nothing: what was written stays."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to do."""

    def on_epoch_end(self, trainer: Training, row: dict[str, Any], **kwargs: Any) -> None:
        """Write one row."""
        for tag, value in scalars(row, "/").items():
            self.writer.add_scalar(tag, value, row["epoch"])

    def on_fit_end(self, trainer: Training, **kwargs: Any) -> None:
        """Flush to disk."""
        self.writer.flush()


class Tracker(Callback):
    """A run of a tracker of experiments; base class.

    A subclass has ``_open(settings)``, which begins the run, or goes on with that of ``self.run``
    where there is one, and returns its name, ``_log(numbers, epoch)`` and ``_close(status)``. The
    run is opened by the first checkpoint or the first epoch, so that a resumed run is known by
    then. Of several processes the first one alone tells the tracker.
    """

    run: str | None = None
    _is_open = False

    def state_dict(self) -> dict[str, Any]:
        """The run, with which a resumed one goes on."""
        if self.run is None:
            self._opened()
        return {"run": self.run}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the run that was interrupted."""
        self.run = state["run"]

    def on_fit_begin(self, trainer: Training, **kwargs: Any) -> None:
        """Note the settings, and the time."""
        self._begun, self._before = time.time(), sys.exception()
        self._settings = settings(trainer)

    def on_epoch_end(self, trainer: Training, row: dict[str, Any], **kwargs: Any) -> None:
        """Tell one row."""
        if not ranks.rank():
            self._opened()
            self._log(scalars(row, "."), row["epoch"])

    def on_fit_end(self, trainer: Training, **kwargs: Any) -> None:
        """End the run: as failed where an exception ended it."""
        if not ranks.rank():
            self._opened()
            self._close(self._status(trainer))
            self._is_open = False

    def _opened(self) -> None:
        if not self._is_open and not ranks.rank():
            self.run, self._is_open = self._open(self._settings), True

    def _status(self, trainer: Training) -> Status:
        error = sys.exception()
        if error is not self._before:
            return "killed" if type(error).__name__ == "TrialPruned" else "failed"
        interrupted = trainer.history and trainer.history[-1].get("interrupted")
        return "killed" if interrupted else "finished"

    def _open(self, settings: dict[str, Any]) -> str:
        raise NotImplementedError

    def _log(self, numbers: dict[str, float], epoch: int) -> None:
        raise NotImplementedError

    def _close(self, status: Status) -> None:
        raise NotImplementedError


class MLflow(Tracker):
    """Write the history and the settings of a run to MLflow.

    Metrics have the names of the history, "validation.elbo", and its epochs as steps; parameters
    are the arguments of trainer, model and guide. A run that an exception ends is "FAILED", one
    that a signal ends or Optuna prunes is "KILLED". One object is one run of MLflow, in all calls
    of ``fit``; ``Trainer.resume`` goes on with that of the checkpoint. MLflow's own active run is
    left alone.

    Args:
        experiment: its name; made where it is missing.
        uri: of the tracking store, such as "sqlite:///mlflow.db"; default MLflow's own.
        name: what the run is called; default a name that MLflow makes up.
        run: id of a run to go on with; default a new one.

    Attributes:
        run: id of the run, None before it has begun.

    Raises:
        ModuleNotFoundError: mlflow is not installed; the message names the command.
    """

    def __init__(
        self,
        experiment: str = "pyro_vae",
        *,
        uri: str | None = None,
        name: str | None = None,
        run: str | None = None,
    ) -> None:
        self._client = needed("mlflow", _EXTRA, "MLflow").MlflowClient(uri)
        self.experiment, self.name, self.run = experiment, name, run

    def _open(self, settings: dict[str, Any]) -> str:
        client = self._client
        if self.run is not None:
            client.update_run(self.run, status="RUNNING")
            return self.run
        found = client.get_experiment_by_name(self.experiment)
        made = client.create_experiment(self.experiment) if found is None else found.experiment_id
        begun = int(1000 * self._begun)
        run = client.create_run(made, start_time=begun, run_name=self.name).info.run_id
        entities = needed("mlflow.entities", _EXTRA, "MLflow")
        told = [entities.Param(key, str(value)[:_LONGEST]) for key, value in settings.items()]
        client.log_batch(run, params=told)
        return run

    def _log(self, numbers: dict[str, float], epoch: int) -> None:
        entities = needed("mlflow.entities", _EXTRA, "MLflow")
        now = int(1000 * time.time())
        metrics = [
            entities.Metric(_UNNAMED.sub("_", key), value, now, epoch)
            for key, value in numbers.items()
        ]
        self._client.log_batch(self.run, metrics=metrics)

    def _close(self, status: Status) -> None:
        self._client.set_terminated(self.run, status=status.upper())


class WeightsAndBiases(Tracker):
    """Write the history and the settings of a run to Weights & Biases.

    Metrics have the names of the history, "validation.elbo"; the configuration has the arguments
    of trainer, model and guide. A run that an exception ends has exit code 1. One object is one
    run, in all calls of ``fit``; ``Trainer.resume`` goes on with that of the checkpoint.

    Args:
        project: its name.
        run: id of a run to go on with; default a new one.
        options: passed to ``wandb.init``, such as ``mode="offline"``, ``dir=``, ``name=`` or
            ``entity=``.

    Attributes:
        run: id of the run, None before it has begun.

    Raises:
        ModuleNotFoundError: wandb is not installed; the message names the command.
    """

    def __init__(
        self, project: str = "pyro_vae", *, run: str | None = None, **options: Any
    ) -> None:
        self._wandb: ModuleType = needed("wandb", _EXTRA, "WeightsAndBiases")
        self.project, self.run, self.options = project, run, options

    def _open(self, settings: dict[str, Any]) -> str:
        going_on = {} if self.run is None else {"id": self.run, "resume": "allow"}
        options = {"config": settings, "reinit": "create_new", **going_on, **self.options}
        self._open_run = self._wandb.init(project=self.project, **options)
        return self._open_run.id

    def _log(self, numbers: dict[str, float], epoch: int) -> None:
        self._open_run.log(numbers, step=epoch)

    def _close(self, status: Status) -> None:
        self._open_run.finish(exit_code=int(status == "failed"))


def scalars(row: Mapping[str, Any], joint: str) -> dict[str, float]:
    """The numbers of a history row by their names, those of mappings behind the mapping's.

    Example:
        >>> scalars({"elbo": -2.0, "kl": {"z1": 1.0}, "guide": "BottomUp", "frozen": False}, ".")
        {'elbo': -2.0, 'kl.z1': 1.0}
    """
    # Lists have a number for each of hundreds of units
    told = flat(row, joint=joint, lists=False).items()
    return {k: v for k, v in told if isinstance(v, int | float) and not isinstance(v, bool)}


def settings(trainer: Training) -> dict[str, Any]:
    """The arguments of a trainer and of all that it was built from, by dotted names."""
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def add(name: str, value: Any) -> None:
        if isinstance(value, Recorded):
            found[name] = name_of(value)
            if id(value) not in seen:
                seen.add(id(value))
                for key, inner in value.arguments.items():
                    add(f"{name}.{key}", inner)
        elif value is None or isinstance(value, bool | int | float | str):
            found[name] = value
        elif callable(value):
            found[name] = name_of(value)
        else:
            found[name] = str(value)

    for name, value in getattr(trainer, "arguments", {}).items():
        add(name, value)
    return found
