"""What all models have that end in a decoder and a likelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import pyro
from torch import Tensor, nn

from .. import networks
from ..data import Column
from ..ground.kinds import guessed
from ..ground.recorded import takes
from ..likelihoods.base import check_values, feature_shape
from ..programs.missing import Hiding, filled
from ..programs.program import Model
from ..programs.structure import Observed
from .classes import known_classes


class DecoderModel(Model):
    """p(x|z) is ``likelihood(decoder(z))``, for data of one shape; base class."""

    decoder: nn.Module
    likelihood: nn.Module
    condition: int
    one_hot: Tensor
    kind: str

    @property
    def event_size(self) -> int:
        """Number of elements of one datum."""
        return math.prod(self.event_shape)

    @property
    def _shape(self) -> str:
        """The shape of a datum, and the kind where that alone does not tell it."""
        told = self.kind == guessed(self.event_shape).name and len(self.event_shape) != 2
        return f"{self.event_shape}{'' if told else f' {self.kind}'}"

    @property
    def _observed(self) -> dict[str, Observed]:
        """The only observed site, for ``structure``."""
        kind, shape = type(self.likelihood).__name__, self.event_shape
        return {"x": Observed(distribution=kind, event_shape=shape, argument="x", whole=True)}

    def _feature_shape(self) -> tuple[int, ...]:
        return feature_shape(self.likelihood, self.event_shape)

    def _settle(self, given: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Have files name what defaults stood for, but for arguments that a subclass gave."""
        for name, value in found.items():
            if takes(type(self), name) and (given[name] is None or name in self.arguments):
                self.arguments[name] = value

    def _check_decoder(self, *inputs: Sequence[int]) -> None:
        features = self._feature_shape()
        got = networks.output_shape(self.decoder, *inputs, argument="decoder")
        if got != features:
            raise ValueError(
                f"decoder: {type(self.likelihood).__name__} for data of shape {self.event_shape} "
                f"expects features (n, {', '.join(map(str, features))}), the decoder returned "
                f"(n, {', '.join(map(str, got))})"
            )

    def check_data(self, x: Tensor) -> None:
        """Raise ``ValueError`` if ``x`` has the wrong shape or values outside the likelihood's."""
        self.check_shape(x)
        check_values(self.likelihood, x)

    def check_shape(self, x: Tensor) -> None:
        """Raise ``ValueError`` unless ``x`` is (n, *event_shape), n >= 1, of the model's dtype."""
        if tuple(x.shape[1:]) != self.event_shape or x.shape[0] == 0:
            raise ValueError(
                f"site 'x': expected shape (n, {', '.join(map(str, self.event_shape))}) "
                f"with n >= 1, got {tuple(x.shape)}: reshape the data, or build the model for "
                "their event_shape"
            )
        # The buffer has the dtype of the parameters and is found faster than they are
        if x.dtype != self.one_hot.dtype:
            raise ValueError(
                f"site 'x': got {x.dtype} data for a model of {self.one_hot.dtype}: use "
                f"x.to({self.one_hot.dtype}), or convert model and guide, .to({x.dtype})"
            )

    def label_features(self, y: Tensor | None, n: int) -> tuple[Tensor, ...]:
        """The one-hot labels (n, condition) as a tuple to append to a network's inputs.

        Raises:
            ValueError: labels missing, of the wrong shape, or outside 0..condition-1.
        """
        return (known_classes(y, n, self.one_hot),) if self.condition else ()

    def _check_given(self, x: Tensor) -> None:
        """What a run of the program checks: values only where Pyro validates."""
        self.check_shape(x)
        if pyro.infer.util.is_validation_enabled():
            # An element that no row has may be of any kind
            if not (Hiding.active and x.isnan().all(0).any()):
                check_values(self.likelihood, filled(x) if Hiding.active else x)


def check_condition(condition: Any) -> int:
    """A number of classes, 0 for none; ``ValueError`` for anything else."""
    if not isinstance(condition, Integral) or isinstance(condition, bool) or condition < 0:
        raise ValueError(
            f"condition: expected the number of classes, got {condition!r}: pass an integer "
            "such as 10, 0 for a model without labels, or to a VAE models.Covariates(...) for more"
        )
    return int(condition)


def check_likelihood(likelihood: Any) -> None:
    """Raise ``TypeError`` unless it is a module."""
    if not isinstance(likelihood, nn.Module):
        raise TypeError(
            f"likelihood: expected an instance such as likelihoods.Bernoulli(), got {likelihood!r}"
        )


def checked_columns(
    columns: Sequence[Column], likelihood: nn.Module, event_shape: tuple[int, ...]
) -> tuple[Column, ...]:
    """The columns of a model's data, by default those of its likelihood; () for other data.

    Raises ``ValueError`` unless they are one for each number of a datum.
    """
    columns = tuple(columns) or getattr(likelihood, "table", ())
    if columns and event_shape != (len(columns),):
        raise ValueError(
            f"columns: expected one for each number of data of shape {event_shape}, got "
            f"{len(columns)}: pass d.columns of these data"
        )
    return tuple(Column(*column) for column in columns)
