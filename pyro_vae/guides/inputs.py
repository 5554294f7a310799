"""What the networks of a guide see of the arguments of its model."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..data.arguments import Data, LabelData, named
from ..ground.kinds import KINDS, Kind, guessed
from ..likelihoods.base import input_shape, network_inputs
from ..models import VAE
from ..networks import is_image
from ..networks.defaults import guessed_maps
from ..programs.calling import arguments_of, positional
from ..programs.labels import lacks_labels

# Up to how many different whole numbers have an indicator each
_CLASSES = 32


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

    By default the kind is that of data whose shape is all that is known.

    Example:
        >>> masked_shape((3,)), masked_shape((1, 8, 8)), masked_shape((8, 8)), masked_shape(())
        ((6,), (2, 8, 8), (2, 8, 8), (2,))
    """
    if not (kind or guessed(event_shape)).has_channels(event_shape):
        return (2, *event_shape)
    return (2 * event_shape[0], *event_shape[1:])


def with_mask(value: Tensor, kind: Kind | None = None) -> Tensor:
    """Values (n, *event) with zeros for NaN, followed by 1 where they are seen and 0 elsewhere.

    Example:
        >>> with_mask(torch.tensor([[2.0, torch.nan]]))
        tensor([[2., 0., 1., 0.]])
    """
    seen = ~value.isnan()
    both = torch.stack([value.where(seen, 0.0), seen.to(value.dtype)], 1)
    has_channels = (kind or guessed(value.shape[1:])).has_channels(value.shape[1:])
    return both.flatten(1, 2) if has_channels else both


class ProgramInputs(nn.Module):
    """The arguments of any program that have a row per datum, as numbers near one.

    Args:
        model: the generative program.
        names: argument that the guide sees -> what it is called here.
        x, y: data of the form that the program is given.
        masked: arguments of which some data may be missing, which are followed by a mask.

    Attributes:
        names: as passed.
        shapes: these -> shape of one datum, as networks see it.
        maps: as of ``OwnInputs``, by a guess.
    """

    def __init__(
        self,
        model: Any,
        names: Mapping[str, str],
        x: Data,
        y: Tensor | None,
        masked: Collection[str] = (),
    ) -> None:
        """Measure the data."""
        super().__init__()
        self._positions = tuple(p.name for p in positional(model))
        found = self._named(*arguments_of(model, x, y))
        self.names = dict(names)
        # Names may have dots, those of children not
        self.measures = nn.ModuleList(Measure(key, found[name]) for name, key in names.items())
        self.shapes = {measure.name: measure.shape for measure in self.measures}
        floating = [name for name in masked if found[name].is_floating_point()]
        self.masked = frozenset(names[name] for name in floating)
        for key in self.masked:
            self.shapes[key] = masked_shape(self._measure(key).event_shape)
        found = {key: guessed_maps(shape) for key, shape in self.shapes.items()}
        self.maps = {key: maps for key, maps in found.items() if maps}

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a call by their names in the program."""
        names = (*self._positions, *map(named, range(len(self._positions), len(args))))
        return {**dict(zip(names, args, strict=False)), **kwargs}

    def event_shape(self, name: str) -> tuple[int, ...]:
        """Shape of one datum, as ``read`` gives it."""
        return self.shapes[name] if name in self.masked else self._measure(name).event_shape

    def _measure(self, name: str) -> Measure:
        return next(m for m in self.measures if m.name == name)

    def read(self, _: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The arguments of a call, (n, *event), as the program has them, or with a mask."""
        found = self._named(args, kwargs)
        for name, measure in zip(self.names, self.measures, strict=True):
            measure.check(found.get(name))
        given = {key: found[name] for name, key in self.names.items()}
        return given | {key: with_mask(given[key]) for key in self.masked}

    def shown(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """Arguments as networks see them, (n, *shape)."""
        seen = {}
        for measure in self.measures:
            value = given[measure.name]
            if measure.name in self.masked:
                value, mask = value.reshape(len(value), 2, *measure.event_shape).unbind(1)
                value = value.where(mask > 0, torch.nan)
            seen[measure.name] = measure(value)
            if measure.name in self.masked:
                seen[measure.name] = with_mask(seen[measure.name].reshape(mask.shape))
        return seen


class Measure(nn.Module):
    """One argument (n, *event) as (a - m) / s, with mean m and scale s of ``like``.

    m and s are those of each element of a vector, of all elements of an image. s is the standard
    deviation, or a tenth of the range where that is more, so that no value of ``like`` is above
    ten. Whole numbers of a datum, where ``like`` has at most 32 different ones, are followed by an
    indicator for each of these.

    Args:
        name: what errors call it.
        like: values (n, *event).
    """

    def __init__(self, name: str, like: Tensor) -> None:
        """Measure ``like``, what of it is no NaN."""
        super().__init__()
        self.name, self.event_shape = name, tuple(like.shape[1:])
        whole = not like.is_floating_point()
        values = _exact(like).detach()
        elements = values.flatten(1) if values.dim() > 1 else values.unsqueeze(1)
        pooled = is_image(self.event_shape)
        loc, scale = _measured(elements.reshape(-1, 1) if pooled else elements)
        shape = (1,) * len(self.event_shape) if pooled else self.event_shape or (1,)
        dtype = torch.get_default_dtype() if whole else like.dtype
        self.register_buffer("loc", loc.reshape(shape).to(dtype))
        self.register_buffer("scale", scale.reshape(shape).to(dtype))
        found = like.unique() if whole and math.prod(self.event_shape) == 1 else like[:0].flatten()
        classes = found if len(found) <= _CLASSES else found[:0]
        self.register_buffer("classes", classes)
        one = (1 + len(classes),) if len(classes) else self.event_shape or (1,)
        self.shape: tuple[int, ...] = one

    def check(self, value: Any) -> None:
        """Raise ``ValueError`` for another shape of a datum."""
        if not isinstance(value, Tensor) or tuple(value.shape[1:]) != self.event_shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else repr(value)
            raise ValueError(
                f"{self.name}: expected shape {('n', *self.event_shape)}, as in the data that "
                f"this guide was built for, got {got}: pass such, or build the guide for "
                "like=these data"
            )

    def forward(self, value: Tensor) -> Tensor:
        """The numbers (n, *shape) of values (n, *event)."""
        if not self.event_shape:
            value = value.unsqueeze(-1)
        numbers = ((_exact(value) - self.loc) / self.scale).to(self.loc.dtype)
        if not len(self.classes):
            return numbers
        indicators = value.flatten(1) == self.classes
        return torch.cat([numbers.flatten(1), indicators.to(numbers.dtype)], -1)


def _exact(value: Tensor) -> Tensor:
    """Whole numbers, such as times in seconds, in a type that tells large ones apart."""
    return value if value.is_floating_point() else value.double()


def _measured(elements: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale of each column of (n, columns)."""
    gone, share = elements.isnan(), 1.0
    if gone.any():
        # At the mean of the others they move neither mean nor range
        elements = elements.where(~gone, elements.nanmean(0).nan_to_num(0.0))
        share = (~gone).to(elements.dtype).mean(0).clamp(min=1 / len(elements)).sqrt()
    loc = elements.mean(0)
    spread = elements.amax(0) - elements.amin(0)
    scale = torch.maximum(elements.std(0, correction=0) / share, spread / 10)
    # What never changes here may change elsewhere, about as much as the rest
    typical = scale[scale > 0].median() if (scale > 0).any() else scale.new_ones(())
    return loc, torch.where(scale > 0, scale, typical)
