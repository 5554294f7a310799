"""The generative program with discrete codes in place of a continuous latent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyro
import torch
from pyro.distributions import Distribution
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions.constraints import independent, one_hot
from torch.nn.functional import embedding

from .. import networks
from ..codebooks import Codebook, MovingAverage, UniformCodes
from ..distributions import as_pyro, declared
from ..ground.kinds import KINDS, kind_of
from ..ground.recorded import takes
from ..likelihoods import Likelihood
from ..networks.grids import GridDecoder, grid_shape
from ..programs.encoding import decode
from ..programs.structure import Latent, Structure
from .base import DecoderModel, check_likelihood

_SITE = "z1"


class _Embedding(Messenger):
    """Reads what a guide's site says of its value; ``poutine.replay`` hands ``infer`` on."""

    value: Tensor | None = None

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == _SITE and not msg["is_observed"]:
            self.value = msg["infer"].get("embedding")


class VQVAE(DecoderModel):
    """p(x, z) = p(x|e(z)) p(z): a grid z of codes, the data given the vectors that they stand for.

    The site "z1" is a grid of one-hot codes, event shape (*grid_shape, codes), uniform a priori.
    Train it with ``guides.NearestCode``. Then fit a prior to the codes of the data, and sample
    from it: ``vqvae.sample(16, prior=priors.CodePrior(vqvae).fit(guide, data, epochs=20))``.

    Source: "Neural Discrete Representation Learning", van den Oord, Vinyals, Kavukcuoglu (2017).

    Args:
        event_shape: shape of one datum.
        codes: number of codes, K; default the codebook's, else 512.
        code_dim: length of the vector of a code; default the codebook's, else 64.
        likelihood: p(x | features).
        codebook: the vectors, and how they are learnt: ``codebooks.MovingAverage(codes, dim)``
            (default) or ``codebooks.Gradient(codes, dim)``.
        channels: of the convolutions for images, signals and video, after each halving of the
            resolution; the grid is a datum halved as often.
        blocks: residual blocks of the convolutional networks.
        hidden: hidden widths of dense networks in place of convolutional ones; default for data
            that networks do not convolve: (256, 256).
        grid: shape of the grid, for dense networks, default (8,), and for networks of your own.
        activation: makes the module between layers.
        decoder: your own network in place of the default: called with the vectors of the codes
            (n, *grid, code_dim), returns features (n, *likelihood.feature_shape(event_shape)).
        prior: your own prior in place of the uniform one: a module whose ``forward()`` returns a
            distribution of event shape (*grid, codes).
        kind: what the dimensions of a datum mean, as in ``VAE``; default a guess by the shape.
        norm: makes the normalisation of hidden layers, as in ``VAE``.

    Attributes:
        grid_shape: shape of the grid of codes.
        codebook: the ``Codebook``; ``codebook.freeze()`` keeps it as it is.

    Raises:
        TypeError: a likelihood, codebook, activation or decoder of another type.
        ValueError: sizes that are not positive integers or do not match the codebook's, a grid
            that the convolutions do not have, a decoder or a prior of the wrong shapes.

    Example:
        >>> from pyro_vae import likelihoods
        >>> vqvae = VQVAE((1, 8, 8), codes=16, code_dim=4, likelihood=likelihoods.Bernoulli())
        >>> vqvae.grid_shape, vqvae(size=3).shape
        ((2, 2), torch.Size([3, 1, 8, 8]))
    """

    condition = 0

    def __init__(
        self,
        event_shape: Sequence[int],
        codes: int | None = None,
        code_dim: int | None = None,
        *,
        likelihood: Likelihood,
        codebook: Codebook | None = None,
        channels: Sequence[int] = (32, 64),
        blocks: int = 2,
        hidden: int | Sequence[int] | None = None,
        grid: int | Sequence[int] | None = None,
        activation: networks.Activation = nn.ReLU,
        decoder: nn.Module | None = None,
        prior: nn.Module | None = None,
        kind: str | None = None,
        norm: networks.Norm | None = None,
    ) -> None:
        """Build all networks; every parameter exists from here on."""
        super().__init__()
        self.event_shape = networks.sizes("event_shape", event_shape)
        self.kind = kind_of(kind, self.event_shape).name
        self.channels = networks.sizes("channels", channels)
        networks.check_activation(activation)
        networks.check_norm(norm)
        check_likelihood(likelihood)
        self.blocks, self.activation, self.norm = blocks, activation, norm
        self.hidden = None if hidden is None else networks.sizes("hidden", hidden)
        if kind is not None and self.convolutional:
            networks.convolutions(kind, self.event_shape, None, channels, blocks)
        if codebook is None:
            codebook = MovingAverage(
                512 if codes is None else codes, 64 if code_dim is None else code_dim
            )
        if not isinstance(codebook, Codebook):
            raise TypeError(
                "codebook: expected an instance such as codebooks.MovingAverage(512, 64), "
                f"got {codebook!r}"
            )
        for name, value in (("codes", codes), ("code_dim", code_dim)):
            if value not in (None, getattr(codebook, name)):
                raise ValueError(
                    f"{name}: expected the codebook's {getattr(codebook, name)}, got {value}: "
                    f"leave out {name}, or build the codebook with it"
                )
        if takes(type(self), "codebook"):
            self.arguments["codebook"] = codebook
        self.codebook, self.likelihood = codebook, likelihood
        self.codes, self.code_dim = codebook.codes, codebook.code_dim
        self.grid_shape = self._grid_shape(grid, own=decoder is not None)
        self.latent_sizes = {_SITE: math.prod(self.grid_shape) * self.codes}
        self.register_buffer("one_hot", torch.eye(self.codes), persistent=False)
        own = UniformCodes(self.grid_shape, self.codes) if prior is None else prior
        self.conditionals = nn.ModuleDict({_SITE: own})
        if prior is not None:
            self._check_prior()
        self.decoder = self._default_decoder() if decoder is None else decoder
        if decoder is not None:
            self._check_decoder((*self.grid_shape, self.code_dim))

    @classmethod
    def of_file(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """With the codebook that 0.1 built where its files name none."""
        if arguments.get("codebook") is not None or not takes(cls, "codebook"):
            return arguments
        sizes = [arguments.get("codes") or 512, arguments.get("code_dim") or 64]
        codebook = MovingAverage(*sizes, **MovingAverage.absent)
        return {**arguments, "codebook": codebook}

    @property
    def structure(self) -> Structure:
        """The sites and who sees whom, as ``infer.structure`` tells them."""
        z = Latent(
            distribution=type(self.conditionals[_SITE]).__name__,
            event_shape=(*self.grid_shape, self.codes),
            support=independent(one_hot, len(self.grid_shape)),
            discrete=True,
        )
        return Structure({_SITE: z}, self._observed, {_SITE: (), "x": (_SITE,)})

    @property
    def maps(self) -> dict[str, Any]:
        """What the convolutional networks are told of the data; nothing for dense ones."""
        found = {"channels": self.channels, "blocks": self.blocks, "norm": self.norm}
        return found | {"dims": KINDS[self.kind].dims} if self.convolutional else {}

    @property
    def convolutional(self) -> bool:
        """Whether the default networks are convolutional."""
        return self.hidden is None and KINDS[self.kind].dims > 0

    def _grid_shape(self, grid: int | Sequence[int] | None, *, own: bool) -> tuple[int, ...]:
        halved, dims = (8,), KINDS[self.kind].dims
        if self.convolutional:
            halved = grid_shape(self.event_shape, len(self.channels), dims)
        if grid is None:
            return halved
        shape = networks.sizes("grid", grid)
        if self.convolutional and shape != halved and not own:
            raise ValueError(
                f"grid: expected {halved}, the data of shape {self.event_shape} halved "
                f"{len(self.channels)} times, got {shape}: choose the number of channels, pass "
                "hidden= for dense networks, or a decoder of your own"
            )
        return shape

    def _default_decoder(self) -> nn.Module:
        if self.convolutional:
            return GridDecoder(
                self.code_dim,
                self._feature_shape(),
                event_dim=len(self.event_shape),
                activation=self.activation,
                **self.maps,
            )
        widths, inputs = networks.hidden_widths(self.hidden), (*self.grid_shape, self.code_dim)
        features = self._feature_shape()
        options = {"activation": self.activation, "norm": self.norm}
        return networks.MLP(inputs, widths[::-1], features, **options)

    def _check_prior(self) -> None:
        expected = (*self.grid_shape, self.codes)
        got = tuple(self.conditionals[_SITE]().event_shape)
        if got != expected:
            raise ValueError(
                f"prior: expected a distribution of event shape {expected}, got {got}: build it "
                "for this model's grid_shape and codes"
            )

    def forward(
        self, x: Tensor | None = None, *, y: None = None, size: int | None = None
    ) -> Tensor:
        """Run the generative program; ``y`` is none, and here because all models have it."""
        if x is not None:
            self._check_given(x)
        with pyro.plate("data", (size or 1) if x is None else len(x), dim=-1):
            with _Embedding() as told:
                z = pyro.sample(_SITE, as_pyro(self.conditionals[_SITE](), _SITE))
            vectors = self.codebook(z) if told.value is None else told.value
            vectors = vectors.expand(*z.shape[:-1], self.code_dim).to(self.one_hot.dtype)
            p_x = declared(self.likelihood(self.decoder(vectors)), self.event_shape)
            return pyro.sample("x", p_x, obs=x)

    def sample(
        self,
        n: int,
        *,
        prior: nn.Module | Literal["uniform"] | None = None,
        y: None = None,
        mean: bool = False,
    ) -> Tensor:
        """Draw data: codes from a prior that was fitted to the data's codes, then x|z.

        The prior is a fitted ``priors.CodePrior``, or "uniform" for that of training, from which
        no data come that look like those of training; the rest is as of any ``Model``.

        Raises:
            ValueError: no prior, and the model was built without one.
        """
        if prior is None and isinstance(self.conditionals[_SITE], UniformCodes):
            raise ValueError(
                "prior: the codes of a VQ-VAE are uniform a priori, expected one that was fitted "
                "to the codes of data, got none: pass "
                "prior=priors.CodePrior(vqvae).fit(guide, data, epochs=20), or prior='uniform'"
            )
        if prior is None or prior == "uniform":
            return super().sample(n, y=y, mean=mean)
        return super().sample(n, prior=prior, y=y, mean=mean)

    def decode(self, z: Tensor | Mapping[str, Tensor], *, y: None = None) -> Distribution:
        """The observation distribution p(x|z), in evaluation mode and without gradients.

        Args:
            z: numbers of codes (n, *grid_shape), or one-hot codes (n, *grid_shape, codes); or
                {"z1": one of them}.
            y: none; here because all models have it.

        Returns:
            A distribution of batch shape (n,) and event shape ``event_shape``.

        Raises:
            ValueError: another site or shape, numbers that no code has.
        """
        self._refuse_labels(y)
        if not isinstance(z, Tensor):
            if set(z) != {_SITE}:
                raise ValueError(f"z: expected the site {_SITE!r}, got {tuple(z)}")
            z = z[_SITE]
        return decode(self, {_SITE: self.as_one_hot(z)})

    def as_one_hot(self, z: Tensor) -> Tensor:
        """Codes (n, *grid_shape, codes) as they are, numbers of codes (n, *grid_shape) as one-hot.

        Raises:
            ValueError: another shape, numbers that no code has.
        """
        shape = (*self.grid_shape, self.codes)
        if z.is_floating_point() and tuple(z.shape[1:]) == shape:
            return z
        if z.is_floating_point() or tuple(z.shape[1:]) != self.grid_shape:
            raise ValueError(
                f"z: expected one-hot codes (n, {', '.join(map(str, shape))}) or integers (n, "
                f"{', '.join(map(str, self.grid_shape))}), got {z.dtype} {tuple(z.shape)}"
            )
        if ((z < 0) | (z >= self.codes)).any():
            raise ValueError(
                f"z: expected codes from 0 to {self.codes - 1}, got {int(z.min())} to "
                f"{int(z.max())}"
            )
        return embedding(z.long(), self.one_hot)

    def __repr__(self) -> str:
        """The generative story, the shapes and the number of parameters."""
        grid = " x ".join(map(str, self.grid_shape))
        return (
            f"{type(self).__name__}\n  p(x, {_SITE}) = p(x|{_SITE}) p({_SITE})\n"
            f"  x: {type(self.likelihood).__name__} {self._shape}, {_SITE}: {grid} of "
            f"{self.codes} codes, {type(self.codebook).__name__}({self.codebook.extra_repr()})\n"
            f"  {self._count()}"
        )
