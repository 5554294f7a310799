"""A second variational autoencoder on the latents of the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints, kl_divergence

from .. import networks
from ..conditionals.normal import DiagonalNormal, StandardNormal
from ..ground.arguments import whole
from ..guides import BottomUp
from ..models import VAE
from .base import FittedPrior


class _SecondStage(TorchDistribution):
    """p(z) = E_u[p(z|u)], u ~ N(0, I): can be drawn from, has no density in closed form."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, prior: nn.Module, decoder: DiagonalNormal, batch_shape: Sequence[int] = ()
    ) -> None:
        self.prior, self.decoder = prior, decoder
        size = decoder.loc.out_features
        super().__init__(torch.Size(batch_shape), torch.Size((size,)), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> _SecondStage:
        return _SecondStage(self.prior, self.decoder, batch_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        u = self.prior().rsample(torch.Size(sample_shape) + self.batch_shape)
        return self.decoder(u).rsample()

    @property
    def mean(self) -> Tensor:
        """E[z|u = E[u]], in place of E[z]."""
        return self.decoder(self.prior().mean).mean.expand(*self.batch_shape, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError(
            "priors.TwoStage: log p(z) of a second stage is an integral, so that this prior can "
            "only be sampled from: for the bound or log p(x) build the pair "
            "prior.stack(model, guide), in which the second stage is one more latent layer"
        )


class TwoStage(FittedPrior):
    """p(z) = integral p(z|u) N(u; 0, I) du: a second VAE fitted to the latents of the first.

    p(z|u) and q(u|z) are diagonal normals with network heads. Under ``handlers.replace_prior``,
    and in ``model.sample(n, prior=...)``, it can be sampled from but has no density: scoring
    raises. ``stack`` gives the proper pair, where u is the top latent of a deeper model, with a
    bound and log p(x) like any other.

    Source: "Diagnosing and Enhancing VAE Models", Dai, Wipf (2019).

    Args:
        size: size of z, the top latent of the first model.
        latents: size of u; default ``size``, as in the paper.
        hidden: hidden widths of both networks, seen from z.
        seed: of the samples and of the second stage's training.

    Raises:
        ValueError: sizes below 1.

    Example:
        >>> from pyro_vae import guides, infer, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> guide, x = guides.BottomUp(vae), torch.randn(100, 6)
        >>> prior = TwoStage(2, hidden=(16,)).fit(vae, guide, x, epochs=2)
        >>> vae.sample(5, prior=prior).shape
        torch.Size([5, 6])
        >>> infer.elbo_terms(*prior.stack(vae, guide), x).kl.keys()
        dict_keys(['z1', 'z2'])
    """

    def __init__(
        self,
        size: int,
        *,
        latents: int | None = None,
        hidden: Sequence[int] = (256, 256),
        seed: int = 0,
    ) -> None:
        super().__init__(whole("size", size), seed)
        self.latents = latents = whole("latents", size if latents is None else latents)
        widths = networks.sizes("hidden", hidden)
        up, down = networks.MLP((size,), widths), networks.MLP((latents,), widths[::-1])
        self.top = StandardNormal(latents)
        self.encoder = DiagonalNormal(up, up.out_features, latents)
        self.decoder = DiagonalNormal(down, down.out_features, size)

    def bound(self, z: Tensor) -> Tensor:
        """A draw of the lower bound E_q[log p(z|u)] - KL(q(u|z) || N(0, I)) on log p(z).

        Args:
            z: (n, size).

        Returns:
            (n,), nats.
        """
        q = self.encoder(z)
        return self.decoder(q.rsample()).log_prob(z) - kl_divergence(q, self.top())

    def check_fitted(self) -> None:
        """Raise ``ValueError`` before ``fit``."""
        if not int(self.fitted_on):
            raise ValueError(
                "prior: this TwoStage is not fitted yet: call prior.fit(model, guide, data) with "
                "a trained pair first"
            )

    def forward(self, *context: Tensor) -> dist.Distribution:
        """A distribution to sample from: batch shape (), event shape (size,)."""
        return _SecondStage(self.top, self.decoder)

    def stack(self, model: Any, guide: Any) -> tuple[VAE, BottomUp]:
        """The pair with the second stage as its top layer, sharing all parameters.

        Args:
            model: the ``VAE`` that this prior was fitted for.
            guide: its guide, with ``conditionals``, such as ``guides.BottomUp``.

        Returns:
            A ``VAE`` with one latent layer more and a ``BottomUp`` guide.

        Raises:
            TypeError: another model or guide.
            ValueError: a Skip-VAE, whose conditionals would see the new latent.
        """
        if type(model) is not VAE or not isinstance(guide, BottomUp):
            raise TypeError(
                f"expected a models.VAE and a guides.BottomUp without handlers, got "
                f"{type(model).__name__} and {type(guide).__name__}"
            )
        if model.skip or model.condition:
            raise ValueError("model: expected one without skip connections and labels")
        shapes = [model.latent_shapes[s] for s in reversed(model.latents)]
        top, new = model.latents[0], f"z{len(shapes) + 1}"
        below = {s: c for s, c in model.conditionals.items() if s != top}
        deeper = VAE(
            model.event_shape,
            (*shapes, self.latents),
            likelihood=model.likelihood,
            decoder=model.decoder,
            top_down={**below, top: self.decoder, new: self.top},
            kind=model.kind,
        )
        return deeper, BottomUp(deeper, conditionals={**guide.conditionals, new: self.encoder})

    def __repr__(self) -> str:
        """Sizes, and what it was fitted on."""
        n = int(self.fitted_on)
        fitted = f"fitted on {n} samples" if n else "not fitted"
        return f"TwoStage(size={self.size}, latents={self.latents}, {fitted})"
