"""A masked autoregressive flow as prior."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import AffineAutoregressive
from pyro.nn import AutoRegressiveNN
from torch import Tensor, nn

from ..conditionals.flow import FlowDistribution
from ..data import Dataset
from ..ground.arguments import whole
from ..ground.recorded import Recorded
from .posterior import fit_latents, posterior_samples


class FlowPrior(Recorded, nn.Module):
    """A masked autoregressive flow from N(0, I): density in one pass, sampling in ``size`` passes.

    Trained with the rest under ``handlers.replace_prior``, or fitted to the aggregate posterior
    afterwards by ``fit``. E[z] has no closed form: its ``mean`` is the image of 0.

    Sources: "Masked Autoregressive Flow for Density Estimation", Papamakarios, Pavlakou, Murray
    (2017); "Variational Lossy Autoencoder", Chen et al. (2017) for it as a prior.

    Args:
        size: event shape is (size,), at least 2.
        transforms: autoregressive steps; every second one sees the dimensions reversed.
        hidden: widths of each step's network, at least ``size``.
        seed: of the samples, the order of the data and the binarisation in ``fit``.

    Raises:
        ValueError: a size below 2, fewer than one transform, widths below the size.

    Example:
        >>> from pyro_vae import handlers, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> model = handlers.replace_prior(vae, FlowPrior(2))
        >>> model.sample(5).shape
        torch.Size([5, 6])
    """

    def __init__(
        self,
        size: int,
        transforms: int = 4,
        *,
        hidden: Sequence[int] = (64, 64),
        seed: int = 0,
    ) -> None:
        super().__init__()
        whole("size", size, 2, advice="use priors.MixturePrior")
        whole("transforms", transforms)
        if not hidden or min(hidden) < size:
            raise ValueError(f"hidden: expected widths of at least size={size}, got {hidden}")
        self.size, self.seed = size, seed
        order = torch.arange(size)
        self.networks = nn.ModuleList(
            AutoRegressiveNN(size, list(hidden), permutation=order if i % 2 else order.flip(0))
            for i in range(transforms)
        )
        self.register_buffer("loc", torch.zeros(size), persistent=False)
        self.register_buffer("scale", torch.ones(size), persistent=False)
        self.register_buffer("fitted_on", torch.tensor(0))

    def forward(self, *context: Tensor) -> dist.Distribution:
        """The flow's distribution, whatever the context: batch shape (), event shape (size,)."""
        # Made anew, because a transform keeps its last values
        steps = [AffineAutoregressive(network).inv for network in self.networks]
        return FlowDistribution(dist.Normal(self.loc, self.scale).to_event(1), steps)

    def fit(
        self,
        model: Callable,
        guide: Callable,
        data: Dataset | Tensor | tuple[Tensor, Tensor | None],
        *,
        epochs: int = 50,
        batch_size: int = 256,
        lr: float = 1e-3,
    ) -> FlowPrior:
        """Maximise the likelihood of one sample of the top latent per datum.

        Args:
            model: generative program.
            guide: inference program.
            data: a ``Dataset``, a tensor (n, *event_shape), or a pair (x, y).
            epochs: passes over the samples.
            batch_size: samples per step.
            lr: learning rate of Adam, which falls to zero.

        Returns:
            This prior.

        Raises:
            ValueError: latents of another size.
            FloatingPointError: the likelihood became NaN.
        """
        return self.fit_samples(
            posterior_samples(model, guide, data, seed=self.seed),
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
        )

    def fit_samples(
        self, z: Tensor, *, epochs: int = 50, batch_size: int = 256, lr: float = 1e-3
    ) -> FlowPrior:
        """Fit to latents z (n, size) that you have already; the other arguments as in ``fit``."""
        fit_latents(
            self,
            lambda rows: self().log_prob(rows),
            z.detach(),
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
        )
        return self

    def __repr__(self) -> str:
        """Size, steps, and what it was fitted on."""
        n = int(self.fitted_on)
        fitted = f", fitted on {n} samples" if n else ""
        return f"FlowPrior(size={self.size}, transforms={len(self.networks)}{fitted})"
