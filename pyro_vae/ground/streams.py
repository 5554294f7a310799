"""Random streams that belong to one object, apart from torch's global one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from .arguments import is_whole


def generators(device: torch.device) -> dict[str, torch.Generator]:
    """Torch's own generators, which every draw on ``device`` comes from."""
    found = {"cpu": torch.default_generator}
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        found["cuda"] = torch.cuda.default_generators[index]
    return found


def positions(device: torch.device) -> dict[str, Tensor]:
    """Where the streams of ``generators`` are."""
    return {name: g.get_state() for name, g in generators(device).items()}


def go_to(device: torch.device, states: Mapping[str, Tensor]) -> None:
    """Go back, or on, to what ``positions`` gave."""
    for name, generator in generators(device).items():
        if name in states:
            generator.set_state(states[name].cpu())


@contextlib.contextmanager
def forked(device: torch.device | str = "cpu", seed: int | None = None) -> Iterator[None]:
    """Torch's global streams for draws on ``device``, which go back afterwards to where they were.

    The CPU's is forked in any case. Without a ``seed`` they go on from where they are.

    Example:
        >>> with forked(seed=0):
        ...     _ = torch.rand(())
    """
    before = [(g, g.get_state()) for g in generators(torch.device(device)).values()]
    try:
        if seed is not None:
            for generator, _ in before:
                generator.manual_seed(seed)
        yield
    finally:
        for generator, state in before:
            generator.set_state(state)


class RandomStream:
    """A random stream of its own for every draw of torch inside ``with stream.on(device)``.

    Without a seed torch's global stream stays in use. Raises ``ValueError`` for a seed that
    torch's generators do not take.
    """

    def __init__(self, seed: int | None) -> None:
        if seed is not None and not (is_whole(seed) and -(2**63) <= seed < 2**64):
            raise ValueError(
                f"seed: expected a whole number of at most 64 bits, or None, got {seed!r}: pass 0"
            )
        self.seed = seed
        self._states: dict[str, Tensor] = {}
        # Where it is in use, and where torch's streams were before
        self._device: torch.device | None = None
        self._outside: dict[str, Tensor] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"seed": self.seed, "_states": self.states(), "_device": None, "_outside": {}}

    @contextlib.contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Go on where this stream stopped; torch's global one is as before afterwards."""
        if self.seed is None:
            yield
            return
        self._device, self._outside = device, positions(device)
        try:
            for generator in generators(device).values():
                generator.manual_seed(self.seed)
            go_to(device, self._states)
            yield
        finally:
            self._states = self.states()
            go_to(device, self._outside)
            self._device = None

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Within ``on``: torch's global stream goes on meanwhile, where it was."""
        if (device := self._device) is None:
            yield
            return
        self._states = self.states()
        go_to(device, self._outside)
        try:
            yield
        finally:
            self._outside = positions(device)
            go_to(device, self._states)

    def states(self) -> dict[str, Tensor]:
        """Where the stream is, also while it is in use."""
        return self._states | ({} if self._device is None else positions(self._device))

    def load(self, states: Mapping[str, Tensor]) -> None:
        """Go on from what ``states`` gave."""
        self._states = {name: state.cpu() for name, state in states.items()}
