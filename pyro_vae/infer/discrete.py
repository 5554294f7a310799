"""The posterior of discrete latents that are summed out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from ..data.arguments import Data, LabelData
from ..ground.arguments import known, whole
from ..programs.autoguides import takes_all
from ..programs.enumeration import Sums, sums_of
from ..programs.given import given
from ..programs.labels import covariates_of, lacks_labels
from ..programs.means import stand_in_data
from ..programs.running import measuring, traced, undisturbed
from .densities import (
    can_broadcast,
    check_weighed,
    draws,
    enumerated,
    repeated,
    rows_at_once,
    split,
)

# Data that are encoded at once
_BLOCK = 512


def discrete_posterior(
    model: Callable,
    guide: Callable,
    x: Any,
    *,
    site: str | None = None,
    y: Tensor | None = None,
    samples: int = 100,
    chunk_size: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
) -> Tensor:
    """Posterior probabilities of a discrete latent that is marked for enumeration.

    With z the other latents, drawn by the guide, and all other marked latents summed out,

        p(k|x) = sum_s w_s p(k|x, z_s) / sum_s w_s,  w_s = p(x, z_s) / q(z_s|x),

    which Bayes' rule gives exactly where there is no z, and nearly for many samples. Where the
    guide enumerates k, too, its own q(k|x) is not asked. No state changes.

    Args:
        model: generative program with latents marked ``infer={"enumerate": "parallel"}``.
        guide: inference program of the other latents.
        x: (n, *event_shape), or the programs' own arguments, a tuple or a mapping of tensors
            with n rows each.
        site: name of the latent; default: the only one.
        y: (n,) labels for a conditional pair.
        samples: draws of z per datum.
        chunk_size: rows (datum, sample) at once; default 2^20 / (elements of a datum).
        arguments: constants among the programs' own arguments, by name.
        plate: name of the plate over the data, where several could be it.

    Returns:
        (n, K) in the order of the latent's support, which sum to 1 for each datum; (n, ..., K) for
        a latent in plates inside the datum, the outermost of their dimensions first.

    Raises:
        ValueError: no marked latent, several where none is named, a name of none; what
            ``importance`` refuses.

    Example:
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         k = pyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        ...         pyro.sample("x", dist.Normal(2 * k - 1, 1.0), obs=x)
        >>> discrete_posterior(model, lambda x: None, torch.tensor([0.0, 2.0]))
        tensor([[0.5000, 0.5000],
                [0.0180, 0.9820]])
    """
    whole("samples", samples)
    x, y = given(x, y, model, guide, arguments=arguments, plate=plate)
    chunk_size = rows_at_once(x, chunk_size)
    sums = check_weighed(model, guide, x, y, len(x) if takes_all(guide) else _BLOCK)
    if sums is None:
        raise ValueError(
            "model: expected a discrete latent that is marked for enumeration, got none: mark it "
            "infer={'enumerate': 'parallel'}"
        )
    if site is None and len(sums.sites) > 1:
        raise ValueError(
            f"site: expected the name of one of the latents {sums.sites}, got None: pass "
            f"site={sums.sites[0]!r}"
        )
    site = known("site", sums.sites[0] if site is None else site, sums.sites)
    with measuring(model, guide, device=x.device), pyro.validation_enabled(False):
        at_once = len(x) if takes_all(guide) else max(1, min(_BLOCK, chunk_size))
        of = functools.partial(
            _posterior,
            *(model, guide, sums, site),
            vectorised=can_broadcast(guide, x, y),
            samples=samples,
            chunk_size=chunk_size,
        )
        return torch.cat([of(*part) for part in split(x, y, at_once)])


def completed(model: Callable, z: dict[str, Tensor], x: Tensor, y: LabelData) -> LabelData:
    """Labels, those that a ``models.VAE(labels="partial")`` lacks as told by x and its latents z.

    A class of the guide is taken out of ``z``, else it is the most probable one. Labels of other
    models are as they are.
    """
    if not lacks_labels(model):
        return y
    k = z.pop("y") if "y" in z else _most_probable(model, z, x, y)
    if (covariates := covariates_of(model)) is None:
        return k
    return covariates.columns(y, len(x)).told(covariates.latent, k)


def _most_probable(model: Callable, z: dict[str, Tensor], x: Tensor, y: LabelData) -> Tensor:
    with undisturbed(model, device=x.device), stand_in_data():
        at = {site: -value.dim() for site, value in z.items()}
        trace = traced(model, x, y)
        sums = sums_of(trace, trace)
        return enumerated(model, z, at, x, y, sums).posterior("y").argmax(-1)


def _posterior(
    model: Callable,
    guide: Callable,
    sums: Sums,
    site: str,
    x: Data,
    y: Tensor | None,
    *,
    vectorised: bool,
    samples: int,
    chunk_size: int,
) -> Tensor:
    """Of some data, (n, ..., K)."""
    total, per_draw = None, max(1, chunk_size // len(x))
    for start in range(0, samples, per_draw):
        k = min(per_draw, samples - start)
        z, log_q, at = draws(guide, x, y, k, vectorised=vectorised)
        rows, copies = {s: v.flatten(0, 1) for s, v in z.items()}, repeated(x, y, k)
        if sums.in_guide:
            log_q = enumerated(guide, rows, at, *copies, sums).density()
        read = enumerated(model, rows, at, *copies, sums)
        log_weight = read.density() - log_q.flatten()
        log_p = read.posterior(site)
        log_weight = log_weight.reshape(-1, *(1,) * (log_p.dim() - 1))
        found = (log_weight + log_p).double().unflatten(0, (k, -1)).logsumexp(0)
        total = found if total is None else total.logaddexp(found)
    return total.softmax(-1).to(torch.get_default_dtype())
