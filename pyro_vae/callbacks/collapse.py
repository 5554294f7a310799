"""Latent variables that collapse while a run goes on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .base import Callback

if TYPE_CHECKING:
    from ..trainer import Trainer


class CollapseWarning(Callback):
    """Warn, once per latent site and run, when a site's KL falls to almost nothing.

    Costs nothing: it reads the KL terms of the history row, those of the validation data where
    there are any. Not every collapse shows in the KL: ``diagnostics.collapse`` looks closer.

    Args:
        every: epochs between two looks.
        threshold: mean KL of a site in nats per datum at or below which it has collapsed.

    Raises:
        ValueError: ``every`` below 1, a threshold that is not positive.
    """

    def __init__(self, every: int = 1, *, threshold: float = 0.05) -> None:
        if every < 1 or not threshold > 0:
            raise ValueError(
                f"every and threshold: expected at least 1 epoch and a positive number of nats, "
                f"got {every} and {threshold}"
            )
        self.every, self.threshold = every, threshold
        self._warned: set[str] = set()

    def on_fit_begin(self, trainer: Trainer, **kwargs: Any) -> None:
        """Forget the sites of earlier runs."""
        self._warned = set()

    def state_dict(self) -> dict[str, Any]:
        """Sites that were named in this run."""
        return {"warned": sorted(self._warned)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Name no site again."""
        self._warned = set(state["warned"])

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any], **kwargs: Any) -> None:
        """Look at the KL of each site in every ``every``-th epoch."""
        if row["epoch"] % self.every:
            return
        kl = row.get("validation", row)["kl"]
        low = [s for s, v in sorted(kl.items()) if v <= self.threshold and s not in self._warned]
        if low:
            self._warned.update(low)
            values = ", ".join(f"{s} {kl[s]:.2g}" for s in low)
            warnings.warn(
                f"latent variables collapse: KL in nats after epoch {row['epoch']}: {values}. See "
                "print(diagnostics.collapse(model, guide, data)); try warm-up of beta, "
                "models.VAE(skip=True), handlers.free_bits, a ladder guide or beta < 1",
                stacklevel=2,
            )
