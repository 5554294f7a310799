"""Classes of which some are given and the others are latent."""

from __future__ import annotations

import math
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn
from torch.distributions.constraints import integer_interval
from torch.nn.functional import embedding

from ..ground.arguments import known
from ..likelihoods import OptimalSigma
from ..programs.labels import MISSING, as_whole
from ..programs.structure import Latent

Labels = Literal["all", "partial"]


def number_of_classes(condition: Any) -> int:
    """How many there are of a ``condition``: of covariates those of the first kind."""
    return condition if isinstance(condition, int) else next(iter(condition.classes.values()))


def check_labels(labels: str, condition: Any, likelihood: nn.Module) -> None:
    """Raise ``ValueError`` for other labels than "all" and "partial", or none to be missing."""
    known("labels", labels, ("all", "partial"))
    if condition == 0:
        raise ValueError(
            "labels: expected a model with classes for 'partial', got condition=0: pass "
            "condition=10 for ten of them, or leave labels out"
        )
    if any(isinstance(m, OptimalSigma) for m in likelihood.modules()):
        raise ValueError(
            "likelihood: expected a sigma that does not depend on the batch for "
            "labels='partial', where every class is tried on every datum, got 'optimal': use "
            "likelihoods.Gaussian('learned')"
        )


def latent_classes(condition: Any) -> Latent:
    """What ``infer.structure`` tells of them."""
    classes = number_of_classes(condition)
    support = integer_interval(0, classes - 1)
    return Latent(
        distribution="Categorical",
        event_shape=(),
        support=support,
        discrete=True,
        enumerated=True,
    )


def known_classes(y: Tensor | None, n: int, one_hot: Tensor) -> Tensor:
    """One-hot labels (n, K) of labels (n,), none of which is missing.

    Raises ``ValueError`` for none, labels of another shape, or that are no classes.
    """
    classes = len(one_hot)
    expected = f"y: this model is conditional on {classes} classes, expected "
    if y is None:
        raise ValueError(expected + f"integer labels of shape ({n},), got none: pass y=")
    if y.shape != (n,) or y.is_floating_point():
        raise ValueError(
            expected + f"integer labels of shape ({n},), got {y.dtype} {tuple(y.shape)}"
        )
    if is_validation_enabled() and ((y < 0) | (y >= classes)).any():
        raise ValueError(
            expected + f"labels from 0 to {classes - 1}, got {int(y.min())} to {int(y.max())}"
        )
    return embedding(y.long(), one_hot)


def given_classes(y: Tensor | None, n: int, one_hot: Tensor) -> Tensor:
    """Labels (..., n) as whole numbers, -1 where they are missing, as all are without any.

    ``one_hot`` are the classes (K, K). Raises ``ValueError`` for labels of another shape, or that
    are neither classes nor missing.
    """
    if y is None:
        return torch.full((n,), MISSING, device=one_hot.device)
    y, classes = as_whole(y), len(one_hot)
    if y.shape[-1:] != (n,) or y.is_floating_point():
        raise ValueError(
            f"y: this model has {classes} classes, expected integer labels of shape ({n},), -1 "
            f"where they are missing, got {y.dtype} {tuple(y.shape)}: pass such, or none at all"
        )
    if pyro.infer.util.is_validation_enabled() and ((y < MISSING) | (y >= classes)).any():
        raise ValueError(
            f"y: this model has {classes} classes, expected labels from 0 to {classes - 1}, or -1 "
            f"where they are missing, got {int(y.min())} to {int(y.max())}: number them so"
        )
    return y.long()


def seen_classes(y: Tensor, one_hot: Tensor) -> Tensor:
    """What networks see of labels (..., n): one-hot, then whether missing, (..., K + 1)."""
    missing = (y < 0).unsqueeze(-1).to(one_hot.dtype)
    return torch.cat([embedding(y.clamp(min=0), one_hot) * (1 - missing), missing], -1)


def given_or(y: Tensor, logits: Tensor, one_hot: Tensor) -> dist.Categorical:
    """Those of ``logits`` (..., K) where labels (n,) are missing, else the given ones for sure."""
    given = embedding(y.clamp(min=0), one_hot).log()
    return dist.Categorical(logits=torch.where((y < 0).unsqueeze(-1), logits, given))


def draw_classes(y: Tensor, one_hot: Tensor) -> Tensor:
    """Classes (..., n): given ones, which are observed, and latents of site "y".

    To be called inside the plate of the data.
    """
    logits = torch.full_like(one_hot[0], -math.log(len(one_hot)))
    k = pyro.sample("y", given_or(y, logits, one_hot), infer={"enumerate": "parallel"})
    pyro.factor("y_given", torch.where(y < 0, 0.0, logits[y.clamp(min=0)]))
    return torch.where(y < 0, k, y)
