"""log p(x) by importance sampling with the guide as proposal, and how far to trust it."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor
from tqdm.auto import tqdm

from ..data.arguments import Arguments, Data, columns_of, holding, tensors_of
from ..ground.arguments import whole
from ..programs.autoguides import check_batch, few, is_autoguide, takes_all
from ..programs.checks import check_data, compared
from ..programs.given import given
from ..programs.reading import Contributions, check_rows, contributions
from ..programs.running import measuring, trace_pair, traced
from ..programs.sites import SAMPLES, auxiliary_sites, is_joint, kinds, point_masses
from ..programs.unwrapping import is_ours
from .budget import Budget
from .engine.repeated import Repeated
from .weights import Weights, monte_carlo_error

# Data, and rows of latents drawn at once from one encoding per datum or from one per row. Fixed,
# so that the draws do not depend on chunk_size.
_DATA = 512
_GUIDE_ROWS = 2**16
_ENCODED_ROWS = 2**12
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
    if chunk_size is None:
        elements = sum(column[0].numel() for column in columns_of(x))
        chunk_size = max(1, 2**20 // max(1, elements))
    whole("chunk_size", chunk_size)
    block = len(x) if takes_all(guide) else _DATA
    check_weighed(model, guide, x, y, block)
    started = time.perf_counter()
    with (
        measuring(model, guide, device=x.device),
        pyro.validation_enabled(False),
        tqdm(desc="log p(x)", unit="draw", unit_scale=True, disable=not shown) as bar,
    ):
        log_joint, vectorised = _log_joint(model, bar), can_broadcast(guide, x, y)
        blocks = [(Weights(budget.samples), part) for part in split(x, y, block)]
        for count in budget.rounds():
            for weights, part in blocks:
                for some in _log_weights(log_joint, guide, *part, count, chunk_size, vectorised):
                    weights.add(some)
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


def split(x: Data, y: Tensor | None, rows: int) -> list[tuple[Data, Tensor | None]]:
    """Data and labels in parts of so many rows."""
    labels = itertools.repeat(None) if y is None else y.split(rows)
    return [*zip(x.split(rows), labels, strict=False)]


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


def _log_joint(model: Callable, bar: tqdm) -> Callable[..., Tensor]:
    """Log p(x, z) of latents, data and labels, (rows,), recorded where many chunks are alike."""
    dims: dict[str, int] = {}
    data: list[Any] = []

    def of(*inputs: Tensor) -> Tensor:
        z = dict(zip(dims, inputs, strict=False))
        return log_density(model, z, dims, *holding(*data, inputs[len(z) :]))

    run = Repeated(of, model, after=_CHUNKS_BEFORE_A_GRAPH)

    def log_joint(z: dict[str, Tensor], at: dict[str, int], x: Data, y: Tensor | None) -> Tensor:
        dims.clear()
        dims.update(at)
        data[:] = x, y
        found = run(*z.values(), *tensors_of(x, y))
        bar.update(len(found))
        return found

    return log_joint


def _log_weights(
    log_joint: Callable[..., Tensor],
    guide: Callable,
    x: Data,
    y: Tensor | None,
    samples: int,
    chunk_size: int,
    vectorised: bool,
) -> Iterator[Tensor]:
    """Log weights log p(x, z) - log q(z|x), (k, n) in float64 some draws at a time."""
    n = len(x)
    per_draw = max(1, (_GUIDE_ROWS if vectorised else _ENCODED_ROWS) // n)
    # Whole copies of the data where they fit, so that they are laid out once and not gathered
    copies = min(chunk_size // n, samples)
    if copies:
        chunk_size = copies * n
        x_copies, y_copies = repeated(x, y, copies)
    for start in range(0, samples, per_draw):
        k = min(per_draw, samples - start)
        z, log_q, dims = draws(guide, x, y, k, vectorised=vectorised)
        rows = {s: v.flatten(0, 1) for s, v in z.items()}
        log_p = []
        for i in range(0, k * n, chunk_size):
            chunk = {s: v[i : i + chunk_size] for s, v in rows.items()}
            size = min(chunk_size, k * n - i)
            if copies:
                seen = x_copies[:size], None if y is None else y_copies[:size]
            else:
                index = torch.arange(i, i + size, device=x.device) % n
                seen = x[index], None if y is None else y[index]
            log_p.append(log_joint(chunk, dims, *seen))
        yield torch.cat(log_p).reshape(k, n).double() - log_q.double()


def log_density(
    program: Callable, z: dict[str, Tensor], dims: dict[str, int], x: Data, y: Tensor | None
) -> Tensor:
    """Log p(x, z) or log q(z|x) per row, (rows,), at latents (rows, ...).

    ``dims`` are those of the rows in the program's own values, counted from the right.
    """
    z = {site: value.movedim(0, dims[site]) for site, value in z.items()}
    read = _read(x, traced(poutine.condition(program, data=z), x, y), (len(x),))
    zeros = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    return sum(map(read.density, read.sites), start=zeros)
