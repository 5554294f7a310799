"""What a model with codes is told of them, by its arguments and by its guide."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from ..codebooks import Codebook
from ..ground.arguments import whole


class Embeddings(Messenger):
    """Reads what a guide's sites say of their values; ``poutine.replay`` hands ``infer`` on."""

    def __init__(self, sites: Collection[str]) -> None:
        super().__init__()
        self.sites = sites
        self.values: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.sites and not msg["is_observed"]:
            value = msg["infer"].get("embedding")
            if value is not None:
                self.values[msg["name"]] = value


def check_codebooks(books: Any, levels: int | None, **sizes: int | None) -> None:
    """Raise unless there is a codebook for each level, of these sizes where they are given."""
    if not isinstance(books, Sequence) or not all(isinstance(b, Codebook) for b in books):
        raise TypeError(
            "codebook: expected an instance such as codebooks.MovingAverage(512, 64), or one "
            f"for each level, got {books!r}"
        )
    if not books or (levels is not None and len(books) != whole("levels", levels)):
        raise ValueError(
            f"codebook: expected one for each level, got {len(books)} of {levels}: pass as "
            "many, the finest level first, or leave out levels"
        )
    for name, value in sizes.items():
        for book in books:
            if value not in (None, getattr(book, name)):
                raise ValueError(
                    f"{name}: expected the codebook's {getattr(book, name)}, got {value}: "
                    f"leave out {name}, or build the codebook with it"
                )
