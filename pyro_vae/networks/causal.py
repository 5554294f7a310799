"""Networks along a sequence, each place of which sees those before it and itself."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ..ground.arguments import whole
from ..ground.recorded import Recorded
from ..programs.modes import evaluating


class GRU(Recorded, nn.GRU):
    """Gated recurrent units: h_t from h_{t-1} and the input of place t.

    Called like all causal networks, ``outputs, state = network(inputs, state=None)``: the state
    is what a later call needs in order to go on behind these inputs.

    Source: "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine
    Translation", Cho, van Merrienboer, Gulcehre, Bahdanau, Bougares, Schwenk, Bengio (2014).

    Args:
        width: of inputs and outputs.
        layers: how many, one on the other.

    Shapes:
        inputs (n, t, width); outputs (n, t, width).

    Example:
        >>> network, inputs = GRU(8), torch.randn(2, 5, 8)
        >>> whole, _ = network(inputs)
        >>> first, state = network(inputs[:, :3])
        >>> torch.allclose(network(inputs[:, 3:], state)[0], whole[:, 3:], atol=1e-6)
        True
    """

    def __init__(self, width: int = 128, layers: int = 1) -> None:
        """Build all layers."""
        super().__init__(whole("width", width), width, whole("layers", layers), batch_first=True)


class _Block(nn.Module):
    """Attention to what came before, and a dense network, each added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dense = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, h: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Any]:
        asked = self.ask(self.before(h)).unflatten(-1, (3, self.heads, -1))
        query, key, value = asked.permute(2, 0, 3, 1, 4)
        mask, t = None, h.shape[1]
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
            # A single place sees all that there is
            if t > 1:
                seen = torch.ones(t, key.shape[2], dtype=torch.bool, device=h.device)
                mask = seen.tril(key.shape[2] - t)
        found = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=past is None
        )
        h = h + self.mix(found.transpose(1, 2).flatten(2))
        return h + self.dense(self.between(h)), (key, value)


class CausalTransformer(Recorded, nn.Module):
    """Attention from each place to those before it and to itself, in several layers.

    Places are told by sines and cosines, so that it takes sequences of any length. Layers are
    normalised at their inputs. Called like ``GRU``.

    Sources: "Attention Is All You Need", Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez,
    Kaiser, Polosukhin (2017); "On Layer Normalization in the Transformer Architecture", Xiong,
    Yang, He, Zheng, Zheng, Xing, Zhang, Lan, Wang, Liu (2020).

    Args:
        width: of inputs and outputs, an even multiple of ``heads``.
        layers: how many.
        heads: attentions beside each other in a layer.

    Shapes:
        inputs (n, t, width); outputs (n, t, width).

    Raises:
        ValueError: sizes that are no positive whole numbers, or do not divide.

    Example:
        >>> outputs, state = CausalTransformer(8, heads=2)(torch.randn(2, 5, 8))
        >>> outputs.shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, width: int = 128, layers: int = 2, heads: int = 4) -> None:
        """Build all layers."""
        super().__init__()
        whole("layers", layers)
        if whole("width", width) % (2 * whole("heads", heads)):
            raise ValueError(
                f"width: expected a multiple of twice the heads, {2 * heads}, got {width}: pass "
                f"such as {2 * heads * math.ceil(width / (2 * heads))}"
            )
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
        self.register_buffer("rates", rates, persistent=False)

    def forward(
        self, inputs: Tensor, state: tuple[Any, ...] | None = None
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Outputs of all places, and what came before for later ones."""
        start = 0 if state is None else state[0][0].shape[2]
        places = torch.arange(start, start + inputs.shape[1], device=inputs.device)
        angles = places.unsqueeze(1) * self.rates
        h = inputs + torch.cat([angles.sin(), angles.cos()], -1)
        past: list[Any] = []
        for block, before in zip(self.blocks, state or (None,) * len(self.blocks), strict=True):
            h, kept = block(h, before)
            past.append(kept)
        return self.norm(h), tuple(past)


def check_causal(network: nn.Module, width: int) -> None:
    """Raise ``ValueError`` unless a network is causal, goes on from its state, and keeps a width.

    It is run on three places at once, and on the first and the others in turn.
    """
    inputs = torch.linspace(-1, 1, 6 * width).reshape(2, 3, width)
    like = next(network.parameters(), inputs)
    inputs = inputs.to(like.device, like.dtype)
    expected = (
        "network: expected a causal one, called like torch.nn.GRU(width, width, batch_first=True) "
        f"on (n, t, {width}), and again on what follows with the state that it returns"
    )
    use = f"use networks.GRU({width}) or networks.CausalTransformer({width}), or the same width="
    if inputs.is_meta:
        return
    with evaluating(network):
        try:
            whole, _ = network(inputs)
            first, state = network(inputs[:, :1])
            rest, _ = network(inputs[:, 1:], state)
        except Exception as error:
            raise ValueError(f"{expected}, got one that fails: {error}. {use}") from error
    parts = torch.cat([first, rest], 1)
    if whole.shape != inputs.shape or not torch.allclose(whole, parts, rtol=1e-3, atol=1e-4):
        got = f"outputs {tuple(whole.shape)}" if whole.shape != inputs.shape else "other outputs"
        raise ValueError(f"{expected}, got {got} from a {type(network).__name__}: {use}")
