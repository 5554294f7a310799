"""What a model is told of each datum: classes, numbers, and how long it was exposed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from ..data.conditions import mapping_of
from ..ground.arguments import known
from ..ground.recorded import Recorded
from ..programs.labels import MISSING
from .asked import Numbers, asked_by, check_names, classes_asked, numbers_asked
from .given import (
    EXPOSURE,
    OFFSET,
    RESERVED,
    Given,
    check_finite,
    laid,
    log_exposure,
    read,
)

# Mean or deviation of numbers that nobody standardised, or their largest
_MOST, _LEAST = 10.0, 0.01


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
            each (n,), or name -> how many, (n, k).
        offset: whether y has an "exposure" (n,) above 0; or its logarithm, called "offset".
        loc, scale: what is subtracted from the numbers, then from the log exposure, and what they
            are divided by: one for all, or one for each. ``Covariates.standardized(d.train)``
            takes mean and standard deviation of the data.

    Attributes:
        classes: name -> number of classes.
        numbers: name -> shape of one datum.
        shapes: the same with those of classes, ().
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

    # The least number of a class
    _least = 0

    def __init__(
        self,
        classes: int | Mapping[str, int] = 0,
        numbers: Numbers = 0,
        *,
        offset: bool = False,
        loc: float | Sequence[float] = 0.0,
        scale: float | Sequence[float] = 1.0,
    ) -> None:
        """Keep what there is, and by what it is standardised."""
        super().__init__()
        self.classes, self.numbers = classes_asked(classes), numbers_asked(numbers)
        self.offset = bool(offset)
        self.shapes = {**dict.fromkeys(self.classes, ()), **self.numbers}
        self.names = (*self.classes, *self.numbers, *((OFFSET,) if offset else ()))
        check_names((*self.classes, *self.numbers), offset=self.offset)
        width = sum(shape[0] if shape else 1 for shape in self.numbers.values())
        self.size, self._width = sum(self.classes.values()) + width, width
        most = max(self.classes.values(), default=0)
        one_hot = torch.zeros(most, most).fill_diagonal_(1.0)
        self.register_buffer("one_hot", one_hot, persistent=False)
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
            y: a mapping of classes (n,), whole numbers by their type; of numbers (n,) or (n, k);
                and of an "exposure" or its logarithm, the "offset"; or a ``Dataset`` whose labels
                are such.

        Raises:
            ValueError: labels that are none.

        Example:
            >>> y = {"site": torch.tensor([0, 2, 1]), "age": torch.tensor([20.0, 40.0, 60.0])}
            >>> given = Covariates.standardized(y)
            >>> given, given.loc
            (Covariates(site: one of 3, age), tensor([40.]))
        """
        return cls(**asked_by(y))

    def columns(self, y: Any, n: int | None = None) -> Given:
        """Labels as programs are given them: of n data, or of as many as there are.

        Each is one for all data, or has a row per datum.

        Raises:
            ValueError: labels that are missing, unknown, of another shape, or no classes, finite
                numbers or positive exposures.
            TypeError: text, and what holds no numbers.
        """
        if type(y) is Given and y.kwargs.keys() == {*self.names}:
            if n in (None, len(y)):
                return y
            if len(y) == 1:
                return y.repeated(n)
            raise ValueError(f"y: expected {n} labels, one per datum, got {len(y)}")
        found = mapping_of(y, frames=1)
        if found is None:
            raise ValueError(
                f"y: this model is conditional on {self!r}, expected a mapping, got "
                f"{'none' if y is None else type(y).__name__}: pass {self._such_as}"
            )
        self._check_keys(found)
        shapes = dict(self.shapes)
        values = {name: self._column(name, found[name]) for name in shapes}
        if self.offset:
            values[OFFSET] = log_exposure(found).to(self.loc.device, self.loc.dtype)
            shapes[OFFSET] = ()
        if n is None:
            sizes = [len(v) for k, v in values.items() if v.dim() > len(shapes[k])]
            n = max(sizes, default=1)
        rows = {name: laid(name, value, shapes[name], n) for name, value in values.items()}
        if pyro.infer.util.is_validation_enabled():
            self._check_values(rows)
        return Given((), rows, tuple(rows))

    def features(self, y: Given) -> Tensor:
        """What decoders see of them, (n, size)."""
        parts = [embedding(y[name], self.one_hot[:k, :k]) for name, k in self.classes.items()]
        if self.numbers:
            parts.append(self._standardized(y))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _standardized(self, y: Given) -> Tensor:
        values = [y[n] if shape else y[n].unsqueeze(-1) for n, shape in self.numbers.items()]
        loc, scale = (v[: self._width] for v in (self.loc, self.scale))
        return (torch.cat(values, -1) - loc) / scale

    def tensors(self, y: Given) -> list[Tensor]:
        """Those by which ``features`` are decided."""
        return [y[name] for name in self.shapes]

    def seen(self, y: Given) -> Tensor:
        """What guides see of them, (n, size), or (n, size + 1) with an exposure."""
        if not self.offset:
            return self.features(y)
        exposure = self._exposure(y)
        return torch.cat([self.features(y), exposure], -1) if self.size else exposure

    def _exposure(self, y: Given) -> Tensor:
        return (y[OFFSET].unsqueeze(-1) - self.loc[-1:]) / self.scale[-1:]

    def placeholder(self, n: int) -> Given:
        """The first classes, mean numbers and exposure, for programs that are only looked at."""
        return self.columns(self.typical(), n)

    def typical(self, y: Any = None) -> dict[str, Any]:
        """The first classes, and what numbers and log exposure are standardised by; else ``y``."""
        found: dict[str, Any] = dict.fromkeys(self.classes, 0)
        loc = iter(self.loc.tolist())
        for name, shape in self.numbers.items():
            found[name] = [next(loc) for _ in range(shape[0])] if shape else next(loc)
        found |= {OFFSET: next(loc)} if self.offset else {}
        for key, value in (mapping_of(y, frames=1) or {}).items():
            found.pop(OFFSET if key == EXPOSURE else key, None)
            found[key] = value
        return found

    def varied(
        self, name: str | None, values: Sequence[float] | None, y: Any = None
    ) -> tuple[str, list[float], dict[str, Any]]:
        """One of them, by default the first, its values, and labels with these, the others fixed.

        By default it is each class, or five numbers from two standard deviations below the mean.
        The others are as in ``y``, else as in ``typical``.
        """
        names = [name for name, shape in self.shapes.items() if not shape]
        if not names:
            raise ValueError(
                f"vary: expected classes or numbers by name, got {self!r}: name the numbers, such "
                "as numbers=('age', 'dose')"
            )
        name = names[0] if name is None else known("vary", name, names)
        if values is None:
            values = range(self.classes[name]) if name in self.classes else self._spread(name)
        return name, [*values], self.typical(y)

    def _spread(self, name: str) -> list[float]:
        before = [*self.numbers.values()][: [*self.numbers].index(name)]
        place = sum(shape[0] if shape else 1 for shape in before)
        loc, scale = (float(v[place]) for v in (self.loc, self.scale))
        return [loc + scale * step for step in (-2, -1, 0, 1, 2)]

    def check_model(self, likelihood: nn.Module, decoder: nn.Module | None) -> None:
        """Raise ``ValueError`` for an exposure without rates."""
        if self.offset and hasattr(decoder, "distribution"):
            raise ValueError(
                "decoder: expected one that returns features, to which an exposure is added, got "
                f"{type(decoder).__name__}, which has its own distribution: leave offset out, or "
                "let it return features"
            )
        takes = OFFSET in inspect.signature(likelihood.forward).parameters
        if self.offset and not takes:
            raise ValueError(
                "likelihood: expected one of counts for an exposure, which multiplies rates, got "
                f"{type(likelihood).__name__}: use likelihoods.Poisson() or NegativeBinomial(), "
                "or pass the logarithm as one of the numbers"
            )

    def check_training(self, y: Given) -> None:
        """Raise ``ValueError`` for classes that the training data do not have."""
        for name, k in self.classes.items():
            unseen = sorted({*range(k)} - {*y[name].unique().tolist()})
            if unseen:
                raise ValueError(
                    f"y[{name!r}]: expected data of all {k} classes, got none of class "
                    f"{', '.join(map(str, unseen))}, of which nothing would be learnt: build the "
                    f"model with fewer, models.Covariates(classes={{{name!r}: "
                    f"{k - len(unseen)}}}, ...), and number them 0, 1, ..."
                )

    def notice(self, y: Given) -> str | None:
        """What to do about numbers of training data that are far from 1; None for others."""
        if not self.numbers:
            return None
        seen = self._standardized(y)
        most = seen.abs().amax(0)
        typical = seen.mean(0).abs().maximum(seen.std(0, correction=0))
        far = (typical > _MOST) | ((most > 0) & (most < _LEAST))
        if not far.any():
            return None
        values = seen[:, int(far.long().argmax())]
        return (
            f"y: the numbers of {self!r}, from {float(values.min()):.4g} to "
            f"{float(values.max()):.4g} once they are standardised, are far from 1, for which "
            "networks are made: build the model with "
            "condition=models.Covariates.standardized(d.train), or pass loc= and scale="
        )

    @property
    def _such_as(self) -> str:
        classes = [f"{name!r}: classes" for name in self.classes]
        numbers = [f"{name!r}: numbers" for name in self.numbers]
        exposure = [f"{EXPOSURE!r}: exposures"] if self.offset else []
        return "y={" + ", ".join([*classes, *numbers, *exposure]) + "}"

    def _check_keys(self, found: Mapping[str, Any]) -> None:
        expected = [name for name in self.names if name != OFFSET]
        allowed = (*expected, *(RESERVED if self.offset else ()))
        for name in found:
            known("y", name, allowed)
        lacking = [name for name in expected if name not in found]
        if self.offset and not any(name in found for name in RESERVED):
            lacking.append(EXPOSURE)
        if lacking:
            raise ValueError(
                f"y: this model is conditional on {self!r}, expected "
                f"{', '.join(map(repr, lacking))} as well, got {', '.join(map(repr, found))}: "
                f"pass {self._such_as}"
            )
        if all(name in found for name in RESERVED):
            raise ValueError(
                "y: expected the exposure or its logarithm, the offset, got both: leave one out"
            )

    def _column(self, name: str, value: Any) -> Tensor:
        """One of them, where the model is and in its type."""
        column = read(name, value).to(self.loc.device)
        if name not in self.classes:
            return column.to(self.loc.dtype)
        if column.is_floating_point() and (column != column.round()).any():
            raise ValueError(
                f"y[{name!r}]: expected whole numbers of classes, got {column.dtype} with others: "
                "number the classes 0, 1, ..., or build the model with these as numbers="
            )
        return column.long()

    def _check_values(self, rows: Mapping[str, Tensor]) -> None:
        for name, value in rows.items():
            if name not in self.classes:
                check_finite(name, value)
                continue
            wrong = value[(value < self._least) | (value >= self.classes[name])]
            if len(wrong) and (wrong == MISSING).all():
                raise ValueError(
                    f"y[{name!r}]: expected labels of all data, got {MISSING}, missing, for "
                    f"{len(wrong)} of {len(value)}: leave these data out, or name what is missing "
                    "as a class of its own"
                )
            if len(wrong):
                missing = f", or {self._least} where they are missing" * (self._least < 0)
                raise ValueError(
                    f"y[{name!r}]: this model has {self.classes[name]} classes, expected labels "
                    f"from 0 to {self.classes[name] - 1}{missing}, got {int(value.min())} to "
                    f"{int(value.max())}: number them so, or build it with more"
                )

    def __repr__(self) -> str:
        """What there is."""
        some = ", some given" * (self._least < 0)
        classes = [f"{name}: one of {k}{some}" for name, k in self.classes.items()]
        numbers = [f"{n}: {shape[0]}" if shape else n for n, shape in self.numbers.items()]
        return f"Covariates({', '.join([*classes, *numbers, *([EXPOSURE] * self.offset)])})"
