"""A Gaussian mixture fitted to the aggregate posterior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..data import Dataset
from ..ground.arguments import positive, whole
from ..ground.recorded import Recorded
from .posterior import check_latents, posterior_samples


class AggregatePosterior(Recorded, nn.Module):
    """sum_k w_k N(m_k, S_k), fitted to samples of q(z) = 1/n sum_i q(z|x_i) after training.

    Closes the gap between p(z) and where the guide puts the data; a better density of the top
    latent and better samples, without training anything again. Fitted in float64 by expectation
    maximisation (scikit-learn) with full covariances to one *sample* per datum of the top latent,
    not to the means, which would miss the width of the posteriors.

    Source: "From Variational to Deterministic Autoencoders", Ghosh, Sajjadi, Vergari, Black,
    Scholkopf (2020), there called ex-post density estimation.

    Args:
        components: number of normals, K.
        covariance_floor: added to the diagonal of each S_k, so that a latent without any spread
            does not make it singular.
        initializations: runs from different starts; the most likely one is kept.
        seed: of the samples and the starts.

    Attributes:
        weights: (K,); None before ``fit``, as are the others.
        means: (K, size).
        scale_tril: Cholesky factors of S_k, (K, size, size).
        fitted_on: number of samples, 0-d.

    Raises:
        ValueError: arguments that are not positive.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> prior = AggregatePosterior(components=3)
        >>> prior
        AggregatePosterior(3 components, not fitted)
        >>> prior.fit(vae, guides.BottomUp(vae), torch.randn(100, 6))
        AggregatePosterior(3 components of size 2, fitted on 100 samples)
        >>> vae.sample(5, prior=prior).shape
        torch.Size([5, 6])
    """

    weights: Tensor | None
    means: Tensor | None
    scale_tril: Tensor | None
    fitted_on: Tensor | None
    _FITTED = ("weights", "means", "scale_tril", "fitted_on")

    def __init__(
        self,
        components: int = 10,
        *,
        covariance_floor: float = 1e-6,
        initializations: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.components = whole("components", components)
        self.covariance_floor = positive("covariance_floor", covariance_floor)
        self.initializations, self.seed = whole("initializations", initializations), seed
        for name in self._FITTED:
            self.register_buffer(name, None)

    def fit(
        self,
        model: Callable,
        guide: Callable,
        data: Dataset | Tensor | tuple[Tensor, Tensor | None],
    ) -> AggregatePosterior:
        """Fit to one sample of the top latent per datum.

        The arguments are those of ``posterior_samples``; returns this prior.

        Raises:
            ValueError: fewer data than components, latents that are no finite vectors.
        """
        return self.fit_samples(posterior_samples(model, guide, data, seed=self.seed))

    def fit_samples(self, z: Tensor) -> AggregatePosterior:
        """Fit to latents z (n, size) that you have already."""
        if len(z) < max(2, self.components):
            raise ValueError(
                f"data: expected at least {max(2, self.components)} for {self.components} "
                f"components, got {len(z)}: use more data or fewer components"
            )
        check_latents(z)
        from sklearn.mixture import GaussianMixture

        mixture = GaussianMixture(
            self.components,
            reg_covar=self.covariance_floor,
            n_init=self.initializations,
            max_iter=2000,
            random_state=self.seed,
        ).fit(z.detach().double().cpu().numpy())
        self.weights = _like(z, mixture.weights_)
        self.means = _like(z, mixture.means_)
        self.scale_tril = _like(z, np.linalg.cholesky(mixture.covariances_))
        self.fitted_on = torch.tensor(len(z), device=z.device)
        return self

    def check_fitted(self) -> None:
        """Raise ``ValueError`` before ``fit``."""
        if self.weights is None:
            raise ValueError(
                "prior: this AggregatePosterior is not fitted yet: call "
                "prior.fit(model, guide, data) with a trained pair first"
            )

    def forward(self, *context: Tensor) -> dist.Distribution:
        """The mixture, whatever the context: batch shape (), event shape (size,).

        Raises:
            ValueError: before ``fit``.
        """
        self.check_fitted()
        normals = dist.MultivariateNormal(self.means, scale_tril=self.scale_tril)
        return dist.MixtureSameFamily(dist.Categorical(self.weights), normals)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in self._FITTED:
            # The shapes are known only from what was fitted
            if prefix + name in state:
                setattr(self, name, torch.empty_like(state[prefix + name]))
        super()._load_from_state_dict(state, prefix, *rest)

    def __repr__(self) -> str:
        """The number of components, and what they were fitted on."""
        name = f"{type(self).__name__}({self.components} components"
        if self.weights is None:
            return f"{name}, not fitted)"
        return f"{name} of size {self.means.shape[-1]}, fitted on {int(self.fitted_on)} samples)"


def _like(z: Tensor, value: np.ndarray) -> Tensor:
    return torch.as_tensor(value, dtype=z.dtype, device=z.device)
