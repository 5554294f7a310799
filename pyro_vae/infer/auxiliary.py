"""Sites that only a guide has, as ``infer={"is_auxiliary": True}`` marks them."""

from __future__ import annotations

from typing import Any

from pyro.poutine import Trace

from ..programs import is_auxiliary

# The plate of samples per datum
SAMPLES = "importance_samples"


def is_joint(site: dict[str, Any]) -> bool:
    """Whether an auxiliary site is one draw for all data, outside of their plate."""
    return is_auxiliary(site) and all(f.name == SAMPLES for f in site["cond_indep_stack"])


def refuse_auxiliary(trace: Trace, purpose: str) -> None:
    """Raise ``ValueError`` where a guide's density of its latents is hidden behind other sites."""
    if auxiliary := [name for name, site in trace.nodes.items() if is_auxiliary(site)]:
        raise ValueError(
            f"site {auxiliary[0]!r}: {purpose} needs densities of the latents themselves, got a "
            "guide that draws them by way of this auxiliary site: use an amortised guide such as "
            "guides.BottomUp, or guides.PerDatum in place of an autoguide"
        )
