"""The generative program with discrete codes in place of a continuous latent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyro
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn
from torch.distributions import constraints

from .. import networks
from ..codebooks import Codebook, MovingAverage, UniformCodes
from ..codebooks.base import one_hot
from ..data import Column
from ..distributions import as_pyro, declared
from ..ground.arguments import whole
from ..ground.kinds import KINDS, kind_of
from ..ground.recorded import takes
from ..likelihoods import Likelihood
from ..networks.grids import GridDecoder, grid_shape
from ..networks.levels import LevelDecoder
from ..programs.encoding import decode
from ..programs.labels import Labels
from ..programs.structure import Latent, Structure
from .base import DecoderModel, check_condition, check_likelihood, checked_columns
from .levels import Embeddings, check_codebooks


class VQVAE(DecoderModel):
    """p(x, z) = p(x|e(z)) p(z): a grid z of codes, the data given the vectors that they stand for.

    The site "z1" is a grid of one-hot codes, event shape (*grid_shape, codes), uniform a priori;
    (*grid_shape, n, codes) for a codebook of n codes per position, ``codebooks.Residual(n)``.
    Train it with ``guides.NearestCode``. Then fit a prior to the codes of the data, and sample
    from it: ``vqvae.sample(16, prior=priors.CodePrior(vqvae).fit(guide, data, epochs=20))``.

    With two ``levels`` there are a grid z1 and one that is half as fine, z2, for what is global:
    p(x, z1, z2) = p(x|e(z1), e(z2)) p(z1) p(z2), to be followed by a prior p(z2) p(z1|z2). More
    levels go on like this.

    Sources: "Neural Discrete Representation Learning", van den Oord, Vinyals, Kavukcuoglu (2017);
    "Generating Diverse High-Fidelity Images with VQ-VAE-2", Razavi, van den Oord, Vinyals (2019).

    Args:
        event_shape: shape of one datum.
        codes: number of codes, K; default the codebook's, else 512.
        code_dim: length of the vector of a code; default the codebook's, else 64.
        likelihood: p(x | features).
        codebook: the vectors, and how they are learnt: ``codebooks.MovingAverage(codes, dim)``
            (default), ``codebooks.Gradient(codes, dim)``, ``codebooks.Residual(n)``,
            ``codebooks.FiniteScalar(levels)`` or ``codebooks.LookupFree(bits)``; for several
            levels one for each, the finest first.
        levels: number of grids; default as many as there are codebooks, else 1.
        condition: number of classes of the labels ``y`` that the decoder sees, 0 for none; codes
            are independent of them, until a ``priors.CodePrior`` is fitted.
        channels: of the convolutions for images, signals and video, after each halving of the
            resolution; the grid is a datum halved as often.
        blocks: residual blocks of the convolutional networks.
        hidden: hidden widths of dense networks in place of convolutional ones; default for data
            that networks do not convolve: (256, 256).
        grid: shape of the grid, for dense networks, default (8,), and for networks of your own.
        activation: makes the module between layers.
        decoder: your own network in place of the default: called with the vectors of the codes
            (n, *grid, code_dim), of each level, the finest first [then the one-hot label
            (n, condition)], returns features (n, *likelihood.feature_shape(event_shape)).
        prior: your own prior in place of the uniform one of the top level: a module whose
            ``forward()`` returns a distribution of event shape (*grid, [n,] codes).
        kind: what the dimensions of a datum mean, as in ``VAE``; default a guess by the shape.
        norm: makes the normalisation of hidden layers, as in ``VAE``.
        columns: name and kind of each column of a table, as in ``VAE``, by which samples and
            reconstructions have ``to_frame()`` and pictures show names; networks stay as they are.

    Attributes:
        grid_shape: shape of the grid of codes, of several the finest.
        code_shapes: site -> shape of the numbers of its codes, (*grid,) or (*grid, n).
        codebook: the ``Codebook`` of "z1"; ``codebook.freeze()`` keeps it as it is.
        codebooks: site -> its ``Codebook``, in sampling order.
        grids: site -> shape of its grid, in sampling order.

    Raises:
        TypeError: a likelihood, codebook, activation or decoder of another type.
        ValueError: sizes that are not positive integers or do not match the codebook's, a grid
            that the convolutions do not have, levels of data that are no images, a decoder or a
            prior of the wrong shapes.

    Example:
        >>> from pyro_vae import likelihoods
        >>> vqvae = VQVAE((1, 8, 8), codes=16, code_dim=4, likelihood=likelihoods.Bernoulli())
        >>> vqvae.grid_shape, vqvae(size=3).shape
        ((2, 2), torch.Size([3, 1, 8, 8]))
        >>> two = VQVAE((1, 8, 8), 16, 4, levels=2, likelihood=likelihoods.Bernoulli())
        >>> two.code_shapes
        {'z2': (1, 1), 'z1': (2, 2)}
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        codes: int | None = None,
        code_dim: int | None = None,
        *,
        likelihood: Likelihood,
        codebook: Codebook | Sequence[Codebook] | None = None,
        levels: int | None = None,
        condition: int = 0,
        channels: Sequence[int] = (32, 64),
        blocks: int = 2,
        hidden: int | Sequence[int] | None = None,
        grid: int | Sequence[int] | None = None,
        activation: networks.Activation = nn.ReLU,
        decoder: nn.Module | None = None,
        prior: nn.Module | None = None,
        kind: str | None = None,
        norm: networks.Norm | None = None,
        columns: Sequence[Column] = (),
    ) -> None:
        """Build all networks; every parameter exists from here on."""
        super().__init__()
        self.event_shape = networks.sizes("event_shape", event_shape)
        self.kind = kind_of(kind, self.event_shape).name
        self.channels = networks.sizes("channels", channels)
        whole("blocks", blocks, 0, advice="pass 1, or 0 for none")
        networks.check_activation(activation)
        networks.check_norm(norm)
        check_likelihood(likelihood)
        self.columns = checked_columns(columns, likelihood, self.event_shape)
        self.blocks, self.activation, self.norm = blocks, activation, norm
        self.hidden = None if hidden is None else networks.sizes("hidden", hidden)
        if kind is not None and self.convolutional:
            networks.convolutions(kind, self.event_shape, None, channels, blocks)
        self.condition = check_condition(condition)
        if codebook is None:
            sizes = 512 if codes is None else codes, 64 if code_dim is None else code_dim
            count = 1 if levels is None else whole("levels", levels)
            found = [MovingAverage(*sizes) for _ in range(count)]
            codebook = found[0] if count == 1 else tuple(found)
        books = (codebook,) if isinstance(codebook, Codebook) else codebook
        check_codebooks(books, levels, codes=codes, code_dim=code_dim)
        if takes(type(self), "codebook"):
            self.arguments["codebook"] = codebook
        self.likelihood, self.codebook = likelihood, books[0]
        if len(books) > 1:
            self.upper = nn.ModuleList(books[1:])
        self.codes, self.code_dim = self.codebook.codes, self.codebook.code_dim
        self._grids = self._grid_shapes(grid, own=decoder is not None)
        self.grid_shape = self._grids[0]
        shapes = {s: (*self.grids[s], *book.stack) for s, book in self.codebooks.items()}
        self.code_shapes: dict[str, tuple[int, ...]] = shapes
        sizes_of = {s: math.prod(shapes[s]) * book.codes for s, book in self.codebooks.items()}
        self.latent_sizes = sizes_of
        one_hot = torch.zeros(self.condition, self.condition).fill_diagonal_(1.0)
        self.register_buffer("one_hot", one_hot, persistent=False)
        own = {s: UniformCodes(shapes[s], book.codes) for s, book in self.codebooks.items()}
        if prior is not None:
            own[self.latents[0]] = prior
        self.conditionals = nn.ModuleDict(own)
        if prior is not None:
            self._check_prior()
        self.decoder = self._default_decoder() if decoder is None else decoder
        if decoder is not None:
            vectors = [(*g, b.code_dim) for g, b in zip(self._grids, books, strict=True)]
            self._check_decoder(*vectors, *([(self.condition,)] if self.condition else []))

    @property
    def codebooks(self) -> dict[str, Codebook]:
        """Latent site -> its codebook, in sampling order."""
        books = [self.codebook, *getattr(self, "upper", ())]
        return {f"z{i}": books[i - 1] for i in range(len(books), 0, -1)}

    @classmethod
    def of_file(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """With the codebook that 0.1 built where its files name none."""
        if arguments.get("codebook") is not None or not takes(cls, "codebook"):
            return arguments
        sizes = [arguments.get("codes") or 512, arguments.get("code_dim") or 64]
        codebook = MovingAverage(*sizes, **MovingAverage.absent)
        return {**arguments, "codebook": codebook}

    @property
    def grids(self) -> dict[str, tuple[int, ...]]:
        """Latent site -> shape of its grid, in sampling order."""
        return dict(zip(self.codebooks, reversed(self._grids), strict=True))

    @property
    def structure(self) -> Structure:
        """The sites and who sees whom, as ``infer.structure`` tells them."""
        latents = {
            site: Latent(
                distribution=type(self.conditionals[site]).__name__,
                event_shape=(*shape, self.codebooks[site].codes),
                support=constraints.independent(constraints.one_hot, len(shape)),
                discrete=True,
            )
            for site, shape in self.code_shapes.items()
        }
        labels = ("y",) if self.condition else ()
        parents = {**dict.fromkeys(latents, ()), "x": (*reversed(self.latents), *labels)}
        return Structure(latents, self._observed, parents, labels)

    @property
    def maps(self) -> dict[str, Any]:
        """What the convolutional networks are told of the data; nothing for dense ones."""
        found = {"channels": self.channels, "blocks": self.blocks, "norm": self.norm}
        return found | {"dims": KINDS[self.kind].dims} if self.convolutional else {}

    @property
    def convolutional(self) -> bool:
        """Whether the default networks are convolutional."""
        return self.hidden is None and KINDS[self.kind].dims > 0

    def _grid_shapes(
        self, grid: int | Sequence[int] | None, *, own: bool
    ) -> list[tuple[int, ...]]:
        """Of all levels, the finest first."""
        levels = len(self.codebooks)
        if levels > 1 and not self.convolutional:
            raise ValueError(
                f"levels: expected data that networks convolve for {levels} of them, each half as "
                f"fine as the one before, got data of shape {self.event_shape}"
                + (": leave out hidden" if self.hidden else ": pass one codebook")
            )
        if not self.convolutional:
            return [(8,) if grid is None else networks.sizes("grid", grid)]
        halvings, dims = len(self.channels), KINDS[self.kind].dims
        halved = [grid_shape(self.event_shape, halvings + i, dims) for i in range(levels)]
        if len({*halved}) < levels:
            raise ValueError(
                f"levels: expected each grid coarser than the one before, got {halved} for data "
                f"of shape {self.event_shape}: pass fewer levels or channels"
            )
        if grid is None:
            return halved
        shape = networks.sizes("grid", grid)
        if shape != halved[0] and (not own or levels > 1):
            raise ValueError(
                f"grid: expected {halved[0]}, the data of shape {self.event_shape} halved "
                f"{halvings} times, got {shape}: choose the number of channels, pass "
                "hidden= for dense networks, or a decoder of your own"
            )
        return [shape, *halved[1:]]

    def _default_decoder(self) -> nn.Module:
        features, dims = self._feature_shape(), [b.code_dim for b in self.codebooks.values()]
        if not self.convolutional:
            widths, inputs = networks.hidden_widths(self.hidden), (*self.grid_shape, *dims)
            options = {"activation": self.activation, "norm": self.norm}
            return networks.MLP(inputs, widths[::-1], features, extra=self.condition, **options)
        options = {"event_dim": len(self.event_shape), "activation": self.activation, **self.maps}
        if len(dims) == 1 and not self.condition:
            return GridDecoder(*dims, features, **options)
        grids, labels = [*self.grids.values()][::-1], self.condition
        return LevelDecoder(dims[::-1], features, grids, labels=labels, **options)

    def _check_prior(self) -> None:
        top = self.latents[0]
        expected = (*self.code_shapes[top], self.codebooks[top].codes)
        got = tuple(self.conditionals[top]().event_shape)
        if got != expected:
            raise ValueError(
                f"prior: expected a distribution of event shape {expected}, got {got}: build it "
                "for this model's grid_shape and codes"
            )

    def forward(
        self, x: Tensor | None = None, *, y: Tensor | None = None, size: int | None = None
    ) -> Tensor:
        """Run the generative program; a site tells what a prior may see in its ``infer``."""
        if x is not None:
            self._check_given(x)
            n = x.shape[0]
        else:
            n = size if size is not None else (1 if y is None else len(y))
        labels = self.label_features(y, n)
        z: dict[str, Tensor] = {}
        with pyro.plate("data", n, dim=-1):
            with Embeddings(self.latents) as told:
                for site, prior in self.conditionals.items():
                    infer = {"context": (*z.values(), *labels)}
                    z[site] = pyro.sample(site, as_pyro(prior(), site), infer=infer)
            vectors = [self._vectors(s, z[s], told.values.get(s)) for s in reversed(self.latents)]
            p_x = declared(self.likelihood(self.decoder(*vectors, *labels)), self.event_shape)
            return pyro.sample("x", p_x, obs=x)

    def _vectors(self, site: str, z: Tensor, told: Tensor | None) -> Tensor:
        """What the decoder sees of one-hot codes: what a guide told, or their vectors."""
        book = self.codebooks[site]
        lead = z.shape[: z.dim() - 1 - len(book.stack)]
        if told is not None and told.dim() == len(lead) + 1 and lead[0] > len(told):
            # Rows are the data several times over, of which a guide has told once
            told = told.repeat(lead[0] // len(told), *(1,) * len(lead))
        vectors = book(z) if told is None else told
        return vectors.expand(*lead, book.code_dim).to(self.one_hot.dtype)

    def sample(
        self,
        n: int,
        *,
        prior: nn.Module | Literal["uniform"] | None = None,
        y: Labels = None,
        mean: bool = False,
    ) -> Tensor:
        """Draw data: codes from a prior that was fitted to the data's codes, then x|z.

        The prior is a fitted ``priors.CodePrior``, or "uniform" for that of training, from which
        no data come that look like those of training; the rest is as of any ``Model``.

        Raises:
            ValueError: no prior, and the model was built without one.
        """
        if prior is None and isinstance(self.conditionals[self.latents[0]], UniformCodes):
            raise ValueError(
                "prior: the codes of a VQ-VAE are uniform a priori, expected one that was fitted "
                "to the codes of data, got none: pass "
                "prior=priors.CodePrior(vqvae).fit(guide, data, epochs=20), or prior='uniform'"
            )
        if prior is None or prior == "uniform":
            return super().sample(n, y=y, mean=mean)
        return super().sample(n, prior=prior, y=y, mean=mean)

    def decode(self, z: Tensor | Mapping[str, Tensor], *, y: Labels = None) -> Distribution:
        """The observation distribution p(x|z), in evaluation mode and without gradients.

        Args:
            z: numbers of codes (n, *grid), or one-hot codes (n, *grid, codes), for a model of one
                level; or site -> one of them, for all levels.
            y: labels (n,), or one label for all, for a conditional model.

        Returns:
            A distribution of batch shape (n,) and event shape ``event_shape``.

        Raises:
            ValueError: another site or shape, numbers that no code has.
        """
        self._refuse_labels(y)
        z = {"z1": z} if isinstance(z, Tensor) else z
        if set(z) != set(self.latents):
            sites = " and ".join(map(repr, self.latents))
            raise ValueError(
                f"z: expected the site{'s' * (len(self.latents) > 1)} {sites}, got {tuple(z)}"
            )
        return decode(self, {site: self.as_one_hot(z[site], site) for site in self.latents}, y=y)

    def as_one_hot(self, z: Tensor, site: str = "z1") -> Tensor:
        """Codes (n, *grid, codes) as they are, numbers of codes (n, *grid) as one-hot.

        Raises:
            ValueError: another shape, numbers that no code has.
        """
        numbers, codes = self.code_shapes[site], self.codebooks[site].codes
        shape = (*numbers, codes)
        if z.is_floating_point() and tuple(z.shape[1:]) == shape:
            return z
        if z.is_floating_point() or tuple(z.shape[1:]) != numbers:
            raise ValueError(
                f"z: expected one-hot codes (n, {', '.join(map(str, shape))}) or integers (n, "
                f"{', '.join(map(str, numbers))}), got {z.dtype} {tuple(z.shape)}"
            )
        if ((z < 0) | (z >= codes)).any():
            raise ValueError(
                f"z: expected codes from 0 to {codes - 1}, got {int(z.min())} to {int(z.max())}"
            )
        return one_hot(z, codes, self.one_hot)

    def __repr__(self) -> str:
        """The generative story, the shapes and the number of parameters."""
        below = self.latents[::-1]
        given = "|y" if self.condition else ""
        names, seen = ", ".join(["x", *below]), ",".join([*below, *(["y"] if given else [])])
        shapes = [f"x: {type(self.likelihood).__name__} {self._shape}"]
        for site in below:
            grid, book = " x ".join(map(str, self.code_shapes[site])), self.codebooks[site]
            told = f"{type(book).__name__}({book.extra_repr()})"
            shapes.append(f"{site}: {grid} of {book.codes} codes, {told}")
        return (
            f"{type(self).__name__}\n  p({names}{given}) = p(x|{seen}) "
            f"{' '.join(f'p({site})' for site in below)}\n  {', '.join(shapes)}\n"
            f"  {self._count()}"
        )
