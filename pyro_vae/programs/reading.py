"""What each site of a trace contributes to a density, datum by datum."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

from .sites import compute_log_probs, is_joint, kinds


class Contributions:
    """What each site of a trace contributes to log p or log q, per datum.

    Every estimator reads this. Called with a site it is the site's log-probability where no mask
    hides it, observations, latents and factors alike, without any ``poutine.scale`` (beta) and
    without the N/n of a data plate that is subsampled; a plate inside a datum that is subsampled
    keeps its N/n, which makes the sum unbiased.

    The ``shape`` is (n,), or (k, n) under an outer plate of k samples; ``sites`` are those that
    the density consists of. Raises ``ValueError`` for a scale or a mask of another shape than the
    plates of its site.
    """

    def __init__(self, trace: Trace, shape: tuple[int, ...]) -> None:
        self.trace, self.shape, self.sites = trace, shape, kinds(trace).density
        self._plates: dict[str, tuple[CondIndepStackFrame | None, float]] = {}
        for site in self.sites:
            node = trace.nodes[site]
            if isinstance(node["scale"], Tensor) or isinstance(node["mask"], Tensor):
                _check_shapes(site, node)

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
        node, (plate, inside) = self.trace.nodes[site], self._around(site)
        if node["infer"].get("is_auxiliary") and is_joint(node):
            # Equal parts of what belongs to all data alike
            total = (value.sum() / self.shape[-1]).expand(self.shape)
        else:
            total = _summed(value, plate, node, self.shape)
        return total if inside == 1 else total * inside

    def subsampled(self, site: str) -> float:
        """N/n of the data plate at a site; 1 where the plate is not subsampled."""
        plate, _ = self._around(site)
        return 1.0 if plate is None else _share([plate])

    def inside(self, site: str) -> float:
        """N/n of the plates inside a datum at a site, subsampled or not."""
        return self._around(site)[1]

    def value(self, site: str) -> Tensor:
        """A latent's value, ``shape`` first; ``ValueError`` for a plate left of the data's."""
        node, (plate, _) = self.trace.nodes[site], self._around(site)
        first = plate.dim if plate else 0
        left = [f for f in node["cond_indep_stack"] if f.vectorized and f.dim < first]
        if len(left) >= len(self.shape):
            raise ValueError(
                f"site {site!r}: its plate {left[-1].name!r} is to the left of that of the data, "
                "whose dimension has to be the first of a latent here: give it a dim to the right"
            )
        return node["value"]

    def _around(self, site: str) -> tuple[CondIndepStackFrame | None, float]:
        """The data plate of a site, and N/n of all others."""
        found = self._plates.get(site)
        if found is None:
            node = self.trace.nodes[site]
            frames = node["cond_indep_stack"]
            # Most often the plate of the data alone
            if len(frames) == 1 and (frames[0].size,) == self.shape and frames[0].vectorized:
                found = frames[0], 1.0
            else:
                plate = _data_plate(node, self.shape, map(self.trace.nodes.get, self.sites))
                found = plate, _share([f for f in frames if f is not plate])
            self._plates[site] = found
        return found

    def _computed(self, site: str) -> dict[str, Any]:
        node = self.trace.nodes[site]
        if "unscaled_log_prob" not in node:
            compute_log_probs(self.trace, [site])
        return node

    def _refuse_subsampling(self, site: str) -> None:
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
                    f"{tuple(batch)}, got {tuple(given.shape)}: mask elements with "
                    "Distribution.mask before .to_event"
                )


def _share(frames: list[CondIndepStackFrame]) -> float:
    """By how much subsampling in these plates scales log-probabilities."""
    return math.prod([f.full_size / f.size for f in frames if f.full_size not in (None, f.size)])


def _plates_of_size(site: dict[str, Any], shape: tuple[int, ...]) -> list[CondIndepStackFrame]:
    """The plates of a site that are as large as the data, without the outer ones of samples."""
    found, outer = [], len(shape) - 1
    for frame in site["cond_indep_stack"]:  # outermost first
        if frame.vectorized:
            outer -= 1
            if outer < 0 and frame.size == shape[-1]:
                found.append(frame)
    return found


def _shared_plates(sites: Iterable[dict[str, Any]], shape: tuple[int, ...]) -> set[str]:
    """Names of the plates as large as the data that are around every site in any such plate."""
    plates = [_plates_of_size(site, shape) for site in sites]
    names = [{f.name for f in around} for around in plates if around]
    return set.intersection(*names) if names else set()


def _data_plate(
    site: dict[str, Any], shape: tuple[int, ...], sites: Iterable[dict[str, Any]] = ()
) -> CondIndepStackFrame | None:
    """The data plate of a site: by name, the only one of its size, or that all sites share."""
    plates = _plates_of_size(site, shape)
    for plate in plates:
        if plate.name == "data":
            return plate
    if len(plates) > 1:
        shared = _shared_plates(sites, shape)
        plates = [f for f in plates if f.name in shared] or plates
    if len(plates) > 1:
        raise ValueError(
            f"site {site['name']!r}: the plates {', '.join(repr(f.name) for f in plates)} are all "
            f"as large as the data ({shape[-1]}): name the plate of the data 'data'"
        )
    return plates[0] if plates else None


def per_datum(value: Tensor, site: dict[str, Any], shape: tuple[int, ...]) -> Tensor:
    """Sum a site's log-probability (or KL) over every dimension but those of the data plate.

    The ``value`` has the site's batch shape; ``shape`` is (n,), or (k, n) under an outer plate of
    k samples. Raises ``ValueError`` where no plate of the site is of size n, or it is not told
    which one is that of the data.
    """
    return _summed(value, _data_plate(site, shape), site, shape)


def _summed(
    value: Tensor,
    plate: CondIndepStackFrame | None,
    site: dict[str, Any],
    shape: tuple[int, ...],
) -> Tensor:
    data_dim = plate.dim if plate else -1
    first = -value.dim()
    others = [*range(first, data_dim + 1 - len(shape)), *range(max(first, data_dim + 1), 0)]
    undeclared, total = False, value
    if others:
        inside = {f.dim for f in site["cond_indep_stack"] if f.vectorized}
        undeclared = any([d not in inside and value.shape[d] > 1 for d in others])
        total = value.sum(others)
    if undeclared or tuple(total.shape) != shape:
        raise ValueError(
            f"site {site['name']!r}: expected log-probabilities of shape {shape}, one per datum, "
            f"got {tuple(value.shape)}: sample it inside pyro.plate('data', len(x)) and declare "
            "its other dimensions with .to_event"
        )
    return total
