"""Discrete latents that run on all their values at once: what remains, datum by datum."""

from __future__ import annotations

import functools
import operator
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import opt_einsum
from pyro import poutine
from pyro.ops import packed
from pyro.ops.contract import contract_to_tensor
from pyro.ops.rings import LogRing
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..data.arguments import Data
from ..distributions import base_of
from ..ground.internals import DIM_SYMBOLS, ENUMERATED, packed_as, packed_dims
from .reading import Contributions, contributions
from .running import trace_pair
from .sites import compute_log_probs, kinds

# The data, whatever programs call their plate
DATA = opt_einsum.get_symbol(0)
_STOCK = "or pass elbo=pyro.infer.TraceEnum_ELBO(), which gives no terms per datum"


def nesting(*traces: Trace) -> int:
    """How many dimensions, counted from the right, the plates of these traces take."""
    stacks = [node.get("cond_indep_stack", ()) for t in traces for node in t.nodes.values()]
    return max((-f.dim for stack in stacks for f in stack if f.vectorized), default=0)


def enumerated_pair(
    model: Callable, guide: Callable, x: Data, y: Tensor | None, dims: int
) -> tuple[Contributions, Contributions]:
    """``contributions`` of a pair whose marked latents run on all their values.

    These lie to the left of so many ``dims``, which plates take, see ``nesting``.
    """
    guide = poutine.enum(guide, first_available_dim=-1 - dims)
    return contributions(*trace_pair(poutine.enum(model), guide, x, y), x)


@dataclass(frozen=True)
class Sums:
    """Which latents of a pair are summed out; called with a program of it, that on their values.

    Attributes:
        marks: these latents, in the order of the model -> how they are marked.
        in_guide: whether the guide has some of them.
        dims: dimensions that plates take, see ``nesting``.
    """

    marks: Mapping[str, Mapping[str, Any]]
    in_guide: bool
    dims: int

    @property
    def sites(self) -> list[str]:
        """Names of these latents."""
        return [*self.marks]

    def left_by(self, guide_trace: Trace) -> Sums | None:
        """Those that a guide does not draw; None for none."""
        drawn = kinds(guide_trace).latent
        marks = {site: mark for site, mark in self.marks.items() if site not in drawn}
        dims = max(self.dims, nesting(guide_trace))
        return Sums(marks, in_guide=False, dims=dims) if marks else None

    def __call__(self, program: Callable) -> Callable:
        """Where the guide alone has the mark, the model runs on all values, too."""
        program = poutine.infer_config(program, lambda node: self.marks.get(node["name"], {}))
        return poutine.enum(program, first_available_dim=-1 - self.dims)


def sums_of(model_trace: Trace, guide_trace: Trace) -> Sums | None:
    """What is marked in one or the other; None for nothing."""
    traces = model_trace, guide_trace
    marked = {s: t.nodes[s]["infer"] for t in traces for s in kinds(t).enumerated}
    marks = {
        site: {k: marked[site][k] for k in ("enumerate", "expand") if k in marked[site]}
        for site in kinds(model_trace).latent
        if site in marked
    }
    for trace in traces:
        for site in kinds(trace).enumerated:
            _check_finite_many(site, trace.nodes[site])
    in_guide = not marked.keys().isdisjoint(kinds(guide_trace).latent)
    return Sums(marks, in_guide, nesting(*traces)) if marks else None


