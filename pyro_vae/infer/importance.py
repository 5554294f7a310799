"""log p(x) by importance sampling with the guide as proposal, and how far to trust it."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from ..data.arguments import Arguments, Data, columns_of, holding, tensors_of
from ..ground.arguments import whole
from ..programs.autoguides import check_batch, few, is_autoguide, takes_all
from ..programs.checks import check_data, compared
from ..programs.enumeration import Enumerated, marked
from ..programs.given import given
from ..programs.reading import Contributions, check_rows, contributions
from ..programs.running import measuring, trace_pair, traced
from ..programs.sites import SAMPLES, auxiliary_sites, is_joint, kinds, point_masses
from ..programs.unwrapping import is_ours
from .engine.repeated import Repeated

# Rows of latents drawn at once, from one encoding per datum or from one per row. Fixed, so that
# the draws do not depend on chunk_size.
_GUIDE_ROWS = 2**16
_ENCODED_ROWS = 2**12
_WEIGHTS = 2**21
# Recording a model takes as long as it saves in about so many chunks
_CHUNKS_BEFORE_A_GRAPH = 20
# What programs raise that do not know dimensions to the left of the data's
CANNOT_BROADCAST = (RuntimeError, ValueError, IndexError, NotImplementedError)


@dataclass(frozen=True)
class ImportanceEstimate:
    """Importance-sampling estimate of log p(x) per datum, in nats.

    Attributes:
        log_likelihood: log mean_k w_k, w_k = p(x, z_k) / q(z_k|x), (n,).
        standard_error: its Monte Carlo standard error by the delta method, (n,).
        effective_sample_size: (sum w)^2 / sum w^2, (n,), between 1 and ``samples``.
        pareto_k: shape of a generalised Pareto distribution fitted to the largest weights, (n,);
            above 0.7 the estimate cannot be trusted; NaN below 25 samples, and for weights that
            are NaN.
        samples: number of importance samples.
    """

    log_likelihood: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor
    samples: int


def importance(
    model: Callable,
    guide: Callable,
    x: Any,
    *,
    y: Tensor | None = None,
    samples: int = 1000,
    chunk_size: int | None = None,
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
        samples: importance samples per datum.
        chunk_size: rows decoded at once; default 2^20 / (elements of a datum).
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
    return weighed(model, guide, x, y, samples=samples, chunk_size=chunk_size)


def weighed(
    model: Callable,
    guide: Callable,
    x: Data,
    y: Tensor | None,
    *,
    samples: int,
    chunk_size: int | None = None,
) -> ImportanceEstimate:
    """``importance`` of data as programs are given them, with labels where they take them."""
    whole("samples", samples)
    if chunk_size is None:
        elements = sum(column[0].numel() for column in columns_of(x))
        chunk_size = max(1, 2**20 // max(1, elements))
    whole("chunk_size", chunk_size)
    block = len(x) if takes_all(guide) else max(1, min(512, _WEIGHTS // samples))
    check_weighed(model, guide, x, y, block)
    with measuring(model, guide, device=x.device), pyro.validation_enabled(False):
        vectorised = can_broadcast(guide, x, y)
        first = few(guide, x, y, 2)
        hidden, dims = marked(guide, *first)
        log_joint = _log_joint(model, marked(model, *first)[1], hidden)
        log_guide = _log_joint(guide, dims, hidden) if hidden else None
        labels = itertools.repeat(None) if y is None else y.split(block)
        found = [
            weight_statistics(
                _log_weights(log_joint, guide, log_guide, *data, samples, chunk_size, vectorised)
            )
            for data in zip(x.split(block), labels, strict=False)
        ]
    columns = [torch.cat(column) for column in zip(*found, strict=True)]
    return ImportanceEstimate(*columns, samples=samples)


def check_weighed(model: Callable, guide: Callable, x: Data, y: Tensor | None, block: int) -> None:
    """Raise where data have no weights: ``ValueError`` for what ``importance`` refuses."""
    check_data(model, x, y)
    check_batch(guide, len(x))
    first, first_y = few(guide, x, y, block)
    compared(model, guide, first, first_y)
    if not (is_ours(guide) or is_autoguide(guide)):
        _refuse_fixed(model, guide, first, first_y)
    with measuring(model, guide, device=x.device):
        check_rows(*contributions(*trace_pair(model, guide, first, first_y), first), first)


def _refuse_fixed(model: Callable, guide: Callable, x: Data, y: Tensor | None) -> None:
    """Raise ``ValueError`` for programs that run on no more data than these."""
    try:
        compared(model, guide, *repeated(x, y, 2))
    except CANNOT_BROADCAST as error:
        raise ValueError(
            "model: expected one that runs on any number of data, as of several draws of each, "
            f"got one that does not run on {2 * len(x)}: make its plates as large as the data "
            "that it gets, or leave log p(x) out, evaluate(..., importance_samples=0)"
        ) from error


def log_likelihood(
    model: Callable,
    guide: Callable,
    x: Any,
    *,
    y: Tensor | None = None,
    importance_samples: int = 1000,
    chunk_size: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
) -> Tensor:
    """Estimate log p(x) per datum in nats, (n,); see ``importance`` for how far to trust it.

    The arguments are those of ``importance``; one sample gives the ELBO in expectation.
    """
    options = {"chunk_size": chunk_size, "arguments": arguments, "plate": plate}
    return importance(model, guide, x, y=y, samples=importance_samples, **options).log_likelihood


def can_broadcast(guide: Callable, x: Data, y: Tensor | None) -> bool:
    """Whether the guide can draw many samples per datum from one encoding.

    Programs that fix the shape of the batch cannot run under an outer plate, or score something
    else there, or draw noise of their own; for these, ``draws`` repeats the data. Autoguides can.
    """
    if is_autoguide(guide):
        return True
    x, y = few(guide, x, y, 2)
    try:
        z, log_q, dims = draws(guide, x, y, 3, vectorised=True)
        rows = {s: v.flatten(0, 1) for s, v in z.items()}
        again = log_density(guide, rows, dims, *repeated(x, y, 3))
    except CANNOT_BROADCAST:
        return False
    return torch.allclose(log_q.flatten(), again, rtol=1e-3, atol=1e-3)


def repeated(x: Data, y: Tensor | None, k: int) -> tuple[Data, Tensor | None]:
    """Data (k * n, *event) and labels (k * n,): all of them k times over."""
    if isinstance(x, Arguments):
        return x.repeated(k), None
    return x.repeat(k, *(1,) * (x.dim() - 1)), None if y is None else y.repeat(k)


def samples_plate(k: int) -> pyro.plate:
    """The outer plate of ``k`` samples per datum."""
    return pyro.plate(SAMPLES, k, dim=-2)


def guide_trace(
    guide: Callable, x: Data, y: Tensor | None, k: int, *, vectorised: bool
) -> tuple[Trace, tuple[int, ...]]:
    """A trace of ``k`` samples per datum, and the shape of its log-probabilities per datum.

    The shape is (k, n) from one encoding, under an outer plate; (k * n,) from repeated data.
    A site that is a point mass is a ``ValueError``.
    """
    shape = (k, len(x)) if vectorised else (k * len(x),)
    if vectorised:
        with samples_plate(k):
            trace = traced(guide, x, y)
    else:
        trace = traced(guide, *repeated(x, y, k))
    if points := point_masses(trace):
        raise ValueError(
            f"site {points[0]!r}: the guide is a point mass, which has no density to weigh "
            "samples with: log p(x) needs a guide such as guides.BottomUp"
        )
    if joint := [s for s in auxiliary_sites(trace) if is_joint(trace.nodes[s])]:
        raise ValueError(
            f"site {joint[0]!r}: the guide draws the latents of all data as one, so that no datum "
            "has weights of its own: use AutoNormal, guides.PerDatum or guides.FullCovariance, or "
            "evaluate with importance_samples=0"
        )
    return trace, shape


def draws(
    guide: Callable, x: Data, y: Tensor | None, k: int, *, vectorised: bool
) -> tuple[dict[str, Tensor], Tensor, dict[str, int]]:
    """Latents, site -> (k, n, ...), their log q (k, n), and the dimension of data in programs."""
    n = len(x)
    q = _read(x, *guide_trace(guide, x, y, k, vectorised=vectorised))
    zeros = torch.zeros(q.shape, dtype=x.dtype, device=x.device)
    log_q = sum(map(q.density, q.sites), start=zeros)
    z = {s: q.value(s) for s in (*kinds(q.trace).latent, *auxiliary_sites(q.trace))}
    if not vectorised:
        z = {s: v.unflatten(0, (k, n)) for s, v in z.items()}
    return z, log_q.reshape(k, n), {s: q.dimension(s) for s in z}


def _read(x: Tensor, trace: Trace, shape: tuple[int, ...]) -> Contributions:
    return Contributions(trace, shape, getattr(x, "plate", None))


def _log_joint(
    program: Callable, sums: int | None = None, hidden: Collection[str] = ()
) -> Callable[..., Tensor]:
    """Log p(x, z) of latents, data and labels, (rows,), recorded where many chunks are alike.

    Unless ``sums`` is None marked latents are summed out to the left of so many dimensions of
    plates; ``hidden`` are those of them whose values are not looked at.
    """
    dims: dict[str, int] = {}
    data: list[Any] = []

    def of(*inputs: Tensor) -> Tensor:
        z = dict(zip(dims, inputs, strict=False))
        return log_density(program, z, dims, *holding(*data, inputs[len(z) :]), sums=sums)

    run = Repeated(of, program, after=_CHUNKS_BEFORE_A_GRAPH)

    def log_joint(z: dict[str, Tensor], at: dict[str, int], x: Data, y: Tensor | None) -> Tensor:
        z = {site: value for site, value in z.items() if site not in hidden}
        dims.clear()
        dims.update({site: at[site] for site in z})
        data[:] = x, y
        return run(*z.values(), *tensors_of(x, y))

    return log_joint


def _log_weights(
    log_joint: Callable[..., Tensor],
    guide: Callable,
    log_guide: Callable[..., Tensor] | None,
    x: Data,
    y: Tensor | None,
    samples: int,
    chunk_size: int,
    vectorised: bool,
) -> Tensor:
    """Log weights log p(x, z) - log q(z|x), (samples, n) in float64."""
    n = len(x)
    per_draw = max(1, (_GUIDE_ROWS if vectorised else _ENCODED_ROWS) // n)
    # Whole copies of the data where they fit, so that they are laid out once and not gathered
    copies = min(chunk_size // n, samples)
    if copies:
        chunk_size = copies * n
        x_copies, y_copies = repeated(x, y, copies)
    result = []
    for start in range(0, samples, per_draw):
        k = min(per_draw, samples - start)
        z, log_q, dims = draws(guide, x, y, k, vectorised=vectorised)
        rows = {s: v.flatten(0, 1) for s, v in z.items()}
        log_p, summed_q = [], []
        for i in range(0, k * n, chunk_size):
            chunk = {s: v[i : i + chunk_size] for s, v in rows.items()}
            size = min(chunk_size, k * n - i)
            if copies:
                seen = x_copies[:size], None if y is None else y_copies[:size]
            else:
                index = torch.arange(i, i + size, device=x.device) % n
                seen = x[index], None if y is None else y[index]
            log_p.append(log_joint(chunk, dims, *seen))
            if log_guide is not None:
                summed_q.append(log_guide(chunk, dims, *seen))
        if summed_q:
            log_q = torch.cat(summed_q).reshape(k, n)
        result.append(torch.cat(log_p).reshape(k, n).double() - log_q.double())
    return torch.cat(result)


def log_density(
    program: Callable,
    z: dict[str, Tensor],
    dims: dict[str, int],
    x: Data,
    y: Tensor | None,
    *,
    sums: int | None = None,
) -> Tensor:
    """Log p(x, z) or log q(z|x) per row, (rows,), at latents (rows, ...).

    ``dims`` are those of the rows in the program's own values, counted from the right. Marked
    latents are summed out to the left of ``sums`` dimensions of plates, unless None.
    """
    if sums is not None:
        return summed(program, z, dims, x, y, sums).density()
    read = _conditioned(program, z, dims, x, y)
    zeros = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    return sum(map(read.density, read.sites), start=zeros)


def summed(
    program: Callable,
    z: dict[str, Tensor],
    dims: dict[str, int],
    x: Data,
    y: Tensor | None,
    sums: int,
) -> Enumerated:
    """The sites of ``log_density`` where marked latents run on all their values."""
    effect = functools.partial(poutine.enum, first_available_dim=-1 - sums)
    return Enumerated(_conditioned(program, z, dims, x, y, effect))


def _conditioned(
    program: Callable,
    z: dict[str, Tensor],
    dims: dict[str, int],
    x: Data,
    y: Tensor | None,
    effect: Callable[[Callable], Callable] | None = None,
) -> Contributions:
    z = {site: value.movedim(0, dims[site]) for site, value in z.items()}
    program = poutine.condition(program, data=z)
    return _read(x, traced(effect(program) if effect else program, x, y), (len(x),))


def weight_statistics(log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log mean, its standard error, effective sample size and Pareto k of (samples, n)."""
    k = len(log_weights)
    total = log_weights.logsumexp(0)
    ess = (2 * total - (2 * log_weights).logsumexp(0)).exp()
    error = ((k / ess - 1).clamp(min=0) / (k - 1 or math.nan)).sqrt()
    estimate = (total - math.log(k)).to(torch.get_default_dtype())
    return estimate, error, ess, pareto_shape(log_weights)


