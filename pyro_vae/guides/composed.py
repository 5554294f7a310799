"""Several partial guides as one program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from ..data.arguments import Arguments, Data
from ..programs.calling import arguments_of, call
from ..programs.methods import as_program
from ..programs.modes import evaluating
from ..programs.plates import data_plate
from ..programs.program import Guide
from ..programs.reading import Contributions
from ..programs.registration import unregistered
from ..programs.running import traced, undisturbed
from ..programs.sites import check_sites, is_auxiliary, is_latent, kinds
from ..programs.unwrapping import name_of
from .few import few_data


class _Joining(Messenger):
    """Makes one program of several: each finds the plates that are there, and leaves its latents.

    A program has one plate of a name: those of later programs are the same one.

    Raises ``ValueError`` for a latent that a program before has sampled.
    """

    def __init__(self) -> None:
        super().__init__()
        self.plates: dict[str, Any] = {}
        self.latents: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        site = msg["name"]
        if site_is_subsample(msg) and site in self.plates:
            msg["value"] = self.plates[site]
            msg["done"] = msg["stop"] = True
        elif is_latent(msg) and not is_auxiliary(msg):
            if site in self.latents:
                raise ValueError(f"parts: site {site!r} is covered by more than one part")
            # To handlers outside it may be observed
            self.latents[site] = msg["value"]

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg):
            self.plates[msg["name"]] = msg["value"]
        elif msg["name"] in self.latents:
            self.latents[msg["name"]] = msg["value"]


class Composed(Guide):
    """q(z|x) as the product of its parts, which run one after the other.

    Each part covers some of the model's latents and may condition on those that earlier parts
    have sampled: ``Composed(BottomUp(vae, sites=["z1"]), Flow(vae, sites=["z2"]))`` is
    q(z1|x) q(z2|z1), a normal and a flow.

    A part is any guide that declares ``latents``, the sites that it covers in sampling order, and
    ``parents``, the latents of other parts that it conditions on (none where it does not say);
    a part with parents is called with ``given={site: value}`` beside the model's arguments.

    With ``globals`` the latents w outside the model's data plate, which all data share, get a
    guide of their own, which runs first: q(w) q(z|x). Guides of this library do not see them, but
    for ``Ladder``, whose prior of z they are a part of.

    Parts of a program of one's own may be modules of any kind that sample some of its latents, for
    which it takes data to see which. They share the plates of one name.

    Args:
        parts: guides of one and the same model, in sampling order.
        globals: makes the guide of the latents outside the data plate from a model that shows
            these alone: an autoguide of Pyro such as ``AutoNormal``, or a function such as
            ``functools.partial(AutoNormal, init_scale=0.1)``; or a guide of theirs. A file can
            hold none of these: use ``save(..., arguments=False)``.
        like: data that model and parts are run on, to see what they sample; default: a few that
            guides of this library keep of theirs. Not needed for a ``models.VAE``.
        model: the generative program; default: that of the parts.

    Attributes:
        latents: the sites that it covers, in sampling order.

    Raises:
        TypeError: a part that is no module; no model, or no data where it takes them.
        ValueError: parts of different models; latents of the model that no part or that several
            parts cover; a part before those that it conditions on; ``globals`` for a model that
            has no latents outside the data plate.

    Example:
        >>> import torch
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=(3, 2), likelihood=likelihoods.Gaussian())
        >>> lower = guides.BottomUp(vae, sites=["z1"])
        >>> guide = Composed(lower, guides.FullCovariance(vae, sites=["z2"]))
        >>> guide.latents
        ('z1', 'z2')
    """

    def __init__(
        self,
        *parts: nn.Module,
        globals: Callable | None = None,
        like: Any = None,
        model: Callable | None = None,
    ) -> None:
        """Check that the parts cover each latent once."""
        if not parts:
            raise ValueError("parts: expected at least one guide, got none")
        for i, part in enumerate(parts):
            if not isinstance(part, nn.Module):
                raise TypeError(
                    f"parts[{i}]: expected a module, got {part!r}: make it the forward of an "
                    "nn.Module"
                )
        if model is None:
            # Modules of one's own may call anything so
            model = next((part.model for part in parts if isinstance(part, Guide)), None)
        model = None if model is None else as_program(model)
        few = None if model is None else few_data(model, parts, like)
        if few is None:
            _check_known(parts, model, globals)
        super().__init__(model)
        # What a file would hold of them
        self.arguments.pop("like", None)
        self.few, self.globals = few, None
        self.parts = nn.ModuleList(parts)
        if few is None:
            self._check(model.latents, ())
            self._latents = tuple(site for part in parts for site in part.latents)
        else:
            self._latents = self._tried(globals, *few)

    def _tried(self, globals: Callable | None, x: Data, y: Tensor | None) -> tuple[str, ...]:
        """The latents that all parts sample, which have to be those of the model."""
        with undisturbed(self.model, device=x.device), poutine.block():
            p = traced(self.model, x, y)
        plate = data_plate((p, p), len(x), plate=getattr(x, "plate", None))
        outside = Contributions(p, (plate.size,), plate).outside
        latents = kinds(p).latent
        shared = [site for site in latents if site in outside]
        if globals is not None:
            if not shared:
                raise ValueError(
                    "globals: expected a model with latents outside its data plate, got "
                    f"{latents} inside of it: leave globals out"
                )
            self.globals = self._made(globals, shared, x, y)
        self._check([s for s in latents if s not in kinds(p).enumerated], shared)
        with undisturbed(self, device=x.device), poutine.block():
            found = kinds(traced(self.forward, x, y)).latent
        check_sites([s for s in latents if s in found or s not in kinds(p).enumerated], found)
        return tuple(found)

    def _made(
        self, globals: Callable, sites: Sequence[str], x: Data, y: Tensor | None
    ) -> nn.Module:
        """The guide of the latents outside the data plate, all of whose parameters exist."""
        with evaluating(self.model), unregistered(), poutine.block():
            made = globals
            if not isinstance(globals, nn.Module):
                made = globals(poutine.block(self.model, expose=sites))
            if isinstance(made, AutoGuide) and made.prototype_trace is None:
                traced(made.forward, x, y)
        return made

    def _check(self, latents: Sequence[str], shared: Sequence[str]) -> None:
        """Raise ``ValueError`` for parts that do not cover latents, ``shared`` ones among them."""
        problems = [
            f"parts[{i}] ({type(part).__name__}) was built for another model than parts[0]"
            for i, part in enumerate(self.parts)
            if isinstance(part, Guide) and as_program(part.model) != self.model
        ]
        told = all(hasattr(part, "latents") for part in self.parts)
        covered = [] if self.globals is None else [*shared]
        for i, part in enumerate(self.parts):
            for site in _parents(part):
                if told and site not in covered:
                    problems.append(
                        f"parts[{i}] ({type(part).__name__}) conditions on {site!r}, which no "
                        "part before it samples"
                    )
            for site in getattr(part, "latents", ()):
                if site in covered:
                    problems.append(f"site {site!r} is covered by more than one part")
                covered.append(site)
        for site in latents if told else ():
            if site not in covered:
                advice = ", pass globals=AutoNormal" if site in shared else ""
                problems.append(f"site {site!r} is covered by no part{advice}")
        if problems:
            raise ValueError(
                f"parts: expected each of {tuple(latents)} once, in an order in which each "
                f"part finds what it conditions on, got: {'; '.join(problems)}"
            )

    @property
    def latents(self) -> tuple[str, ...]:
        """Latent sites in sampling order."""
        return self._latents

    @property
    def modalities(self) -> tuple[str, ...]:
        """Arguments of which parts have an expert."""
        return tuple(name for part in self.parts for name in getattr(part, "modalities", ()))

    @property
    def may_be_none(self) -> tuple[str, ...]:
        """Arguments whose sites are left out of the model where they are None."""
        return tuple(name for part in self.parts for name in getattr(part, "may_be_none", ()))

    @property
    def called_like(self) -> Callable:
        """The program whose arguments it takes."""
        return self.model

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Run the parts in their order, each on what it takes of the model's arguments."""
        x, joining = Arguments(args, kwargs, ()), _Joining()
        with joining:
            if self.globals is not None:
                # Its forward is run, since a call would put it under a fixed name in Pyro's store
                call(self.globals.forward, x)
            for part in self.parts:
                args, kwargs = arguments_of(part, x)
                if parents := _parents(part):
                    found = joining.latents
                    kwargs["given"] = {site: found[site] for site in parents if site in found}
                part(*args, **kwargs)
        return joining.latents

    def __repr__(self) -> str:
        """The parts and the number of parameters."""
        shown = [] if self.globals is None else [f"{type(self.globals).__name__} of the globals"]
        shown += [repr(part) for part in self.parts]
        parts = "\n".join("  " + text.replace("\n", "\n  ") for text in shown)
        return f"{type(self).__name__}\n{parts}\n  {self._count()}"


def _parents(part: nn.Module) -> tuple[str, ...]:
    return getattr(part, "parents", ())


def _check_known(
    parts: Sequence[nn.Module], model: Callable | None, globals: Callable | None
) -> None:
    """Raise ``TypeError`` where it takes a model and data to see what parts sample."""
    if globals is not None:
        raise TypeError(
            "globals: expected the model and data to run it on, got none: pass model=, and "
            "like=x with some data"
        )
    for i, part in enumerate(parts):
        if not hasattr(part, "latents") or model is None:
            raise TypeError(
                f"parts[{i}]: expected a guide that declares its latents, got "
                f"{type(part).__name__}: pass guides such as BottomUp(vae, sites=['z1']), or "
                "model= and like=x with some data"
            )
    if not hasattr(model, "latents"):
        raise TypeError(
            f"like: expected data for {name_of(model)}, which has to be run on a few, got none: "
            "pass like=x, or all arguments with a row per datum, like=(x, ...)"
        )
