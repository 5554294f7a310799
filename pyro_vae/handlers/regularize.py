"""A penalty on a guide's posteriors, as one more factor of the guide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro.distributions import Distribution
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn
from torch.distributions import constraints

from ..ground.arguments import known
from ..ground.recorded import Recorded
from ..programs.program import Model
from ..programs.sites import is_auxiliary, is_latent, is_masked
from ..programs.unwrapping import innermost
from ..regularizers import Regularizer
from .wrapping import P, wrap


class _Latents(Messenger):
    """Keep distribution and value of every latent site."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, Any] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if is_auxiliary(msg):
            raise ValueError(
                f"site {msg['name']!r}: regularize needs q(z|x) itself, got a guide that draws "
                "latents by way of this auxiliary site: use guides.PerDatum in place of an "
                "autoguide, or an amortised guide such as guides.BottomUp"
            )
        # Before outer handlers, which may give the site its value and call it observed
        if is_latent(msg):
            self.sites[msg["name"]] = None

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.sites:
            self.sites[msg["name"]] = dict(msg)


class _Penalty(TorchDistribution):
    """A site without value whose log-probability is n times the penalty, computed when asked."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, regularizer: Callable, q: Distribution, z: Tensor, batch_shape: Sequence[int]
    ) -> None:
        self.regularizer, self.q, self.z = regularizer, q, z
        super().__init__(torch.Size(batch_shape), torch.Size((0,)), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> _Penalty:
        return _Penalty(self.regularizer, self.q, self.z, batch_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.z.new_empty((*sample_shape, *self.batch_shape, 0))

    def log_prob(self, value: Tensor) -> Tensor:
        penalty = self.q.batch_shape[-1] * self.regularizer(self.q, self.z)
        return penalty.unsqueeze(-1) if penalty.dim() else penalty


class _Regularize(Recorded):
    """Run a guide, then sample a site that holds the penalty."""

    only_weighs = True

    def __init__(self, regularizer: Callable, site: str | None, name: str) -> None:
        self.regularizer, self.site, self.name = regularizer, site, name

    @property
    def modules(self) -> dict[str, nn.Module]:
        is_module = isinstance(self.regularizer, nn.Module)
        return {"regularizer": self.regularizer} if is_module else {}

    def apply(self, program: Callable, *args: Any, **kwargs: Any) -> Any:
        with _Latents() as latents:
            result = program(*args, **kwargs)
        if not am_i_wrapped():
            return result
        site = latents.sites[_chosen(self.site, list(latents.sites))]
        if is_masked(site):
            raise ValueError(
                f"site {site['name']!r}: a mask may hide it from some of the data, which a "
                "penalty over the batch would count all the same: pass another site=, or leave "
                "the penalty out"
            )
        q, z = site["fn"], site["value"]
        if not q.batch_shape:
            raise ValueError(
                "regularize: the posterior has no batch dimension: sample it inside "
                "pyro.plate('data', len(x))"
            )
        outer = q.batch_shape[:-1]
        if outer and not isinstance(self.regularizer, Regularizer):
            # Told to be of batch shape (n,): such a guide runs on a row per sample
            raise ValueError(
                f"regularize: expected q of batch shape (n,), got {tuple(q.batch_shape)}, which "
                "only a regularizers.Regularizer takes: make the penalty one, over (..., n)"
            )
        penalty = _Penalty(self.regularizer, q, z, (*outer, 1) if outer else ())
        infer = {"is_auxiliary": True, "is_penalty": True}
        pyro.sample(self.name, penalty, obs=penalty.rsample(), infer=infer)
        return result

    def __repr__(self) -> str:
        site = "" if self.site is None else f", site={self.site!r}"
        return f"regularize({self.regularizer!r}{site})"


def _chosen(site: str | None, sites: list[str]) -> str:
    if site in sites or (site is None and len(sites) == 1):
        return site or sites[0]
    return known("site", site, sites)


def regularize(guide: P, regularizer: Regularizer, *, site: str | None = None) -> P:
    """The same guide with a penalty on its posteriors: bound - penalty(q(z|x_1), ..., q(z|x_n)).

    The penalty is one more observed site of the guide, with log-probability n times the penalty,
    so that with n data in the batch each estimator of the bound loses exactly the penalty per
    datum, whatever the batch size. Only the *objective* has it: ``infer.elbo_terms``, the "elbo"
    of the history and log p(x) are those of the guide itself. Beta does not scale it. Under
    ``infer.ImportanceWeightedELBO`` it is no part of the weights: the bound loses the mean of the
    particles' penalties (for a guide that cannot broadcast, the penalty of all their rows).

    Sources: those of the ``regularizers``.

    Args:
        guide: inference program: an ``nn.Module`` or a function.
        regularizer: one of ``regularizers``, or any function of q(z|x) (batch shape (n,)) and its
            sample (n, *latent shape) that returns a 0-d penalty in nats per datum.
        site: the latent site; it must be named where the guide has several.

    Returns:
        A guide with the same parameters.

    Raises:
        TypeError: a model, where the penalty would have the other sign.
        ValueError: when run, an unknown site, several sites and none named, or one under a mask.

    Example:
        >>> from pyro_vae import guides, infer, likelihoods, models, regularizers
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> guide = regularize(guides.BottomUp(vae), regularizers.DIP(off_diagonal=5))
        >>> loss, terms = infer.TraceELBO(reduction="mean")(vae, guide, torch.randn(50, 6))
        >>> bool(loss > -terms.elbo.mean())
        True
    """
    if isinstance(guide, Model):
        raise TypeError(f"guide: expected an inference program, got {type(guide).__name__}")
    model = getattr(innermost(guide), "model", None)
    if isinstance(model, Model):
        _chosen(site, list(model.latents))
    earlier, inner = 0, guide
    while hasattr(inner, "program"):
        earlier += isinstance(getattr(inner, "effect", None), _Regularize)
        inner = inner.program
    name = "penalty" if not earlier else f"penalty{earlier + 1}"
    return wrap(guide, _Regularize(regularizer, site, name))
