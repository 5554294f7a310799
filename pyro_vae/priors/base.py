"""What priors share that are fitted to latents by gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import pyro
import torch
from torch import Tensor, nn

from ..data import Dataset
from ..ground.recorded import Recorded
from ..ground.streams import forked
from .posterior import check_latents, posterior_samples


class FittedPrior(Recorded, nn.Module):
    """Base of priors whose parameters are fitted to the latents (n, size) of a trained pair.

    The seed is of the samples, the order of the data and the binarisation in ``fit``;
    ``fitted_on`` is the number of samples, 0-d, and 0 before.
    """

    fitted_on: Tensor

    def __init__(self, size: int, seed: int) -> None:
        super().__init__()
        self.size, self.seed = size, seed
        self.register_buffer("fitted_on", torch.tensor(0))

    def bound(self, z: Tensor) -> Tensor:
        """What ``fit`` raises: log p(z), or a lower bound on it.

        Args:
            z: (n, size).

        Returns:
            (n,), nats.
        """
        raise NotImplementedError

    def fit(
        self,
        model: Callable,
        guide: Callable,
        data: Dataset | Tensor | tuple[Tensor, Tensor | None],
        *,
        epochs: int = 50,
        batch_size: int = 256,
        lr: float = 1e-3,
    ) -> Self:
        """Raise the mean of ``bound`` over one sample of the top latent per datum.

        The samples are those of ``posterior_samples``; ``lr`` is the learning rate of Adam, which
        falls to zero as a cosine. Returns this prior.

        Raises:
            ValueError: latents of another size.
            FloatingPointError: the bound became NaN or infinite.
        """
        z = posterior_samples(model, guide, data, seed=self.seed)
        return self.fit_samples(z, epochs=epochs, batch_size=batch_size, lr=lr)

    def fit_samples(
        self, z: Tensor, *, epochs: int = 50, batch_size: int = 256, lr: float = 1e-3
    ) -> Self:
        """Fit to latents z (n, size) that you have already; the other arguments as in ``fit``."""
        if z.shape[1:] != (self.size,):
            raise ValueError(f"data: expected latents of size {self.size}, got {z.shape[-1]}")
        check_latents(z)
        self.to(z)
        # What is NaN is told by its epoch
        with forked(z.device, self.seed), pyro.validation_enabled(False):
            self._ascend(z.detach(), epochs, batch_size, lr)
        self.fitted_on.fill_(len(z))
        return self

    def _ascend(self, z: Tensor, epochs: int, batch_size: int, lr: float) -> None:
        parameters = list(self.parameters())
        optimizer = torch.optim.Adam(parameters, lr=lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for _ in range(epochs):
            total = torch.zeros((), dtype=z.dtype, device=z.device)
            for rows in torch.randperm(len(z), device=z.device).split(batch_size):
                value = self.bound(z[rows])
                gradients = torch.autograd.grad(-value.mean(), parameters)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                optimizer.step()
                total += value.detach().sum()
            schedule.step()
            if not math.isfinite(float(total)):
                raise FloatingPointError(
                    "the fit of the prior became NaN or infinite: use a smaller lr"
                )
        optimizer.zero_grad(set_to_none=True)
