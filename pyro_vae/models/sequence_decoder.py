"""A decoder of sequences that also sees what came before: p(x|z) = prod_t p(x_t | x_<t, z)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .. import networks
from ..networks.causal import GRU, check_causal
from ..networks.sequences import check_sequence, read, reader
from .autoregressive import AutoregressiveDecoder, Place


class SequenceDecoder(AutoregressiveDecoder):
    """Decoder of tokens or vectors in turn: p(x|z) = prod_t p(x_t | x_<t, z), in one causal pass.

    What the network is given at place t is x_{t-1}; z becomes the input of the first place and
    with ``skip`` is added to all inputs and to what is read off each place. Being able to predict
    a token from those before it, such a decoder has little need of z: the remedies for latents
    that collapse, which ``diagnostics.collapse`` shows, are ``skip``, ``word_dropout`` and a
    ``schedules.WarmUp`` of beta.

    In a ``VAE`` p(x|z) is then one ``Autoregressive`` distribution: log p(x|z) is exact in one
    pass, a draw goes from place to place, and ``.mean`` are the most probable tokens, each given
    those before it; of vectors it is random, as that of a ``PixelDecoder``.

    Sources: "Generating Sentences from a Continuous Space", Bowman, Vilnis, Vinyals, Dai,
    Jozefowicz, Bengio (2016), for z at the start and word dropout; "Avoiding Latent Variable
    Collapse with Generative Skip Models", Dieng, Kim, Rush, Blei (2019), for ``skip``.

    Args:
        event_shape: (t,) of tokens, or (t, d) of vectors.
        latents: total size of all that it is called with, as of ``PixelDecoder``.
        outputs: how many tokens there are, the end too, ``len(d.vocabulary)``; of vectors the
            features per element.
        width: of the inputs and outputs of the network.
        network: a causal network in place of the default, ``networks.GRU(width)``: such as
            ``networks.CausalTransformer(width)``, or a module called like
            ``torch.nn.GRU(width, width, batch_first=True)``.
        skip: let every place see z.
        word_dropout: share of the x_{t-1} that are hidden while it is trained.

    Shapes:
        context (..., latents) in one tensor or several; x (n, *event_shape); result
        (n, *event_shape), with a last dimension of ``outputs`` where there are several.

    Raises:
        ValueError: another event shape, sizes that are not positive integers, a network that is
            not causal or of another width, a share outside [0, 1).

    Example:
        >>> from pyro_vae import likelihoods, models
        >>> decoder = SequenceDecoder((12,), 4, outputs=6, width=16)
        >>> vae = models.VAE((12,), 4, likelihood=likelihoods.Tokens(6), decoder=decoder)
        >>> vae.sample(3).shape
        torch.Size([3, 12])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latents: int,
        *,
        outputs: int = 1,
        width: int = 128,
        network: nn.Module | None = None,
        skip: bool = False,
        word_dropout: float = 0.0,
    ) -> None:
        """Build all layers."""
        super().__init__()
        self.event_shape = networks.sizes("event_shape", event_shape)
        (latents,) = networks.sizes("latents", latents)
        (self.outputs,) = networks.sizes("outputs", outputs)
        (width,) = networks.sizes("width", width)
        check_sequence(self.event_shape, self.outputs, "outputs")
        if not 0 <= word_dropout < 1:
            raise ValueError(
                f"word_dropout: expected a share from 0 to below 1, got {word_dropout!r}: pass "
                "such as 0.3"
            )
        self.word_dropout = float(word_dropout)
        self.reader = reader(self.event_shape, self.outputs, width)
        self.start = nn.Linear(latents, width)
        self.hidden = nn.Parameter(torch.zeros(width)) if word_dropout else None
        self.network = GRU(width) if network is None else network
        check_causal(self.network, width)
        self.skip = nn.Linear(latents, 2 * width, bias=False) if skip else None
        self._features = (*self.event_shape[1:], *((self.outputs,) if self.outputs > 1 else ()))
        self.last = networks.MLP((width,), (), self._features or (1,))

    def prefix(self, context: Tensor) -> Tensor:
        """What the network sees before the sequence, (n, p, width): here z, as one place."""
        return self.start(context).unsqueeze(1)

    def forward(self, *context: Tensor, x: Tensor | None = None) -> Tensor:
        """Features of every place from the places before it.

        Args:
            context: z and whatever else is known, (n, k) each, k adding up to ``latents``.
            x: (n, *event_shape); default zeros.

        Returns:
            (n, *event_shape), or (n, *event_shape, outputs).
        """
        joined = networks.concatenate(context)
        if x is None:
            x = joined.new_zeros(len(joined), *self.event_shape)
        before = read(self.reader, x[:, :-1])
        if self.training and self.hidden is not None:
            kept = torch.rand_like(before[..., :1]) >= self.word_dropout
            before = before.where(kept, self.hidden)
        first, skips = self.prefix(joined), self.skips(joined)
        h, _ = self.network(torch.cat([first, before], 1) + skips[0])
        return self.last(h[:, first.shape[1] - 1 :] + skips[1])

    def walk(self, x: Tensor, context: Tensor) -> Iterator[tuple[Place, Tensor]]:
        """The places in their order, each with its features given those in ``x`` before it.

        What the network made of earlier places is kept: the walk costs about as much arithmetic
        as one call of it. Without gradients.

        Args:
            x: (n, *event_shape), filled in while walking.
            context: z and whatever else is known, (n, latents).

        Returns:
            Iterator over places, ``x[place]`` being one of all sequences, and their features
            (n, *event_shape[1:]), with a last dimension of ``outputs`` where there are several.
        """
        state = None
        for t in range(self.event_shape[0]):
            with torch.no_grad():
                if t == 0:
                    inputs, skips = self.prefix(context), self.skips(context)
                else:
                    inputs = read(self.reader, x[:, t - 1 : t])
                h, state = self.network(inputs + skips[0], state)
                features = self.last(h[:, -1:] + skips[1])[:, 0]
            yield (slice(None), t), features

    def skips(self, context: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """What z adds to all inputs and outputs of the network."""
        if self.skip is None:
            return 0.0, 0.0
        to_inputs, to_outputs = self.skip(context).unsqueeze(1).chunk(2, -1)
        return to_inputs, to_outputs
