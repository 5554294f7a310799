"""Sigma in phases of its own."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from tqdm.auto import tqdm

from ..ground.arguments import whole
from ..infer.predictive import mean_squared_error
from ..likelihoods import Gaussian, Mixed, PredictedSigma, Sigma
from ..likelihoods.located import Located
from ..models.sigma import Phase, check_replaceable
from ..programs.freezing import Hold, is_free
from ..programs.unwrapping import name_of
from .base import Callback, Training


class PredictSigma(Callback):
    """Switch to sigma(z) once one sigma has been learnt: ``vae.predict_sigma()``.

    The bound is unchanged at the switch; the parameters that train from then on are printed, and
    kept in ``phase``. Where elements hardly vary, such as the border of an image, sigma(z) becomes
    so small that the mean cannot follow at the learning rate of the first phase: train sigma(z)
    alone to the end, or assign a small ``trainer.lr`` before all train again.

    Source: "Balancing Reconstruction Quality and Regularisation in ELBO for VAEs", Lin, Roberts,
    Trigoni, Clark (2019), for the two phases.

    Args:
        after: epochs of the trainer before the switch.
        alone: epochs in which sigma(z) alone is trained, all else frozen, before all are.

    Raises:
        TypeError: when training begins, a model without ``predict_sigma``.
        ValueError: fewer than 1 epoch before the switch, or fewer than 0 alone; when training
            begins, a model that cannot go on to sigma(z).
    """

    def __init__(self, after: int, *, alone: int = 0) -> None:
        self.after, self.alone = whole("after", after), whole("alone", alone, 0)
        self.phase: Phase | None = None
        self._until = 0

    def on_fit_begin(self, trainer: Training, **kwargs: Any) -> None:
        """Know the parameters, and that the model can switch or has."""
        self._trainer = weakref.proxy(trainer)
        if not hasattr(trainer.model, "predict_sigma"):
            raise TypeError(
                "PredictSigma: expected a model with predict_sigma, got "
                f"{name_of(trainer.model)}: use models.VAE"
            )
        if not _predicts(trainer.model):
            check_replaceable(trainer.model)

    def state_dict(self) -> dict[str, Any]:
        """Which parameters rest, and until when."""
        resting = None if self.phase is None else _numbers(self._trainer, self.phase.resting)
        return {"resting": resting, "until": self._until}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Be in the phase of the interrupted run."""
        self._until, self.phase = state["until"], None
        if state["resting"] is not None:
            parameters = self._trainer.parameters()
            resting = tuple(parameters[i] for i in state["resting"])
            over = all(p.requires_grad for p in resting)
            self.phase = Phase(self._trainer.model, resting)
            if over or len(self._trainer.history) >= self._until:
                self.phase.unfreeze()

    def on_epoch_end(self, trainer: Training, row: dict[str, Any], **kwargs: Any) -> None:
        """Switch, or end the epochs of sigma alone."""
        epoch = row["epoch"]
        if epoch >= self.after and not _predicts(trainer.model):
            rest = trainer.modules() if self.alone else ()
            self.phase = trainer.model.predict_sigma(freeze=rest)
            self._until = epoch + self.alone
            tqdm.write(f"epoch {epoch}: sigma is predicted from here on\n{self.phase}")
        elif self.phase is not None and epoch == self._until:
            self.phase.unfreeze()
            tqdm.write(f"epoch {epoch}: all parameters train from here on\n{self.phase}")


class UpdateSigma(Callback):
    """Alternate: an epoch of model and guide, then sigma in closed form over the training set.

    sigma^2 = E[(x_k - g_k(z))^2], z ~ q(z|x), over data and elements, or per element for
    ``PerPixelSigma``. In between sigma rests: its own parameters are frozen during the run.

    Args:
        data: the training data, as for ``fit``.
        batch_size: data at once.
    """

    def __init__(self, data: Any, *, batch_size: int = 1000) -> None:
        self.data, self.batch_size = data, batch_size

    def on_fit_begin(self, trainer: Training, **kwargs: Any) -> None:
        """Freeze sigma."""
        parts = [part for module in trainer.modules() for part in module.modules()]
        self._sigmas = [part for part in parts if isinstance(part, Sigma)]
        gaussians = [part for part in parts if isinstance(part, Gaussian)]
        for part in parts:
            if isinstance(part, Located | Mixed) and not isinstance(part, Gaussian):
                raise ValueError(
                    "UpdateSigma: expected a Gaussian likelihood, whose sigma is a mean squared "
                    f"error, got {type(part).__name__}: leave the callback out, and sigma trains "
                    "with all other parameters"
                )
        self._scales = {g.noise: g.scale for g in gaussians if g.scale is not None}
        if not self._sigmas:
            raise ValueError(
                "UpdateSigma: expected a model with a Gaussian likelihood, got none: use "
                'likelihoods.Gaussian(sigma="learned")'
            )
        self._hold = Hold(p for s in self._sigmas for p in s.parameters() if is_free(p))
        self._trainer = weakref.proxy(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Which parameters rest during the run."""
        return {"frozen": _numbers(self._trainer, self._hold.parameters)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Know what to let train again."""
        parameters = self._trainer.parameters()
        before, self._hold = self._hold, Hold(parameters[i] for i in state["frozen"])
        before.release()

    def on_epoch_end(self, trainer: Training, row: dict[str, Any], **kwargs: Any) -> None:
        """Set sigma, and tell it in the history row."""
        square = mean_squared_error(
            trainer.model, trainer.guide, self.data, batch_size=self.batch_size
        )
        for sigma in self._sigmas:
            # Sigma is that of standardised data
            sigma.maximise(square / self._scales.get(sigma, square.new_ones(())).square())
            row.update(sigma.logged())

    def on_fit_end(self, trainer: Training, **kwargs: Any) -> None:
        """Let sigma train again."""
        self._hold.release()


def _predicts(model: Any) -> bool:
    return isinstance(getattr(model.likelihood, "noise", None), PredictedSigma)


def _numbers(trainer: Training, chosen: Iterable[nn.Parameter]) -> list[int]:
    """Where parameters are among those of a trainer."""
    every = trainer.parameters()
    return [next(i for i, p in enumerate(every) if p is parameter) for parameter in chosen]
