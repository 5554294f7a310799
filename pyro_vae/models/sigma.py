"""Predicting sigma is a change of the model, whose decoder then gives it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from ..likelihoods import PredictedSigma
from ..likelihoods.located import Located
from ..likelihoods.positive import FLOOR
from ..networks import MeanAndLogSigma, silence
from ..programs.freezing import Hold, is_free
from .base import DecoderModel


@dataclass(frozen=True, eq=False)
class Phase:
    """Which parameters train after a switch to a predicted sigma.

    Those ``resting``, of the model and of others, were frozen by the switch.
    """

    model: nn.Module
    resting: tuple[nn.Parameter, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hold", Hold(self.resting))

    @property
    def trained(self) -> list[str]:
        """Names of the model's parameters that train."""
        return [name for name, p in self.model.named_parameters() if p.requires_grad]

    @property
    def frozen(self) -> list[str]:
        """Names of the model's parameters that rest."""
        return [name for name, p in self.model.named_parameters() if not p.requires_grad]

    def unfreeze(self) -> None:
        """Let all parameters train again that the switch froze, where nobody else holds them."""
        self._hold.release()

    def _line(self, verb: str, names: list[str]) -> str:
        parts = dict.fromkeys(".".join(name.split(".")[:2]) for name in names)
        total = sum(self.model.get_parameter(name).numel() for name in names)
        return f"{verb} {len(names)} tensors, {total:,} numbers: {', '.join(parts) or 'none'}"

    def __repr__(self) -> str:
        """Numbers and parts, of the model."""
        return f"{self._line('trains', self.trained)}\n{self._line('rests', self.frozen)}"


def check_replaceable(model: DecoderModel) -> None:
    """Raise ``ValueError`` for a likelihood or a decoder that cannot go on to sigma(z)."""
    likelihood, decoder = model.likelihood, model.decoder
    if not isinstance(likelihood, Located):
        raise ValueError(
            f"likelihood: expected Gaussian, got {type(likelihood).__name__}: build the model "
            'with likelihoods.Gaussian(sigma="learned")'
        )
    noise = likelihood.noise
    if noise.feature_shape(model.event_shape) != model.event_shape:
        raise ValueError(
            f"sigma: expected one that is not predicted yet, got {type(noise).__name__}"
        )
    if hasattr(decoder, "distribution"):
        raise ValueError(
            f"decoder: expected a network that sees latents only, got {type(decoder).__name__}: "
            'build it with outputs=2, for likelihoods.Gaussian(sigma="predicted")'
        )


def predict_sigma(model: DecoderModel, head: nn.Module, freeze: Iterable[nn.Module]) -> Phase:
    """Let the decoder predict sigma from where it stands: what ``VAE.predict_sigma`` does.

    The likelihood gets a ``PredictedSigma``, the decoder ``head`` as a second network, whose last
    layer is set to zero; present parameters of ``freeze`` are to rest. Where ``check_replaceable``
    raises ``ValueError``, nothing has changed.
    """
    check_replaceable(model)
    likelihood, decoder = model.likelihood, model.decoder
    before = likelihood.noise
    gone = set(before.parameters())
    given = dict.fromkeys(p for part in freeze for p in part.parameters() if is_free(p))
    resting = tuple(p for p in given if p not in gone)
    after = PredictedSigma(floor=before.floor or min(FLOOR, float(before.value.min()) / 10))
    after.feature_shape(model.event_shape)
    after.to(before.value).begin_at(before.value)
    likelihood.noise = likelihood.arguments["sigma"] = after.train(before.training)
    silence(head.output_layer)
    head.to(next(decoder.parameters(), model.one_hot)).train(decoder.training)
    model.decoder = model.arguments["decoder"] = MeanAndLogSigma(decoder, head)
    return Phase(model, resting)
