"""How the codes of a VQ-VAE are used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..codebooks.base import by_book
from ..data import Dataset
from ..ground.tables import Cell, Table, Tabular
from ..guides import NearestCode
from ..models import VQVAE
from ..programs.examining import examined
from ..programs.labels import label_arguments
from ..programs.values import check_codes


@dataclass(frozen=True, repr=False)
class CodebookUse(Tabular):
    """How often each code stands for data; ``print`` it, or read the parts.

    Attributes:
        counts: hits per code over all positions of all data, (codes,).
        data: number of data.
    """

    counts: Tensor
    data: int

    @property
    def codes(self) -> int:
        """Number of codes."""
        return len(self.counts)

    @property
    def used(self) -> int:
        """Number of codes with at least one hit."""
        return int((self.counts > 0).sum())

    @property
    def dead(self) -> Tensor:
        """Numbers of the codes without a hit."""
        return (self.counts == 0).nonzero().flatten()

    @property
    def perplexity(self) -> float:
        """exp(-sum_k p_k log p_k), p_k the share of code k: the codes if all were used alike."""
        p = self.counts.double() / self.counts.sum()
        return float(torch.special.entr(p).sum().exp())

    def table(self) -> Table:
        """Codes used, perplexity, entropy, the commonest code, positions."""
        used, entropy = 100 * self.used / self.codes, math.log(self.perplexity)
        common, positions = int(self.counts.argmax()), int(self.counts.sum()) // self.data
        most = 100 * float(self.counts.max() / self.counts.sum())
        rows = {
            "codes used": (self.used, f"{self.used} of {self.codes} ({used:.1f}%)"),
            "perplexity": (self.perplexity, f"{self.perplexity:.1f}"),
            "entropy": (entropy, f"{entropy:.3f} of {math.log(self.codes):.3f} nats"),
            "commonest code": (common, f"{common} ({most:.1f}% of positions)"),
            "positions per datum": (positions, str(positions)),
        }
        return Table(
            f"codes of {self.data} data",
            ("quantity", "value"),
            [(name, Cell(text, {"": value})) for name, (value, text) in rows.items()],
            line="  {:<20} {}",
            left=(0,),
        )

    def rows(self) -> list[list[str]]:
        """The table as text: quantity and value."""
        return self.table().texts()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: numbers of the table, and the counts."""
        return {
            "codes": self.codes,
            "used": self.used,
            "perplexity": self.perplexity,
            "data": self.data,
            "counts": self.counts.tolist(),
        }


@dataclass(frozen=True, repr=False)
class CodebooksUse(Tabular):
    """How the codes of each level, and of each step of a residual codebook, stand for data.

    Attributes:
        books: "z1" or, of the steps of a stack, "z1[0]", "z1[1]", ... -> its ``CodebookUse``.
    """

    books: Mapping[str, CodebookUse]

    def table(self) -> Table:
        """A row for each: codes used, perplexity, positions."""
        (data,) = {use.data for use in self.books.values()}
        rows = []
        for name, use in self.books.items():
            share, positions = 100 * use.used / use.codes, int(use.counts.sum()) // use.data
            used = Cell(f"{use.used} of {use.codes} ({share:.1f}%)", {"": use.used})
            perplexity = Cell(f"{use.perplexity:.1f}", {"": use.perplexity})
            rows.append((name, used, perplexity, Cell(str(positions), {"": positions})))
        columns = ("codebook", "codes used", "perplexity", "positions per datum")
        return Table(f"codes of {data} data", columns, rows, left=(0,))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: the numbers of each."""
        return {name: use.to_dict() for name, use in self.books.items()}


def codebook(
    model: VQVAE,
    guide: NearestCode,
    data: Dataset | Tensor | tuple[Tensor, Tensor | None],
    *,
    batch_size: int = 1000,
) -> CodebookUse | CodebooksUse:
    """Count the codes of all data, without changing any state.

    Counted over the data, because the perplexity of a batch depends on its size. A picture of the
    codes: ``plots.codes(model)``.

    Args:
        model: the ``VQVAE``.
        guide: its ``NearestCode``, also under handlers.
        data: a ``Dataset``, a tensor (n, *event_shape), or a pair (x, y).
        batch_size: data at once.

    Returns:
        ``CodebookUse``; of a model with several levels or a residual codebook ``CodebooksUse``.

    Raises:
        TypeError: a model without codes.
        ValueError: data that the model cannot have produced.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vqvae = models.VQVAE((1, 8, 8), 16, 4, likelihood=likelihoods.Bernoulli())
        >>> int(codebook(vqvae, guides.NearestCode(vqvae), torch.zeros(5, 1, 8, 8)).counts.sum())
        20
    """
    check_codes(model)
    counts: dict[str, Tensor] = {}
    with examined(data, model, guide) as (data, _):
        for x, y in data.batches(batch_size):
            z = guide.encode(x, **label_arguments(model, y)).sample
            for name, index in by_book(model.codebooks, z).items():
                codes = model.codebooks[name.partition("[")[0]].codes
                hits = index.flatten().bincount(minlength=codes)
                counts[name] = hits if name not in counts else counts[name] + hits
    use = {name: CodebookUse(hits.cpu(), len(data)) for name, hits in counts.items()}
    return CodebooksUse(use) if len(use) > 1 else next(iter(use.values()))
