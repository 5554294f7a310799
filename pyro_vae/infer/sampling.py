"""Drawing from a generative program of any form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyro import poutine
from torch import Tensor

from ..ground.turns import turn
from ..programs.given import given
from ..programs.modes import evaluating
from ..programs.running import traced
from ..programs.sites import kinds


def sample(
    model: Callable,
    like: Any,
    *,
    y: Tensor | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> dict[str, Tensor]:
    """Draw all sites of a generative program, its observations too: (x, z) ~ p(x, z).

    The program is run on data, whose values it does not observe; what else it does with them, such
    as reading their shape, lengths or covariates, it does as always. Evaluation mode, without
    gradients; the draws advance torch's global RNG.

    Args:
        model: generative program.
        like: data of which as many are drawn, in any form that ``elbo_terms`` takes.
        y: (n,) labels for a conditional model.
        arguments: constants among the program's own arguments, by name.

    Returns:
        site -> its value, latents and observations in the order of the program; each of the shape
        that the program gives it, (n, ...) for what is inside the data plate.

    Raises:
        TypeError: data that the program does not take.

    Example:
        >>> import torch
        >>> from pyro_vae import likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> {site: tuple(value.shape) for site, value in sample(vae, torch.zeros(4, 6)).items()}
        {'z1': (4, 2), 'x': (4, 6)}
    """
    like, y = given(like, y, model, arguments=arguments)
    with turn, evaluating(model):
        trace = traced(poutine.uncondition(model), like, y)
    return {site: trace.nodes[site]["value"] for site in kinds(trace).density}
