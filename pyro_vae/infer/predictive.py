"""p(x|z) for z ~ q(z|x): what a pair predicts of data that it has seen encoded."""

from __future__ import annotations

from collections.abc import Callable

from pyro import poutine
from pyro.distributions import Distribution
from torch import Tensor

from ..data import Dataset
from ..data.arguments import Data
from ..programs.given import matched
from ..programs.labels import lacks_labels
from ..programs.means import mean_of
from ..programs.running import measuring, trace_pair, traced
from ..programs.sites import kinds, present
from .discrete import completed


def predicted(
    model: Callable, guide: Callable, x: Data, y: Tensor | None = None
) -> tuple[Distribution, Tensor, Tensor | None]:
    """p(x|z) for one draw z ~ q(z|x), in the current mode, advancing the RNG.

    That is the distribution of the last observed site, batch shape (n,), with the value that is
    observed, and which elements of it no mask hides; None for all.
    """
    trace, drawn = trace_pair(model, guide, x, y)
    if lacks_labels(model) and "y" not in drawn:
        z = {site: drawn.nodes[site]["value"] for site in kinds(drawn).latent}
        y = completed(model, z, x, y)
        trace = traced(poutine.replay(model, trace=drawn), x, y)
    elif hidden := [site for site in kinds(trace).latent if site not in drawn]:
        raise ValueError(
            f"site {hidden[0]!r}: expected a guide that draws all that the data depend on, got "
            "one without this latent, which is summed out: draw it in the guide, too"
        )
    node = trace.nodes[kinds(trace).observed[-1]]
    return node["fn"], node["value"], present(node)


def mean_squared_error(
    model: Callable,
    guide: Callable,
    data: Dataset | Tensor | tuple[Tensor, Tensor | None],
    *,
    batch_size: int = 1000,
) -> Tensor:
    """E[(x_k - E[x_k|z])^2] of each element over a data set, z ~ q(z|x), one draw per datum.

    Its mean over the elements is the sigma^2 that maximises the bound for a Gaussian likelihood.
    Evaluation mode; no state changes, and the RNG is restored.

    Args:
        model: generative program.
        guide: inference program.
        data: a ``Dataset``, a tensor (n, *event_shape), or a pair (x, y).
        batch_size: data at once.

    Returns:
        (*event_shape,), summed in double precision; over the data that have an element, where
        masks hide it from others, NaN where none has.

    Example:
        >>> import torch
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> mean_squared_error(vae, guides.BottomUp(vae), torch.zeros(5, 6)).shape
        torch.Size([6])
    """
    data = matched(data, model, guide)
    total: Tensor | float = 0.0
    count: Tensor | int = 0
    with measuring(model, guide, device=data.device):
        for x, y in data.batches(batch_size):
            p, value, shown = predicted(model, guide, x, y)
            squares = (value - mean_of(p, "x")).double().square()
            if shown is None:
                count = count + len(squares)
            else:
                squares, count = squares.where(shown, 0.0), count + shown.sum(0)
            total = total + squares.sum(0)
    return total / count
