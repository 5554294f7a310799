"""What every likelihood is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..ground.recorded import Recorded
from ..programs.support import check_support
from ..programs.values import check_finite, span_of

NumbersLike = float | Sequence[float] | Tensor | None


class Likelihood(Recorded, nn.Module):
    """Base class: ``likelihood(features)`` is p(x | features).

    One of your own is a subclass, or any module, with a ``forward``. Its distribution may be
    elementwise, or have an event of its own: the model declares as the event of a datum what is
    not declared yet. Where the features are not as many as the data, say so in ``feature_shape``.

    Attributes:
        levels: number of values per element for 8-bit and other discrete pixels, else None.

    Example:
        Noise that is correlated between the elements, and a topic model, in which x counts the
        words of a document (that documents differ in length is why the counts go unchecked):

        >>> import torch
        >>> from pyro_vae import models
        >>> class Correlated(Likelihood):
        ...     def __init__(self, size):
        ...         super().__init__()
        ...         self.raw = nn.Parameter(torch.eye(size))
        ...     def forward(self, features):
        ...         factor = self.raw.tril(-1) + torch.diag_embed(self.raw.diagonal().exp())
        ...         return dist.MultivariateNormal(features, scale_tril=factor)
        >>> class Topics(Likelihood):
        ...     def forward(self, features):
        ...         return dist.Multinomial(80, logits=features, validate_args=False)
        >>> models.VAE((5,), latents=2, likelihood=Correlated(5)).sample(3).shape
        torch.Size([3, 5])
        >>> models.VAE((9,), latents=2, likelihood=Topics()).sample(3).sum(-1)
        tensor([80., 80., 80.])
    """

    levels: int | None = None

    def feature_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the decoder's output for one datum of ``event_shape``.

        A model asks when it is built: a likelihood with parameters per element makes them here.
        """
        return tuple(event_shape)

    def forward(self, features: Tensor) -> dist.Distribution:
        """The distribution: batch shape (n, ...) and event shape make up (n, *event_shape)."""
        raise NotImplementedError

    def mean(self, features: Tensor) -> Tensor:
        """E[x | features], what a person looks at."""
        return self(features).mean

    def inputs(self, x: Tensor) -> Tensor:
        """What the networks of guides see of ``x``: the data as they are."""
        return x

    def input_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of what networks see of one datum of ``event_shape``: that of the data."""
        return tuple(event_shape)

    def check(self, x: Tensor) -> None:
        """Raise ``ValueError`` if ``x`` has values that this likelihood gives no probability.

        By default those outside of the support of its distribution, where that is the same for
        all features.
        """
        check_finite(x)
        check_support(self, x)


def hold_numbers(likelihood: Likelihood, name: str, value: Any, *, above: float) -> None:
    """Have numbers, or one for all elements, as a buffer and, for files, among the arguments.

    ``ValueError`` for numbers that are not finite and above a limit.
    """
    held = torch.as_tensor(value, dtype=torch.float32)
    if not held.isfinite().all() or not (held > above).all():
        kind = "positive finite" if above == 0 else "finite"
        raise ValueError(
            f"{name}: expected {kind} numbers, got {span_of(held)}: give constant elements a "
            "scale of 1"
        )
    likelihood.arguments[name] = held.tolist()
    likelihood.register_buffer(name, held, persistent=False)


def check_numbers(
    likelihood: Likelihood, name: str, event_shape: Sequence[int], such_as: str
) -> None:
    """Raise ``ValueError`` unless numbers that are held are one, or of the shape of a datum."""
    held = getattr(likelihood, name)
    if held is not None and held.dim() and tuple(held.shape) != tuple(event_shape):
        raise ValueError(
            f"{name}: expected a number or the shape of a datum, {tuple(event_shape)}, got "
            f"{tuple(held.shape)}: pass {such_as} of the training data"
        )


def feature_shape(likelihood: nn.Module, event_shape: Sequence[int]) -> tuple[int, ...]:
    """What ``likelihood`` says of its features; those of any other module are as the data."""
    ask = getattr(likelihood, "feature_shape", tuple)
    return ask(event_shape)


def check_values(likelihood: nn.Module, x: Tensor) -> None:
    """Raise ``ValueError`` for data outside of a likelihood's range; any other module: finite."""
    getattr(likelihood, "check", check_finite)(x)


def network_inputs(likelihood: Any, x: Tensor) -> Tensor:
    """What networks see of ``x`` by a likelihood, which may be any module, or None."""
    inputs = getattr(likelihood, "inputs", None)
    return x if inputs is None else inputs(x)


def input_shape(likelihood: Any, event_shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of what networks see of a datum by a likelihood, which may be any module."""
    return getattr(likelihood, "input_shape", tuple)(event_shape)
