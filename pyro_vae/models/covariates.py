"""What a model is told of each datum: classes, numbers, and how long it was exposed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from ..data import Dataset
from ..data.arguments import Arguments, as_column
from ..data.conditions import mapping_of
from ..ground.arguments import is_whole, known
from ..ground.recorded import Recorded

EXPOSURE, OFFSET = "exposure", "offset"
_RESERVED = (EXPOSURE, OFFSET)
# Standardised numbers that are this far off were not
_FAR, _NEAR = 100.0, 0.01


class Given(Arguments):
    """Covariates of n data as programs are given them: classes, numbers, log exposures."""


class Covariates(Recorded, nn.Module):
    """What a ``models.VAE`` is conditional on: classes, numbers, and an exposure.

    Labels y are then a mapping. All conditionals but p(zL), the decoder and guides see one-hot
    classes and the numbers (a - loc) / scale. An exposure e, such as the counts of a cell in all
    (library size), the time of a measurement or the size of a population, is what rates of counts
    are proportional to: the likelihood is given log e as its ``offset``. Guides see
    (log e - loc) / scale beside the rest, the decoder does not.

    Args:
        classes: number of classes, called "classes" in y; or name -> number for several.
        numbers: how many there are, (n, numbers), called "numbers" in y; or the names of several,
            each (n,).
        offset: whether y has an "exposure" (n,) above 0; or its logarithm, called "offset".
        loc, scale: what is subtracted from the numbers, then from the log exposure, and what they
            are divided by: one for all, or one for each. ``Covariates.standardized(d.train)``
            takes mean and standard deviation of the data.

    Attributes:
        classes: name -> number of classes.
        numbers: name -> shape of one datum.
        size: how many numbers decoders see.

    Raises:
        ValueError: nothing of all this, a number or a scale that is not positive, a name that is
            there twice or means something else, a likelihood that takes no offset.

    Source: "Learning Structured Output Representation using Deep Conditional Generative Models",
    Sohn, Lee, Yan (2015); "Deep generative modeling for single-cell transcriptomics", Lopez,
    Regier, Cole, Jordan, Yosef (2018), for batches and library sizes.

    Example:
        >>> from pyro_vae import likelihoods, models
        >>> given = models.Covariates(classes={"site": 3}, numbers=("age", "dose"), offset=True)
        >>> given
        Covariates(site: one of 3, age, dose, exposure)
        >>> vae = models.VAE((5,), 2, likelihood=likelihoods.Poisson(), condition=given)
        >>> y = {"site": 1, "age": 0.3, "dose": torch.zeros(4), "exposure": 100.0}
        >>> vae.sample(4, y=y).shape
        torch.Size([4, 5])
    """

    def __init__(
        self,
        classes: int | Mapping[str, int] = 0,
        numbers: int | Sequence[str] = 0,
        *,
        offset: bool = False,
        loc: float | Sequence[float] = 0.0,
        scale: float | Sequence[float] = 1.0,
    ) -> None:
        """Keep what there is, and by what it is standardised."""
        super().__init__()
        self.classes, self.numbers = _classes(classes), _numbers(numbers)
        self.offset = bool(offset)
        self.names = (*self.classes, *self.numbers, *((OFFSET,) if offset else ()))
        _check_names(self.names)
        width = sum(shape[0] if shape else 1 for shape in self.numbers.values())
        self.size, self._width = sum(self.classes.values()) + width, width
        most = max(self.classes.values(), default=0)
        self.register_buffer("one_hot", torch.eye(most), persistent=False)
        for name, value in (("loc", loc), ("scale", scale)):
            held = torch.as_tensor(value, dtype=torch.get_default_dtype())
            each = width + self.offset
            if held.dim() and tuple(held.shape) != (each,):
                raise ValueError(
                    f"{name}: expected one for all numbers, or {each} of them, got "
                    f"{tuple(held.shape)}: pass one for each number, then one for the log exposure"
                )
            if not held.isfinite().all() or (name == "scale" and not (held > 0).all()):
                raise ValueError(
                    f"{name}: expected {'positive ' * (name == 'scale')}finite numbers, got "
                    f"{value!r}: leave out numbers that are the same for all data"
                )
            self.arguments[name] = held.tolist()
            self.register_buffer(name, held.expand(each).clone(), persistent=False)

    @classmethod
    def standardized(cls, y: Any) -> Covariates:
        """What data have, their numbers with the mean 0 and the standard deviation 1.

        Args:
            y: a mapping of classes (n,), whole numbers or text; of numbers (n,) or (n, k), real by
                their type; and of an "exposure" or its logarithm, the "offset"; or a ``Dataset``
                whose labels are such.

        Raises:
            ValueError: labels that are none.

        Example:
            >>> y = {"site": torch.tensor([0, 2, 1]), "age": torch.tensor([20.0, 40.0, 60.0])}
            >>> given = Covariates.standardized(y)
            >>> given, given.loc
            (Covariates(site: one of 3, age), tensor([40.]))
        """
        names: Mapping[str, Sequence[str]] = {}
        if isinstance(y, Dataset):
            y, names = y.y, y.names
        found = mapping_of(y)
        if found is None:
            raise ValueError(
                "y: expected a mapping of classes and numbers, got "
                f"{'none' if y is None else type(y).__name__}: pass such as "
                "{'site': sites, 'age': ages}, or condition=10 for ten classes alone"
            )
        classes, numbers, told = {}, {}, []
        for name, value in found.items():
            column = as_column(value, f"y[{name!r}]")
            if name in _RESERVED:
                continue
            if column.is_floating_point():
                numbers[name] = tuple(column.shape[1:])
                told.append(column.reshape(len(column), -1))
            else:
                classes[name] = len(names[name]) if name in names else int(column.max()) + 1
        offset = any(name in found for name in _RESERVED)
        asked: Any = tuple(numbers)
        if [*numbers] == ["numbers"] and numbers["numbers"]:
            asked = numbers["numbers"][0]
        plain = cls(classes, asked, offset=offset)
        if offset:
            told.append(_log_exposure(found).reshape(-1, 1))
        if not told:
            return plain
        values = torch.cat([v.double() for v in told], 1)
        for name in numbers:
            _check_finite(name, as_column(found[name], name))
        scale = values.std(0, correction=0)
        return cls(
            classes,
            asked,
            offset=offset,
            loc=values.mean(0).tolist(),
            scale=torch.where(scale > 0, scale, 1.0).tolist(),
        )

    def columns(self, y: Any, n: int | None = None) -> Given:
        """Labels as programs are given them: of n data, or of as many as there are.

        Each is one for all data, or has a row per datum.

        Raises:
            ValueError: labels that are missing, unknown, of another shape, or no classes, finite
                numbers or positive exposures.
            TypeError: text, and what holds no numbers.
        """
        if type(y) is Given and y.kwargs.keys() == {*self.names}:
            if n is not None and len(y) != n:
                raise ValueError(f"y: expected {n} labels, one per datum, got {len(y)}")
            return y
        found = mapping_of(y, frames=1)
        if found is None:
            raise ValueError(
                f"y: this model is conditional on {self!r}, expected a mapping, got "
                f"{'none' if y is None else type(y).__name__}: pass {self._such_as}"
            )
        self._check_keys(found)
        shapes = {**dict.fromkeys(self.classes, ()), **self.numbers}
        values = {name: self._column(name, found[name]) for name in shapes}
        if self.offset:
            values[OFFSET], shapes[OFFSET] = self._offset(found), ()
        if n is None:
            sizes = [len(v) for k, v in values.items() if v.dim() > len(shapes[k])]
            n = sizes[0] if sizes else 1
        laid = {name: _laid(name, value, shapes[name], n) for name, value in values.items()}
        if pyro.infer.util.is_validation_enabled():
            self._check_values(laid)
        return Given((), laid, tuple(laid))

    def features(self, y: Given) -> Tensor:
        """What decoders see of them, (n, size)."""
        parts = [embedding(y[name], self.one_hot[:k, :k]) for name, k in self.classes.items()]
        if self.numbers:
            values = [y[name] if shape else y[name].unsqueeze(-1) for name, shape in self._shaped]
            loc, scale = self.loc[: self._width], self.scale[: self._width]
            parts.append((torch.cat(values, -1) - loc) / scale)
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def seen(self, y: Given) -> Tensor:
        """What guides see of them, (n, size), or (n, size + 1) with an exposure."""
        if not self.offset:
            return self.features(y)
        exposure = (y[OFFSET].unsqueeze(-1) - self.loc[-1:]) / self.scale[-1:]
        return torch.cat([self.features(y), exposure], -1) if self.size else exposure

    def placeholder(self, n: int) -> Given:
        """The first classes, mean numbers and exposure, for programs that are only looked at."""
        return self.columns(self.typical(), n)

    def typical(self) -> dict[str, Any]:
        """The first class of each kind, and what numbers and log exposure are standardised by."""
        found: dict[str, Any] = dict.fromkeys(self.classes, 0)
        loc = iter(self.loc.tolist())
        for name, shape in self.numbers.items():
            found[name] = [next(loc) for _ in range(shape[0])] if shape else next(loc)
        return found | ({OFFSET: next(loc)} if self.offset else {})

    def check_likelihood(self, likelihood: nn.Module) -> None:
        """Raise ``ValueError`` for a likelihood without rates where there is an exposure."""
        takes = OFFSET in inspect.signature(likelihood.forward).parameters
        if self.offset and not takes:
            raise ValueError(
                "likelihood: expected one of counts for an exposure, which multiplies their rates, "
                f"got {type(likelihood).__name__}: use likelihoods.Poisson() or NegativeBinomial(), "
                "or pass the logarithm as one of the numbers"
            )

    def check_training(self, y: Given) -> None:
        """Raise ``ValueError`` for classes that are never seen, or numbers far from 1."""
        for name, k in self.classes.items():
            unseen = sorted({*range(k)} - {*y[name].unique().tolist()})
            if unseen:
                raise ValueError(
                    f"y[{name!r}]: expected data of all {k} classes, got none of class "
                    f"{', '.join(map(str, unseen))}, of which nothing would be learnt: build the "
                    f"model with fewer, models.Covariates(classes={{{name!r}: "
                    f"{k - len(unseen)}}}, ...), and number them 0, 1, ..."
                )
        if self.numbers:
            seen = self.features(y)[:, -self._width :]
            far, spread = seen.abs().amax(0), seen.std(0, correction=0)
            if len(y) > 1 and bool(((far > _FAR) & (far > 20 * spread)).any() | (spread > _FAR).any()):
                worst = int(far.argmax())
                raise ValueError(
                    f"y: expected numbers near 1 once they are standardised, got up to "
                    f"{float(far[worst]):.4g} in number {worst} of {', '.join(self.numbers)}: "
                    "build the model with condition=models.Covariates.standardized(d.train), or "
                    "pass loc= and scale="
                )

    @property
    def _shaped(self) -> list[tuple[str, tuple[int, ...]]]:
        return [*self.numbers.items()]

    @property
    def _such_as(self) -> str:
        classes = [f"{name!r}: classes" for name in self.classes]
        numbers = [f"{name!r}: numbers" for name in self.numbers]
        exposure = [f"{EXPOSURE!r}: exposures"] if self.offset else []
        return "y={" + ", ".join([*classes, *numbers, *exposure]) + "}"

    def _check_keys(self, found: Mapping[str, Any]) -> None:
        expected = [name for name in self.names if name != OFFSET]
        allowed = (*expected, *(_RESERVED if self.offset else ()))
        for name in found:
            known("y", name, allowed)
        lacking = [name for name in expected if name not in found]
        if self.offset and not any(name in found for name in _RESERVED):
            lacking.append(EXPOSURE)
        if lacking:
            raise ValueError(
                f"y: this model is conditional on {self!r}, expected "
                f"{', '.join(map(repr, lacking))} as well, got {', '.join(map(repr, found))}: "
                f"pass {self._such_as}"
            )
        if all(name in found for name in _RESERVED):
            raise ValueError(
                "y: expected the exposure or its logarithm, the offset, got both: leave one out"
            )

    def _column(self, name: str, value: Any) -> Tensor:
        """One of them, where the model is and in its type."""
        column = as_column(value, f"y[{name!r}]").to(self.loc.device)
        if name not in self.classes:
            return column.to(self.loc.dtype)
        if column.is_floating_point() and (column != column.round()).any():
            raise ValueError(
                f"y[{name!r}]: expected whole numbers of classes, got {column.dtype} with others: "
                "number the classes 0, 1, ..., or build the model with these as numbers="
            )
        return column.long()

    def _offset(self, found: Mapping[str, Any]) -> Tensor:
        return _log_exposure(found).to(self.loc.device, self.loc.dtype)

    def _check_values(self, laid: Mapping[str, Tensor]) -> None:
        for name, value in laid.items():
            if name not in self.classes:
                _check_finite(name, value)
            elif ((value < 0) | (value >= self.classes[name])).any():
                raise ValueError(
                    f"y[{name!r}]: this model has {self.classes[name]} classes, expected labels "
                    f"from 0 to {self.classes[name] - 1}, got {int(value.min())} to "
                    f"{int(value.max())}: number them so, or build it with more"
                )

    def __repr__(self) -> str:
        """What there is."""
        classes = [f"{name}: one of {k}" for name, k in self.classes.items()]
        numbers = [f"{name}: {shape[0]}" if shape else name for name, shape in self._shaped]
        return f"Covariates({', '.join([*classes, *numbers, *([EXPOSURE] * self.offset)])})"


def _classes(classes: int | Mapping[str, int]) -> dict[str, int]:
    named = dict(classes) if isinstance(classes, Mapping) else {"classes": classes}
    for name, k in named.items():
        if not is_whole(k) or k < (name != "classes"):
            raise ValueError(
                f"classes: expected the number of classes, got {k!r}: pass an integer such as 10, "
                "or a mapping such as {'site': 4, 'sex': 2}"
            )
    return {str(name): int(k) for name, k in named.items() if k}


def _numbers(numbers: int | Sequence[str]) -> dict[str, tuple[int, ...]]:
    if is_whole(numbers) and numbers >= 0:
        return {"numbers": (int(numbers),)} if numbers else {}
    if isinstance(numbers, str) or not all(isinstance(name, str) for name in _items(numbers)):
        raise ValueError(
            f"numbers: expected how many, or a name for each, got {numbers!r}: pass an integer "
            "such as 3, or names such as ('age', 'dose')"
        )
    return dict.fromkeys(numbers, ())


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise ValueError(
            "Covariates: expected classes, numbers or an offset, got none: pass such as "
            "classes=10, or leave condition out"
        )
    own = [name for name in names if name in _RESERVED][:-1] or [
        name for name in names[:-1] if name in _RESERVED
    ]
    twice = [name for name in names if names.count(name) > 1]
    if own or twice or EXPOSURE in names:
        raise ValueError(
            f"Covariates: expected a name of its own for each, other than {EXPOSURE!r} and "
            f"{OFFSET!r}, got {(twice or own or [EXPOSURE])[0]!r}: rename it; an exposure is asked "
            "for by offset=True"
        )


def _log_exposure(found: Mapping[str, Any]) -> Tensor:
    """The logarithm of the exposure, from either."""
    if OFFSET in found:
        return as_column(found[OFFSET], f"y[{OFFSET!r}]").double()
    exposure = as_column(found[EXPOSURE], f"y[{EXPOSURE!r}]").double()
    wrong = ~(exposure > 0) | exposure.isinf()
    if pyro.infer.util.is_validation_enabled() and wrong.any():
        raise ValueError(
            f"y[{EXPOSURE!r}]: expected positive finite numbers, {_first(wrong, exposure)}: leave "
            "out these rows, of which no counts are possible"
        )
    return exposure.log()


def _check_finite(name: str, value: Tensor) -> None:
    wrong = ~value.isfinite()
    if wrong.any():
        raise ValueError(
            f"y[{name!r}]: expected finite numbers, {_first(wrong, value)}: leave out these rows, "
            "or fill them, such as with the mean of the others"
        )


def _first(wrong: Tensor, values: Tensor) -> str:
    rows = wrong.reshape(len(wrong) if wrong.dim() else 1, -1)
    row = int(rows.any(1).long().argmax())
    told = values.reshape(rows.shape)[row][rows[row]][0].item()
    return f"got {int(wrong.sum())} others, the first {told:.4g} in row {row}"


def _laid(name: str, value: Tensor, shape: tuple[int, ...], n: int) -> Tensor:
    """A row per datum, (n, *shape), from so many or one for all."""
    got = tuple(value.shape)
    if got == shape:
        return value.expand(n, *shape)
    if got == (n, *shape):
        return value
    # A column of a table, and numbers of which there is one
    if value.numel() == n and got in ((n, 1), (n,)) and shape in ((), (1,)):
        return value.reshape(n, *shape)
    raise ValueError(
        f"y[{name!r}]: expected shape {(n, *shape)}, a row per datum, or {shape} for all, got "
        f"{got}: pass as many as there are data"
    )
