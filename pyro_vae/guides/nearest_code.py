"""The guide of a VQ-VAE: the code next to the encoder's output."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn.functional import embedding

from .. import networks
from ..distributions import OneHotPoint
from ..ground.arguments import at_least
from ..ground.kinds import KINDS
from ..likelihoods.base import input_shape, network_inputs
from ..models import VQVAE
from ..networks.grids import GridEncoder
from ..programs.missing import takes_missing
from ..programs.program import Guide, Model
from .inputs import masked_shape, with_mask


class NearestCode(Guide):
    """q(z|x) is certain: at each position the code k with the least ||z_e(x) - e_k||.

    | symbol | meaning | name in code |
    |---|---|---|
    | z_e | encoder's output at a position | ``encoder(x)`` |
    | e_k | vector of code k | ``model.codebook.weight[k]`` |
    | sg[.] | without gradient | ``.detach()`` |

    KL(q(z|x) || p(z)) = -log p(z), which is positions * log(codes) nats under the uniform prior.
    The decoder sees e_k, and its gradient goes to z_e as it is (straight-through): the site tells
    the model e_k + z_e - sg[z_e] in its ``infer``. While training, the guide adds the factors

        commitment * sum ||z_e - sg[e_k]||^2    and    sum ||sg[z_e] - e_k||^2,

    the second only for a codebook that learns by gradient; sums are over positions, per datum
    (the paper averages over them). They are part of the training objective, not of the bound. A
    training pass also moves a codebook of moving averages, after its codes were used.

    As q(z|x) has no mass elsewhere, importance sampling with this guide gives the bound itself and
    no better estimate of log p(x): evaluate with ``importance_samples=0``.

    Source: "Neural Discrete Representation Learning", van den Oord, Vinyals, Kavukcuoglu (2017).

    Args:
        vqvae: the model that it is built for.
        commitment: weight of the commitment loss.
        encoder: your own network in place of the default: called with x (n, *event_shape),
            returns z_e (n, *grid_shape, code_dim).

    Raises:
        TypeError: a model without codes, or an encoder of another type.
        ValueError: a negative commitment, an encoder of the wrong shapes.

    Example:
        >>> import torch
        >>> from pyro_vae import likelihoods, models
        >>> vqvae = models.VQVAE((1, 8, 8), 16, 4, likelihood=likelihoods.Bernoulli())
        >>> guide = NearestCode(vqvae)
        >>> guide.codes(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 2, 2])
    """

    model: VQVAE

    def __init__(
        self, vqvae: VQVAE, *, commitment: float = 0.25, encoder: nn.Module | None = None
    ) -> None:
        """Build the encoder; every parameter exists from here on."""
        if not isinstance(vqvae, Model) or not hasattr(vqvae, "codebook"):
            raise TypeError(
                f"vqvae: expected a models.VQVAE, got {type(vqvae).__name__}: build one first, or "
                "use another guide, such as guides.BottomUp"
            )
        super().__init__(vqvae)
        self.commitment = at_least("commitment", commitment)
        self._masked = takes_missing(vqvae)
        seen = input_shape(vqvae.likelihood, vqvae.event_shape)
        if self._masked:
            seen = masked_shape(seen, KINDS[vqvae.kind])
        self.encoder = self._encoder(seen) if encoder is None else encoder
        expected = (*vqvae.grid_shape, vqvae.code_dim)
        got = networks.output_shape(self.encoder, seen, argument="encoder")
        if got != expected:
            raise ValueError(
                f"encoder: expected outputs (n, {', '.join(map(str, expected))}), one vector per "
                f"position of the grid, got (n, {', '.join(map(str, got))})"
            )

    def _encoder(self, event_shape: tuple[int, ...]) -> nn.Module:
        model = self.model
        if model.convolutional:
            return GridEncoder(
                event_shape,
                model.code_dim,
                activation=model.activation,
                **model.maps,
            )
        return networks.MLP(
            event_shape,
            networks.hidden_widths(model.hidden),
            (*model.grid_shape, model.code_dim),
            activation=model.activation,
            norm=model.norm,
        )

    @property
    def borrowed_modules(self) -> tuple[nn.Module, ...]:
        """The codebook."""
        return (self.model.codebook,)

    def forward(self, x: Tensor, *, y: None = None) -> dict[str, Tensor]:
        """Run the inference program: "z1" -> one-hot codes (n, *grid_shape, codes)."""
        self.model.check_shape(x)
        codebook = self.model.codebook
        seen = network_inputs(self.model.likelihood, x)
        z_e = self.encoder(with_mask(seen, KINDS[self.model.kind]) if self._masked else seen)
        learning = self.training and codebook.training
        if learning:
            codebook.initialize(z_e.detach())
        index = codebook.nearest(z_e)
        e = codebook.vectors(index).detach()
        q = OneHotPoint(embedding(index, self.model.one_hot)).to_event(len(self.model.grid_shape))
        with pyro.plate("data", len(x), dim=-1):
            if self.training:
                self._factor("commitment", self.commitment * (z_e - e).square().sum(-1))
            if learning:
                self._factor("codebook", codebook.learn(z_e.detach(), index))
            straight_through = e + (z_e - z_e.detach())
            return {"z1": pyro.sample("z1", q, infer={"embedding": straight_through})}

    def _factor(self, name: str, cost: Tensor | None) -> None:
        # Subtracted from the objective as log q is, but no part of it
        if cost is not None:
            factor = dist.Unit(cost.flatten(1).sum(1), has_rsample=True)
            infer = {"is_auxiliary": True, "is_penalty": True}
            pyro.sample(f"z1_{name}", factor, obs=factor.sample(), infer=infer)

    def codes(self, x: Tensor) -> Tensor:
        """Numbers of the codes of data, in evaluation mode without gradients.

        Args:
            x: (n, *event_shape), finite.

        Returns:
            (n, *grid_shape), integers from 0 to codes - 1.
        """
        return self.encode(x).sample["z1"].argmax(-1)

    def __repr__(self) -> str:
        """The factorisation and the number of parameters."""
        return (
            f"{type(self).__name__}\n  q(z1|x) = nearest of {self.model.codes} codes, commitment "
            f"{self.commitment:g}\n  {self._count()}"
        )
