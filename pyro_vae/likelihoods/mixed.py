"""Tables whose columns are of several kinds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..data import Column
from ..distributions import Joint, declared
from ..ground.arguments import is_whole, known
from .base import Likelihood, check_values, feature_shape, input_shape, network_inputs
from .counts import Counts
from .positive import Positive

# Columns that an error or a row of the history names
_TOLD = 4
Columns = int | str | slice | Sequence[int | str]


class Mixed(Likelihood):
    """Rows of a table: each group of columns has a likelihood of its own, given the features.

    log p(x) is the sum of what the likelihoods give their columns: densities of numeric ones,
    probabilities of counts, flags and categories. Each has features of its own, which the decoder
    returns in one vector; networks see the columns as each likelihood has them seen, numeric ones
    standardised where it says so, counts as logarithms, categories as indicators.

    Source: "Handling Incomplete Heterogeneous Data using VAEs", Nazabal, Olmos, Ghahramani, Valera
    (2020), for likelihoods of several kinds side by side.

    Args:
        parts: columns -> likelihood, or pairs of them. Columns are a number, a range, a slice (in
            pairs; only from Python 3.12 on may it be a key), a tuple of numbers, or, with
            ``names``, a name or a tuple of names; in all each column of the table is there once.
        names: of all columns, in their order; or the columns themselves, ``d.columns``, by which a
            model can tell what it draws, ``vae.sample(10).to_frame()``.

    Attributes:
        likelihoods: the likelihood of each group.
        columns: for each of them its columns as whole numbers, known once a model is built.
        names: of all columns, or None.
        table: the columns, where they were passed, or ().

    Shapes:
        features (..., f), f those of all parts; result of batch shape (...) and event shape (d,).

    Raises:
        TypeError: parts that are no likelihoods, or columns of another type.
        ValueError: unknown names; when a model is built, columns that are missing, there twice, or
            not in the table, and data that are no vectors.

    Example:
        >>> from pyro_vae import likelihoods, models
        >>> mixed = Mixed(
        ...     {
        ...         ("age", "height"): likelihoods.Gaussian("per_pixel"),
        ...         "children": likelihoods.Poisson(),
        ...         "smoker": likelihoods.Bernoulli(),
        ...         "city": likelihoods.Nominal(3),
        ...     },
        ...     names=("age", "children", "city", "height", "smoker"),
        ... )
        >>> vae = models.VAE((5,), latents=2, likelihood=mixed)
        >>> vae.sample(4).shape, mixed.columns
        (torch.Size([4, 5]), ((0, 3), (1,), (4,), (2,)))
    """

    def __init__(
        self,
        parts: Mapping[Any, Likelihood] | Iterable[tuple[Columns, Likelihood]],
        names: Sequence[str | Column] | None = None,
    ) -> None:
        """Hold the likelihoods, and find the columns where their number is known."""
        super().__init__()
        given = [*(parts.items() if isinstance(parts, Mapping) else parts)]
        for columns, part in given:
            if not isinstance(part, nn.Module):
                raise TypeError(
                    f"parts: expected a likelihood for each group of columns, got {part!r} for "
                    f"{columns!r}: pass such as likelihoods.Gaussian()"
                )
        # Of a file a column is a plain tuple
        told = [Column(*name) for name in names or () if isinstance(name, tuple)]
        self.table = tuple(told)
        self.names = None if names is None else tuple(c.name for c in told) or (*map(str, names),)
        if repeated := [n for n, k in Counter(self.names or ()).items() if k > 1]:
            raise ValueError(
                f"names: expected a name of its own for each column, got {repeated[0]!r} twice: "
                "rename one"
            )
        self._asked = [self._numbers(columns) for columns, _ in given]
        self.likelihoods = nn.ModuleList(part for _, part in given)
        self.columns: tuple[tuple[int, ...], ...] = ()
        self._shapes: tuple[tuple[int, ...], ...] = ()
        if self.names is not None:
            self._resolve(len(self.names))

    def _numbers(self, columns: Any) -> slice | tuple[int, ...]:
        """A group of columns without names."""
        if isinstance(columns, slice):
            return columns
        if isinstance(columns, str) or not isinstance(columns, Iterable):
            columns = (columns,)
        return tuple(self._number(column) for column in columns)

    def _number(self, column: Any) -> int:
        if is_whole(column):
            return int(column)
        if not isinstance(column, str):
            raise TypeError(
                "parts: expected columns as a number, a slice, a name, or a tuple of them, got "
                f"{column!r}: pass such as (0, 2)"
            )
        if self.names is None:
            raise ValueError(
                f"names: expected the names of all columns beside the column {column!r}, got "
                "None: pass them, or numbers of columns"
            )
        return self.names.index(known("parts", column, self.names))

    def _resolve(self, size: int) -> None:
        """Find the columns of a table of so many; each is to be there once."""
        if sum(map(len, self.columns)) == size:
            return
        if self.names is not None and len(self.names) != size:
            raise ValueError(
                f"names: expected one for each of the {size} columns, got {len(self.names)}: name "
                "all columns of the data, in their order"
            )
        groups = [
            [*range(size)[g]] if isinstance(g, slice) else [c + size * (c < 0) for c in g]
            for g in self._asked
        ]
        counts = Counter(column for group in groups for column in group)
        wrong = {
            "missing": [c for c in range(size) if not counts[c]],
            "there twice": [c for c in counts if counts[c] > 1],
            "not in the table": [c for c in counts if not 0 <= c < size],
        }
        told = [f"{self._told(found)} {what}" for what, found in wrong.items() if found]
        if told or not all(groups):
            raise ValueError(
                f"parts: expected each of {size} columns once, and some for each likelihood, got "
                f"{'; '.join(told) or 'a likelihood without any'}: give each column to one"
            )
        self.columns = tuple(map(tuple, groups))
        for i, group in enumerate(groups):
            self.register_buffer(f"columns{i}", torch.tensor(group), persistent=False)
            for module in self.likelihoods[i].modules():
                if isinstance(module, Positive):
                    module.called = f"{type(module).called} of {self._told(group)}"
        # As a file can hold them
        self.arguments["parts"] = [*zip(groups, self.likelihoods, strict=True)]

    def _told(self, columns: Sequence[int]) -> str:
        """Columns by their names, or numbers."""
        known = range(len(self.names or ()))
        names = [repr(self.names[c]) if c in known else str(c) for c in columns[:_TOLD]]
        return ", ".join(names) + (", ..." if len(columns) > _TOLD else "")

    def feature_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """(f,): the features of all parts, one beside the other; finds the columns.

        Raises:
            ValueError: data that are no vectors, columns that are not each there once.
        """
        if len(event_shape) != 1:
            raise ValueError(
                f"event_shape: Mixed expects rows of a table, got {tuple(event_shape)}: pass data "
                "of shape (n, columns), x.flatten(1)"
            )
        self._resolve(event_shape[0])
        self._shapes = tuple(
            feature_shape(part, (len(group),))
            for part, group in zip(self.likelihoods, self.columns, strict=True)
        )
        return (sum(map(math.prod, self._shapes)),)

    def _split(self, x: Tensor) -> list[tuple[nn.Module, Tensor]]:
        """The parts, each with its columns of data (n, d)."""
        columns = [x.index_select(-1, found) for found in self._found()]
        return [*zip(self.likelihoods, columns, strict=True)]

    def _found(self) -> list[Tensor]:
        if not self._shapes:
            raise ValueError(
                "Mixed: expected a model that tells the number of columns, got none: build it "
                "first, models.VAE((d,), likelihood=...)"
            )
        return [getattr(self, f"columns{i}") for i in range(len(self.columns))]

    def forward(self, features: Tensor, offset: Tensor | None = None) -> dist.Distribution:
        """The joint distribution; an ``offset`` is for the parts that are counts."""
        columns, parts = self._found(), []
        pieces = features.split([*map(math.prod, self._shapes)], -1)
        every = zip(self.likelihoods, pieces, self._shapes, self.columns, strict=True)
        for part, piece, shape, group in every:
            own = piece.reshape(*piece.shape[:-1], *shape)
            counts = isinstance(part, Counts) and offset is not None
            p = part(own, offset) if counts else part(own)
            parts.append(declared(p, (len(group),)))
        return Joint(parts, columns)

    def mean(self, features: Tensor, offset: Tensor | None = None) -> Tensor:
        """E[x | features]; of categories the most probable."""
        return self(features, offset).mean

    def input_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """(k,): what the networks see of all parts, one beside the other."""
        self._resolve(event_shape[0])
        shapes = (
            input_shape(part, (len(group),))
            for part, group in zip(self.likelihoods, self.columns, strict=True)
        )
        return (sum(map(math.prod, shapes)),)

    def inputs(self, x: Tensor) -> Tensor:
        """The columns, as each likelihood has them seen."""
        return torch.cat([network_inputs(p, v).flatten(1) for p, v in self._split(x)], -1)

    def check(self, x: Tensor) -> None:
        """Raise unless each likelihood gives its columns probability; names the column."""
        for (part, values), group in zip(self._split(x), self.columns, strict=True):
            try:
                check_values(part, values)
            except ValueError:
                for column, number in zip(values.unbind(-1), group, strict=True):
                    self._check(part, column.unsqueeze(-1), number)
                raise

    def _check(self, part: nn.Module, values: Tensor, column: int) -> None:
        try:
            check_values(part, values)
        except ValueError as error:
            told = str(error).removeprefix("x: ")
            raise ValueError(f"x, column {self._told([column])}: {told}") from None
