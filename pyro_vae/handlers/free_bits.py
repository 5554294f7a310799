"""KL that the objective does not charge for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..ground.arguments import at_least
from ..programs.sites import is_latent
from .wrapping import OnLatents, P, wrap


class _FreeBits(OnLatents):
    """Mark latent sites with the nats that the objective does not charge for."""

    of = "nats"

    def __init__(self, nats: float | Mapping[str, float]) -> None:
        super().__init__()
        for site, value in nats.items() if isinstance(nats, Mapping) else [("", nats)]:
            where = f"nats[{site!r}]" if site else "nats"
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise TypeError(
                    f"{where}: expected a number, or a mapping from site to one, got {value!r}"
                )
            at_least(where, value)
        self.nats = nats

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not is_latent(msg):
            return
        self.seen.add(msg["name"])
        nats = self.nats.get(msg["name"], 0.0) if isinstance(self.nats, Mapping) else self.nats
        # Not in msg["infer"], which poutine.replay overwrites
        msg["free_bits"] = max(nats, msg.get("free_bits", 0.0))

    def __repr__(self) -> str:
        return f"free_bits(nats={self.nats})"


def free_bits(program: P, nats: float | Mapping[str, float]) -> P:
    """Let each latent site carry ``nats`` of KL for free, against collapse early in training.

    Under the library's estimators (``infer.TraceELBO``, ``infer.AnalyticELBO``,
    ``infer.ImportanceWeightedELBO``, the ``Trainer``)
    the objective of a batch of n data becomes

        E_q[log p(x|z)] - sum_s beta_s max(nats_s, 1/n sum_i KL_s(x_i))

    with the KL averaged over the batch before it is compared. Below its free amount a site's KL
    has a gradient of exactly 0 in model and guide. Which side it is on is decided by the
    closed-form KL where that is valid, else by log q - log p at the draw; above, the KL is the
    estimator's own, so that ``nats=0`` changes nothing, bit for bit. Every reported bound and KL
    (history, ``infer.elbo_terms``, ``diagnostics``) stays that of the pair, without the clamp.
    Under ``infer.ImportanceWeightedELBO`` the KL is averaged over the particles, too, and a site
    below its free amount leaves the weights: log 1/k sum_j w_j - sum_s beta_s nats_s, with w_j of
    the other sites.

    It is enough to wrap one program of a pair, either one; where both are, or one is wrapped
    twice, the larger amount counts. Stock Pyro's objectives do not know of it and are not changed.

    Source: "Improved Variational Inference with Inverse Autoregressive Flow", Kingma, Salimans,
    Jozefowicz, Chen, Sutskever, Welling (2016), appendix C.8, with a site as a group.

    Args:
        program: a model or a guide: an ``nn.Module`` or a function.
        nats: free KL per site and datum, or a mapping from site to it (other sites: 0).

    Returns:
        A program of the same kind with the same parameters.

    Raises:
        TypeError: ``nats`` that is no number.
        ValueError: ``nats`` that is negative or not finite; when run, an unknown site.

    Example:
        >>> import torch
        >>> from pyro_vae import guides, infer, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> guide = free_bits(guides.BottomUp(vae), nats=100.0)
        >>> loss, terms = infer.AnalyticELBO(reduction="mean")(vae, guide, torch.zeros(5, 6))
        >>> bool(torch.isclose(-loss, terms.reconstruction.mean() - 100))
        True
    """
    return wrap(program, _FreeBits(nats))
