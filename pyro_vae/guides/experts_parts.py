"""What a guide of several modalities is made of: a program for each, and what it tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from .. import networks
from ..data.arguments import Arguments
from ..ground.arguments import known
from ..handlers.missing import without_absent
from ..programs.belonging import is_same
from ..programs.calling import arguments_of, call, names_of, positional
from ..programs.given import matched
from ..programs.inspecting import columns_by_name, structure
from ..programs.kinds import kinds_said
from ..programs.methods import as_program
from ..programs.missing import takes_missing
from ..programs.program import Guide
from ..programs.running import traced, undisturbed
from ..programs.sites import kinds
from ..programs.unwrapping import name_of
from .bottom_up import BottomUp
from .leading import Drawn
from .subjects import subject_of


class _UpTo(Messenger):
    """Runs a program, with latents at ``values``, up to the distribution of a site."""

    def __init__(self, site: str, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.site, self.values = site, values
        self.found: Any = None

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == self.site:
            self.found = msg["fn"]
            raise Drawn
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True


def _is_sampled(msg: dict[str, Any]) -> bool:
    return msg["type"] == "sample"


def factor_of(program: Callable, x: Arguments, site: str, values: Mapping[str, Tensor]) -> Any:
    """The distribution that a program has for a latent at data, given the latents before it."""
    up_to = _UpTo(site, values)
    with poutine.block(hide_fn=_is_sampled), up_to:
        try:
            call(program, x)
        except Drawn:
            return up_to.found
    raise ValueError(f"site {site!r}: {name_of(program)} does not sample it for these data")


def gone(value: Tensor) -> Tensor:
    """Which rows (n, *event) are NaN throughout, (n,)."""
    return value.isnan().reshape(len(value), -1).all(1)


@dataclass(frozen=True)
class Naming:
    """The arguments of a program by name.

    Attributes:
        positions: names of the arguments by position.
        observed: all arguments that the program observes.
    """

    positions: tuple[str, ...]
    observed: tuple[str, ...]

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call, but for those that are None."""
        found = {**dict(zip(self.positions, args, strict=False)), **kwargs}
        return {name: value for name, value in found.items() if value is not None}

    def of(self, name: str, named: Mapping[str, Any]) -> dict[str, Any]:
        """Those of one expert: no other that is observed."""
        return {n: v for n, v in named.items() if n == name or n not in self.observed}


