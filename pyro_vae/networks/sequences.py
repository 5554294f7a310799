"""Networks that read a sequence into one vector."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..distributions import up_to_end
from ..ground.recorded import Recorded
from .arguments import sizes
from .causal import GRU, check_causal
from .dense import MLP, concatenate


def reader(event_shape: Sequence[int], tokens: int, width: int) -> nn.Module:
    """What makes an input of a causal network of each place of a sequence: (t,) or (t, d)."""
    tokens_alone = len(event_shape) == 1
    return nn.Embedding(tokens, width) if tokens_alone else nn.Linear(event_shape[-1], width)


def read(network: nn.Module, x: Tensor) -> Tensor:
    """The inputs (n, t, width) of sequences, by a ``reader``."""
    return network(x.long() if isinstance(network, nn.Embedding) else x)


class SequenceEncoder(Recorded, nn.Module):
    """One vector of a sequence: what a causal network makes of its end, and a hidden layer.

    What follows the end of tokens is not seen.

    Args:
        event_shape: (t,) of tokens, or (t, d) of vectors.
        tokens: how many tokens there are, 0 for vectors.
        width: of the network, and of the result.
        network: a causal network in place of the default, ``networks.GRU(width)``.
        extra: total width of vectors that are given besides, such as labels.

    Shapes:
        x (..., *event_shape), further vectors (..., extra_1), ...; result (..., width).

    Raises:
        ValueError: a shape of another kind, a network that is not causal or not of this width.

    Example:
        >>> import torch
        >>> SequenceEncoder((12,), 5, width=16)(torch.ones(3, 12)).shape
        torch.Size([3, 16])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        tokens: int = 0,
        *,
        width: int = 128,
        network: nn.Module | None = None,
        extra: int = 0,
    ) -> None:
        """Build all layers."""
        super().__init__()
        self.event_shape = sizes("event_shape", event_shape)
        check_sequence(self.event_shape, tokens, "tokens")
        self.reader = reader(self.event_shape, tokens, width)
        self.network = GRU(width) if network is None else network
        check_causal(self.network, width)
        self.last = MLP((width,), (width,), extra=extra)
        self.out_features = width

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """Apply all layers."""
        lead = x.shape[: x.dim() - len(self.event_shape)]
        rows = x.reshape(-1, *self.event_shape)
        h, _ = self.network(read(self.reader, rows))
        if len(self.event_shape) == 1:
            end = up_to_end(rows).sum(-1, keepdim=True).unsqueeze(-1) - 1
            h = h.gather(1, end.expand(-1, 1, h.shape[-1]))
        h = h[:, -1].reshape(*lead, -1)
        return self.last(concatenate((h, *others)))


class SideBySide(Recorded, nn.Module):
    """The features of several inputs, each by its own network, one beside the other.

    Args:
        networks: one for each input.
        last: what is made of all these features; default: nothing, they are the result.

    Example:
        >>> import torch
        >>> SideBySide(SequenceEncoder((4,), 3, width=8), nn.Identity())(
        ...     torch.ones(2, 4), torch.ones(2, 3)
        ... ).shape
        torch.Size([2, 11])
    """

    def __init__(self, *networks: nn.Module, last: nn.Module | None = None) -> None:
        """Hold them."""
        super().__init__()
        self.networks, self.last = nn.ModuleList(networks), last

    @property
    def out_features(self) -> int:
        """Width of the result, where a last network makes it."""
        return self.last.out_features

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply each to its input."""
        pairs = zip(self.networks, inputs, strict=True)
        found = concatenate([network(x) for network, x in pairs])
        return found if self.last is None else self.last(found)


def check_sequence(event_shape: Sequence[int], tokens: int, argument: str) -> None:
    """Raise ``ValueError`` unless it is (t,) of at least 2 tokens, or (t, d) of vectors."""
    if len(event_shape) not in (1, 2):
        raise ValueError(
            f"event_shape: expected (t,) of tokens or (t, d) of vectors, got {event_shape}: "
            "reshape each datum into a row per place"
        )
    if len(event_shape) == 1 and tokens < 2:
        raise ValueError(
            f"{argument}: expected how many tokens there are, at least 2, for sequences of shape "
            f"{event_shape}, got {tokens}: pass len(d.vocabulary), or (t, 1) for numbers"
        )
