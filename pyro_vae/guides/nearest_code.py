"""The guide of a VQ-VAE: the code next to the encoder's output."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from .. import networks
from ..codebooks import StraightThrough
from ..codebooks.base import one_hot
from ..distributions import OneHotPoint
from ..ground.arguments import at_least
from ..ground.kinds import KINDS
from ..likelihoods.base import input_shape, network_inputs
from ..models import VQVAE
from ..networks.grids import GridEncoder
from ..networks.levels import LevelEncoder
from ..programs.labels import placeholders
from ..programs.missing import takes_missing
from ..programs.modes import evaluating
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
    the model e_k + z_e - sg[z_e] in its ``infer``; other ways for the gradient are objects in
    that place. A codebook may squash z_e first, have n codes per position and other costs, which
    its class tells. While training, the guide adds the factors

        commitment * sum ||z_e - sg[e_k]||^2    and    sum ||sg[z_e] - e_k||^2,

    the second only for a codebook that learns by gradient; sums are over positions, per datum
    (the paper averages over them). They are part of the training objective, not of the bound. A
    training pass also moves a codebook of moving averages, after its codes were used.

    As q(z|x) has no mass elsewhere, importance sampling with this guide gives the bound itself and
    no better estimate of log p(x): evaluate with ``importance_samples=0``.

    A model of several levels is encoded from the top: z_e of a grid sees the data and the vectors
    chosen for the grid above. Labels of a conditional model are not looked at.

    Source: "Neural Discrete Representation Learning", van den Oord, Vinyals, Kavukcuoglu (2017).

    Args:
        vqvae: the model that it is built for.
        commitment: weight of the commitment loss.
        gradient: how it goes from the vectors to z_e: ``codebooks.StraightThrough()`` (default)
            or ``codebooks.Rotation()``.
        encoder: your own network in place of the default: called with x (n, *event_shape),
            returns z_e (n, *grid_shape, code_dim). For several levels it is called with a
            function, too, as ``networks.levels.LevelEncoder`` is.

    Raises:
        TypeError: a model without codes, a gradient or an encoder of another type.
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
        self,
        vqvae: VQVAE,
        *,
        commitment: float = 0.25,
        gradient: StraightThrough | None = None,
        encoder: nn.Module | None = None,
    ) -> None:
        """Build the encoder; every parameter exists from here on."""
        if not isinstance(vqvae, Model) or not hasattr(vqvae, "codebook"):
            raise TypeError(
                f"vqvae: expected a models.VQVAE, got {type(vqvae).__name__}: build one first, or "
                "use another guide, such as guides.BottomUp"
            )
        super().__init__(vqvae)
        self.commitment = at_least("commitment", commitment)
        self.gradient = StraightThrough() if gradient is None else gradient
        if not callable(self.gradient) or isinstance(self.gradient, type):
            raise TypeError(
                "gradient: expected an object such as codebooks.Rotation(), got "
                f"{gradient!r}: pass one, or leave it out"
            )
        self._masked = takes_missing(vqvae)
        seen = input_shape(vqvae.likelihood, vqvae.event_shape)
        if self._masked:
            seen = masked_shape(seen, KINDS[vqvae.kind])
        self.encoder = self._encoder(seen) if encoder is None else encoder
        if len(vqvae.latents) > 1:
            if encoder is not None:
                self._check_levels(seen)
            return
        expected = (*vqvae.grid_shape, vqvae.code_dim)
        got = networks.output_shape(self.encoder, seen, argument="encoder")
        if got != expected:
            raise ValueError(
                f"encoder: expected outputs (n, {', '.join(map(str, expected))}), one vector per "
                f"position of the grid, got (n, {', '.join(map(str, got))})"
            )

    def _encoder(self, event_shape: tuple[int, ...]) -> nn.Module:
        model, options = self.model, {"activation": self.model.activation}
        if not model.convolutional:
            outputs, widths = (*model.grid_shape, model.code_dim), model.hidden
            options |= {"norm": model.norm}
            return networks.MLP(event_shape, networks.hidden_widths(widths), outputs, **options)
        options |= model.maps
        if len(model.latents) == 1:
            return GridEncoder(event_shape, model.code_dim, **options)
        grids, books = ([*d.values()][::-1] for d in (model.grids, model.codebooks))
        return LevelEncoder(event_shape, grids, [book.code_dim for book in books], **options)

    def _check_levels(self, event_shape: tuple[int, ...]) -> None:
        """Raise ``ValueError`` unless the encoder hands on outputs of all levels, from the top."""
        sites = iter(self.model.codebooks.items())

        def told(level: int, z: Tensor) -> Tensor:
            site, book = next(sites, (None, None))
            expected = None if site is None else (*self.model.grids[site], book.code_dim)
            if (f"z{level + 1}", tuple(z.shape[1:])) != (site, expected):
                raise ValueError(
                    f"encoder: expected outputs of {expected} for {site!r} next, got level "
                    f"{level}, of z{level + 1}, with {tuple(z.shape[1:])}"
                )
            return z

        with evaluating(self.encoder):
            self.encoder(self.model.one_hot.new_zeros(1, *event_shape), told)
        if missing := next(sites, None):
            raise ValueError(f"encoder: expected outputs for {missing[0]!r}, got none")

    @property
    def borrowed_modules(self) -> tuple[nn.Module, ...]:
        """The codebooks."""
        return tuple(self.model.codebooks.values())

    def forward(self, x: Tensor, *, y: Tensor | None = None) -> dict[str, Tensor]:
        """Run the inference program: site -> one-hot codes (n, *grid_shape, codes)."""
        self.model.check_shape(x)
        seen = network_inputs(self.model.likelihood, x)
        seen = with_mask(seen, KINDS[self.model.kind]) if self._masked else seen
        found: dict[str, Tensor] = {}
        with pyro.plate("data", x.shape[0], dim=-1):
            if len(self.model.latents) == 1:
                self._quantise("z1", self.encoder(seen), found)
            else:
                self.encoder(seen, lambda i, z: self._quantise(f"z{i + 1}", z, found))
        return found

    def _quantise(self, site: str, z_e: Tensor, found: dict[str, Tensor]) -> Tensor:
        """Take the codes of a grid into ``found``; returns what the decoder sees of them."""
        codebook = self.model.codebooks[site]
        learning = self.training and codebook.training
        z_e = codebook.bounded(z_e)
        if learning:
            codebook.initialize(z_e.detach())
        index = codebook.nearest(z_e)
        e = codebook.vectors(index).detach()
        q = OneHotPoint(one_hot(index, codebook.codes, self.model.one_hot))
        if self.training:
            cost = codebook.encoder_cost(z_e, e, index, self.commitment)
            self._factor(f"{site}_commitment", cost)
        if learning:
            self._factor(f"{site}_codebook", codebook.learn(z_e.detach(), index))
        embedding = self.gradient(z_e, e)
        infer = {"embedding": embedding}
        found[site] = pyro.sample(site, q.to_event(index.dim() - 1), infer=infer)
        return embedding

    def _factor(self, name: str, cost: Tensor | None) -> None:
        # Subtracted from the objective as log q is, but no part of it
        if cost is not None:
            factor = dist.Unit(cost.flatten(1).sum(1), has_rsample=True)
            infer = {"is_auxiliary": True, "is_penalty": True}
            pyro.sample(name, factor, obs=factor.sample(), infer=infer)

    def codes(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Numbers of the codes of data, in evaluation mode without gradients.

        Args:
            x: (n, *event_shape), finite.

        Returns:
            (n, *grid_shape), or (n, *grid_shape, depth) of a residual codebook, integers from 0
            to codes - 1; of a model with several levels site -> such numbers.
        """
        # Any labels, as they are not looked at
        y = placeholders(self.model, len(x), x.device).get("y")
        found = {s: z.argmax(-1) for s, z in self.encode(x, y=y).sample.items()}
        return found["z1"] if len(found) == 1 else found

    def __repr__(self) -> str:
        """The factorisation and the number of parameters."""
        factors, above = [], ""
        for site, book in self.model.codebooks.items():
            factors.append(f"q({site}|x{above}) = nearest of {book.codes} codes")
            above = f",{site}"
        gradient = "" if type(self.gradient) is StraightThrough else f", {self.gradient!r}"
        return (
            f"{type(self).__name__}\n  {', '.join(factors)}, commitment "
            f"{self.commitment:g}{gradient}\n  {self._count()}"
        )
