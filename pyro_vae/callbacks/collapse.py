"""Latent variables that collapse while a run goes on."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm

from ..ground.arguments import positive, whole
from .base import Callback, Training

THRESHOLD = 0.05
_ADVICE = (
    "See print(diagnostics.collapse(model, guide, data)); try warm-up of beta, "
    "models.VAE(skip=True), handlers.free_bits, a ladder guide or beta < 1"
)
# By then a pair that uses its latents has begun to do so
_EPOCHS = 4


def collapsed(row: Mapping[str, Any], threshold: float = THRESHOLD) -> dict[str, float]:
    """Latent sites of a history row whose KL is at most ``threshold``, and their KL in nats.

    No KL is far below 0: such a term is that of a guide in another order than the model's.

    Example:
        >>> collapsed({"kl": {"z1": 9.0, "z2": 0.01, "z3": -0.7}})
        {'z2': 0.01}
    """
    measured = row.get("validation", row)
    # What all data share has little for each
    kl = {**measured.get("kl", {}), **measured.get("kl_global", {})}
    return {site: value for site, value in sorted(kl.items()) if abs(value) <= threshold}


def complaint(row: Mapping[str, Any], kl: Mapping[str, float], advice: str = _ADVICE) -> str:
    """What to say of collapsed sites after the epoch of a row."""
    values = ", ".join(f"{site} {value:.2g}" for site, value in kl.items())
    return f"latent variables collapse: KL in nats after epoch {row['epoch']}: {values}. {advice}"


def ended_without(
    history: Sequence[Mapping[str, Any]], points: Collection[str]
) -> dict[str, float]:
    """Latent sites that a run ended without, and their KL in nats; none before its fourth epoch.

    At ``points``, latent sites, the guide is a point mass, and has no KL.
    """
    if len(history) < _EPOCHS or {"interrupted", "failed"} & history[-1].keys():
        return {}
    row = history[-1]
    # Nothing pulls the KL of a site down whose beta is 0
    beta = row["beta"]
    beta = beta if isinstance(beta, Mapping) else dict.fromkeys(row["kl"], beta)
    found = collapsed(row)
    return {s: kl for s, kl in found.items() if s not in points and beta.get(s, 1.0) > 0}


def tell_collapsed(trainer: Training, points: Collection[str]) -> None:
    """Say, once per trainer and site, which latents a run ended without."""
    found = ended_without(trainer.history, points)
    new = {site: kl for site, kl in found.items() if site not in trainer.told_collapsed}
    if new:
        trainer.told_collapsed.update(new)
        tqdm.write(complaint(trainer.history[-1], new))


class CollapseWarning(Callback):
    """Warn, once per latent site and run, when a site's KL falls to almost nothing.

    Costs nothing: it reads the KL terms of the history row, those of the validation data where
    there are any. Not every collapse shows in the KL: ``diagnostics.collapse`` looks closer.
    Without it ``Trainer.fit`` looks at the end of a run, from the fourth epoch on.

    Args:
        every: epochs between two looks.
        threshold: mean KL of a site in nats per datum at or below which it has collapsed.

    Raises:
        ValueError: ``every`` below 1, a threshold that is not positive.
    """

    def __init__(self, every: int = 1, *, threshold: float = THRESHOLD) -> None:
        self.every, self.threshold = whole("every", every), positive("threshold", threshold)
        self._warned: set[str] = set()

    def on_fit_begin(self, trainer: Training, **kwargs: Any) -> None:
        """Forget the sites of earlier runs."""
        self._warned = set()

    def state_dict(self) -> dict[str, Any]:
        """Sites that were named in this run."""
        return {"warned": sorted(self._warned)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Name no site again."""
        self._warned = set(state["warned"])

    def on_epoch_end(self, trainer: Training, row: dict[str, Any], **kwargs: Any) -> None:
        """Look at the KL of each site in every ``every``-th epoch."""
        if row["epoch"] % self.every:
            return
        found = collapsed(row, self.threshold)
        new = {site: value for site, value in found.items() if site not in self._warned}
        if new:
            self._warned.update(new)
            warnings.warn(complaint(row, new), stacklevel=2)
