"""Pairs of sentences: p(target, z1 | source)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .. import networks
from ..conditionals.normal import DiagonalNormal
from ..data.arguments import Arguments
from ..data.text import Vocabulary
from ..ground.arguments import whole
from ..likelihoods import Tokens
from ..programs.means import mean_of
from ..programs.modes import evaluating
from ..programs.placing import like
from ..programs.program import Program
from .sequence_decoder import SequenceDecoder

_FEW = 8


class TranslationDecoder(SequenceDecoder):
    """A ``SequenceDecoder`` that reads a sentence of another language first, then z.

    It is called with z (n, latents) and the tokens of that sentence (n, s).

    Args:
        source_length: s.
        source_tokens: how many tokens that language has.
        event_shape, latents, outputs, width, network, skip, word_dropout: as of
            ``SequenceDecoder``.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latents: int,
        *,
        source_length: int,
        source_tokens: int,
        outputs: int,
        width: int = 128,
        network: nn.Module | None = None,
        skip: bool = False,
        word_dropout: float = 0.0,
    ) -> None:
        """Build all layers."""
        super().__init__(
            event_shape,
            latents,
            outputs=outputs,
            width=width,
            network=network,
            skip=skip,
            word_dropout=word_dropout,
        )
        self.sizes = [latents, whole("source_length", source_length)]
        self.source = nn.Embedding(whole("source_tokens", source_tokens, 2), width)

    def prefix(self, context: Tensor) -> Tensor:
        """The source and then z, (n, s + 1, width)."""
        z, source = context.split(self.sizes, -1)
        return torch.cat([self.source(source.long()), super().prefix(z)], 1)

    def skips(self, context: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """What z adds to all inputs and outputs of the network."""
        return super().skips(context[..., : self.sizes[0]])


class Translation(Program):
    """p(target, z1 | source) = p(z1 | source) p(target | z1, source), of tokens in two languages.

    z1 is what the source does not say, such as the register of its translation. It is a program
    of its own arguments: ``data.Arguments(kwargs={"source": ..., "target": ...})`` or such a
    mapping are its data, and its guides see both, q(z1 | target, source). A decoder that predicts
    each word from those before it gains nothing by z1: see ``SequenceDecoder`` for the remedies.

    Sources: "Variational Neural Machine Translation", Zhang, Xiong, Su, Duan, Zhang (2016);
    "Learning Structured Output Representation using Deep Conditional Generative Models", Sohn,
    Lee, Yan (2015).

    Args:
        source: vocabulary of the sentences to translate.
        target: vocabulary of the translations.
        latents: size of z1.
        width: of the networks.
        decoder: your own in place of the default, a ``TranslationDecoder`` with
            ``networks.CausalTransformer(width)``, for which the source stands before the target.
        prior: your own p(z1 | source), a module that is called with the source (n, s) and returns
            a distribution of event shape (latents,).

    Shapes:
        source (n, s), target (n, t): tokens, as ``Vocabulary.numbers`` gives them.

    Raises:
        TypeError: no vocabularies.
        ValueError: sizes that are not positive integers; when run, sentences of other lengths.

    Example:
        >>> from pyro_vae import data, guides
        >>> pair = data.language_pair(50, 10)
        >>> model = Translation(pair.source, pair.target, latents=2, width=16)
        >>> guide = guides.BottomUp(model)
        >>> guide
        BottomUp
          q(z1|target,source) = q(z1|target,source)
          4,676 parameters
        >>> model.translate(pair.test["source"]).shape
        torch.Size([10, 8])
    """

    def __init__(
        self,
        source: Vocabulary,
        target: Vocabulary,
        latents: int = 8,
        *,
        width: int = 128,
        decoder: nn.Module | None = None,
        prior: nn.Module | None = None,
    ) -> None:
        """Build prior and decoder."""
        super().__init__()
        for name, value in (("source", source), ("target", target)):
            if not isinstance(value, Vocabulary):
                raise TypeError(
                    f"{name}: expected a vocabulary, got {type(value).__name__}: pass "
                    "data.Vocabulary.of(lines, words=True)"
                )
        self.source, self.target, self.width = source, target, width
        self.likelihood = Tokens(target)
        if prior is None:
            prior = DiagonalNormal(self._encoder(source), width, whole("latents", latents))
        if decoder is None:
            decoder = TranslationDecoder(
                (target.length,),
                latents,
                outputs=len(target),
                source_length=source.length,
                source_tokens=len(source),
                width=width,
                network=networks.CausalTransformer(width),
            )
        self.prior, self.decoder = prior, decoder

    def _encoder(self, vocabulary: Vocabulary) -> networks.SequenceEncoder:
        return networks.SequenceEncoder((vocabulary.length,), len(vocabulary), width=self.width)

    @property
    def example(self) -> Arguments:
        """Data of the form that it is trained on, for guides: sentences of one word."""
        device = like(self).device
        words = torch.arange(_FEW, device=device).unsqueeze(1)
        sides = {"source": self.source, "target": self.target}
        rows = {
            name: torch.cat([1.0 + words % (len(v) - 1), words.new_zeros(_FEW, v.length - 1)], 1)
            for name, v in sides.items()
        }
        return Arguments(kwargs=rows)

    def guide_encoder(self, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
        """The network with which guides read the arguments of these names, in their order."""
        sides = {"source": self.source, "target": self.target}
        return networks.SideBySide(*(self._encoder(sides[name]) for name in shapes))

    def forward(self, source: Tensor, target: Tensor | None = None) -> Tensor:
        """Run the generative program."""
        self._check("source", source, self.source)
        if target is not None:
            self._check("target", target, self.target)
        with pyro.plate("data", len(source), dim=-1):
            z = pyro.sample("z1", self.prior(source))
            return pyro.sample("target", self._observation(z, source), obs=target)

    def _observation(self, z: Tensor, source: Tensor) -> dist.Distribution:
        return self.decoder.distribution(self.likelihood, z, source)

    def _check(self, name: str, x: Tensor, vocabulary: Vocabulary) -> None:
        if tuple(x.shape[1:]) != (vocabulary.length,):
            raise ValueError(
                f"{name}: expected shape (n, {vocabulary.length}) of {vocabulary!r}, got "
                f"{tuple(x.shape)}: pass vocabulary.numbers(lines) of the model's own"
            )
        if pyro.infer.util.is_validation_enabled():
            Tokens(vocabulary).check(x)

    def translate(
        self, source: Tensor | Sequence[str], *, z: Tensor | None = None
    ) -> Tensor | list[str]:
        """The most probable words, each given those before it, in evaluation mode.

        Args:
            source: tokens (n, s), or lines of text.
            z: (n, latents); default the mean of p(z1 | source).

        Returns:
            Tokens (n, t), or lines of text where ``source`` is text.

        Raises:
            ValueError: words that are not in the vocabulary, another length of tokens.
        """
        text = not isinstance(source, Tensor)
        x = self.source.numbers(source) if text else source
        x = x.to(like(self).device)
        self._check("source", x, self.source)
        with evaluating(self):
            z = mean_of(self.prior(x), "z1") if z is None else z
            found = self._observation(z, x).mean
        return self.target.text(found) if text else found

    @staticmethod
    def sides(x: Arguments) -> tuple[Tensor, Tensor]:
        """Source and target among its arguments, whether they are given by name or in order."""
        given = dict(enumerate(x.args)) | dict(x.kwargs)
        return given.get("source", given.get(0)), given.get("target", given.get(1))

    def units(self, x: Arguments) -> dict[str, Tensor]:
        """How many tokens and characters the targets among its arguments have."""
        return self.likelihood.units(self.sides(x)[1])

    def __repr__(self) -> str:
        """The generative story, the languages and the number of parameters."""
        return (
            f"{type(self).__name__}\n"
            "  p(target, z1|source) = p(target|z1,source) p(z1|source)\n"
            f"  source: {self.source!r}, target: {self.target!r}\n  {self._count()}"
        )
