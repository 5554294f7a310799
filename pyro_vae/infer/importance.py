"""log p(x) by importance sampling with the guide as proposal, and how far to trust it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyro
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data.arguments import Data
from ..ground.tables import Table, Tabular, mean_and_error
from ..programs.autoguides import takes_all
from ..programs.given import given
from ..programs.running import measuring
from .budget import Budget
from .densities import (
    ENCODED_ROWS,
    LogDensity,
    can_broadcast,
    check_weighed,
    draws,
    remembering,
    repeated,
    rows_at_once,
    split,
)
from .weights import TRUSTED_PARETO_K, Weights, monte_carlo_error

# Data, and rows of latents drawn at once from one encoding per datum; see ENCODED_ROWS for one per
# row. Fixed, so that the draws do not depend on chunk_size.
_DATA = 512
_GUIDE_ROWS = 2**16


@dataclass(frozen=True, repr=False)
class ImportanceEstimate(Tabular):
    """Importance-sampling estimate of log p(x) per datum, in nats; ``print`` it.

    Attributes:
        log_likelihood: log mean_k w_k, w_k = p(x, z_k) / q(z_k|x), (n,).
        standard_error: its Monte Carlo standard error by the delta method, (n,).
        effective_sample_size: (sum w)^2 / sum w^2, (n,), between 1 and ``samples``.
        pareto_k: shape of a generalised Pareto distribution fitted to the largest weights, (n,);
            above 0.7 the estimate cannot be trusted; NaN below 25 samples, and for weights that
            are NaN.
        samples: number of importance samples.
        seconds: time that it took.
        stopped_by: what ended it: the number of "samples" that was asked for, or the "error" or
            the "time" of a ``Budget``.
    """

    log_likelihood: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor
    samples: int
    seconds: float = math.nan
    stopped_by: Literal["samples", "error", "time"] = "samples"

    @property
    def monte_carlo_error(self) -> float:
        """Of the mean of log p(x) over the data, noise and bias together, see ``Budget``."""
        return monte_carlo_error(self.standard_error)

    def table(self) -> Table:
        """Means over the data with their standard errors, and how far to trust them."""
        rows: list[Any] = [
            ("log p(x)", mean_and_error(self.log_likelihood), "nats/datum"),
            ("Monte Carlo error", self.monte_carlo_error, "nats/datum"),
            ("effective sample size", mean_and_error(self.effective_sample_size), "samples"),
        ]
        if not self.pareto_k.isnan().all():
            high = 100.0 * (self.pareto_k > TRUSTED_PARETO_K)
            rows.append((f"Pareto k above {TRUSTED_PARETO_K}", mean_and_error(high), "% of data"))
        caption = f"{len(self.log_likelihood)} data, {self.samples} samples of each"
        return Table(caption, ("quantity", "mean", "unit"), rows, left=(0, 2))


def importance(
    model: Callable,
    guide: Callable,
    x: Any,
    *,
    y: Tensor | None = None,
    samples: int | Budget = 1000,
    chunk_size: int | None = None,
    progress: bool = True,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
) -> ImportanceEstimate:
    """Estimate log p(x) = log E_q[p(x, z) / q(z|x)] with the guide as proposal.

    Memory is bounded: at most ``chunk_size`` rows (datum, sample) are decoded at once, and the
    result does not depend on it. The densities of the traces are used as they are, with masks and
    factors (those of the guide are part of q), without any beta and never with a closed-form KL.
    Evaluation mode; the RNG is restored.

    Sources: "Importance Weighted Autoencoders", Burda, Grosse, Salakhutdinov (2016); "Pareto
    Smoothed Importance Sampling", Vehtari, Simpson, Gelman, Yao, Gabry (2015) for the diagnostic.

    Args:
        model: generative program.
        guide: inference program.
        x: (n, *event_shape), or the programs' own arguments, a tuple or a mapping of tensors
            with n rows each.
        y: (n,) labels for a conditional pair.
        samples: importance samples per datum, or a ``Budget`` of time and error for them.
        chunk_size: rows decoded at once; default 2^20 / (elements of a datum).
        progress: show a progress bar, for a ``Budget``.
        arguments: constants among the programs' own arguments, by name.
        plate: name of the plate over the data, where several could be it.

    Returns:
        ``ImportanceEstimate`` with a tensor (n,) per quantity.

    Raises:
        ValueError: fewer than one sample or row; data outside the model's range; a guide that
            does not fit the model; a site outside the data plate, a plate inside a datum that is
            subsampled.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> estimate = importance(vae, guides.BottomUp(vae), torch.zeros(5, 6), samples=50)
        >>> estimate.log_likelihood.shape
        torch.Size([5])
    """
    x, y = given(x, y, model, guide, arguments=arguments, plate=plate)
    options = {"chunk_size": chunk_size, "progress": progress}
    return weighed(model, guide, x, y, samples=samples, **options)


def weighed(
    model: Callable,
    guide: Callable,
    x: Data,
    y: Tensor | None,
    *,
    samples: int | Budget,
    chunk_size: int | None = None,
    progress: bool = False,
) -> ImportanceEstimate:
    """``importance`` of data as programs are given them, with labels where they take them."""
    shown = progress and isinstance(samples, Budget)
    budget = samples if isinstance(samples, Budget) else Budget(error=0.0, samples=samples)
    chunk_size = rows_at_once(x, chunk_size)
    block = len(x) if takes_all(guide) else _DATA
    sums = check_weighed(model, guide, x, y, block)
    started = time.perf_counter()
    with (
        measuring(model, guide, device=x.device),
        pyro.validation_enabled(False),
        remembering(guide),
        tqdm(desc="log p(x)", unit="draw", unit_scale=True, disable=not shown) as bar,
    ):
        log_p, vectorised = LogDensity(model, sums), can_broadcast(guide, x, y)
        # Of a guide that draws what is summed out the density is not that of its draws
        log_q = LogDensity(guide, sums) if sums is not None and sums.in_guide else None
        blocks = [(Weights(budget.samples), part) for part in split(x, y, block)]
        for count in budget.rounds():
            for weights, part in blocks:
                drawn = _log_weights(log_p, log_q, guide, *part, count, chunk_size, vectorised)
                for some in drawn:
                    weights.add(some)
                    bar.update(some.numel())
            statistics = zip(*(weights.statistics() for weights, _ in blocks), strict=True)
            estimate, error, ess = map(torch.cat, statistics)
            seconds, samples = time.perf_counter() - started, weights.samples
            if stopped := budget.stop(samples, estimate, error, seconds):
                break
            bar.total = len(x) * budget.foreseen(samples, seconds)
        bar.total = bar.n
        pareto_k = torch.cat([weights.pareto_shape() for weights, _ in blocks])
    estimate = estimate.to(torch.get_default_dtype())
    stopped = stopped or "samples"
    return ImportanceEstimate(estimate, error, ess, pareto_k, samples, seconds, stopped)


def log_likelihood(
    model: Callable,
    guide: Callable,
    x: Any,
    *,
    y: Tensor | None = None,
    importance_samples: int | Budget = 1000,
    chunk_size: int | None = None,
    progress: bool = True,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
) -> Tensor:
    """Estimate log p(x) per datum in nats, (n,); see ``importance`` for how far to trust it.

    The arguments are those of ``importance``; one sample gives the ELBO in expectation.
    """
    options = {"chunk_size": chunk_size, "progress": progress}
    options |= {"arguments": arguments, "plate": plate, "samples": importance_samples}
    return importance(model, guide, x, y=y, **options).log_likelihood


def _log_weights(
    log_p: LogDensity,
    log_q: LogDensity | None,
    guide: Callable,
    x: Data,
    y: Tensor | None,
    samples: int,
    chunk_size: int,
    vectorised: bool,
) -> Iterator[Tensor]:
    """Log weights log p(x, z) - log q(z|x), (k, n) in float64 some draws at a time."""
    n = len(x)
    per_draw = max(1, (_GUIDE_ROWS if vectorised else ENCODED_ROWS) // n)
    # Whole copies of the data where they fit, so that they are laid out once and not gathered
    copies = min(chunk_size // n, samples)
    if copies:
        chunk_size = copies * n
        x_copies, y_copies = repeated(x, y, copies)
    for start in range(0, samples, per_draw):
        k = min(per_draw, samples - start)
        z, own_log_q, dims = draws(guide, x, y, k, vectorised=vectorised)
        rows = {s: v.flatten(0, 1) for s, v in z.items()}
        found = []
        for i in range(0, k * n, chunk_size):
            chunk = {s: v[i : i + chunk_size] for s, v in rows.items()}
            size = min(chunk_size, k * n - i)
            if copies:
                seen = x_copies[:size], None if y is None else y_copies[:size]
            else:
                index = torch.arange(i, i + size, device=x.device) % n
                seen = x[index], None if y is None else y[index]
            log_weight = log_p(chunk, dims, *seen).double()
            if log_q is not None:
                log_weight = log_weight - log_q(chunk, dims, *seen)
            found.append(log_weight)
        total = torch.cat(found).reshape(k, n)
        yield total if log_q is not None else total - own_log_q
