"""The aggregate posterior of a guide: q(z) = 1/N sum_j q(z|x_j) over a whole data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from ..data import Dataset
from ..data.arguments import Arguments, Data, holding, tensors_of
from ..programs.autoguides import check_batch, is_autoguide
from ..programs.enumeration import Enumerated, sums_of
from ..programs.reading import Contributions, check_rows, contributions
from ..programs.running import trace_pair, traced, undisturbed
from ..programs.sites import kinds, point_masses, present, refuse_auxiliary
from ..programs.unwrapping import is_ours
from .densities import CANNOT_BROADCAST, repeated
from .engine.repeated import Checked
from .objectives.enumerated import in_turn
from .objectives.units import PerUnit, at_draw, joined_units, kl_per_unit

# Latent site -> tensor
Values = dict[str, Tensor]

# Latent values, (pair of data) x (unit), whose density is taken at once
_PAIRED_VALUES = 2**22
_MOST_COLUMNS = 2048


@dataclass(frozen=True)
class Draws:
    """One z_i ~ q(z|x_i) for each of n data, with its densities per site.

    Attributes:
        z: latent site -> (n, *latent shape), in the guide's sampling order.
        log_q: site -> log q(site | x_i, sites before it), (n,), float64.
        log_p: site -> log p(site | its parents in the model), (n,), float64.
        present: site -> which elements of each datum's latent no mask hides, (n, units); only
            sites with masks.
        model_order: latent sites in the model's sampling order.
        unit_kl: site -> log q - log p of each unit, (n, *units), where both are products over
            units, whose sum is that of the site.
    """

    z: Values
    log_q: Values
    log_p: Values
    present: Values
    model_order: tuple[str, ...]
    unit_kl: PerUnit

    @property
    def unlike(self) -> str | None:
        """A site that some of the data have other elements of than others; None without."""
        return next((s for s, shown in self.present.items() if (shown != shown[0]).any()), None)

    @property
    def alike(self) -> Tensor | None:
        """A number for each datum, (n,), equal where latents are; None where all are alike."""
        if self.unlike is None:
            return None
        return torch.cat([*self.present.values()], 1).unique(dim=0, return_inverse=True)[1]


def draw(model: Callable, guide: Callable, data: Dataset, batch_size: int) -> Draws:
    """Draw from a guide once for each datum, in the current mode, advancing the RNG.

    A guide that is a point mass, which has no density, or has factors is a ``ValueError``.
    """
    parts, units = [], []
    if not (is_ours(guide) or is_autoguide(guide)):
        _refuse_fixed(guide, data)
    for x, y in data.batches(batch_size):
        check_batch(guide, len(x))
        model_trace, guide_trace = trace_pair(model, guide, x, y)
        if points := point_masses(guide_trace):
            raise ValueError(
                f"site {points[0]!r}: expected a guide with a density, got a point mass, whose "
                "KL and mutual information are infinite: use a guide such as guides.BottomUp"
            )
        refuse_auxiliary(guide_trace, "the aggregate posterior")
        sites = kinds(guide_trace).latent
        if factors := [s for s in kinds(guide_trace).density if s not in sites]:
            raise ValueError(
                f"site {factors[0]!r}: expected a guide whose density is that of its latent "
                "sites, got a factor: give the latent a distribution that has it"
            )
        p, drawn = contributions(model_trace, guide_trace, x)
        check_rows(p, drawn, x)
        values = {s: drawn.value(s) for s in sites}
        prior, tied = _log_prior(model, model_trace, guide_trace, x, y)
        densities = [
            {s: drawn.density(s).double() for s in sites},
            {s: (prior[s] if s in prior else p.density(s)).double() for s in sites},
        ]
        shown = {s: present(guide_trace.nodes[s]) for s in sites}
        masks = {s: mask.reshape(len(x), -1) for s, mask in shown.items() if mask is not None}
        order = tuple(s for s in kinds(model_trace).latent if s in sites)
        parts.append((values, *densities, masks, order))
        units.append((kl_per_unit(p, drawn, at_draw, tied=tied), len(x)))
        refuse_missing(parts[0][0], values)
    columns = [
        {s: torch.cat([part[column][s] for part in parts]) for s in parts[0][column]}
        for column in range(4)
    ]
    return Draws(*columns, model_order=parts[0][4], unit_kl=joined_units(units))


def _log_prior(
    model: Callable,
    model_trace: Trace,
    guide_trace: Trace,
    x: Data,
    y: Tensor | None,
) -> tuple[Values, list[str]]:
    """Log p of latents, with those that the model alone has summed out, and what depends on these.

    Of others there is nothing.
    """
    sums = sums_of(model_trace, guide_trace)
    marks = {} if sums is None else sums.marks
    alone = {s: mark for s, mark in marks.items() if s not in kinds(guide_trace).latent}
    if not alone:
        return {}, []
    program = poutine.replay(replace(sums, marks=alone)(model), trace=guide_trace)
    read = Enumerated(contributions(traced(program, x, y), guide_trace, x)[0])
    found: Values = {}
    for tied in read.components:
        found |= in_turn(read, tied, read.summed_over(tied))
    return found, [*found]


def refuse_missing(some: Iterable[str], others: Iterable[str]) -> None:
    """Raise ``ValueError`` for a site that some of the data have and a program not for others."""
    if missing := {*some} ^ {*others}:
        raise ValueError(
            f"site {min(missing)!r}: the guide draws it for some of the data only, as for the "
            "longest sequence of a batch, and latents of all are compared here: draw it for all, "
            "under a mask where a datum has none, or pass data of one length"
        )


def _refuse_fixed(guide: Callable, data: Dataset | Arguments) -> None:
    """Raise ``ValueError`` for a guide that does not run on a part of the data."""
    try:
        with undisturbed(guide, device=data.device):
            traced(guide, data[:2].x, data[:2].y)
    except CANNOT_BROADCAST as error:
        raise ValueError(
            "guide: expected one that runs on any number of data, to compare each latent with "
            f"each datum, got one that does not run on two of {len(data)}: make its plates as "
            "large as the data that it gets, or read the KL alone, "
            "infer.elbo_terms(model, guide, x).kl"
        ) from error


def refuse_unlike(model: Callable, guide: Callable, sets: list[Dataset], batch_size: int) -> None:
    """Raise ``ValueError`` where masks give some of the data other latents than others.

    Their densities are of unequal dimensions then, and no datum is where another one is.
    """
    draws = [draw(model, guide, d, batch_size) for d in sets]
    for site in draws[0].present:
        shown = torch.cat([d.present[site] for d in draws])
        if (shown != shown[0]).any():
            raise ValueError(
                f"site {site!r}: its mask differs between data, which have no common latents "
                "then to compare: pass data of equal masks, such as sequences of one length"
            )


def pair_densities(
    guide: Callable,
    data: Dataset,
    z: Values,
    *,
    parents: Values | None = None,
    sites: list[str] | None = None,
) -> Iterator[tuple[slice, slice, Values]]:
    """Log q(z_i|x_j) for all pairs of latents i and data j, block by block.

    The latents ``z`` are site -> (n, *latent shape), and ``parents``, held at values that belong
    to x_j, site -> (N, *latent shape). What is yielded are rows i, columns j, and, of each of
    ``sites`` (default: all of ``z``), log q(site | x_j, sites before it), (rows, columns).
    """
    parents = parents or {}
    sites = list(z) if sites is None else sites
    n, total = len(next(iter(z.values()))), len(data)
    units = sum(math.prod(value.shape[1:]) for value in z.values())
    columns = min(total, _MOST_COLUMNS)
    rows = max(1, _PAIRED_VALUES // (columns * units))
    density = _crossed if _crosses(guide, data, z, parents, sites) else _repeated

    def of(*inputs: Tensor) -> tuple[Tensor, ...]:
        block = dict(zip(z, inputs, strict=False))
        held = dict(zip(parents, inputs[len(z) :], strict=False))
        seen = holding(x, y, inputs[len(z) + len(parents) :])
        return tuple(density(guide, *seen, block, held, sites).values())

    run = Checked(of, guide)
    for j in range(0, total, columns):
        column = slice(j, min(j + columns, total))
        x, y = data[column].x, data[column].y
        held = [value[column] for value in parents.values()]
        for i in range(0, n, rows):
            row = slice(i, min(i + rows, n))
            block = [value[row] for value in z.values()]
            found = run(*block, *held, *tensors_of(x, y))
            yield row, column, dict(zip(sites, found, strict=True))


def log_aggregate(
    guide: Callable,
    data: Dataset,
    z: Values,
    *,
    own: Tensor | None = None,
    leave_one_out: bool = False,
) -> Tensor:
    """Log density of the aggregate posterior at given latents, log 1/N sum_j q(z_i|x_j).

    It is (n,), float64, for latents ``z``, site -> (n, *latent shape), and N data. ``own`` is
    log q(z_i|x_i), (n,), where z_i belongs to datum i; ``leave_one_out`` leaves datum i itself out
    of the sum for z_i, and divides by N - 1.
    """
    total = Total(len(next(iter(z.values()))), data.device)
    for row, column, densities in pair_densities(guide, data, z):
        total.add(row, column, sum(densities.values()), -math.inf if leave_one_out else own)
    return total.log - math.log(len(data) - leave_one_out)


class Total:
    """A running log-sum-exp over the columns of a matrix that comes in blocks.

    ``log`` is log sum_j exp(value_ij), (n,), float64; over all j, or over those whose number in
    ``alike``, (n,), is that of i.
    """

    def __init__(self, n: int, device: torch.device, alike: Tensor | None = None) -> None:
        self.log = torch.full((n,), -math.inf, dtype=torch.float64, device=device)
        self._alike = alike

    def add(
        self, row: slice, column: slice, values: Tensor, diagonal: Tensor | float | None = None
    ) -> None:
        """Add a block, its entries i = j replaced by those of ``diagonal``."""
        values = values.double()
        if self._alike is not None:
            others = self._alike[row, None] != self._alike[column]
            values = values.masked_fill(others, -math.inf)
        if diagonal is not None:
            if both := range(max(row.start, column.start), min(row.stop, column.stop)):
                index = torch.arange(both.start, both.stop, device=values.device)
                given = diagonal[index] if isinstance(diagonal, Tensor) else diagonal
                values[index - row.start, index - column.start] = given
        self.log[row] = torch.logaddexp(self.log[row], values.logsumexp(1))


def _crossed(
    guide: Callable, x: Data, y: Tensor | None, z: Values, parents: Values, sites: list[str]
) -> Values:
    """Densities (rows, columns) from one run: the data along the plate, the latents outside."""
    shape = (len(next(iter(z.values()))), len(x))
    given = {s: value[:, None] for s, value in z.items()}
    given |= {s: value[None] for s, value in parents.items()}
    with pyro.plate("latents", shape[0], dim=-2):
        trace = _conditioned(guide, x, y, given)
    return _densities(trace, sites, shape, x)


def _repeated(
    guide: Callable, x: Data, y: Tensor | None, z: Values, parents: Values, sites: list[str]
) -> Values:
    """The same for a guide that does not broadcast: each pair is a row of its own."""
    rows, columns = len(next(iter(z.values()))), len(x)
    given = {s: value.repeat_interleave(columns, 0) for s, value in z.items()}
    given |= {s: value.repeat(rows, *(1,) * (value.dim() - 1)) for s, value in parents.items()}
    trace = _conditioned(guide, *repeated(x, y, rows), given)
    flat = _densities(trace, sites, (rows * columns,), x)
    return {s: value.reshape(rows, columns) for s, value in flat.items()}


def _conditioned(guide: Callable, x: Data, y: Tensor | None, z: Values) -> poutine.Trace:
    trace = traced(poutine.condition(guide, data=z), x, y)
    refuse_auxiliary(trace, "the aggregate posterior")
    return trace


def _densities(
    trace: poutine.Trace, sites: list[str], shape: tuple[int, ...], x: Tensor
) -> Values:
    refuse_missing(sites, [s for s in sites if s in trace.nodes])
    read = Contributions(trace, shape, getattr(x, "plate", None))
    return {s: read.density(s) for s in sites}


def _crosses(guide: Callable, data: Dataset, z: Values, parents: Values, sites: list[str]) -> bool:
    """Whether the guide gives the right densities when latents are held under an outer plate."""
    x, y = data[:2].x, data[:2].y
    rows = {s: value[:3] for s, value in z.items()}
    held = {s: value[:2] for s, value in parents.items()}
    try:
        found = _crossed(guide, x, y, rows, held, sites)
    except CANNOT_BROADCAST:
        return False
    expected = _repeated(guide, x, y, rows, held, sites)
    return all(torch.allclose(found[s], expected[s], rtol=1e-3, atol=1e-3) for s in sites)
