"""The generative program of every variational autoencoder with Gaussian latents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions.constraints import real_vector

from .. import networks
from ..conditionals.hand_over import HandOver
from ..conditionals.normal import DiagonalNormal, StandardNormal
from ..distributions import declared
from ..ground.arguments import known
from ..ground.streams import forked
from ..likelihoods import Likelihood, Tokens
from ..programs.structure import Latent, Structure
from .base import DecoderModel, check_likelihood
from .classes import (
    Labels,
    check_labels,
    draw_classes,
    given_classes,
    latent_classes,
    seen_classes,
)
from .sequence_decoder import SequenceDecoder
from .sigma import Phase, predict_sigma


def _sizes(argument: str, value: int | Sequence[int]) -> tuple[int, ...]:
    sizes = networks.sizes(argument, value)
    if not sizes:
        raise ValueError(
            f"{argument}: expected positive integers, got {value!r}: pass at least one"
        )
    return sizes


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
    Mohamed, Welling (2014) for ``labels``.

    Args:
        event_shape: shape of one datum: (d,), (h, w), (c, h, w) or any other.
        latents: size of z1, or the sizes of z1, z2, ..., zL (bottom to top).
        likelihood: module from features to p(x|features), see ``likelihoods``.
        hidden: hidden widths of the networks, seen from the data: (400, 400) for all layers, 400
            for one of this width, one tuple per layer for different ones, () for linear maps.
            Default: a convolutional network for images, a ``SequenceDecoder`` for
            ``likelihoods.Tokens``, (256, 256) elsewhere.
        skip: Skip-VAE connections.
        condition: number of classes of the labels ``y``, 0 for none.
        labels: which of them are given, "all" or "partial". Where -1 or NaN stands for y, or there
            is no y at all, "y" is a latent then, uniform a priori: log p(x) = log sum_y p(x, y);
            where it is given the data are both, log p(x, y). Train it with ``elbo="enumerate"``
            and a guide that is given what labels there are, such as ``guides.BottomUp(vae)``, or
            one that tells y, ``guides.Labelled(guides.BottomUp(vae))``.
        activation: makes the module between layers, such as ``torch.nn.ReLU``.
        norm: makes the normalisation of every hidden layer and of every mean and scale head, but
            not of the output, from its width: ``torch.nn.BatchNorm1d`` (images too),
            ``torch.nn.LayerNorm``, or None. Guides that are built for this model use it too.
        decoder: your own network in place of the default: called with z1 (n, size) [then z2..zL
            with ``skip``] [then the one-hot label (n, condition)], returns features
            (n, *likelihood.feature_shape(event_shape)). One that sees x as well, such as
            ``PixelDecoder`` or ``SequenceDecoder``, has a method
            ``distribution(likelihood, *context)`` that returns p(x|context).
        top_down: your own conditionals, site -> module, called like ``decoder`` with the latents
            above the site; each returns a distribution of event shape (size,). One for the top
            site replaces the prior and is called without latents.

    Raises:
        TypeError: an activation, a likelihood or a decoder of another type.
        ValueError: sizes that are not positive integers, a decoder of the wrong shapes, widths
            that do not match the layers, an unknown site.

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
        latents: int | Sequence[int] = 20,
        *,
        likelihood: Likelihood,
        hidden: networks.Hidden | None = None,
        skip: bool = False,
        condition: int = 0,
        labels: Labels = "all",
        activation: networks.Activation = nn.ReLU,
        norm: networks.Norm | None = None,
        decoder: nn.Module | None = None,
        top_down: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """Build all conditionals; every parameter exists from here on."""
        super().__init__()
        self.event_shape = _sizes("event_shape", event_shape)
        sizes = _sizes("latents", latents)
        if not networks.is_whole(condition) or condition < 0:
            raise ValueError(
                f"condition: expected the number of classes, got {condition!r}: pass an integer "
                "such as 10, or 0 for a model without labels"
            )
        condition = int(condition)
        networks.check_activation(activation)
        networks.check_norm(norm)
        check_likelihood(likelihood)
        self.latent_sizes = {f"z{i}": sizes[i - 1] for i in range(len(sizes), 0, -1)}
        self.hidden = networks.hidden_per_layer(hidden, len(sizes))
        self.skip, self.condition = bool(skip), condition
        self.partly_labelled = labels == "partial"
        if labels != "all":
            check_labels(labels, condition, likelihood)
        self.activation, self.norm = activation, norm
        self._handed_over = HandOver()
        self.register_buffer("one_hot", torch.eye(condition), persistent=False)

        given = dict(top_down or {})
        for site in given:
            known("top_down", site, self.latents)
        self.conditionals = nn.ModuleDict()
        for site in self.latents:
            self.conditionals[site] = given[site] if site in given else self._conditional(site)
        self.likelihood = likelihood
        if decoder is None:
            self.decoder = self._default_decoder(self._feature_shape())
        else:
            self.decoder = decoder
            labels = [(condition,)] if condition else []
            self._check_decoder(*((self.latent_sizes[s],) for s in self._sees(0)), *labels)

    def _default_decoder(self, features: tuple[int, ...]) -> nn.Module:
        if isinstance(self.likelihood, Tokens) and self.hidden[0] is None:
            options = {"outputs": self.likelihood.size, "skip": self.skip}
            return SequenceDecoder(self.event_shape, self._context_size(0), **options)
        return networks.decoder(
            self._context_size(0),
            self.event_shape,
            features,
            self.hidden[0],
            **self._options,
        )

    @property
    def _options(self) -> dict[str, Any]:
        return {"skip": self.skip, "activation": self.activation, "norm": self.norm}

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
        for site, conditional in self.conditionals.items():
            normal = isinstance(conditional, StandardNormal | DiagonalNormal)
            name = "Normal" if normal else type(conditional).__name__
            shape = (self.latent_sizes[site],)
            latents[site] = Latent(distribution=name, event_shape=shape, support=real_vector)
        for layer, site in enumerate((*self.latents, "x")):
            seen = self._sees(len(self.latents) - layer)
            parents[site] = (*seen, *(labels if seen else ()))
        return Structure(latents, self._observed, parents, arguments)

    def _context_size(self, layer: int) -> int:
        return sum(self.latent_sizes[s] for s in self._sees(layer)) + self.condition

    def _conditional(self, site: str) -> nn.Module:
        layer = int(site[1:])
        if site == self.latents[0]:
            return StandardNormal(self.latent_sizes[site])
        widths = networks.hidden_widths(self.hidden[layer])[::-1]
        network = networks.MLP((self._context_size(layer),), widths, **self._options)
        size = self.latent_sizes[site]
        return DiagonalNormal(network, network.out_features, size, norm=self.norm)

    def label_features(self, y: Tensor | None, n: int) -> tuple[Tensor, ...]:
        """The one-hot labels (n, condition) as a tuple to append to a network's inputs.

        With ``labels="partial"`` one column more, (..., n, condition + 1), tells what is missing.

        Raises:
            ValueError: labels missing, of the wrong shape, or outside 0..condition-1.
        """
        if not self.condition:
            return ()
        if self.partly_labelled:
            return (seen_classes(given_classes(y, n, self.one_hot), self.one_hot),)
        expected = f"y: this model is conditional on {self.condition} classes, expected "
        if y is None:
            raise ValueError(expected + f"integer labels of shape ({n},), got none: pass y=")
        if y.shape != (n,) or y.is_floating_point():
            raise ValueError(
                expected + f"integer labels of shape ({n},), got {y.dtype} {tuple(y.shape)}"
            )
        if pyro.infer.util.is_validation_enabled() and ((y < 0) | (y >= self.condition)).any():
            raise ValueError(
                expected + f"labels from 0 to {self.condition - 1}, "
                f"got {int(y.min())} to {int(y.max())}"
            )
        return (nn.functional.embedding(y.long(), self.one_hot),)

    def conditional(
        self, site: str, z: Mapping[str, Tensor], y: Tensor | None = None
    ) -> dist.Distribution:
        """p(site | latents above), for guides that make use of it.

        The model, run next at these latents, takes over this very result.

        Args:
            site: a latent site.
            z: site -> (..., n, size), with the latents above at least.
            y: labels (n,) for a conditional model.

        Returns:
            Event shape (size,).
        """
        n = next((value.shape[-2] for value in z.values()), 0)
        context = self._context(site, z)
        result = self._evaluate(site, context, self.label_features(y, n))
        given = context if y is None else [*context, y]
        self._handed_over.give(site, self.conditionals[site], given, result)
        return result

    def _context(self, site: str, z: Mapping[str, Tensor]) -> list[Tensor]:
        return [*map(z.__getitem__, self._sees(int(site[1:])))]

    def _evaluate(
        self, site: str, context: list[Tensor], labels: tuple[Tensor, ...]
    ) -> dist.Distribution:
        inputs = [*context, *(labels if context else ())]
        if context and self.partly_labelled:
            inputs = networks.aligned(*inputs)
        p_z = self.conditionals[site](*inputs)
        return declared(p_z, (self.latent_sizes[site],), site)

    def forward(
        self, x: Tensor | None = None, *, y: Tensor | None = None, size: int | None = None
    ) -> Tensor:
        """Run the generative program."""
        if x is not None:
            self._check_given(x)
            n = len(x)
        else:
            n = size if size is not None else (1 if y is None else len(y))
        z: dict[str, Tensor] = {}
        with pyro.plate("data", n, dim=-1):
            if self.partly_labelled:
                labels = (draw_classes(given_classes(y, n, self.one_hot), self.one_hot),)
            else:
                labels = self.label_features(y, n)
            for site, conditional in self.conditionals.items():
                context = self._context(site, z)
                given = context if y is None else [*context, y]
                p_z = self._handed_over.take(site, conditional, given)
                if p_z is None:
                    p_z = self._evaluate(site, context, labels)
                z[site] = pyro.sample(site, p_z)
            p_x = self._observation(*map(z.__getitem__, self._sees(0)), *labels)
            return pyro.sample("x", p_x, obs=x)

    def _observation(self, *context: Tensor) -> dist.Distribution:
        partial = self.partly_labelled
        if hasattr(self.decoder, "distribution"):
            context = networks.aligned(*context) if partial else context
            return self.decoder.distribution(self.likelihood, *context)
        # Decoders of a person's own may take rows alone
        rows = networks.of_rows(self.decoder, *context) if partial else self.decoder(*context)
        return declared(self.likelihood(rows), self.event_shape)

    def __repr__(self) -> str:
        """The generative story, the shapes and the number of parameters."""
        partial = self.partly_labelled
        given = "|y" if self.condition and not partial else ""
        names = ", ".join(["x", *reversed(self.latents), *(["y"] if partial else [])])
        factors = []
        for layer, site in enumerate(["x", *reversed(self.latents)]):
            context = self._sees(layer) + (["y"] if self.condition and self._sees(layer) else [])
            factors.append(f"p({site}|{','.join(context)})" if context else f"p({site})")
        factors += ["p(y)"] if partial else []
        shapes = [f"x: {type(self.likelihood).__name__} {self.event_shape}"]
        shapes += [f"{site}: ({size},)" for site, size in reversed(self.latent_sizes.items())]
        shapes += [f"y: one of {self.condition} classes, some given"] if partial else []
        return (
            f"{type(self).__name__}\n  p({names}{given}) = {' '.join(factors)}\n"
            f"  {', '.join(shapes)}\n  {self._count()}"
        )
