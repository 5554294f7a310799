"""Telling a tracker of experiments the history."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .base import Callback, Training


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
        for tag, value in _scalars(row):
            self.writer.add_scalar(tag, value, row["epoch"])

    def on_fit_end(self, trainer: Training, **kwargs: Any) -> None:
        """Flush to disk."""
        self.writer.flush()


def _scalars(row: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for key, value in row.items():
        if isinstance(value, dict):
            found += _scalars(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((prefix + key, value))
    return found