def _check_finite_many(site: str, node: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for a marked latent that cannot run on all its values."""
    if not node["fn"].has_enumerate_support:
        raise ValueError(
            f"site {site!r}: expected finitely many values, which are summed out, got a "
            f"{type(base_of(node['fn'])).__name__}: take its mark infer={{'enumerate': ...}} away "
            "and draw it in the guide"
        )


class Enumerated:
    """What traces say in which marked latents run on all their values, datum by datum.

    A latent that the model alone has is summed out, log sum_k p(k, ...); one that the guide has
    is averaged over, sum_k q(k) [...]. ``components`` are the model's sites that depend on what
    is summed out, those together that have to be summed together. Raises ``ValueError`` for
    latents that cannot be summed datum by datum.

    Args:
        p: contributions of the model, or of a program alone.
        q: those of the guide.
    """

    def __init__(self, p: Contributions, q: Contributions | None = None) -> None:
        self.p, self.q, self.size = p, q, p.plate.size
        symbols = dict.fromkeys(sorted(p.plate.names), DATA)
        sides = (p,) if q is None else (q, p)
        for side in sides:
            compute_log_probs(side.trace, kinds(side.trace).random)
            for node in side.trace.nodes.values():
                if site_is_subsample(node):
                    # What masks the data in a plate has no meaning for the plate
                    node["mask"] = None
            side.trace.pack_tensors(symbols)
        in_guide = {} if q is None else _symbols(q.trace)
        in_model = _symbols(p.trace, () if q is None else kinds(q.trace).latent)
        self.averaged = {in_guide[s]: s for s in in_guide}
        self.summed = {in_model[s]: s for s in in_model if s not in in_guide}
        self._marked = {*self.averaged, *self.summed}
        for side in sides:
            for site, node in kinds(side.trace).random.items():
                if self._marked.intersection(_dims(node)):
                    _check(side, site)
        self.components = self._components() if self.summed else []

    def density(self) -> Tensor:
        """Log-density of a program alone, with what is marked summed out, (n,)."""
        parts = [self.p.density(site) for site in self.p.sites if self.apart(self.p, site)]
        parts += [self.expected(self.summed_over(sites)) for sites in self.components]
        return functools.reduce(operator.add, parts)

    def posterior(self, site: str) -> Tensor:
        """Log-probabilities of the values of a latent of a program alone, (n, ..., K).

        The dimensions between are those of plates inside the datum, the outermost first.
        """
        sites = next(sites for sites in self.components if site in sites)
        node, value = self.p.trace.nodes[site], self.summed_over(sites, keep=site)
        symbols = node["infer"][DIM_SYMBOLS]
        frames = sorted((f for f in node["cond_indep_stack"] if f.vectorized), key=lambda f: f.dim)
        plates = [symbols[frame.dim] for frame in frames]
        sizes = {symbols[frame.dim]: frame.size for frame in frames}
        order = [DATA, *(p for p in plates if p != DATA), node["infer"][ENUMERATED]]
        sizes = {**sizes, DATA: self.size, order[-1]: len(node["value"])}
        dims = packed_dims(value)
        value = value.permute([dims.index(s) for s in order if s in dims])
        shape = [sizes[s] if s in dims else 1 for s in order]
        return value.reshape(shape).expand([sizes[s] for s in order]).log_softmax(-1)

    def apart(self, side: Contributions, site: str) -> bool:
        """Whether a site depends on no enumerated latent."""
        return self._marked.isdisjoint(_dims(side.trace.nodes[site]))

    def tied(self, side: Contributions, site: str) -> bool:
        """Whether a site is one of the model's that depend on what is summed out."""
        return side is self.p and any(site in sites for sites in self.components)

    def summed_over(self, sites: Collection[str], keep: str | None = None) -> Tensor:
        """Log of the sum over latents of what sites of the model contribute, packed.

        Over the data, and over what the guide enumerates; with ``keep`` over the values of this
        latent and its plates, too. Scales are left out.
        """
        factors: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
        sizes, hidden = {DATA: self.size}, self.summed.values()
        for site in sites:
            node = self.p.trace.nodes[site]
            value = (_everywhere if site in hidden else log_prob_of)(node)
            dtype, dims = value.dtype, packed_dims(value)
            # Pyro multiplies numbers in units of each factor's largest one
            value = packed_as(value.double(), dims)
            factors.setdefault(_plates(node), []).append(value)
            sizes = _sizes(node) | sizes | dict(zip(dims, value.shape, strict=True))
        # What the guide enumerates for each element of a plate is averaged over for each
        target = frozenset(DATA) | frozenset.intersection(*factors)
        if keep is not None:
            target = _plates(self.p.trace.nodes[keep])
        kept = {symbol for symbol, site in self.summed.items() if site == keep}
        for plates, terms in factors.items():
            factors[plates] = self._gathered(terms)
        if [*factors] == [target] and len(factors[target]) == 1:
            (total,) = factors[target]
            dims = packed_dims(total)
            rest = "".join(d for d in dims if d in kept or d not in self.summed)
            if summed := [i for i, d in enumerate(dims) if d not in rest]:
                total = total.logsumexp(summed)
            return packed_as(total.to(dtype), rest)
        ring, dims = LogRing(dim_to_size=sizes), self.summed.keys() & sizes.keys()
        options = {"target_ordinal": target, "target_dims": kept, "ring": ring}
        total = contract_to_tensor(factors, dims, **options)
        return packed_as(total.to(dtype), packed_dims(total))

    def _gathered(self, terms: list[Tensor]) -> list[Tensor]:
        """Terms of the same plates, those added to others that have all their latents."""
        found: list[tuple[set[str], Tensor]] = []
        pairs = [(self.summed.keys() & packed_dims(term), term) for term in terms]
        for latents, term in sorted(pairs, key=lambda pair: -len(pair[0])):
            larger = (i for i, (others, _) in enumerate(found) if latents <= others)
            if (i := next(larger, None)) is None:
                found.append((latents, term))
                continue
            others, other = found[i]
            a, b = packed.broadcast_all(other, term)
            found[i] = others, packed_as(a + b, packed_dims(a))
        return [term for _, term in found]

    def expected(self, value: Tensor) -> Tensor:
        """A packed quantity averaged over what the guide enumerates, summed per datum, (n,)."""
        dims = packed_dims(value)
        if chosen := self._upstream(dims):
            log_q = [_everywhere(self.q.trace.nodes[site]) for site in chosen]
            *log_q, value = packed.broadcast_all(*log_q, value)
            weight, dims = sum(log_q).exp(), packed_dims(value)
            # What has no probability does not count, not even where it is infinite
            value = weight * value.masked_fill(weight == 0, 0.0)
        if others := [i for i, symbol in enumerate(dims) if symbol != DATA]:
            value = value.sum(others)
        return value.expand(self.size)

    def _upstream(self, dims: Iterable[str]) -> list[str]:
        """Latents of the guide that a quantity of these dimensions is to be averaged over."""
        found: dict[str, None] = {}
        waiting = [self.averaged[symbol] for symbol in dims if symbol in self.averaged]
        while waiting:
            if (site := waiting.pop()) not in found:
                found[site] = None
                above = _dims(self.q.trace.nodes[site])
                waiting += [self.averaged[s] for s in above if s in self.averaged]
        return [*found]

    def _components(self) -> list[list[str]]:
        """Sites of the model that are tied to each other by latents that are summed out."""
        nodes, found = kinds(self.p.trace).random, []
        for site in nodes:
            dims = self.summed.keys() & _dims(nodes[site])
            if not dims:
                continue
            touched = [c for c in found if c[1] & dims]
            found = [c for c in found if c not in touched]
            merged = [s for sites, _ in touched for s in sites]
            found.append(([*merged, site], dims.union(*(d for _, d in touched))))
        order = [*nodes]
        components = [sorted(sites, key=order.index) for sites, _ in found]
        for sites in components:
            self._check_nesting(sites)
        return components

    def _check_nesting(self, sites: Sequence[str]) -> None:
        """Raise ``ValueError`` where the guide enumerates in plates inside of what is summed."""
        nodes = [self.p.trace.nodes[site] for site in sites]
        around = frozenset.intersection(*map(_plates, nodes))
        for symbol in {symbol for node in nodes for symbol in _dims(node)} & self.averaged.keys():
            site = self.averaged[symbol]
            if not _plates(self.q.trace.nodes[site]) <= around | {DATA}:
                hidden = [s for s in sites if s in self.summed.values()]
                raise ValueError(
                    f"site {site!r}: the guide enumerates it in a plate in which {hidden[0]!r}, "
                    f"which is summed out, is not: have the guide enumerate {hidden[0]!r}, too, "
                    f"or leave {site!r} to the model"
                )


def _symbols(trace: Trace, elsewhere: Collection[str] = ()) -> dict[str, str]:
    """Latent that runs on all its values -> the symbol of their dimension.

    Raises ``ValueError`` for one that is marked, and drawn all the same, unless ``elsewhere``.
    """
    found = {}
    for site in kinds(trace).latent:
        infer = trace.nodes[site]["infer"]
        if ENUMERATED in infer and infer.get("num_samples") is None:
            found[site] = infer[ENUMERATED]
        elif infer.get("enumerate") and site not in elsewhere:
            given = {k: infer[k] for k in ("enumerate", "num_samples") if infer.get(k)}
            raise ValueError(
                f"site {site!r}: expected the mark infer={{'enumerate': 'parallel'}} alone for a "
                f"discrete latent to sum over, got {given}: mark it so, {_STOCK}"
            )
    return found


def _dims(node: dict[str, Any]) -> str:
    return packed_dims(node["packed"]["unscaled_log_prob"])


def _plates(node: dict[str, Any]) -> frozenset[str]:
    symbols = node["infer"][DIM_SYMBOLS]
    return frozenset(symbols[f.dim] for f in node["cond_indep_stack"] if f.vectorized)


def _sizes(node: dict[str, Any]) -> dict[str, int]:
    symbols = node["infer"][DIM_SYMBOLS]
    return {symbols[f.dim]: f.size for f in node["cond_indep_stack"] if f.vectorized}


def log_prob_of(node: dict[str, Any]) -> Tensor:
    """A site's log-probability where no mask hides it, packed."""
    found = node["packed"]
    return packed.scale_and_mask(found["unscaled_log_prob"], mask=found["mask"])


def _everywhere(node: dict[str, Any]) -> Tensor:
    """That of an enumerated latent, whose values add up to one also where a mask hides it."""
    return node["packed"]["unscaled_log_prob"]


def _check(side: Contributions, site: str) -> None:
    """Raise ``ValueError`` for a site that depends on enumerated latents of other data."""
    if side.plate.frame(side.trace.nodes[site]) is None and not side.plate.whole:
        raise ValueError(
            f"site {site!r}: expected inside the data plate what depends on an enumerated latent, "
            f"got it outside, where it belongs to all data together: draw it for each datum, "
            f"{_STOCK}"
        )
    if side.inside(site) != 1:
        raise ValueError(
            f"site {site!r}: it depends on an enumerated latent, and a plate inside the datum is "
            f"subsampled, so that sums over it would be of a part: use the whole plate, {_STOCK}"
        )
