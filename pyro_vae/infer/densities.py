"""Draws of a guide, and densities of programs at latents, as weights are made of."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from ..data.arguments import Arguments, Data, columns_of, holding, tensors_of
from ..ground.arguments import whole
from ..programs.autoguides import check_batch, few, is_autoguide
from ..programs.checks import check_data, compared
from ..programs.enumeration import Enumerated, Sums, sums_of
from ..programs.reading import Contributions, check_rows, contributions
from ..programs.running import measuring, trace_pair, traced
from ..programs.sites import SAMPLES, auxiliary_sites, is_joint, kinds, point_masses
from ..programs.unwrapping import innermost, is_ours
from .engine.repeated import Repeated

# Rows of latents drawn at once from one encoding per row
ENCODED_ROWS = 2**12
# Recording a program takes as long as it saves in about so many chunks
_CHUNKS_BEFORE_A_GRAPH = 20
# What programs raise that do not know dimensions to the left of the data's
CANNOT_BROADCAST = (RuntimeError, ValueError, IndexError, NotImplementedError)


def split(x: Data, y: Tensor | None, rows: int) -> list[tuple[Data, Tensor | None]]:
    """Data and labels in parts of so many rows."""
    labels = itertools.repeat(None) if y is None else y.split(rows)
    return [*zip(x.split(rows), labels, strict=False)]


def rows_at_once(x: Data, chunk_size: int | None) -> int:
    """So many rows, as asked or as elements of a datum allow."""
    if chunk_size is None:
        elements = sum(column[:1].numel() for column in columns_of(x))
        chunk_size = max(1, 2**20 // max(1, elements))
    return whole("chunk_size", chunk_size)


def check_weighed(
    model: Callable, guide: Callable, x: Data, y: Tensor | None, block: int
) -> Sums | None:
    """Raise where data have no weights: ``ValueError`` for what ``importance`` refuses.

    The result tells which latents are to be summed out.
    """
    check_data(model, x, y)
    check_batch(guide, len(x))
    first, first_y = few(guide, x, y, block)
    compared(model, guide, first, first_y)
    if not (is_ours(guide) or is_autoguide(guide)):
        _refuse_fixed(model, guide, first, first_y)
    with measuring(model, guide, device=x.device):
        traces = trace_pair(model, guide, first, first_y)
        check_rows(*contributions(*traces, first), first)
    return sums_of(*traces)


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
    copies = y.repeated(k) if isinstance(y, Arguments) else None if y is None else y.repeat(k)
    return x.repeat(k, *(1,) * (x.dim() - 1)), copies


def remembering(guide: Callable) -> contextlib.AbstractContextManager:
    """Where a guide need not compute again what it has computed of the same tensors."""
    return getattr(innermost(guide), "remembering", contextlib.nullcontext)()


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


class LogDensity:
    """Log p(x, z), or log q(z|x), of latents, data and labels, (rows,), recorded where it pays.

    Args:
        program: model or guide.
        sums: what is summed out, whose values in ``z`` are not looked at; None for nothing.
    """

    def __init__(self, program: Callable, sums: Sums | None = None) -> None:
        self.program, self.sums = program, sums
        self._dims: dict[str, int] = {}
        self._given: tuple[Data, Tensor | None] | tuple[()] = ()
        self._run = Repeated(self._of, program, after=_CHUNKS_BEFORE_A_GRAPH)

    def __call__(
        self, z: dict[str, Tensor], dims: dict[str, int], x: Data, y: Tensor | None
    ) -> Tensor:
        """That of rows of z, whose ``dims`` in the program are as for ``log_density``."""
        z = without(z, self.sums)
        self._dims, self._given = {site: dims[site] for site in z}, (x, y)
        return self._run(*z.values(), *tensors_of(x, y))

    def _of(self, *inputs: Tensor) -> Tensor:
        z = dict(zip(self._dims, inputs, strict=False))
        data = holding(*self._given, inputs[len(z) :])
        return log_density(self.program, z, self._dims, *data, sums=self.sums)


def without(z: dict[str, Tensor], sums: Sums | None) -> dict[str, Tensor]:
    """Latents but for those that are summed out."""
    return z if sums is None else {s: v for s, v in z.items() if s not in sums.sites}


def log_density(
    program: Callable,
    z: dict[str, Tensor],
    dims: dict[str, int],
    x: Data,
    y: Tensor | None,
    *,
    sums: Sums | None = None,
) -> Tensor:
    """Log p(x, z) or log q(z|x) per row, (rows,), at latents (rows, ...).

    ``dims`` are those of the rows in the program's own values, counted from the right.
    """
    if sums is not None:
        return enumerated(program, z, dims, x, y, sums).density()
    read = _at(program, z, dims, x, y)
    zeros = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    return sum(map(read.density, read.sites), start=zeros)


def enumerated(
    program: Callable,
    z: dict[str, Tensor],
    dims: dict[str, int],
    x: Data,
    y: Tensor | None,
    sums: Sums,
) -> Enumerated:
    """The sites whose ``log_density`` this is, on all values of what is summed out."""
    return Enumerated(_at(program, without(z, sums), dims, x, y, sums))


def _at(
    program: Callable,
    z: dict[str, Tensor],
    dims: dict[str, int],
    x: Data,
    y: Tensor | None,
    sums: Sums | None = None,
) -> Contributions:
    z = {site: value.movedim(0, dims[site]) for site, value in z.items()}
    program = poutine.condition(program, data=z)
    return _read(x, traced(program if sums is None else sums(program), x, y), (len(x),))
