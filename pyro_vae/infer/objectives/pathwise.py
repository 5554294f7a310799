"""Gradients by way of a guide's draws alone, without the score of its density."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ...distributions import base_of
from ...programs.sites import is_latent, is_point_mass, present, without_rsample
from ..engine.internals import gradient_hooks
from ..engine.trainable import leaves_of

_DRAWN, _DENSITY = "drawn", "density_at_draw"


class Leaves(Messenger):
    """Gives a guide a leaf z* of autograd's graph for each reparametrised draw z, of its value.

    What follows in guide and model then depends on z* and on parameters, each in a way of its
    own, and ``by_draws`` joins both again. A trace of what runs inside keeps z, and its density.
    A point mass is a function of draws and of parameters, and stays what it is.
    """

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        z, q = msg["value"], msg["fn"]
        if is_latent(msg) and q.has_rsample and not is_point_mass(q) and z.requires_grad:
            # Distributions may know the density of their own draw best
            with torch.no_grad():
                msg[_DENSITY] = q.log_prob(z)
            msg[_DRAWN], msg["value"] = z, z.detach().requires_grad_()


def drawing() -> contextlib.AbstractContextManager:
    """``Leaves``, but where no gradient is wanted."""
    return Leaves() if torch.is_grad_enabled() else contextlib.nullcontext()


def leaves(trace: Trace) -> dict[str, dict[str, Any]]:
    """The sites of a guide whose values are leaves, in the order of the program."""
    return {s: node for s, node in trace.nodes.items() if _DRAWN in node}


def without_score(trace: Trace) -> list[str]:
    """Those of ``leaves`` whose score is left out: E_q[d log q / d phi] = 0 at a fixed value.

    Under ``handlers.free_bits`` draws decide whether a site counts, and its score stays.
    """
    return [s for s, node in leaves(trace).items() if not node.get("free_bits")]


def check_reparametrised(trace: Trace, gradient: str) -> None:
    """Raise ``ValueError`` for a guide with draws, or factors, that have no path."""
    if sites := without_rsample(trace):
        kind = type(base_of(trace.nodes[sites[0]]["fn"])).__name__
        raise ValueError(
            f"site {sites[0]!r}: gradient={gradient!r} follows the draws, and has no path through "
            f"what is not reparametrised, here {kind}: use gradient='total'"
        )


def compute_densities(trace: Trace, gradient: str) -> None:
    """Log-densities of ``leaves``: with the value of that at the draw, as functions of the leaf.

    ``ValueError`` for a distribution that only knows the density of its own draw.
    """
    for site, node in leaves(trace).items():
        q, at_draw = node["fn"], node.pop(_DENSITY)
        try:
            at_leaf = q.log_prob(node["value"])
            known = not is_validation_enabled() or _near(at_leaf, at_draw)
        except (KeyError, NotImplementedError):  # what transforms without an inverse raise
            known = False
        if not known:
            raise ValueError(
                f"site {site!r}: gradient={gradient!r} needs the density of the guide at any "
                f"value, and {type(q).__name__} has it at its own draw only: use "
                "gradient='total', or a distribution with an inverse"
            )
        log_q = at_draw + (at_leaf - at_leaf.detach())
        node["unscaled_log_prob"] = log_q
        node["log_prob"] = scale_and_mask(log_q, node["scale"], node["mask"])
        node["log_prob_sum"] = node["log_prob"].sum()


def _near(found: Tensor, expected: Tensor) -> bool:
    finite = expected.isfinite()
    found, expected = found[finite], expected[finite]
    return torch.allclose(found, expected, atol=1e-2 * (1 + float(expected.abs().mean())))


def by_draws(
    objective: Tensor,
    trace: Trace,
    density: Tensor | None = None,
    weight: Callable[[str], Tensor | float] = lambda site: 1.0,
) -> Tensor:
    """The value of a 0-d objective, with a gradient that goes on from the leaves to the draws.

    Parameters get that at fixed leaves, and sum_i weight_i D_i dz_i/dphi with the draws before z_i
    held, where D_i = G_i + sum_{j>i} D_j dz_j/dz_i is the total derivative at fixed noise, and G_i
    that at the leaf of ``objective`` + ``density``. Weights of 1 give the chain rule.
    """
    nodes = leaves(trace)
    if not (nodes and objective.requires_grad):
        return objective
    at = [node["value"] for node in nodes.values()]
    drawn = set(map(id, at))
    parameters = [leaf for leaf in leaves_of(objective) if id(leaf) not in drawn]
    total = objective.detach()
    if any(any(gradient_hooks(parameter)) for parameter in parameters):
        # The pass here would call these hooks, too
        parameters, total = [], objective
    # One pass for both, as the way through a model takes most of a step
    found = [*_derivatives(objective, [*at, *parameters])]
    for parameter, slope in zip(parameters, found[len(at) :], strict=True):
        if slope is not None:
            total = total + _linear(slope, parameter)
    found = found[: len(at)]
    if density is not None:
        found = [*map(_sum, found, _derivatives(density, at))]
    for i, (site, node) in reversed([*enumerate(nodes.items())]):
        if (slope := found[i]) is not None:
            z = node[_DRAWN]
            total = total + _linear(weight(site) * slope, z)
            found[:i] = map(_sum, found[:i], _derivatives(z, at[:i], slope.detach()))
    return total


def _linear(slope: Tensor, of: Tensor) -> Tensor:
    """0, with a gradient of ``slope``."""
    value = (slope.detach() * of).sum()
    return value - value.detach()


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return a if b is None else b if a is None else a + b


def _derivatives(
    of: Tensor, at: list[Tensor], upstream: Tensor | None = None
) -> Iterator[Tensor | None]:
    if at:
        yield from torch.autograd.grad(of, at, upstream, retain_graph=True, allow_unused=True)


def beta(node: dict[str, Any], subsampled: float = 1.0) -> Tensor | float:
    """How often a draw's log q counts, for each of its elements: the scale, 0 where masked.

    Without the N/n of a data plate that is ``subsampled``.
    """
    scale, shown = node["scale"], present(node)
    if isinstance(scale, Tensor) and scale.dim():
        scale = scale.reshape(*scale.shape, *(1,) * node["fn"].event_dim)
    scale = scale / subsampled
    return scale if shown is None else scale * shown
