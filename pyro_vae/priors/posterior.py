"""Samples of the aggregate posterior, to which priors are fitted."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from ..data import Dataset
from ..data.given import as_dataset
from ..infer.belonging import check_belonging
from ..labels import label_arguments
from ..programs import Model, evaluating, is_latent
from ..unwrapping import check_batch

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
        ValueError: a site that the guide does not have, or one that is no vector.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=(3, 2), likelihood=likelihoods.Gaussian())
        >>> posterior_samples(vae, guides.BottomUp(vae), torch.zeros(5, 6)).shape
        torch.Size([5, 2])
    """
    data = as_dataset(data)
    parameters = [p for m in (guide, model) if isinstance(m, nn.Module) for p in m.parameters()]
    if parameters:
        data = data.to(parameters[0].device)
    check_belonging(model, guide)
    parts = []
    with evaluating(model, guide), seeded(seed, data.device):
        for x, y in data.batches(_BATCH):
            x = x.to(parameters[0].dtype) if parameters else x
            check_batch(guide, len(x))
            site = site or _top(model, x, y)
            trace = poutine.trace(guide).get_trace(x, **label_arguments(guide, y))
            sites = [name for name, node in trace.nodes.items() if is_latent(node)]
            if site not in sites:
                raise ValueError(f"site: the guide has no latent site {site!r}, it has {sites}")
            parts.append(trace.nodes[site]["value"])
    if parts[0].dim() != 2:
        raise ValueError(
            f"site {site!r}: expected vectors (n, size), got {tuple(parts[0].shape)}: these "
            "priors are for latent vectors"
        )
    return torch.cat(parts)


def _top(model: Callable, x: Tensor, y: Tensor | None) -> str:
    if isinstance(model, Model):
        return model.latents[0]
    trace = poutine.trace(model).get_trace(x, **label_arguments(model, y))
    return next(name for name, node in trace.nodes.items() if is_latent(node))


def check_latents(z: Tensor) -> None:
    """Raise ``ValueError`` for latents that are not finite."""
    if not z.isfinite().all():
        raise ValueError("data: their latents are NaN or infinite: check the guide")


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """A random stream of its own; the global one is as it was afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def ascend(
    module: nn.Module,
    objective: Callable[[Tensor], Tensor],
    z: Tensor,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
) -> float:
    """Fit a module's parameters to latents by Adam, its rate falling to zero as a cosine.

    Args:
        module: what is trained.
        objective: rows of z (b, size) -> what is maximised, per row (b,).
        z: (n, size).
        epochs: passes over z.
        batch_size: rows per step.
        lr: learning rate at the start.

    Returns:
        Mean of the objective over the last epoch.
    """
    check_latents(z)
    parameters = list(module.parameters())
    optimizer = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    mean = 0.0
    for _ in range(epochs):
        total = torch.zeros((), dtype=z.dtype, device=z.device)
        for rows in torch.randperm(len(z), device=z.device).split(batch_size):
            value = objective(z[rows])
            gradients = torch.autograd.grad(-value.mean(), parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            total += value.detach().sum()
        schedule.step()
        mean = float(total) / len(z)
        if not math.isfinite(mean):
            raise FloatingPointError(
                "the fit of the prior became NaN or infinite: use a smaller lr"
            )
    optimizer.zero_grad(set_to_none=True)
    return mean


def fit_latents(
    prior: nn.Module,
    objective: Callable[[Tensor], Tensor],
    z: Tensor,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
) -> None:
    """Raise the mean of ``objective`` over latents, and take down on how many.

    Args:
        prior: with ``size``, ``seed`` and a buffer ``fitted_on``.
        objective: from rows of latents to a tensor (rows,).
        z: (n, size).
        epochs: passes over the latents.
        batch_size: latents per step.
        lr: learning rate of Adam, which falls to zero.

    Raises:
        ValueError: latents of another size.
    """
    if z.shape[1:] != (prior.size,):
        raise ValueError(f"data: expected latents of size {prior.size}, got {z.shape[-1]}")
    prior.to(z)
    # What is NaN is told by its epoch
    with seeded(prior.seed, z.device), pyro.validation_enabled(False):
        ascend(prior, objective, z, epochs=epochs, batch_size=batch_size, lr=lr)
    prior.fitted_on.fill_(len(z))
