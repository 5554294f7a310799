"""Samples of the aggregate posterior, to which priors are fitted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..data import Dataset
from ..ground.arguments import known
from ..ground.streams import forked
from ..programs.autoguides import check_batch
from ..programs.belonging import check_belonging
from ..programs.given import matched
from ..programs.modes import evaluating
from ..programs.program import Model
from ..programs.running import traced
from ..programs.sites import is_latent, present

_BATCH = 1000


def posterior_samples(
    model: Callable,
    guide: Callable,
    data: Dataset | Tensor | tuple[Tensor, Tensor | None],
    *,
    site: str | None = None,
    seed: int = 0,
) -> Tensor:
    """One draw of the top latent per datum, from the aggregate posterior 1/n sum_i q(z|x_i).

    Evaluation mode, no gradients; torch's global RNG is not advanced.

    Args:
        model: generative program, which names the top latent.
        guide: inference program.
        data: a ``Dataset``, a tensor (n, *event_shape), or a pair (x, y).
        site: another latent site than the top one.
        seed: of the draws (and of dynamic binarisation).

    Returns:
        (n, size), in the dtype and on the device of the guide.

    Raises:
        ValueError: a site that the guide does not have, one that is no vector, or that a mask
            hides from some of the data.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=(3, 2), likelihood=likelihoods.Gaussian())
        >>> posterior_samples(vae, guides.BottomUp(vae), torch.zeros(5, 6)).shape
        torch.Size([5, 2])
    """
    data = matched(data, guide, model)
    check_belonging(model, guide)
    parts = []
    with evaluating(model, guide), forked(data.device, seed):
        for x, y in data.batches(_BATCH):
            check_batch(guide, len(x))
            site = site or _top(model, x, y)
            trace = traced(guide, x, y)
            sites = [name for name, node in trace.nodes.items() if is_latent(node)]
            node = trace.nodes[known("site", site, sites)]
            shown = present(node)
            if shown is not None and not shown.all():
                raise ValueError(
                    f"site {site!r}: a mask hides it from some of the data, which have no draw of "
                    "it then: pass data that all have it, or your own draws, "
                    "prior.fit_samples(z)"
                )
            parts.append(node["value"])
    if parts[0].dim() != 2:
        raise ValueError(
            f"site {site!r}: expected vectors (n, size), got {tuple(parts[0].shape)}: these "
            "priors are for latent vectors: build the model with one on top, such as "
            "latents=((8, 14, 14), 32)"
        )
    return torch.cat(parts)


def _top(model: Callable, x: Tensor, y: Tensor | None) -> str:
    if isinstance(model, Model):
        return model.latents[0]
    trace = traced(model, x, y)
    return next(name for name, node in trace.nodes.items() if is_latent(node))


def check_latents(z: Tensor) -> None:
    """Raise ``ValueError`` for latents that are not finite."""
    if not z.isfinite().all():
        raise ValueError("data: their latents are NaN or infinite: check the guide")
