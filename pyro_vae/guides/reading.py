"""What the networks of a guide are given: data, features of them, and other latents."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping

from torch import Tensor, nn

from .. import networks
from ..ground.kinds import guessed, unsure
from .inputs import OwnInputs, ProgramInputs
from .subjects import Subject

# What a user's encoder makes of the data, and what is given where nothing is seen
_FEATURES, _NOTHING = "encoder(x)", "(nothing)"
# Width of the layer that sees several networks of data
_JOINED = 128


class Reading(nn.Module):
    """Finds the inputs of each factor of a guide in the arguments of a call.

    Args:
        subject: the model.
        inputs: latent -> the latents and the arguments that its factor is given.
        encoder: a user's own network from the arguments; None for that of the model, or else one
            in each factor.
        own: latents whose conditionals are a user's, which are given what the program has.

    Attributes:
        arguments: reads the arguments of a call.
        names: latent -> the names of what its network is given, in its order.
        raw: latents whose networks are given values as they are in the program.
        shapes: name -> shape of one datum.
        encoder: the user's own, where several networks see its features.
        as_they_are: whether networks see the arguments as these are read.
        read_as: of programs of one's own, argument -> kind of data by which networks of the
            default read it.

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
        # Guides that start as another one read as that does
        self._told = getattr(self.arguments, "told", False)
        self._options = {"activation": subject.activation, "norm": subject.norm}
        self._tabular = subject.tabular
        self._pyramid, self._places = subject.pyramid, subject.places
        self.names = dict(inputs)
        # A latent's is that of its vectors, or what a ladder has in its place
        self.shapes: dict[str, tuple[int, ...]] = {
            _NOTHING: (1,),
            **{site: place.shape for site, place in subject.places.items()},
            **subject.inputs.shapes,
        }
        # Arguments that a user's module sees are not standardised
        self.raw = frozenset(own)
        self._inside: dict[str, nn.Module] = {}
        self._in_turn = getattr(self.arguments, "in_turn", {})
        self._data: tuple[str, ...] = ()
        self.encoder: nn.Module | None = None
        users = [s for s in inputs if s not in own and self._of_data(s)]
        if encoder is None and subject.encoder is not None and users:
            names = self._seen_by(users)
            shapes = {name: self.arguments.event_shape(name) for name in names}
            encoder = subject.encoder(shapes)
        if encoder is not None:
            self._take(encoder, users)
        self._flat: dict[str, tuple[str, int]] = {}
        for site in inputs.keys() - self.raw:
            self.names[site] = self._ordered(site) or (_NOTHING,)
        self._blank = (_NOTHING,) in self.names.values()
        special = encoder is not None or self._flat or self._blank
        self.as_they_are = isinstance(self.arguments, OwnInputs) and not special
        self.read_as: dict[str, str] = {}

    def _of_data(self, site: str) -> tuple[str, ...]:
        return tuple(name for name in self.names[site] if name in self.arguments.shapes)

    def _seen_by(self, sites: list[str]) -> tuple[str, ...]:
        seen = {name for site in sites for name in self._of_data(site)}
        return tuple(name for name in self.arguments.shapes if name in seen)

    def _take(self, encoder: nn.Module, users: list[str]) -> None:
        if not users:
            sees = {site: ", ".join(names) for site, names in self.names.items()}
            raise ValueError(
                f"encoder: expected a covered site that sees the data, got {sees}: leave the "
                "encoder out, or pass it to the guide of the others"
            )
        self._data = self._seen_by(users)
        shapes = [self.arguments.event_shape(name) for name in self._data]
        features = networks.output_shape(encoder, *shapes, argument="encoder")
        if len(features) != 1:
            raise ValueError(
                f"encoder: expected features of shape (n, f), got {('n', *features)}: "
                "end it with torch.nn.Flatten()"
            )
        self.shapes[_FEATURES] = features
        alone = len(users) == 1 and not self._places[users[0]].is_map
        if alone and self.names[users[0]] == self._data:
            # Where it has always been in files
            self._inside[users[0]] = encoder
            self.raw |= {users[0]}
            return
        self.encoder = encoder
        for site in users:
            latents = tuple(n for n in self.names[site] if n not in self.arguments.shapes)
            self.names[site] = (*latents, _FEATURES)

    def _ordered(self, site: str) -> tuple[str, ...]:
        """The inputs of a site; of a vector the first image before all others, as vectors."""
        names = self.names[site]
        if self._places[site].is_map:
            return names
        maps = self.arguments.maps
        in_turn = [n for n in names if n in self._in_turn and site not in self.raw]
        plain = [n for n in names if n not in in_turn]
        images = [n for n in plain if n in maps or networks.is_image(self.shapes[n])][:1]
        order = (*in_turn, *images, *(n for n in plain if n not in images))
        first, *others = order or (None,)
        for i, name in enumerate(others):
            if name in in_turn or (in_turn and name in images):
                continue
            if len(shape := self.shapes[name]) > 1 and name not in self._places:
                others[i] = f"{name} as a vector"
                self._flat[others[i]] = name, len(shape)
                self.shapes[others[i]] = (math.prod(shape),)
        return () if first is None else (first, *others)

    def network(self, site: str, widths: tuple[int, ...] | None) -> tuple[nn.Module, int]:
        """A network from the inputs of a site, and the number of its features.

        It is the user's encoder where that sees the same as the site.
        """
        if site in self._inside:
            return self._inside[site], self.shapes[_FEATURES][0]
        first, *others = shapes = [self.shapes[name] for name in self.names[site]]
        if (place := self._places[site]).is_map:
            network = self._pyramid.network(shapes, place.shape[1:], **self._options)
            return network, network.out_features
        if self.names[site] == (_FEATURES,):
            return nn.Identity(), first[0]
        if isinstance(self.arguments, ProgramInputs):
            self._tell(site, widths, self.arguments)
        if self._in_turn and (network := self._turns(site, widths)) is not None:
            return network, network.out_features
        path = {"skip": True} if self._tabular and self._of_data(site) else {}
        network = networks.encoder(
            first,
            widths,
            self.arguments.maps.get(self.names[site][0], {}),
            extra=sum(map(math.prod, others)),
            **path,
            **self._options,
        )
        if max(map(len, others), default=1) > 1:
            return networks.AsVectors(network, [*map(len, others)]), network.out_features
        return network, network.out_features

    def _turns(self, site: str, widths: tuple[int, ...] | None) -> nn.Module | None:
        """The network of a site that reads sequences; None where there are none to go through.

        With hidden widths those of vectors are read by dense networks, tokens never.
        """
        names, maps = self.names[site], self.arguments.maps
        counts = {n: k for n, k in self._in_turn.items() if n in names and (k or widths is None)}
        if not counts:
            return None
        structured = [n for n in names if n in counts or len(self.shapes[n]) > 1]
        extra = sum(math.prod(self.shapes[n]) for n in names if n not in structured)
        if len(structured) == 1:
            return networks.SequenceEncoder(self.shapes[names[0]], counts[names[0]], extra=extra)
        each = [
            networks.SequenceEncoder(self.shapes[n], counts[n])
            if n in counts
            else networks.encoder(self.shapes[n], widths, maps.get(n, {}), **self._options)
            for n in structured
        ]
        vectors = [nn.Identity() for n in names if n not in structured]
        size = sum(network.out_features for network in each) + extra
        return networks.SideBySide(*each, *vectors, last=networks.MLP((size,), (_JOINED,)))

    def _tell(self, site: str, widths: tuple[int, ...] | None, inputs: ProgramInputs) -> None:
        """Note as what a network reads data; warn, once, where they may as well be another kind.

        Dense networks read any data alike.
        """
        seen = {self._flat.get(name, (name,))[0] for name in self.names[site]}
        for name, key in inputs.names.items():
            said = name in inputs.said
            if key not in seen or not (said or widths is None):
                continue
            kind, shape = inputs.kinds[name], inputs.shape_of(name)
            if not said and name not in self.read_as and unsure(shape) and not self._told:
                warnings.warn(
                    f"{name}: data of shape {('n', *shape)} are read as {kind}s, a guess by their "
                    "shape: pass like=data.Dataset(x, kind='sequence'), or whatever they are, or "
                    "give the program an attribute kind, such as "
                    f"model.kind = {{{name!r}: {kind!r}}}",
                    stacklevel=4,
                )
            self.read_as[name], inputs.told = kind, True

    @property
    def told(self) -> str:
        """The kinds of data of programs of one's own that a shape does not tell, as lines."""
        lines = ""
        for name, kind in self.read_as.items():
            shape, said = self.arguments.shape_of(name), name in self.arguments.said
            if unsure(shape) or kind != guessed(shape).name:
                lines += f"  {name} {shape} {kind}{'' if said else ', a guess'}\n"
        return lines

    def seen(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """Arguments as networks see them: with vectors of latents, all of ``names``."""
        if self.as_they_are:
            return dict(given)
        seen = self.arguments.shown(given)
        if self.encoder is not None:
            seen[_FEATURES] = self.encoder(*(given[name] for name in self._data))
        for key, (name, dims) in self._flat.items():
            seen[key] = seen[name].flatten(-dims)
        if self._blank:
            first = next(iter(seen.values()))
            seen[_NOTHING] = first.new_ones(len(first), 1)
        return seen
