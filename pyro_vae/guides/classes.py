"""What guides tell of classes that a model has as latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..data.arguments import LabelData
from ..infer.discrete import discrete_posterior
from ..models import VAE
from ..programs.given import matched
from ..programs.labels import MISSING, lacks_labels
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


def class_probabilities(guide: Guide, x: Any, y: Any, samples: int) -> Tensor:
    """p(y|x) of a guide without y, (n, K), see ``infer.discrete_posterior``."""
    x, y = classified(guide, x, y)
    return discrete_posterior(guide.model, guide, x, y=y, site="y", samples=samples)


def classified(guide: Guide, x: Any, y: Any) -> tuple[Tensor, LabelData]:
    """Data, and ``y``; of a ``Dataset`` what it tells besides the classes, which are asked for."""
    vae = check_partial(guide.model)
    if y is not None:
        found = matched({"x": x, "y": y}, guide.model, name="x")
        return found.x, found.y
    found = matched(x, guide.model, name="x")
    if found.y is None or not vae.covariates:
        return found.x, None
    missing = torch.full((len(found.x),), MISSING, device=found.x.device)
    return found.x, found.y.told(vae.condition.latent, missing)
