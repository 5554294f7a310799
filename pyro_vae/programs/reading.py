"""What each site of a trace contributes to a density, datum by datum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

from .plates import DataPlate, data_plate
from .sites import auxiliary_sites, compute_log_probs, kinds


class Contributions:
    """What each site of a trace contributes to log p or log q, per datum.

    Every estimator reads this. Called with a site it is the site's log-probability where no mask
    hides it, observations, latents and factors alike, without any ``poutine.scale`` (beta) and
    without the N/n of a data plate that is subsampled; a plate inside a datum that is subsampled
    keeps its N/n, which makes the sum unbiased. What is outside the data plate belongs to the
    whole data set: each datum has an equal part of it.

    The ``shape`` is (n,), or (k, n) under an outer plate of k samples; ``plate`` is that of the
    data, or its name where a person gave it, see ``data_plate``; ``sites`` are those that the
    density consists of, and ``outside`` those of them outside the plate. Raises ``ValueError``
    for a scale or a mask of another shape than the plates of its site.
    """

    def __init__(
        self, trace: Trace, shape: tuple[int, ...], plate: DataPlate | str | None = None
    ) -> None:
        self.trace, self.shape, self.sites = trace, shape, kinds(trace).density
        if not isinstance(plate, DataPlate):
            plate = data_plate((trace,), shape[-1], plate=plate, outer=len(shape) - 1)
        self.plate, self.outside = plate, []
        self._plates: dict[str, tuple[CondIndepStackFrame | None, float]] = {}
        for site in self.sites:
            node = trace.nodes[site]
            if isinstance(node["scale"], Tensor) or isinstance(node["mask"], Tensor):
                _check_shapes(site, node)
            frames = node["cond_indep_stack"]
            # Most often the plate of the data alone
            if len(frames) == 1 and frames[0].vectorized and frames[0].name in plate.names:
                self._plates[site] = frames[0], 1.0
                continue
            frame = plate.frame(node)
            self._plates[site] = frame, _share([f for f in frames if f is not frame])
            if frame is None:
                self.outside.append(site)
        self._joint: set[str] = set()
        if self.outside:
            self._joint = self._drawn_as_one()
            self.outside = [site for site in self.outside if site not in self._joint]
        if self.outside and not (plate.names or plate.whole):
            node = self._computed(self.outside[0])
            _refuse(node, node["log_prob"], shape)

    def __call__(self, site: str) -> Tensor:
        """Of ``shape``; the log-probability is computed unless the trace has it."""
        node = self._computed(site)
        return self.sum(site, scale_and_mask(node["unscaled_log_prob"], 1.0, node["mask"]))

    def density(self, site: str) -> Tensor:
        """The same for a weight; ``ValueError`` where a plate inside a datum is subsampled."""
        self._refuse_subsampling(site)
        return self(site)

    def weight(self, site: str) -> Tensor:
        """``density`` times the site's ``poutine.scale``."""
        self._refuse_subsampling(site)
        total, share = self.sum(site, self._computed(site)["log_prob"]), self.subsampled(site)
        return total if share == 1 else total / share

    def sum(self, site: str, value: Tensor) -> Tensor:
        """A quantity of the site, of its batch shape, as ``shape``."""
        frame, inside = self._plates[site]
        if frame is not None and frame.dim == -1 and value.shape == self.shape and inside == 1:
            return value
        total = _summed(value, frame, self.trace.nodes[site], self.shape)
        if frame is None:
            parts = self.shape[-1] if site in self._joint else self.plate.total
            total = (total / parts).expand(self.shape)
        return total if inside == 1 else total * inside

    def units(self, site: str, value: Tensor, depth: int) -> Tensor:
        """A quantity of the site before ``sum``, of its batch shape and ``depth`` dimensions more.

        As (n, *plates inside the datum, *those); of what is outside the data plate each datum has
        an equal part.
        """
        frame, inside = self._plates[site]
        if frame is None:
            value = (value / self.plate.total).expand(*self.shape, *value.shape)
        else:
            value = value.movedim(frame.dim - depth, 0)
        return value if inside == 1 else value * inside

    def subsampled(self, site: str) -> float:
        """N/n of the data plate at a site; 1 where the plate is not subsampled."""
        frame, _ = self._plates[site]
        return 1.0 if frame is None else _share([frame])

    def inside(self, site: str) -> float:
        """N/n of the plates inside a datum at a site, subsampled or not."""
        return self._plates[site][1]

    def dimension(self, site: str) -> int:
        """Dimension of the data in a latent's values, counted from the right."""
        frame, _ = self._plates[site]
        refuse_shared([site] if frame is None else [])
        return frame.dim - self.trace.nodes[site]["fn"].event_dim

    def value(self, site: str) -> Tensor:
        """A latent's value, ``shape`` first."""
        at, value = self.dimension(site), self.trace.nodes[site]["value"]
        samples = range(len(self.shape))
        return value.movedim([at - k for k in samples], [len(self.shape) - 1 - k for k in samples])

    def _drawn_as_one(self) -> set[str]:
        """Auxiliary sites that are one draw for the latents of these data."""
        latents = auxiliary_sites(self.trace)
        return {s for s in self.outside if latents.get(s, s) not in self.outside}

    def _computed(self, site: str) -> dict[str, Any]:
        node = self.trace.nodes[site]
        if "unscaled_log_prob" not in node:
            compute_log_probs(self.trace, [site])
        return node

    def _refuse_subsampling(self, site: str) -> None:
        refuse_shared(self.outside)
        if self.inside(site) != 1:
            raise ValueError(
                f"site {site!r}: a plate inside the datum is subsampled, so that its density is "
                "an estimate, and weights with one are no bound: use elbo='trace', or the whole "
                "plate"
            )


