"""A data set: its values, labels and factors as tensors on one device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..ground.arguments import whole
from ..ground.kinds import KINDS, guessed, kind_of
from . import checks
from .arguments import Arguments
from .checks import as_values
from .columns import Column, frame_of
from .conditions import Names, held, told
from .frames import of_columns, table_of
from .labels import check_labelled
from .text import Vocabulary

if TYPE_CHECKING:
    import pandas


class Dataset:
    """Data held as tensors on one device, with batches drawn by indexing.

    ``d[i]`` with an int is one datum as training sees it, ``x`` or ``(x, y)``, so that a
    ``torch.utils.data.DataLoader`` takes a ``Dataset``; with a slice, an index tensor or a
    boolean mask it is a smaller ``Dataset``. ``d.x`` are always the values before binarisation.

    8-bit pixels and values that are 0 or 1 (``bool``) are kept in a byte each, a quarter of what
    ``float32`` takes: ``batch`` converts the rows that it gathers, ``d.x`` all of them, each time
    that it is read.

    Args:
        x: values, shape (n, *event): a tensor, an array, a list, a table, or another kind of
            ``data.kinds``. ``uint8`` is divided by 255, ``bool`` is 0 or 1; every other real type
            is converted to ``float32`` as it is. A ``float32`` or ``float64`` tensor stays, and
            is not copied. NaN is a missing value, which models take under ``handlers.missing``.
        y: labels, shape (n,): whole numbers, or text or categories, which give the names and are
            numbered in their order, text that is whole numbers by size. Where text is missing
            the label is -1, which ``models.VAE(labels="partial")`` takes. Or a mapping or a table
            of labels and of numbers (n,) or (n, k), see ``models.Covariates``.
        channels: ``"last"`` for pictures (n, h, w, channels), which become (n, channels, h, w).
            Shapes such as (n, h, w, 3) are refused unless it is ``"first"`` or ``"last"``.
        binarize: ``"dynamic"`` takes ``x`` as probabilities in [0, 1], of which each batch is a
            fresh Bernoulli sample.
        names: class names, ``names[y]``; of a mapping, name -> class names.
        factors: known factors of variation, shape (n, f).
        factor_names: names of the f factors.
        kind: what the dimensions of a datum mean, see ``load``; default a guess by the shape.
        vocabulary: of lines of text, a list x, which become rows of numbers; it is kept.
        columns: of new rows of a table that is known, its columns, such as ``vae.columns``: those
            of a frame with these names, in this order, with text numbered as there.
        rate: of signals, samples per second.

    Of a table the names of columns and rows are kept, and text is numbered.

    Attributes:
        x: values, ``float32`` (or ``float64``), shape (n, *event).
        y: labels, ``int64``, shape (n,), or None; of a mapping ``Arguments`` with these names.
        binarize: ``"dynamic"`` or None.
        names: class names, () when there are none.
        factors: ``float32``, shape (n, f), or None.
        factor_names: names of the factors, () when there are none.
        columns: name and kind of each column of a table, () for other data.
        index: what the rows of a table are called, an array (n,), or None.
        missing: whether some values are missing.
        kind: "vector", "signal", "image", "video", "tokens", "sequence" or "array", for ``kind=``
            of models.
        kind_said: whether that is no guess.
        vocabulary: what the numbers of a text stand for, or None.
        rate: of signals, samples per second, or None.

    Raises:
        TypeError: ``x``, ``y`` or ``factors`` holds no real numbers.
        ValueError: empty or infinite data, a shape without event dimension or with channels
            behind the pixels, labels that do not fit, or values outside [0, 1], or missing ones,
            to binarise; an unknown kind, or one of data of another shape.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
        >>> d = Dataset(x, torch.tensor([0, 1, 1]))
        >>> d
        Dataset(3 x (2,), labels=2, binarize=None)
        >>> d[0]
        (tensor([0., 1.]), tensor(0))
        >>> d[d.y == 1]
        Dataset(2 x (2,), labels=1, binarize=None)
        >>> d = Dataset([[1, 2], [3, 4]], ["dog", "cat"])
        >>> d.y, d.names
        (tensor([1, 0]), ('cat', 'dog'))
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        *,
        channels: Literal["first", "last"] | None = None,
        binarize: Literal["dynamic"] | None = None,
        names: Sequence[str] | None = None,
        factors: Tensor | np.ndarray | None = None,
        factor_names: Sequence[str] = (),
        kind: str | None = None,
        vocabulary: Vocabulary | None = None,
        columns: Sequence[Column] = (),
        rate: int | None = None,
    ) -> None:
        self.vocabulary = vocabulary
        if vocabulary is not None and isinstance(x, list | tuple):
            x = vocabulary.numbers(x)
        table = of_columns(x, columns) if columns else table_of(x)
        stored = checks.values(x if table is None else table.values, channels=channels)
        checks.layout(kind, stored.shape, channels)
        self.columns: tuple[Column, ...] = () if table is None else table.columns(stored)
        self.index = None if table is None else table.index
        self._hold(stored, y, binarize, names, factors, factor_names, kind, rate)

    @property
    def x(self) -> Tensor:
        """Values before binarisation, (n, *event); a new tensor where a byte is stored."""
        return as_values(self._stored)

    @property
    def dtype(self) -> torch.dtype:
        """Type of ``x``, ``float32`` or ``float64``."""
        return as_values(self._stored[:0]).dtype

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return tuple(self._stored.shape[1:])

    @property
    def kind(self) -> str:
        """What the dimensions of a datum mean."""
        return kind_of(self._kind, self.event_shape).name

    @property
    def kind_said(self) -> bool:
        """Whether the kind is no guess by the shape."""
        return self._kind is not None or bool(self.columns)

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self._stored.device

    @property
    def nbytes(self) -> int:
        """Bytes that the values take in memory."""
        return self._stored.nbytes

    def __len__(self) -> int:
        """Count the data, n."""
        return len(self._stored)

    def __getitem__(
        self, index: int | slice | Sequence[int] | Tensor | np.ndarray
    ) -> Dataset | Tensor | tuple[Tensor, Any]:
        """One datum for an int, a ``Dataset`` for a slice, row numbers (k,) or a mask (n,)."""
        if not isinstance(index, slice | int):
            index = np.array(index) if isinstance(index, np.ndarray) else index
            index = torch.as_tensor(index, device=self.device)
            if index.ndim > 1:
                raise ValueError(
                    f"index: expected an int, a slice, or one dimension of rows, got shape "
                    f"{tuple(index.shape)}: index d.x for other shapes"
                )
            index = int(index) if index.ndim == 0 else index
        if isinstance(index, int):
            x = self._draw(self._stored[index])
            if isinstance(self.y, Arguments):
                return x, {str(name): column[index] for name, column in self.y.items()}
            return x if self.y is None else (x, self.y[index])
        new = self._each(lambda tensor: tensor[index])
        if self.index is not None:
            rows = index.cpu().numpy() if isinstance(index, Tensor) else index
            new.index = self.index[rows]
        return new

    def to_frame(self, x: Tensor | None = None) -> pandas.DataFrame:
        """A table of pandas, with the names of columns and categories.

        Args:
            x: rows (m, columns) in place of these, such as ``vae.sample(10)`` or a reconstruction;
                counts and flags stay real numbers where they are means.

        Raises:
            ImportError: pandas is not installed.
            ValueError: data that are no table, rows of another shape.
        """
        if not self.columns:
            raise ValueError(
                "columns: expected data of a table, got none with names: pass a frame, or load a "
                "file whose first line has names"
            )
        if x is None:
            return frame_of(self.columns, self.x, self.index)
        return frame_of(self.columns, x)

    def to(self, device: torch.device | str) -> Dataset:
        """Move to a device.

        Example:
            >>> Dataset(torch.zeros(2, 3)).to("cpu").device
            device(type='cpu')
        """
        return self._each(lambda tensor: tensor.to(device))

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | Arguments | None]:
        """Gather rows, binarised afresh under ``binarize="dynamic"`` with torch's global RNG.

        Args:
            index: rows from 0 to n - 1, ``int64``, shape (b,).

        Returns:
            ``x`` of shape (b, *event), and ``y`` of shape (b,) or None.

        Example:
            >>> Dataset(torch.eye(3), torch.arange(3)).batch(torch.tensor([2, 0]))
            (tensor([[0., 0., 1.],
                    [1., 0., 0.]]), tensor([2, 0]))
        """
        index = index.to(self.device)
        y = None if self.y is None else self.y[index]
        x = self._draw(self._stored.index_select(0, index))
        # For latents that all data share, which count once
        x.total = len(self._stored)
        return x, y

    def batches(
        self, batch_size: int, *, shuffle: bool = False
    ) -> Iterator[tuple[Tensor, Tensor | Arguments | None]]:
        """Go once through the data; the last batch may be short.

        Args:
            batch_size: rows in a batch.
            shuffle: draw an order from torch's global RNG, when this method is called.

        Raises:
            ValueError: ``batch_size`` is not a positive integer.

        Example:
            >>> [len(x) for x, _ in Dataset(torch.zeros(5, 2)).batches(2)]
            [2, 2, 1]
        """
        whole("batch_size", batch_size, advice="use len(dataset) for one batch of everything")
        arrange = torch.randperm if shuffle else torch.arange
        rows = arrange(len(self), device=self.device)
        return (self.batch(index) for index in rows.split(batch_size))

    def binarized(self, generator: torch.Generator) -> Dataset:
        """Binarise once: a ``Dataset`` whose stored values are 0 or 1 for good.

        Args:
            generator: a generator on the CPU, so that every device gets the same sample.

        Raises:
            ValueError: values outside [0, 1].

        Example:
            >>> grey = Dataset(torch.full((2, 3), 0.5))
            >>> grey.binarized(torch.Generator().manual_seed(0)).x
            tensor([[1., 0., 1.],
                    [1., 1., 0.]])
        """
        checks.probabilities(self._stored)
        uniform = torch.rand(self._stored.shape, generator=generator).to(self.device)
        drawn = uniform < self.x
        drawn = drawn if self.dtype == torch.float32 else drawn.to(self.dtype)
        return self.replace(x=drawn, binarize=None)

    def replace(self, **changes: Any) -> Dataset:
        """Copy with other arguments of the constructor.

        Example:
            >>> Dataset(torch.full((2, 3), 0.5)).replace(binarize="dynamic")
            Dataset(2 x (3,), labels=None, binarize='dynamic')
        """
        stored = checks.values(changes.pop("x")) if "x" in changes else self._stored
        kept = ("y", "binarize", "names", "factors", "factor_names", "rate")
        new = object.__new__(Dataset)
        new.columns, new.index, new.vocabulary = self.columns, self.index, self.vocabulary
        held = {"kind": self._kind, **{name: getattr(self, name) for name in kept}}
        if "kind" in changes and kind_of(changes["kind"], stored.shape[1:]).name != "signal":
            held["rate"] = None
        new._hold(stored, **held | changes)
        return new

    def check_classes(self, *programs: Any) -> None:
        """Raise ``ValueError`` where text stands for other numbers than a program was given.

        Text is numbered by what there is of it, so that a set without one of the classes would
        number the others anew. So it does where a program needs labels that are missing, and for
        data that were said to be of another kind than that for which a program has convolutional
        networks.

        Args:
            programs: models and guides, conditional on ``condition`` classes or not.
        """
        if self.vocabulary is not None:
            self.vocabulary.check(*programs)
        classes = next((n for p in programs if (n := getattr(p, "condition", 0))), 0)
        several = getattr(classes, "classes", {"y": classes})
        for name, k in several.items():
            names = self.names.get(name, ()) if isinstance(self.names, dict) else self.names
            if self._named_by_text and names and k not in (0, len(names)):
                shown = "y" if name == "y" else f"y[{name!r}]"
                raise ValueError(
                    f"{shown}: expected text of all {k} classes, got {len(names)}, which would "
                    "be numbered anew: pass Dataset(x, y, names=...) with the names of all, such "
                    "as d.labels"
                )
        if classes and isinstance(self.y, Tensor):
            check_labelled(self.y, programs)
        for program in programs if self._kind is not None else ():
            kind = getattr(program, "kind", self._kind)
            ours = isinstance(kind, str) and kind in KINDS and getattr(program, "maps", None)
            if ours and kind != self._kind:
                raise ValueError(
                    f"kind: these data were said to be of kind {self._kind!r}, got a "
                    f"{type(program).__name__} with networks for {kind!r}: build it with "
                    f"kind={self._kind!r}"
                )

    def __repr__(self) -> str:
        """Size, event shape, labels and binarisation."""
        factors = f", factors={len(self.factor_names)}" if self.factor_names else ""
        kind = "" if self.kind == guessed(self.event_shape).name else f", kind={self.kind!r}"
        labels = told(self.y, self.names)
        return (
            f"Dataset({len(self)} x {self.event_shape}, labels={labels}{factors}, "
            f"binarize={self.binarize!r}{kind})"
        )

    def _hold(
        self,
        stored: Tensor,
        y: Any,
        binarize: str | None,
        names: Any,
        factors: Tensor | np.ndarray | None,
        factor_names: Sequence[str],
        kind: str | None,
        rate: int | None,
    ) -> None:
        self._kind, self.rate = kind, rate
        found = kind_of(kind, stored.shape[1:])
        if rate is not None:
            checks.rate(rate, found)
        if binarize not in ("dynamic", None):
            raise ValueError(
                f'binarize: expected "dynamic" or None, got {binarize!r}: to binarise once use '
                'Dataset(x).binarized(generator) or data.load(x, binarize="static")'
            )
        self._stored = stored
        # The least number is NaN where any is, without a mask of all
        holds = stored.is_floating_point() and stored.numel() > 0
        self.missing = holds and bool(stored.min().isnan())
        self.names: Names
        self.y, self.names, self._named_by_text = held(y, len(stored), names, stored.device)
        self.factors = None if factors is None else checks.factors(factors, factor_names, stored)
        self.factor_names = tuple(factor_names)
        self.binarize = binarize
        if binarize is not None:
            checks.probabilities(stored)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Dataset:
        # Nothing but emptiness is checked anew: a part of 8-bit pixels may have none above 1
        new = copy.copy(self)
        for name in ("_stored", "y", "factors"):
            tensor = getattr(self, name)
            if tensor is not None:
                many = isinstance(tensor, Arguments)
                setattr(new, name, tensor.each(change) if many else change(tensor))
        checks.not_empty(new._stored)
        new.missing = self.missing and bool(new._stored.min().isnan())
        return new

    def _draw(self, stored: Tensor) -> Tensor:
        x = stored if stored.is_floating_point() else as_values(stored)
        return (torch.rand_like(x) < x).to(x.dtype) if self.binarize else x
