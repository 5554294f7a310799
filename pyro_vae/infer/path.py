"""The two ends of an annealing path of a pair: densities of its programs, with gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from ..data.arguments import Data, holding, tensors_of
from ..distributions import base_of
from ..programs.autoguides import few
from ..programs.coordinates import Placing, transform_of, unconstrained
from ..programs.enumeration import Enumerated, Sums
from ..programs.reading import Contributions
from ..programs.running import traced
from ..programs.sites import (
    auxiliary_sites,
    is_point_mass,
    kinds,
    present,
    refuse_auxiliary,
)
from .annealing import Ends
from .densities import (
    ENCODED_ROWS,
    can_broadcast,
    draws,
    guide_trace,
    log_density,
    repeated,
    samples_plate,
    split,
    without,
)
from .engine.repeated import Repeated

# Recording takes about as long as it saves in so many calls
_CALLS_BEFORE_A_GRAPH = 20


def prior_of(model: Callable) -> Callable:
    """The prior of a model's latents as a guide of it."""
    return poutine.block(model, hide_fn=_is_observed)


def _is_observed(msg: dict[str, Any]) -> bool:
    return msg["type"] == "sample" and msg["is_observed"]


class Path:
    """Densities of a guide, where the path starts, and of its model, where it ends.

    They are those of unconstrained coordinates u: q(z|x) |dz/du| and p(x, z) |dz/du|, d numbers
    per datum, all latents one after the other in the model's order, without what is summed out of
    both. Raises ``ValueError`` for latents without such coordinates and for a guide that is no
    density of z.
    """

    def __init__(
        self,
        model: Callable,
        guide: Callable,
        x: Data,
        y: Tensor | None,
        sums: Sums | None = None,
    ) -> None:
        self.model, self.guide = model, guide
        self._form = x, y
        seen = few(guide, x, y, 2)
        self.vectorised = can_broadcast(guide, *seen)
        q, _ = guide_trace(guide, *seen, 2, vectorised=self.vectorised)
        self._auxiliary = auxiliary_sites(q)
        p = traced(poutine.replay(model, trace=traced(guide, *seen)), *seen)
        self._sums = sums
        # Of a guide that draws what is summed out the density is not that of its draws
        self._marginal = sums is not None and sums.in_guide
        latents = [*without(dict.fromkeys(kinds(p).latent), sums)]
        _check_continuous(p, latents)
        if self._auxiliary and {*map(_unconstrained, latents)} != {*self._auxiliary}:
            refuse_auxiliary(q, "annealing")
        self._run = Repeated(self._both, model, guide, after=_CALLS_BEFORE_A_GRAPH)
        z, log_q, dims = draws(guide, *seen, 2, vectorised=self.vectorised)
        _check_first(z, dims)
        self._dims = {site: dims[site] for site in latents if site in dims}
        if self._marginal:
            log_q = self._summed(_rows(z, latents), *repeated(*seen, 2)).reshape(log_q.shape)
        u = unconstrained(model, _rows(z, latents), *repeated(*seen, 2))
        self.shapes = {site: u[site].shape[1:] for site in latents}
        again, *_ = self._log_densities(self._joined(u, 2), *seen)
        if not torch.allclose(again, log_q, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise ValueError(
                "guide: expected the same density of the same latents and data in each run, got "
                "another one, as of a guide that draws noise of its own: pass None for it, to "
                "anneal from the prior"
            )

    def draw(self, x: Data, y: Tensor | None, k: int, at_once: int) -> Tensor:
        """Coordinates (k, n, d) of k draws of the guide for each of n data."""
        # An encoding for each of the draws takes memory
        each = k if self.vectorised else max(1, ENCODED_ROWS // len(x))
        drawn = [
            draws(self.guide, x, y, min(each, k - i), vectorised=self.vectorised)[0]
            for i in range(0, k, each)
        ]
        z = {site: torch.cat([some[site] for some in drawn]) for site in self.shapes}
        return self.coordinates(z, x, y, at_once)

    def coordinates(
        self, z: Mapping[str, Tensor], x: Data, y: Tensor | None, at_once: int
    ) -> Tensor:
        """Those of latents, site -> (k, n, ...), for n data: (k, n, d)."""
        k, found = len(next(iter(z.values()))), []
        for number, (part_x, part_y) in enumerate(split(x, y, at_once)):
            part = {s: z[s][:, number * at_once :][:, :at_once] for s in self.shapes}
            rows = unconstrained(self.model, _rows(part, part), *repeated(part_x, part_y, k))
            found.append(self._joined(rows, k))
        return torch.cat(found, 1)

    def ends(self, x: Data, y: Tensor | None, at_once: int) -> Ends:
        """The densities of n data as a function of coordinates, ``at_once`` of the data."""
        parts = [tensors_of(*part) for part in split(x, y, at_once)]

        def ends(u: Tensor) -> tuple[Tensor, ...]:
            pieces = zip(u.split(at_once, 1), parts, strict=True)
            # Records are of contiguous tensors
            found = [self._run(piece.contiguous(), *part) for piece, part in pieces]
            return tuple(torch.cat(part, 1) for part in zip(*found, strict=True))

        return ends

    def _joined(self, u: Mapping[str, Tensor], k: int) -> Tensor:
        rows = [
            u[site].flatten(1) if shape else u[site][:, None]
            for site, shape in self.shapes.items()
        ]
        return torch.cat(rows, 1).unflatten(0, (k, -1))

    def _both(self, u: Tensor, *data: Tensor) -> tuple[Tensor, ...]:
        """Log-densities (k, n) of both ends at u (k, n, d), and their gradients."""
        x, y = holding(*self._form, data)
        with torch.enable_grad(), torch.autograd.set_multithreading_enabled(False):
            u = u.detach().requires_grad_()
            log_q, log_p, volume = self._log_densities(u, x, y)
            start, end = log_q + volume, log_p + volume
            (slope,) = torch.autograd.grad(start.sum(), u, retain_graph=True)
            (other,) = torch.autograd.grad(end.sum(), u)
        return start.detach(), end.detach(), slope, other

    def _log_densities(self, u: Tensor, x: Data, y: Tensor | None) -> tuple[Tensor, ...]:
        """Log q(z|x), log p(x, z) and log |dz/du| at u, (k, n) each."""
        shape = k, n = u.shape[:2]
        rows = u.flatten(0, 1).split([math.prod(s) for s in self.shapes.values()], 1)
        placing = Placing(
            {
                s: v.reshape(k * n, *of)
                for (s, of), v in zip(self.shapes.items(), rows, strict=True)
            }
        )
        copies = repeated(x, y, k)
        model = self.model
        if self._sums is not None:
            model = self._sums(model)
        with placing:
            p = traced(model, *copies)
        z = placing.values
        # A density may be constant
        volumes = (_log_volume(p.nodes[site], u) for site, u in placing.u.items())
        volume = sum(volumes, start=0 * u.sum(-1).flatten())
        log_p = _total(p, (k * n,), x, summed=self._sums is not None)
        log_q = self._log_q(z, placing, x, y, copies, shape)
        return tuple(t.reshape(shape) for t in (log_q, log_p, volume))

    def _log_q(
        self,
        z: dict[str, Tensor],
        placing: Placing,
        x: Data,
        y: Tensor | None,
        copies: tuple[Data, Tensor | None],
        shape: tuple[int, ...],
    ) -> Tensor:
        if self._marginal:
            return self._summed(z, *copies)
        k, n = shape
        if self._auxiliary:
            z = {_unconstrained(site): v for site, v in placing.u.items()}
        if self.vectorised:
            z = {site: v.unflatten(0, shape) for site, v in z.items()}
        guide = poutine.condition(self.guide, data=z)
        if self.vectorised:
            with samples_plate(k):
                q = traced(guide, x, y)
        else:
            q = traced(guide, *copies)
        return _total(q, shape if self.vectorised else (k * n,), x)

    def _summed(self, z: dict[str, Tensor], x: Data, y: Tensor | None) -> Tensor:
        """That of the guide at rows of latents, without what is summed out."""
        return log_density(self.guide, z, self._dims, x, y, sums=self._sums)


def _check_first(z: Mapping[str, Tensor], dims: Mapping[str, int]) -> None:
    """Raise ``ValueError`` for plates to the left of the data's around latents (k, n, ...)."""
    for site, value in z.items():
        if -dims[site] != value.dim() - 1:
            raise ValueError(
                f"site {site!r}: expected the plate of the data to be the first around it, got "
                "another to the left: give that a dim to the right, or use infer.importance"
            )


def _check_continuous(p: Trace, latents: Iterable[str]) -> None:
    """Raise ``ValueError`` for latents without unconstrained coordinates, or for none at all."""
    latents = [*latents]
    if not latents:
        raise ValueError(
            "model: expected latents with continuous values, along which annealing moves, got "
            "none besides what is summed out: log p(x) is exact by infer.importance(model, guide, "
            "x, samples=1), of a guide that draws nothing else, such as "
            "lambda *args, **kwargs: None"
        )
    for site in latents:
        node = p.nodes[site]
        if not _has_coordinates(node):
            mark = "mark it infer={'enumerate': 'parallel'} in model and guide, to sum it out, or "
            raise ValueError(
                f"site {site!r}: expected continuous values, along which annealing moves, got a "
                f"{type(base_of(node['fn'])).__name__}: "
                f"{mark if node['fn'].has_enumerate_support else ''}use infer.importance"
            )


def _has_coordinates(node: dict[str, Any]) -> bool:
    transform = transform_of(node["fn"])
    if transform is None or is_point_mass(node["fn"]):
        return False
    try:
        _log_volume(node, transform.inv(node["value"]))
    except NotImplementedError:
        return False
    return True


def _log_volume(node: dict[str, Any], u: Tensor) -> Tensor:
    """Log |dz/du| of the rows of a latent, (rows,), without elements that masks hide."""
    found = transform_of(node["fn"]).log_abs_det_jacobian(u, node["value"])
    if (shown := present(node)) is not None:
        while shown.dim() > found.dim():
            shown = shown.all(-1)
        found = torch.where(shown, found, 0)
    return found.reshape(len(u), -1).sum(1)


def _total(trace: Trace, shape: tuple[int, ...], x: Data, *, summed: bool = False) -> Tensor:
    read = Contributions(trace, shape, getattr(x, "plate", None))
    if summed:
        return Enumerated(read).density()
    return sum(map(read.density, read.sites))


def _rows(z: Mapping[str, Tensor], sites: Iterable[str]) -> dict[str, Tensor]:
    """Latents (k, n, ...) as rows (k * n, ...)."""
    return {site: z[site].flatten(0, 1) for site in sites}


def _unconstrained(site: str) -> str:
    """The site from which an autoguide draws a latent."""
    return f"{site}_unconstrained"
