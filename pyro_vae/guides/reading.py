"""What the networks of a guide are given: data, features of them, and other latents."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from .. import networks
from .subjects import Subject

# What a user's encoder makes of the data, among the names of inputs
_FEATURES = "encoder(x)"


class Reading(nn.Module):
    """Finds the inputs of each factor of a guide in the arguments of a call.

    Args:
        subject: the model.
        inputs: latent -> the latents and the arguments that its factor is given.
        encoder: a user's own network from the arguments; None for one in each factor.
        own: latents whose conditionals are a user's, which are given what the program has.

    Raises:
        TypeError: an encoder that is no module.
        ValueError: an encoder that does not take the data, returns no vectors, or is not used.
    """

    def __init__(
        self,
        subject: Subject,
        inputs: Mapping[str, tuple[str, ...]],
        encoder: nn.Module | None = None,
        own: Collection[str] = (),
    ) -> None:
        """Order the inputs of each network, and have the encoder where several networks use it."""
        super().__init__()
        self.arguments = subject.inputs
        self._activation, self._norm = subject.activation, subject.norm
        self._names = dict(inputs)
        # A latent's is that of its vectors, or what a ladder has in its place
        self.shapes: dict[str, tuple[int, ...]] = {
            **{site: (place.size,) for site, place in subject.places.items()},
            **subject.inputs.shapes,
        }
        # Arguments that a user's module sees are not standardised
        self._raw = frozenset(own)
        self._inside: dict[str, nn.Module] = {}
        self._data: tuple[str, ...] = ()
        self.encoder: nn.Module | None = None
        users = [s for s in inputs if s not in own and self._of_data(s)]
        if encoder is not None:
            self._take(encoder, users)
        for site in inputs.keys() - self._raw:
            self._names[site] = self._ordered(site)

    def _of_data(self, site: str) -> tuple[str, ...]:
        return tuple(name for name in self._names[site] if name in self.arguments.shapes)

    def _take(self, encoder: nn.Module, users: list[str]) -> None:
        if not users:
            sees = {site: ", ".join(names) for site, names in self._names.items()}
            raise ValueError(
                f"encoder: expected a covered site that sees the data, got {sees}: leave the "
                "encoder out, or pass it to the guide of the others"
            )
        self._data = tuple(n for n in self.arguments.shapes if n in self._of_data(users[0]))
        shapes = [self.arguments.event_shape(name) for name in self._data]
        features = networks.output_shape(encoder, *shapes, argument="encoder")
        if len(features) != 1:
            raise ValueError(
                f"encoder: expected features of shape (n, f), got {('n', *features)}: "
                "end it with torch.nn.Flatten()"
            )
        self.shapes[_FEATURES] = features
        if len(users) == 1 and self._names[users[0]] == self._data:
            # Where it has always been in files
            self._inside[users[0]] = encoder
            self._raw |= {users[0]}
            return
        self.encoder = encoder
        for site in users:
            latents = tuple(n for n in self._names[site] if n not in self.arguments.shapes)
            self._names[site] = (*latents, _FEATURES)

    def _ordered(self, site: str) -> tuple[str, ...]:
        """The inputs of a site, the first image before all others."""
        names = self._names[site]
        images = [n for n in names if networks.is_image(self.shapes[n])][:1]
        return (*images, *(n for n in names if n not in images))

    def network(self, site: str, widths: tuple[int, ...] | None) -> tuple[nn.Module, int]:
        """A network from the inputs of a site, and the number of its features.

        It is the user's encoder where that sees the same as the site.
        """
        if site in self._inside:
            return self._inside[site], self.shapes[_FEATURES][0]
        shapes = [self.shapes[name] for name in self._names[site]] or [(1,)]
        first, *others = shapes
        if self._names[site] == (_FEATURES,):
            return nn.Identity(), first[0]
        network = networks.encoder(
            first,
            widths if networks.is_image(first) else networks.hidden_widths(widths),
            extra=sum(map(math.prod, others)),
            activation=self._activation,
            norm=self._norm,
        )
        return network, network.out_features

    def read(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """The arguments of a call by their names, and features of them."""
        found = self.arguments.read(model, *args, **kwargs)
        if self.encoder is not None:
            found[_FEATURES] = self.encoder(*(found[name] for name in self._data))
        return found

    def rows(self, found: Mapping[str, Tensor]) -> int:
        """Of how many data arguments were read."""
        return len(next(iter(found.values())))

    def is_raw(self, site: str) -> bool:
        """Whether a user's module is given what the program has: latents as they are."""
        return site in self._raw

    def context(
        self, site: str, latents: Mapping[str, Tensor], found: Mapping[str, Tensor]
    ) -> list[Tensor]:
        """The inputs of a site's conditional.

        ``latents`` are vectors of shape (..., n, size), and ``found`` is what was read; values in
        the program for a site that ``is_raw``.
        """
        names = self._names[site]
        if site in self._raw:
            return [latents[name] if name in latents else found[name] for name in names]
        if not names:
            first = self.arguments.shown(*next(iter(found.items())))
            return [first.new_ones(len(first), 1)]
        context: list[Tensor] = []
        for name in names:
            value = latents[name] if name in latents else found[name]
            if name in self.arguments.shapes:
                value = self.arguments.shown(name, value)
            dims = len(self.shapes[name])
            context.append(value.flatten(-dims) if context and dims > 1 else value)
        return context