def pareto_shape(log_weights: Tensor) -> Tensor:
    """Shape k of a generalised Pareto distribution fitted to the largest importance weights.

    k < 0.5: finite variance; k < 0.7: usable; above, the estimate of the mean is unreliable.
    The fit is the empirical-Bayes one with the weak prior that pulls k to 0.5.

    Sources: "A New and Efficient Estimation Method for the Generalized Pareto Distribution",
    Zhang, Stephens (2009); "Pareto Smoothed Importance Sampling", Vehtari et al. (2015).

    Of log-weights (samples, n) it is (n,); NaN with fewer than 25 samples, and for weights that
    are NaN, infinite or all 0.
    """
    samples, n = log_weights.shape
    tail = min(samples // 5, math.ceil(3 * math.sqrt(samples)))
    if tail < 5:
        return torch.full((n,), math.nan, dtype=log_weights.dtype, device=log_weights.device)
    largest = log_weights.topk(tail + 1, dim=0).values
    weights = (largest - largest[0]).exp()
    excess = (weights[:-1] - weights[-1]).flip(0)
    k = (_generalised_pareto_shape(excess) * tail + 0.5 * 10) / (tail + 10)
    # All weights equal up to rounding: there is no tail, and importance sampling is exact.
    return torch.where(excess[-1] <= 1e-3, -math.inf, k)


def _generalised_pareto_shape(excess: Tensor) -> Tensor:
    """Zhang and Stephens' estimate for sorted excesses (m, n) over the threshold."""
    m = len(excess)
    grid = 30 + int(math.sqrt(m))
    steps = torch.arange(1, grid + 1, dtype=excess.dtype, device=excess.device)[:, None]
    quartile = excess[int(m / 4 + 0.5) - 1].clamp(min=torch.finfo(excess.dtype).tiny)
    largest = excess[-1].clamp(min=torch.finfo(excess.dtype).tiny)
    theta = 1 / largest + (1 - (grid / (steps - 0.5)).sqrt()) / (3 * quartile)
    shapes = torch.stack([torch.log1p(-t * excess).mean(0) for t in theta])
    log_likelihood = m * ((-theta / shapes).log() - shapes - 1)
    weights = torch.softmax(log_likelihood, 0)
    best = (theta * weights).sum(0)
    return torch.log1p(-best * excess).mean(0)
