"""Ending runs that a search over hyperparameters gives up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import ranks
from ..ground.optional import needed
from .base import Callback, Training, default_monitor, monitored


class Optuna(Callback):
    """Tell a trial of Optuna the bound of each epoch, and end the run where it is pruned.

    A run that is pruned ends with ``optuna.TrialPruned``, which is how a study knows::

        def objective(trial):
            lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
            vae = models.VAE((8, 8), latents=4, likelihood=likelihoods.Bernoulli())
            trainer = Trainer(vae, guides.BottomUp(vae), lr=lr, seed=0)
            pruning = callbacks.Optuna(trial)
            trainer.fit(digits.train, epochs=20, validation=digits.test, callbacks=[pruning])
            return trainer.history[-1]["validation"]["elbo"]

        study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner())
        study.optimize(objective, n_trials=20)

    Callbacks that stand before it in ``fit`` are told the epoch that is pruned. Of several
    processes the first one, whose trial it is, decides for all.

    Args:
        trial: that of the objective.
        monitor: dotted key of the history row, bigger is better. Default: the objective on the
            validation data where beta is constant, else the bound.

    Raises:
        ModuleNotFoundError: optuna is not installed; the message names the command.
        ValueError: a study that minimises.
    """

    def __init__(self, trial: Any, monitor: str | None = None) -> None:
        self._pruned = needed("optuna", "trackers", "Optuna").TrialPruned
        self.trial, self.monitor = trial, monitor
        study = getattr(trial, "study", None)
        if study is not None and study.direction.name == "MINIMIZE":
            raise ValueError(
                "trial: expected one of a study that maximises, as bigger bounds are better, got "
                'one that minimises: create_study(direction="maximize")'
            )

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the study knows what it was told."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to do."""

    def on_epoch_end(self, trainer: Training, row: dict[str, Any], **kwargs: Any) -> None:
        """Report the bound; ``optuna.TrialPruned`` where the trial is given up."""
        pruned = None
        if not ranks.rank():
            self.trial.report(
                monitored(row, self.monitor or default_monitor(trainer)), row["epoch"]
            )
            pruned = self.trial.should_prune()
        if ranks.agreed(pruned):
            raise self._pruned(f"pruned after epoch {row['epoch']}")
