"""The generative program of every variational autoencoder with Gaussian latents."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions.constraints import independent, real

from .. import networks
from ..conditionals.hand_over import HandOver
from ..conditionals.normal import DiagonalNormal, StandardNormal
from ..data import Column
from ..data.arguments import LabelData
from ..distributions import declared
from ..ground.arguments import known
from ..ground.recorded import takes
from ..ground.streams import forked
from ..likelihoods import Likelihood, Mixed
from ..networks.defaults import FIRST, is_image
from ..programs.structure import Latent, Structure
from .base import DecoderModel, check_likelihood, checked_columns
from .classes import Labels, given_classes, latent_classes, seen_classes
from .covariates import Covariates
from .partial import checked_condition, drawn_features
from .parts import checked_kind, default_conditional, default_decoder, path_of
from .sigma import Phase, predict_sigma
from .spatial import latent_shapes, pyramid


class VAE(DecoderModel):
    """p(x, z) = p(x|z1) p(z1|z2) ... p(zL), as a Pyro program with sites "z1".."zL" and "x".

    p(zL) = N(0, I); p(z_i|z_{i+1}) is a diagonal normal with network heads; p(x|z1) is the
    likelihood of the decoder's features. With ``skip`` every conditional sees all latents above
    it, in each of its layers; with ``condition`` every conditional but p(zL) sees the label.

    Sources: "Auto-Encoding Variational Bayes", Kingma, Welling (2014); "Ladder Variational
    Autoencoders", Sonderby et al. (2016) for many layers; "Avoiding Latent Variable Collapse with
    Generative Skip Models", Dieng, Kim, Rush, Blei (2019) for ``skip``; "Learning Structured
    Output Representation using Deep Conditional Generative Models", Sohn, Lee, Yan (2015) for
    ``condition``; "Semi-supervised Learning with Deep Generative Models", Kingma, Rezende,
    Mohamed, Welling (2014) for ``labels``; "NVAE: A Deep Hierarchical Variational Autoencoder",
    Vahdat, Kautz (2020) for ladders of maps, of which this is the smallest useful one.

    Args:
        event_shape: shape of one datum: (d,), (h, w), (c, h, w) or any other, see ``kind``.
        latents: size of z1, or the sizes of z1, z2, ..., zL (bottom to top). A shape makes a
            latent a map: ((8, 14, 14), (16, 7, 7), 32) are channels and sizes of maps, each that
            of the data or of the map below, or halved, then vectors; one map is ((8, 14, 14),).
        likelihood: module from features to p(x|features), see ``likelihoods``.
        hidden: hidden widths of the networks, seen from the data: (400, 400) for all layers, 400
            for one of this width, one tuple per layer for different ones, () for linear maps.
            Default: a convolutional network for images, signals and video, a ``SequenceDecoder``
            for tokens and sequences, which guides then read by ``networks.SequenceEncoder``,
            (256, 256) elsewhere. Where latents are maps, those of the layers of vectors.
        skip: Skip-VAE connections; maps are joined at the size of the largest.
        condition: number of classes of the labels ``y``, 0 for none; or ``Covariates``, for
            several kinds of them, for numbers, and for exposures, y then being a mapping.
        labels: which of them are given, "all" or "partial". Where -1 or NaN stands for y, or there
            is no y at all, "y" is a latent then, uniform a priori: log p(x) = log sum_y p(x, y);
            where it is given the data are both, log p(x, y). Train it with ``elbo="enumerate"``
            and a guide that is given what labels there are, such as ``guides.BottomUp(vae)``, or
            one that tells y, ``guides.Labelled(guides.BottomUp(vae))``. Of ``Covariates``, which
            have classes of one kind then, these may be missing or left out, numbers not:
            p(x|numbers) = sum_y p(x, y|numbers).
        activation: makes the module between layers, such as ``torch.nn.ReLU``.
        norm: makes the normalisation of every hidden layer and of every mean and scale head, but
            not of the output, from its width: ``torch.nn.BatchNorm1d`` (images too),
            ``torch.nn.LayerNorm``, or None. Guides that are built for this model use it too.
        decoder: your own network in place of the default: called with z1 (n, *shape) [then z2..zL
            with ``skip``] [then the one-hot label (n, condition), or classes and numbers of
            covariates], returns features (n, *likelihood.feature_shape(event_shape)). One that
            sees x as well, ``PixelDecoder`` or ``SequenceDecoder``, has a method
            ``distribution(likelihood, *context)`` that returns p(x|context).
        top_down: your own conditionals, site -> module, called like ``decoder`` with the latents
            above the site; each returns a distribution of event shape (*shape,). One for the top
            site replaces the prior and is called without latents.
        kind: what the dimensions of a datum mean: "vector" (d,), "signal" (c, t) or (t,), "image"
            (c, h, w) or (h, w), "video" (c, t, h, w) or (t, h, w), "tokens" (t,), "sequence" of
            vectors (t, d), "array" for any other. Default: what ``likelihoods.Tokens`` or a
            ``SequenceDecoder`` tells, else a guess by the shape, (2, 100) is an image; pass
            ``d.kind`` of loaded data.
        channels: of the convolutional networks between x and z1, and of those of guides: (32, 64,
            128) halves the resolution thrice; where latents are maps, those of networks at half
            the size of the data, a quarter, ... Default: (32, 64) for images up to 32 x 32, for
            all else halvings down to 16 positions, of 32, 64, 128, 128, ... channels.
        blocks: residual blocks after each halving; default 1, but none for images up to 32 x 32
            whose channels are left to the default.
        columns: name and kind of each column, ``d.columns``, where the data are rows of a table:
            samples and reconstructions then have ``to_frame()``, pictures show names, and default
            networks have a linear path beside them, ``networks.Shortcut``, as with
            ``likelihoods.Mixed``: see ``guides.linear_start`` for how such a pair begins. Default:
            those that the likelihood tells, as one by ``likelihoods.for_columns`` does.

    Raises:
        TypeError: an activation, a likelihood or a decoder of another type.
        ValueError: sizes that are not positive integers, a decoder of the wrong shapes, widths
            that do not match the layers, an unknown site, a kind that is unknown or not of the
            shape, channels that halve data more often than they can be, or beside ``hidden``.

    Example:
        >>> from pyro_vae import likelihoods
        >>> vae = VAE((1, 8, 8), latents=(8, 4), likelihood=likelihoods.Bernoulli())
        >>> vae.latents
        ('z2', 'z1')
        >>> vae(size=3).shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latents: int | Sequence[int | Sequence[int]] = 20,
        *,
        likelihood: Likelihood,
        hidden: networks.Hidden | None = None,
        skip: bool = False,
        condition: int | Covariates = 0,
        labels: Labels = "all",
        activation: networks.Activation = nn.ReLU,
        norm: networks.Norm | None = None,
        decoder: nn.Module | None = None,
        top_down: Mapping[str, nn.Module] | None = None,
        kind: str | None = None,
        channels: int | Sequence[int] | None = None,
        blocks: int | None = None,
        columns: Sequence[Column] = (),
    ) -> None:
        """Build all conditionals; every parameter exists from here on."""
        super().__init__()
        self.event_shape = networks.sizes("event_shape", event_shape)
        if not self.event_shape:
            raise ValueError(
                f"event_shape: expected positive integers, got {event_shape!r}: pass at least one"
            )
        shapes = latent_shapes(latents)
        check_likelihood(likelihood)
        self.covariates = isinstance(condition, Covariates)
        condition = checked_condition(condition, likelihood, labels, decoder)
        networks.check_activation(activation)
        networks.check_norm(norm)
        self.latent_shapes = {f"z{i}": shapes[i - 1] for i in range(len(shapes), 0, -1)}
        numbers = map(math.prod, self.latent_shapes.values())
        self.latent_sizes = dict(zip(self.latent_shapes, numbers, strict=True))
        self.kind = checked_kind(kind, self.event_shape, likelihood, decoder)
        of_data = self.kind, self.event_shape
        spatial = max(map(len, shapes)) > 1
        dense = None if spatial else hidden
        self.maps = networks.convolutions(*of_data, dense, channels, blocks)
        self.pyramid = pyramid(shapes, *of_data, self.maps) if spatial else None
        self.hidden = networks.hidden_of(hidden, shapes)
        given = {"kind": kind, "channels": channels, "blocks": blocks}
        self._settle(given, {name: self.maps.get(name) for name in given} | {"kind": self.kind})
        self.skip = bool(skip)
        self.condition = condition
        # How many numbers decoders see
        self._classes = condition.size if self.covariates else self.condition
        self._exposed = self.covariates and condition.offset
        self.partly_labelled = labels == "partial"
        self.activation, self.norm = activation, norm
        self._handed_over = HandOver()
        one_hot = torch.zeros(self._classes, self._classes).fill_diagonal_(1.0)
        self.register_buffer("one_hot", one_hot, persistent=False)

        given = dict(top_down or {})
        for site in given:
            known("top_down", site, self.latents)
        self.conditionals = nn.ModuleDict()
        for site in self.latents:
            made = given.get(site)
            if made is None:
                made = default_conditional(self, site, self._context_shapes(int(site[1:])))
            self.conditionals[site] = made
        self.likelihood = likelihood
        self.columns = checked_columns(columns, likelihood, self.event_shape)
        told = bool(self.columns) or isinstance(likelihood, Mixed)
        self.tabular = told and self.kind == "vector"
        if decoder is None:
            self.decoder = self._default_decoder(self._feature_shape())
        else:
            self.decoder = decoder
            self._check_decoder(*self._context_shapes(0))

    @classmethod
    def of_file(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """With the networks for images that 0.1 built where its files name none."""
        given = ("event_shape", "kind", "channels", "hidden")
        shape, *others = map(arguments.get, given)
        if shape and others == [None] * 3 and takes(cls, "channels") and is_image(shape):
            return {**arguments, **FIRST}
        return arguments

    def _default_decoder(self, features: tuple[int, ...]) -> nn.Module:
        return default_decoder(self, self._context_shapes(0), features)

    def predict_sigma(self, *, freeze: Iterable[nn.Module] = ()) -> Phase:
        """Switch to sigma(z), which starts exactly where sigma stands: the bound is unchanged.

        The decoder gets a second network of the default architecture, whose last layer is zero:
        sigma_k(z) = sigma exp(h_k(z)), h = 0; features (n, *event_shape) become
        (n, *event_shape, 2). Mean, parameters and optimizer state stay; ``save`` writes the model
        as it then is. A trainer goes on with its next ``fit``; within one, use
        ``callbacks.PredictSigma``.

        Source: "Balancing Reconstruction Quality and Regularisation in ELBO for VAEs", Lin,
        Roberts, Trigoni, Clark (2019), for the two phases; that the second one can begin with
        all else frozen is this library's own.

        Args:
            freeze: modules whose parameters are to rest at first, so that sigma(z) alone is
                trained: ``(vae, guide)``.

        Returns:
            ``Phase``: print it to see which parameters train; ``unfreeze()`` ends it.

        Raises:
            ValueError: a likelihood without a sigma, one that is predicted already, or a
                decoder that sees x as well.

        Example:
            >>> from pyro_vae import likelihoods
            >>> vae = VAE((6,), 2, likelihood=likelihoods.Gaussian("learned"), hidden=(4,))
            >>> vae.predict_sigma(freeze=[vae])
            trains 4 tensors, 42 numbers: decoder.log_sigma
            rests 4 tensors, 42 numbers: decoder.mean
        """
        # The bound of the next evaluation is to see the same random numbers as that of the last
        with forked():
            head = self._default_decoder(self.event_shape)
        return predict_sigma(self, head, freeze)

    def _sees(self, layer: int) -> list[str]:
        """Latents that the conditional of ``layer`` (0 is x) sees, the nearest first."""
        # From the top on, as they are named
        above = [*self.latent_sizes][: len(self.latent_sizes) - layer][::-1]
        return above if self.skip else above[:1]

    @property
    def structure(self) -> Structure:
        """The sites and who sees whom, as ``infer.structure`` tells them."""
        latents, parents = {}, {}
        labels = arguments = ("y",) if self.condition else ()
        if self.partly_labelled:
            arguments = ("y (argument)",)
            latents["y"], parents["y"] = latent_classes(self.condition), arguments
            # What is given besides classes
            labels += arguments if self.covariates and len(self.condition.names) > 1 else ()
        for site, conditional in self.conditionals.items():
            normal = isinstance(conditional, StandardNormal | DiagonalNormal)
            name = "Normal" if normal else type(conditional).__name__
            shape = self.latent_shapes[site]
            support = independent(real, len(shape))
            latents[site] = Latent(distribution=name, event_shape=shape, support=support)
        for layer, site in enumerate((*self.latents, "x")):
            seen = self._sees(len(self.latents) - layer)
            labelled = seen and (self._classes or site == "x")
            parents[site] = (*seen, *(labels if labelled else ()))
        return Structure(latents, self._observed, parents, arguments)

    def _context_shapes(self, layer: int) -> list[tuple[int, ...]]:
        labels = [(self._classes,)] if self._classes else []
        return [*map(self.latent_shapes.__getitem__, self._sees(layer)), *labels]

    def _dims(self, layer: int) -> list[int]:
        return [*map(len, self._context_shapes(layer))]

    def label_features(self, y: LabelData, n: int) -> tuple[Tensor, ...]:
        """The one-hot labels (n, condition) as a tuple to append to a network's inputs.

        With ``labels="partial"`` one column more, (..., n, condition + 1), tells what is missing;
        with covariates they are classes and numbers, (n, condition.size).

        Raises:
            ValueError: labels missing, of the wrong shape, or outside 0..condition-1.
        """
        if not self.condition:
            return ()
        if self.covariates:
            y = self.condition.columns(y, n)
            return (self.condition.features(y),) if self._classes else ()
        if self.partly_labelled:
            return (seen_classes(given_classes(y, n, self.one_hot), self.one_hot),)
        return super().label_features(y, n)

    def conditional(
        self, site: str, z: Mapping[str, Tensor], y: LabelData = None
    ) -> dist.Distribution:
        """p(site | latents above), for guides that make use of it.

        The model, run next at these latents, takes over this very result.

        Args:
            site: a latent site.
            z: site -> (..., n, *shape), with the latents above at least.
            y: labels (n,) for a conditional model.

        Returns:
            Event shape (*shape,).
        """
        n = next((v.shape[-1 - len(self.latent_shapes[s])] for s, v in z.items()), 0)
        context = self._context(site, z)
        if self.covariates:
            y = self.condition.columns(y, n)
        result = self._evaluate(site, context, self.label_features(y, n))
        own = self.condition.tensors(y) if self.covariates else (y,)
        given = context if y is None else [*context, *own]
        self._handed_over.give(site, self.conditionals[site], given, result)
        return result

    def _context(self, site: str, z: Mapping[str, Tensor]) -> list[Tensor]:
        return [*map(z.__getitem__, self._sees(int(site[1:])))]

    def _evaluate(
        self, site: str, context: list[Tensor], labels: tuple[Tensor, ...]
    ) -> dist.Distribution:
        inputs = [*context, *(labels if context else ())]
        if context and self.partly_labelled:
            inputs = networks.aligned(*inputs, dims=self._dims(int(site[1:])))
        p_z = self.conditionals[site](*inputs)
        return declared(p_z, self.latent_shapes[site], site)

    def forward(
        self, x: Tensor | None = None, *, y: LabelData = None, size: int | None = None
    ) -> Tensor:
        """Run the generative program."""
        if x is not None:
            self._check_given(x)
            size = x.shape[0]
        if self.covariates:
            y = self.condition.columns(y, size)
        n = size if size is not None else (1 if y is None else len(y))
        z: dict[str, Tensor] = {}
        with pyro.plate("data", n, dim=-1):
            if self.partly_labelled:
                labels = (drawn_features(self.condition, y, n, self.one_hot),)
            else:
                labels = self.label_features(y, n)
            for site, conditional in self.conditionals.items():
                context = self._context(site, z)
                own = self.condition.tensors(y) if self.covariates else (y,)
                given = context if y is None else [*context, *own]
                p_z = self._handed_over.take(site, conditional, given)
                if p_z is None:
                    p_z = self._evaluate(site, context, labels)
                z[site] = pyro.sample(site, p_z)
            above = map(z.__getitem__, self._sees(0))
            offset = {"offset": y["offset"]} if self._exposed else {}
            p_x = self._observation(*above, *labels, **offset)
            return pyro.sample("x", p_x, obs=x)

    def _observation(self, *context: Tensor, offset: Tensor | None = None) -> dist.Distribution:
        partial = self.partly_labelled
        if hasattr(self.decoder, "distribution"):
            context = networks.aligned(*context, dims=self._dims(0)) if partial else context
            return self.decoder.distribution(self.likelihood, *context)
        # Decoders of a person's own may take rows alone
        if partial:
            rows = networks.of_rows(self.decoder, *context, dims=self._dims(0))
        else:
            rows = self.decoder(*context)
        if offset is None:
            return declared(self.likelihood(rows), self.event_shape)
        # A number per datum, whatever is to the left of the data
        events = (1,) * len(self.event_shape)
        left = (1,) * (rows.dim() - 1 - len(self._feature_shape()))
        return declared(
            self.likelihood(rows, offset.reshape(*left, -1, *events)), self.event_shape
        )

    def __repr__(self) -> str:
        """The generative story, the shapes and the number of parameters."""
        partial = self.partly_labelled
        given = "|y" if self.condition and not partial else ""
        names = ", ".join(["x", *reversed(self.latents), *(["y"] if partial else [])])
        factors = []
        for layer, site in enumerate(["x", *reversed(self.latents)]):
            seen = self._sees(layer)
            labelled = self.condition and seen and (self._classes or site == "x")
            context = seen + (["y"] if labelled else [])
            factors.append(f"p({site}|{','.join(context)})" if context else f"p({site})")
        factors += ["p(y)"] if partial else []
        shapes = [f"x: {type(self.likelihood).__name__} {self._shape}"]
        shapes += [f"{site}: {shape}" for site, shape in reversed(self.latent_shapes.items())]
        if self.covariates:
            shapes += [f"y: {self.condition!r}"]
        elif partial:
            shapes += [f"y: one of {self.condition} classes, some given"]
        return (
            f"{type(self).__name__}\n  p({names}{given}) = {' '.join(factors)}\n"
            f"  {', '.join(shapes)}\n{path_of(self) if self.tabular else ''}  {self._count()}"
        )
