"""Penalties on the aggregate posterior of a minibatch, for ``handlers.regularize``.

A regularizer is a module from q(z|x) of a batch and its sample to one number: what the objective
loses, in nats per datum, for this batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from .ground.arguments import at_least
from .ground.recorded import Recorded

__all__ = ["DIP", "DIP2", "MMD", "Regularizer"]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


class Regularizer(Recorded, nn.Module):
    """``regularizer(q, z)`` -> penalty of one batch, 0-d (or one per leading dimension of z)."""

    @abstractmethod
    def forward(self, q: Distribution, z: Tensor) -> Tensor:
        """The penalty.

        Args:
            q: q(z|x), batch shape (..., n).
            z: its sample, (..., n, *latent shape).

        Returns:
            (...), weighted, in nats per datum.
        """


def _rows(value: Tensor, q: Distribution) -> Tensor:
    """A sample or a moment of q as vectors, (..., n, d)."""
    return value.reshape(*q.batch_shape, -1)


class DIP(Regularizer):
    """DIP-VAE-I: the means of the posteriors shall be uncorrelated with variance 1.

    lambda_od sum_{i != j} C_ij^2 + lambda_d sum_i (C_ii - 1)^2 with C = Cov[E_q[z|x]] over the
    batch (divided by n).

    Source: "Variational Inference of Disentangled Latent Concepts from Unlabeled Observations",
    Kumar, Sattigeri, Balakrishnan (2018); weights as in "Challenging Common Assumptions in the
    Unsupervised Learning of Disentangled Representations", Locatello et al. (2019).

    Args:
        off_diagonal: lambda_od >= 0; 1 to 50 are usual with a reconstruction summed over pixels.
        diagonal: lambda_d >= 0; default ``10 * off_diagonal``.

    Raises:
        ValueError: a weight that is negative or not finite; when run, a guide whose posterior has
            no mean in closed form.

    Example:
        >>> from pyro_vae import guides, handlers, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> guide = handlers.regularize(guides.BottomUp(vae), DIP(off_diagonal=5))
        >>> guide(torch.zeros(3, 6))["z1"].shape
        torch.Size([3, 2])
    """

    _DIAGONAL = 10.0

    def __init__(self, off_diagonal: float = 10.0, diagonal: float | None = None) -> None:
        super().__init__()
        self.off_diagonal = at_least("off_diagonal", off_diagonal)
        diagonal = self._DIAGONAL * off_diagonal if diagonal is None else diagonal
        self.diagonal = at_least("diagonal", diagonal)

    def covariance(self, q: Distribution) -> Tensor:
        """C of a batch, (..., d, d)."""
        mean, _ = self._moments(q)
        centred = mean - mean.mean(-2, keepdim=True)
        return centred.mT @ centred / mean.shape[-2]

    def _moments(self, q: Distribution) -> tuple[Tensor, Tensor]:
        try:
            # Some distributions have a stand-in for their mean, but none for their variance
            return _rows(q.mean, q), _rows(q.variance, q)
        except NotImplementedError:
            raise ValueError(
                f"{type(self).__name__}: {type(q).__name__} has no moments in closed form: use a "
                "guide of normals, such as guides.BottomUp, or regularizers.MMD"
            ) from None

    def forward(self, q: Distribution, z: Tensor) -> Tensor:
        """The penalty of a batch; it does not depend on the sample."""
        c = self.covariance(q)
        diagonal = c.diagonal(dim1=-2, dim2=-1)
        off = c.square().sum((-2, -1)) - diagonal.square().sum(-1)
        return self.off_diagonal * off + self.diagonal * (diagonal - 1).square().sum(-1)

    def __repr__(self) -> str:
        """Name and weights."""
        name = type(self).__name__
        return f"{name}(off_diagonal={self.off_diagonal}, diagonal={self.diagonal})"


class DIP2(DIP):
    """DIP-VAE-II: the aggregate posterior shall have covariance I.

    As ``DIP``, with C = Cov[E_q[z|x]] + E[diag Var_q[z|x]].

    Source: as for ``DIP``.

    Args:
        off_diagonal: lambda_od >= 0.
        diagonal: lambda_d >= 0; default ``off_diagonal``.

    Raises:
        ValueError: as for ``DIP``.

    Example:
        >>> DIP2(off_diagonal=5)
        DIP2(off_diagonal=5.0, diagonal=5.0)
    """

    _DIAGONAL = 1.0

    def covariance(self, q: Distribution) -> Tensor:
        """C of a batch, (..., d, d)."""
        variance = self._moments(q)[1].mean(-2)
        return super().covariance(q) + torch.diag_embed(variance)


class MMD(Regularizer):
    """WAE-MMD: lambda MMD^2 between the batch's latents and as many draws from the prior.

    MMD^2 = mean_{i != j} k(z_i, z_j) + mean_{i != j} k(p_i, p_j) - 2 mean_{i, j} k(z_i, p_j), the
    unbiased estimate, which may be negative, with the inverse multiquadratic kernel
    k(a, b) = sum_s C_s / (C_s + |a - b|^2), C_s = 2 s d sigma_p^2. A batch of one has none: 0.

    A Wasserstein autoencoder is this with beta = 0 on the latent sites: any likelihood, a
    ``guides.Delta`` or a ``guides.BottomUp``.

    Source: "Wasserstein Auto-Encoders", Tolstikhin, Bousquet, Gelly, Scholkopf (2018), whose
    reconstruction is 0.05 |x - x'|^2: the same as ``likelihoods.Gaussian(sigma=10 ** 0.5)``.

    Args:
        weight: lambda >= 0.
        prior: module that returns the distribution of z, for example that of the model; its
            ``variance`` sets the width of the kernel. Default: N(0, I).
        scales: the s.

    Raises:
        ValueError: a weight that is negative or not finite, scales that are not positive; when
            run with gradients, a guide whose draws are not reparametrised.

    Example:
        >>> from pyro_vae import guides, handlers, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian(sigma=10**0.5))
        >>> guide = handlers.regularize(guides.Delta(vae), MMD(weight=10))
        >>> pair = [handlers.scale_latents(program, 0.0) for program in (vae, guide)]
    """

    def __init__(
        self,
        weight: float = 10.0,
        *,
        prior: Callable | None = None,
        scales: Sequence[float] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
    ) -> None:
        super().__init__()
        if not scales or not min(scales) > 0:
            raise ValueError(f"scales: expected positive numbers, got {scales!r}")
        self.weight, self.scales = at_least("weight", weight), tuple(scales)
        self.prior = prior

    def forward(self, q: Distribution, z: Tensor) -> Tensor:
        """The penalty of a batch; draws from the prior."""
        if torch.is_grad_enabled() and not q.has_rsample:
            raise ValueError(
                f"MMD: the draws of a {type(q).__name__} are not reparametrised, so that no "
                "gradient reaches the guide: use a guide of normals or guides.Delta, or "
                "regularizers.DIP"
            )
        z = _rows(z, q)
        if z.shape[-2] < 2:
            return 0 * z.sum((-2, -1))
        if self.prior is None:
            return self.weight * self.distance(z, torch.randn_like(z))
        prior = self.prior()
        drawn = prior.sample(z.shape[:-1]).reshape(z.shape)
        return self.weight * self.distance(z, drawn, prior.variance.mean())

    def distance(self, a: Tensor, b: Tensor, variance: Tensor | float = 1.0) -> Tensor:
        """The estimate of MMD^2 between the distributions of two samples.

        Args:
            a: (..., n, d), n >= 2.
            b: (..., n, d).
            variance: sigma_p^2.

        Returns:
            (...).
        """
        n, d = a.shape[-2:]
        within = 0.0
        for rows in (a, b):
            kernel = self._kernel(rows, rows, 2 * d * variance)
            pairs = kernel.sum((-2, -1)) - kernel.diagonal(dim1=-2, dim2=-1).sum(-1)
            within = within + pairs / (n * (n - 1))
        return within - 2 * self._kernel(a, b, 2 * d * variance).mean((-2, -1))

    def _kernel(self, a: Tensor, b: Tensor, width: Tensor | float) -> Tensor:
        # |a|^2 + |b|^2 - 2 ab takes n^2 numbers, not n^2 d; it cancels for codes far from 0
        x, y = a.double(), b.double()
        lengths = x.square().sum(-1).unsqueeze(-1) + y.square().sum(-1).unsqueeze(-2)
        squares = (lengths - 2 * x @ y.mT).to(a.dtype)
        return sum(s * width / (s * width + squares) for s in self.scales)

    def __repr__(self) -> str:
        """Name and weight."""
        prior = "" if self.prior is None else f", prior={self.prior!r}"
        return f"MMD(weight={self.weight}{prior})"
