"""log p(x) of each datum by the same random numbers, whatever other data are beside it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ..programs.running import measuring

# Rows of latents that are decoded at once
_ROWS = 2**14


def log_densities(
    model: Callable, guide: Callable, x: Tensor, *, samples: int, seed: int
) -> Tensor:
    """Estimate log p(x) by log 1/K sum_k p(x, z_k) / q(z_k|x), z_k ~ q(z|x), per datum.

    Each datum is alone with the random numbers of ``seed``, and so has the same estimate in any
    order of the data, and in any part of them. Evaluation mode; the RNG is restored.

    Args:
        model: generative program.
        guide: inference program, the proposal.
        x: (n, d).
        samples: K.
        seed: of the random numbers.

    Returns:
        (n,), nats.
    """

    def of_datum(datum: Tensor) -> Tensor:
        rows = datum.expand(samples, -1)
        q = poutine.trace(guide).get_trace(rows)
        p = poutine.trace(poutine.replay(model, trace=q)).get_trace(rows)
        for trace in (q, p):
            trace.compute_log_prob()
        log_p, log_q = (
            sum(site["log_prob"] for site in trace.nodes.values() if site["type"] == "sample")
            for trace in (p, q)
        )
        return (log_p - log_q).logsumexp(0) - math.log(samples)

    with measuring(model, guide, device=x.device), pyro.validation_enabled(False):
        try:
            # Chunks of vmap's own would have the same numbers on a CPU alone
            of_rows = torch.vmap(of_datum, randomness="same")
            parts = x.split(max(1, _ROWS // samples))
            return torch.cat([_seeded(of_rows, rows, seed) for rows in parts])
        except RuntimeError:
            # Programs that look at values, one datum after the other
            return torch.stack([_seeded(of_datum, datum, seed) for datum in x])


def _seeded(function: Callable[[Tensor], Tensor], x: Tensor, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return function(x)
