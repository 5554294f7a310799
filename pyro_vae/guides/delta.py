"""Point-mass guide: with beta 0 the pair is a plain autoencoder."""

from __future__ import annotations

from torch import nn

from ..conditionals.normal import PointMass
from ..programs.program import Guide
from .bottom_up import BottomUp


class Delta(BottomUp):
    """q(z|x) puts all mass on z1 = f(x), z2 = g(z1), ...

    With beta = 0 the objective is log p(x|f(x)): an autoencoder. With beta > 0 it adds
    beta log p(z): a maximum a posteriori code. A point mass has no finite KL to a density, so the
    bound that is logged beside the objective is only meaningful as log p(x, z).

    Args:
        model, like, order, hidden, encoder, conditionals, sites: as in ``BottomUp``.

    Example:
        >>> import torch
        >>> from pyro_vae import likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> code = Delta(vae).encode(torch.zeros(5, 6))
        >>> bool((code.mean["z1"] == code.sample["z1"]).all())
        True
    """

    @classmethod
    def starts(cls) -> tuple[type[Guide], ...]:
        """None: no guide with a density is a point mass."""
        return ()

    def _heads(self, network: nn.Module, features: int, site: str) -> nn.Module:
        return PointMass(network, features, self.places[site].shape)
