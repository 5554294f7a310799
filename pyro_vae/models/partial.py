"""Classes that are latent where they are not given, alone or among covariates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from .. import networks
from ..data.arguments import LabelData
from ..data.conditions import mapping_of
from ..programs.labels import MISSING, as_whole
from .base import check_condition
from .classes import check_labels, draw_classes, given_classes
from .covariates import Covariates
from .given import Given


class PartlyGiven(Covariates):
    """Covariates whose only classes may be missing: -1, NaN, or not there at all."""

    _least = MISSING

    @property
    def latent(self) -> str:
        """What these classes are called in y."""
        return next(iter(self.classes))

    def columns(self, y: Any, n: int | None = None) -> Given:
        """As of ``Covariates``, with -1 where classes are missing."""
        if type(y) is not Given:
            found = mapping_of(y, frames=1)
            if found is not None or (y is None and self.names == (self.latent,)):
                y = {self.latent: MISSING, **(found or {})}
        return super().columns(y, n)

    def features(self, y: Given) -> Tensor:
        """What decoders see of them, (..., n, size), zeros for classes that are missing."""
        k = y[self.latent]
        classes = embedding(k.clamp(min=0), self.one_hot) * (k >= 0).unsqueeze(-1)
        numbers = [self._standardized(y)] if self.numbers else []
        return torch.cat(networks.aligned(classes, *numbers), -1)

    def seen(self, y: Given) -> Tensor:
        """What guides see of them, and last whether classes are missing."""
        missing = (y[self.latent] < 0).unsqueeze(-1).to(self.one_hot.dtype)
        exposure = [self._exposure(y)] if self.offset else []
        return torch.cat(networks.aligned(self.features(y), *exposure, missing), -1)

    def besides(self, y: Given) -> list[Tensor]:
        """What guides see besides classes: (n, width), or nothing at all."""
        parts = [self._standardized(y)] if self.numbers else []
        parts += [self._exposure(y)] if self.offset else []
        return [torch.cat(parts, -1)] if parts else []

    @property
    def width(self) -> int:
        """How many numbers guides see besides classes."""
        return len(self.loc)

    def check_training(self, y: Given) -> None:
        """Raise ``ValueError`` where some classes have labels and others none."""
        if (y[self.latent] >= 0).any():
            super().check_training(y)

    def _column(self, name: str, value: Any) -> Tensor:
        return super()._column(name, as_whole(value) if name == self.latent else value)


def checked_condition(
    condition: Any, likelihood: nn.Module, labels: str, decoder: nn.Module | None
) -> int | Covariates:
    """What a model is conditional on, as it reads labels of which some may be missing.

    Raises ``ValueError`` for what is none, or cannot be with such a likelihood or decoder.
    """
    if isinstance(condition, Covariates):
        condition.check_model(likelihood, decoder)
    else:
        condition = check_condition(condition)
    if labels == "all":
        # That of another model may lack classes
        again = isinstance(condition, PartlyGiven)
        return Covariates(**condition.arguments) if again else condition
    check_labels(labels, condition, likelihood)
    if isinstance(condition, int):
        return condition
    if len(condition.classes) != 1:
        raise ValueError(
            f"labels: expected covariates with classes of one kind for {labels!r}, got "
            f"{condition!r}: pass those that may be missing alone as classes={{'site': 4}}, and "
            "others as numbers={'sex': 2}, a column of 0 and 1 for each class"
        )
    return PartlyGiven(**condition.arguments)


def labels_in(
    condition: int | Covariates, y: LabelData, n: int, one_hot: Tensor
) -> tuple[Tensor, Tensor]:
    """Labels (n,), -1 where they are missing, and the classes, one-hot (K, K)."""
    if isinstance(condition, PartlyGiven):
        return condition.columns(y, n)[condition.latent], condition.one_hot
    return given_classes(y, n, one_hot), one_hot


def drawn_features(condition: int | Covariates, y: LabelData, n: int, one_hot: Tensor) -> Tensor:
    """What decoders see of labels, (..., n, size): given ones, and latents of site "y".

    To be called inside the plate of the data.
    """
    k = draw_classes(*labels_in(condition, y, n, one_hot))
    if isinstance(condition, PartlyGiven):
        return condition.features(condition.columns(y, n).told(condition.latent, k))
    return embedding(k, one_hot)
