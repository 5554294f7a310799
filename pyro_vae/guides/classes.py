"""What guides tell of classes that a model has as latents."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..infer.discrete import discrete_posterior
from ..models import VAE
from ..programs.given import matched
from ..programs.labels import lacks_labels
from ..programs.program import Guide
from ..programs.unwrapping import innermost, name_of


def check_partial(model: Any) -> VAE:
    """The ``models.VAE`` with classes as latents that a model is; ``ValueError`` for others."""
    vae = innermost(model)
    if not (isinstance(vae, VAE) and lacks_labels(vae)):
        raise ValueError(
            "guide: expected one of a model with classes as latents, got one of "
            f"{name_of(model)}: build the model with models.VAE(..., condition=10, "
            "labels='partial')"
        )
    return vae


def class_probabilities(guide: Guide, x: Any, samples: int) -> Tensor:
    """p(y|x) of a guide without y, (n, K), see ``infer.discrete_posterior``."""
    check_partial(guide.model)
    x = matched(x, guide.model, name="x").x
    return discrete_posterior(guide.model, guide, x, site="y", samples=samples)
