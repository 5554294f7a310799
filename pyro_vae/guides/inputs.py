"""What the networks of a guide see of the arguments of its model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ..data.arguments import Data, LabelData, named
from ..ground.kinds import KINDS, Kind, guessed, kind_of
from ..likelihoods.base import input_shape, network_inputs
from ..models import VAE
from ..networks.defaults import convolutions
from ..programs.calling import arguments_of, positional
from ..programs.labels import lacks_labels
from .measures import Measure, Told


class OwnInputs:
    """Data as the likelihood of a model of this library prepares them, and one-hot labels.

    Where labels may be missing one column more tells which are. Of covariates those are seen that
    the decoder sees, and the exposure.

    Attributes:
        names: argument -> what it is called here.
        shapes: these -> shape of one datum, as networks see it.
        maps: these -> ``networks.convolutions`` of those that networks convolve.
    """

    def __init__(self, vae: VAE) -> None:
        self.maps = {"x": vae.maps} if vae.maps else {}
        self._kind = KINDS[vae.kind]
        self.shapes: dict[str, tuple[int, ...]] = {
            "x": input_shape(vae.likelihood, vae.event_shape)
        }
        if vae.covariates:
            seen = vae.condition.size + vae.condition.offset + lacks_labels(vae)
            self.shapes["y"] = (seen,)
        elif vae.condition:
            self.shapes["y"] = (vae.condition + lacks_labels(vae),)
        self.names = dict(zip(self.shapes, self.shapes, strict=True))

    def event_shape(self, name: str) -> tuple[int, ...]:
        """Shape of one datum, as it is read."""
        return self.shapes[name]

    def read(self, vae: VAE, x: Tensor, *, y: LabelData = None) -> dict[str, Tensor]:
        """The arguments of a call, (n, *shape)."""
        vae.check_shape(x)
        found = {"x": network_inputs(vae.likelihood, x)}
        if vae.covariates:
            found["y"] = vae.condition.seen(vae.condition.columns(y, len(x)))
            return found
        for labels in vae.label_features(y, x.shape[0]):
            found["y"] = labels
        return found

    def shown(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """Arguments as networks see them: they are."""
        return dict(given)


class OwnWithMask(OwnInputs):
    """The same of data of which some are missing: zeros there, and a mask of what is seen."""

    def __init__(self, vae: VAE) -> None:
        super().__init__(vae)
        self.shapes["x"] = masked_shape(self.shapes["x"], self._kind)

    def read(self, vae: VAE, x: Tensor, *, y: LabelData = None) -> dict[str, Tensor]:
        """The arguments of a call, (n, *shape)."""
        found = super().read(vae, x, y=y)
        found["x"] = with_mask(found["x"], self._kind)
        return found


def masked_shape(event_shape: tuple[int, ...], kind: Kind | None = None) -> tuple[int, ...]:
    """Shape of a datum with a mask: twice as many elements or channels, channels where none are.

    Of sequences there are twice as many columns. By default the kind is that of data whose shape
    is all that is known.

    Example:
        >>> masked_shape((3,)), masked_shape((1, 8, 8)), masked_shape((8, 8)), masked_shape(())
        ((6,), (2, 8, 8), (2, 8, 8), (2,))
    """
    kind = kind or guessed(event_shape)
    if kind.name == "sequence":
        return (*event_shape[:-1], 2 * event_shape[-1])
    if not kind.has_channels(event_shape):
        return (2, *event_shape)
    return (2 * event_shape[0], *event_shape[1:])


def with_mask(value: Tensor, kind: Kind | None = None) -> Tensor:
    """Values (n, *event) with zeros for NaN, followed by 1 where they are seen and 0 elsewhere.

    Example:
        >>> with_mask(torch.tensor([[2.0, torch.nan]]))
        tensor([[2., 0., 1., 0.]])
    """
    kind, seen = kind or guessed(value.shape[1:]), ~value.isnan()
    parts = [value.where(seen, 0.0), seen.to(value.dtype)]
    if kind.name == "sequence":
        return torch.cat(parts, -1)
    both = torch.stack(parts, 1)
    return both.flatten(1, 2) if kind.has_channels(value.shape[1:]) else both


def without_mask(
    value: Tensor, event_shape: tuple[int, ...], kind: Kind | None = None
) -> tuple[Tensor, Tensor]:
    """The two parts (n, *event) of what ``with_mask`` gave.

    Example:
        >>> without_mask(torch.tensor([[2.0, 0.0, 1.0, 0.0]]), (2,))
        (tensor([[2., 0.]]), tensor([[1., 0.]]))
    """
    if kind is not None and kind.name == "sequence":
        return value.chunk(2, -1)
    return value.reshape(len(value), 2, *event_shape).unbind(1)


class ProgramInputs(nn.Module):
    """The arguments of any program that have a row per datum, as numbers near one.

    Args:
        model: the generative program.
        names: argument that the guide sees -> what it is called here.
        x, y: data of the form that the program is given.
        masked: arguments of which some data may be missing, which are followed by a mask.
        kinds: argument -> kind of its data, for those of which it is said.
        tokens: argument -> how many tokens there are, for those of which it is known.

    Attributes:
        names: as passed.
        shapes: these -> shape of one datum, as networks see it.
        maps: as of ``OwnInputs``.
        kinds: argument -> kind of its data, by a guess where it is not said.
        said: the arguments of which it is.
        in_turn: of ``names``, those of sequences and tokens -> number of tokens, 0 of vectors.
        told: whether a person was told what is a guess.

    Raises:
        ValueError: data of another shape than their kind has, or more tokens.
    """

    def __init__(
        self,
        model: Any,
        names: Mapping[str, str],
        x: Data,
        y: Tensor | None,
        masked: Collection[str] = (),
        kinds: Mapping[str, str] = MappingProxyType({}),
        tokens: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Measure the data."""
        super().__init__()
        self._positions = tuple(p.name for p in positional(model))
        found = self._named(*arguments_of(model, x, y))
        self.names, self.told = dict(names), False
        self.said = frozenset(kinds).intersection(names)
        of = {
            name: kind_of(kinds.get(name), found[name].shape[1:], name=f"kind of {name!r}")
            for name in names
        }
        self.kinds = {name: kind.name for name, kind in of.items()}
        # Names may have dots, those of children not
        self.measures = nn.ModuleList()
        self.in_turn: dict[str, int] = {}
        for name, key in names.items():
            if of[name].name == "tokens":
                k = tokens.get(name) or 1 + int(found[name].nan_to_num().max())
                self.measures.append(Told(key, found[name], k, missing=name in masked))
                self.in_turn[key] = self.measures[-1].tokens
            else:
                self.measures.append(Measure(key, found[name], of[name]))
                if of[name].name == "sequence":
                    self.in_turn[key] = 0
        self.shapes = {measure.name: measure.shape for measure in self.measures}
        self._kinds = {key: of[name] for name, key in names.items()}
        numbers = [n for n in masked if found[n].is_floating_point() and of[n].name != "tokens"]
        self.masked = frozenset(names[name] for name in numbers)
        for key in self.masked:
            shape = self._measure(key).event_shape
            self.shapes[key] = masked_shape(shape, self._kinds[key])
        found = {key: convolutions(of[n].name, self.shapes[key]) for n, key in names.items()}
        self.maps = {key: maps for key, maps in found.items() if maps}

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a call by their names in the program."""
        names = (*self._positions, *map(named, range(len(self._positions), len(args))))
        return {**dict(zip(names, args, strict=False)), **kwargs}

    def event_shape(self, name: str) -> tuple[int, ...]:
        """Shape of one datum, as ``read`` gives it."""
        return self.shapes[name] if name in self.masked else self._measure(name).event_shape

    def shape_of(self, argument: str) -> tuple[int, ...]:
        """Shape of one datum, as the program has it."""
        return self._measure(self.names[argument]).event_shape

    def _measure(self, name: str) -> Measure | Told:
        return next(m for m in self.measures if m.name == name)

    def read(self, _: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The arguments of a call, (n, *event), as the program has them, or with a mask."""
        found = self._named(args, kwargs)
        for name, measure in zip(self.names, self.measures, strict=True):
            measure.check(found.get(name))
        given = {key: found[name] for name, key in self.names.items()}
        return given | {key: with_mask(given[key], self._kinds[key]) for key in self.masked}

    def shown(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """Arguments as networks see them, (n, *shape)."""
        seen = {}
        for measure in self.measures:
            value, kind = given[measure.name], self._kinds[measure.name]
            if measure.name in self.masked:
                value, mask = without_mask(value, measure.event_shape, kind)
                value = value.where(mask > 0, torch.nan)
            seen[measure.name] = measure(value)
            if measure.name in self.masked:
                seen[measure.name] = with_mask(seen[measure.name].reshape(mask.shape), kind)
        return seen