class Parts:
    """The experts of a guide, as modules that sample the latents of one model.

    Args:
        experts: modality -> a guide, an encoder, or None for networks of the default.
        model: the generative program; None for that of the guides.
        like: data of all modalities; None for those that the guides keep.
        hidden: hidden widths of networks of the default.

    Attributes:
        subject: what is known of the model.
        naming: the names of its arguments.
        may_be_none: sites that are left out where they observe nothing.
        latents: its latents in the plate of the data, in its order.
        modules: modality -> the module that samples them.
        incomplete: whether NaN means missing to the model.
    """

    def __init__(
        self,
        experts: Mapping[str, nn.Module | None],
        model: Callable | None,
        like: Any,
        hidden: networks.Hidden | None,
    ) -> None:
        guides = {name: g for name, g in experts.items() if isinstance(g, Guide)}
        if model is None:
            if not guides:
                raise TypeError(
                    "model: expected the generative program of experts that are no guides of "
                    "one, got none: pass model=model, and like=x with some data"
                )
            model = next(iter(guides.values())).model
        for name, guide in guides.items():
            if not is_same(guide.model, model):
                raise ValueError(
                    f"experts[{name!r}]: expected a guide of this {name_of(model)}, got one that "
                    f"was built for another {name_of(guide.model)}: build it for the same model"
                )
        if not experts:
            raise ValueError(
                "experts: expected a mapping from modality to guide or encoder, got none: pass "
                "such as ['image', 'label'] for networks of the default"
            )
        for name in experts:
            known("experts", name, names_of(model))
        like = _kept(guides) if like is None else like
        self.incomplete = takes_missing(model)
        self.may_be_none = () if like is None else _may_be_none(model, like)
        alone = without_absent(model, self.may_be_none)
        self.subject = replace(subject_of(alone, like), model=as_program(model))
        if self.subject.few is None:
            raise TypeError(
                f"model: expected a program that observes several arguments, got the "
                f"{name_of(model)} of one: use guides.BottomUp"
            )
        observed = [s.argument for s in self.subject.structure.observed.values() if s.argument]
        names = tuple(p.name for p in positional(model))
        self.naming = Naming(names, tuple(dict.fromkeys(observed)))
        self.latents = tuple(s for s in self.subject.structure.latents if s in self.subject.places)
        data = matched(like, model, name="like")
        named = self.naming.named(*arguments_of(model, data.x, data.y))
        columns = columns_by_name(model, data.x, data.y)
        said = kinds_said(model, tuple(columns), like)
        self.modules: dict[str, nn.Module] = {}
        for name, expert in experts.items():
            if name not in columns:
                raise ValueError(
                    f"like: expected data of each modality, got none of {name!r}: pass them, or "
                    "leave its expert out"
                )
            known("experts", name, self.naming.observed)
            part = self._part(name, named, columns)
            if name in said:
                part[name].kind = said[name]
            module = self._made(name, expert, alone, part, hidden)
            self._check(name, module, part)
            self.modules[name] = module

    def _part(
        self, name: str, named: Mapping[str, Any], columns: Mapping[str, Tensor]
    ) -> Arguments:
        """The data for which an expert is built: those that have the modality."""
        found, rows = self.naming.of(name, named), slice(None)
        if self.incomplete and columns[name].is_floating_point():
            rows = ~gone(columns[name])
            if not rows.any():
                raise ValueError(
                    f"like: expected some data with {name!r}, got {len(rows)} rows of NaN: pass "
                    "others, or leave its expert out"
                )
        found = {n: v[rows] if n in columns else v for n, v in found.items()}
        sites = [s for s in self.subject.structure.observed.values() if s.argument == name]
        if all(s.distribution == "Categorical" for s in sites) and not found[name].isnan().any():
            # Classes are floating numbers where some are missing
            found[name] = found[name].long()
        return Arguments((), found, tuple(n for n in found if n in columns))

    def _made(
        self,
        name: str,
        expert: nn.Module | None,
        alone: Callable,
        part: Arguments,
        hidden: networks.Hidden | None,
    ) -> nn.Module:
        if expert is not None and not isinstance(expert, nn.Module):
            raise TypeError(
                f"experts[{name!r}]: expected a guide or an encoder, got {expert!r}: make a "
                "function the forward of an nn.Module, or pass None for networks of the default"
            )
        if expert is not None and (isinstance(expert, Guide) or _samples(expert, part)):
            return expert
        if expert is not None and _samples(expert, Arguments((part[name],))):
            raise ValueError(
                f"experts[{name!r}]: expected a guide that takes the arguments of its model by "
                f"name, got a {name_of(expert)} that does not run on {', '.join(part.kwargs)}: "
                f"call its argument {name!r}"
            )
        return BottomUp(alone, like=part, order="top-down", hidden=hidden, encoder=expert)

    def _check(self, name: str, module: nn.Module, part: Arguments) -> None:
        with undisturbed(module, device=part.device), poutine.block():
            found = tuple(kinds(traced(module, part[:2])).latent)
        if found != self.latents:
            raise ValueError(
                f"experts[{name!r}]: expected a guide that samples {self.latents}, the latents of "
                f"the model in its order, got one of {found}: name them alike, and build guides "
                "of this library with order='top-down'"
            )


def _may_be_none(model: Callable, like: Any) -> tuple[str, ...]:
    """The observed sites, and those that no other depends on of an argument's name."""
    data = matched(like, model, name="like")
    found = structure(model, data.x if data.y is None else (data.x, data.y))
    inside = {parent for parents in found.parents.values() for parent in parents}
    names = dict.fromkeys([*names_of(model), *found.observed])
    return tuple(n for n in names if n not in found.latents or n not in inside)


def _samples(module: nn.Module, x: Arguments) -> bool:
    """Whether a module is a Pyro program rather than a network, as far as it runs on data."""
    with undisturbed(module, device=x.device), poutine.block(), poutine.trace() as tracer:
        try:
            return bool(kinds(traced(module, x[:2])).latent)
        except Exception:  # what a network raises that is called by the names of arguments
            return bool(kinds(tracer.trace).latent)


def _kept(guides: Mapping[str, Guide]) -> Arguments | None:
    """The data that guides keep, joined: what each of them has of its modality."""
    found: dict[str, Any] = {}
    columns: dict[str, Tensor] = {}
    for guide in guides.values():
        if (few := getattr(guide, "few", None)) is None:
            continue
        args, kwargs = arguments_of(guide.model, *few)
        names = (p.name for p in positional(guide.model))
        found |= {**dict(zip(names, args, strict=False)), **kwargs}
        columns |= columns_by_name(guide.model, *few)
    if not columns:
        return None
    n = min(map(len, columns.values()))
    found |= {name: column[:n] for name, column in columns.items()}
    return Arguments((), found, tuple(columns))