def _check_shapes(site: str, node: dict[str, Any]) -> None:
    """Raise ``ValueError`` where scale or mask do not have the shape of the site's plates."""
    batch = node["fn"].batch_shape
    for what in ("scale", "mask"):
        given = node[what]
        if isinstance(given, Tensor) and given.dim():
            sizes = zip(reversed(given.shape), reversed(batch), strict=False)
            if given.dim() > len(batch) or any(a not in (1, b) for a, b in sizes):
                raise ValueError(
                    f"site {site!r}: expected a {what} of the shape of its plates, "
                    f"{tuple(batch)}, got {tuple(given.shape)}: make it as large as the "
                    "data that the program gets, here the first ones perhaps, or mask elements "
                    "with Distribution.mask before .to_event"
                )


def _share(frames: list[CondIndepStackFrame]) -> float:
    """By how much subsampling in these plates scales log-probabilities."""
    return math.prod([f.full_size / f.size for f in frames if f.full_size not in (None, f.size)])


def contributions(model_trace: Trace, guide_trace: Trace, x: Any) -> tuple[Contributions, ...]:
    """Those of a pair that was run on x: of the model, and of the guide.

    Where x tells, ``x.plate`` is the name of the data plate, and ``x.total`` how many data there
    are, of which x is a part.
    """
    traces = model_trace, guide_trace
    named = {"plate": getattr(x, "plate", None), "total": getattr(x, "total", None)}
    plate = data_plate(traces, len(x), **named)
    shape = (plate.size,)
    return Contributions(model_trace, shape, plate), Contributions(guide_trace, shape, plate)


def latents_apart(trace: Trace, x: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Values of the latents of each datum, and of those outside the data plate."""
    plate, latents = _plate_of(trace, x), kinds(trace).latent
    values = {site: trace.nodes[site]["value"] for site in latents}
    shared = [site for site in latents if plate.frame(trace.nodes[site]) is None]
    return {s: v for s, v in values.items() if s not in shared}, {s: values[s] for s in shared}


def latent_rows(trace: Trace, x: Any) -> dict[str, Tensor]:
    """Values of the latents of each datum, along dimension 0 the data."""
    plate, found = _plate_of(trace, x), {}
    for site in kinds(trace).latent:
        node = trace.nodes[site]
        if (frame := plate.frame(node)) is not None:
            found[site] = node["value"].movedim(frame.dim - node["fn"].event_dim, 0)
    return found


def _plate_of(trace: Trace, x: Any) -> DataPlate:
    return data_plate((trace,), len(x), plate=getattr(x, "plate", None))


def count_once(p: Contributions, q: Contributions) -> None:
    """Let what is outside the data plate count once per data set: n/N in a step on n of N data.

    To be called before the traces' log-probabilities are computed.
    """
    share = p.plate.share
    if share != 1:
        for side in (p, q):
            for site in side.outside:
                node = side.trace.nodes[site]
                node["scale"] = node["scale"] * share


def check_rows(p: Contributions, q: Contributions, x: Any) -> None:
    """Raise ``ValueError`` unless each row of x is a datum, which shares no site with others."""
    refuse_shared([*p.outside, *q.outside])
    if p.plate.size != len(x):
        raise ValueError(
            f"plate {min(p.plate.names)!r}: expected one datum for each of the {len(x)} rows of "
            f"the data, got {p.plate.size}: use elbo='trace' or 'analytic' and evaluate(..., "
            "importance_samples=0), or put the data along dimension 0"
        )


def refuse_shared(outside: Sequence[str]) -> None:
    """Raise ``ValueError`` where sites outside the data plate would be part of each datum."""
    if outside:
        raise ValueError(
            f"site {outside[0]!r}: it is outside the data plate, so that all data share it, and "
            "no datum has a weight or a density of its own: use elbo='trace' or 'analytic' and "
            "evaluate(..., importance_samples=0), or draw it inside the plate, for each datum"
        )


def _summed(
    value: Tensor,
    frame: CondIndepStackFrame | None,
    node: dict[str, Any],
    shape: tuple[int, ...],
) -> Tensor:
    """Sum over every dimension but that of the data; over all outside of their plate, ()."""
    first, expected = -value.dim(), shape
    if frame is None:
        others, expected = [*range(first, 0)], ()
    else:
        last = frame.dim + 1
        others = [*range(first, last - len(shape)), *range(max(first, last), 0)]
    undeclared, total = False, value
    if others:
        inside = {f.dim for f in node["cond_indep_stack"] if f.vectorized}
        undeclared = any([d not in inside and value.shape[d] > 1 for d in others])
        total = value.sum(others)
    if undeclared or tuple(total.shape) != expected:
        _refuse(node, value, shape)
    return total


def _refuse(node: dict[str, Any], value: Tensor, shape: tuple[int, ...]) -> NoReturn:
    raise ValueError(
        f"site {node['name']!r}: expected log-probabilities of shape {shape}, one per datum, "
        f"got {tuple(value.shape)}: sample it inside pyro.plate('data', len(x)) and declare "
        "its other dimensions with .to_event"
    )
