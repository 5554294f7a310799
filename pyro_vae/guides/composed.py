"""Several partial guides as one program."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn

from ..programs.labels import accepts_labels, placeholders
from ..programs.modes import evaluating
from ..programs.plates import data_plate
from ..programs.program import Guide
from ..programs.reading import Contributions
from ..programs.registration import unregistered
from ..programs.running import traced
from ..programs.sites import check_sites, kinds


class Composed(Guide):
    """q(z|x) as the product of its parts, which run one after the other.

    Each part covers some of the model's latents and may condition on those that earlier parts
    have sampled: ``Composed(BottomUp(vae, sites=["z1"]), Flow(vae, sites=["z2"]))`` is
    q(z1|x) q(z2|z1), a normal and a flow.

    A part is any guide that declares ``latents``, the sites that it covers in sampling order, and
    ``parents``, the latents of other parts that it conditions on (none where it does not say);
    a part with parents is called with ``given={site: (n, size)}``.

    With ``globals`` the latents w outside the model's data plate, which all data share, get a
    guide of their own, which runs first: q(w) q(z|x). The parts are then any programs, modules
    for the latents inside the plate.

    Args:
        parts: guides of one and the same model, in sampling order.
        globals: makes the guide of the latents outside the data plate from a model that shows
            these alone: an autoguide of Pyro such as ``AutoNormal``, or a function such as
            ``functools.partial(AutoNormal, init_scale=0.1)``; or a guide of theirs. A file can
            hold none of these: use ``save(..., arguments=False)``.
        like: data that the model is run on, to see where its latents are; with ``globals``.
        model: the generative program; default: that of the parts.

    Raises:
        TypeError: a part that is no guide, or does not declare its latents; ``globals`` without
            data that are like those to come, or without a model.
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
        like: Tensor | None = None,
        model: Callable | None = None,
    ) -> None:
        """Check that the parts cover each latent once."""
        if not parts:
            raise ValueError("parts: expected at least one guide, got none")
        for i, part in enumerate(parts):
            if globals is None and not (isinstance(part, Guide) and hasattr(part, "latents")):
                raise TypeError(
                    f"parts[{i}]: expected a guide that declares its latents, got "
                    f"{type(part).__name__}: pass guides such as BottomUp(vae, sites=['z1'])"
                )
            if not isinstance(part, nn.Module):
                raise TypeError(
                    f"parts[{i}]: expected a module, got {part!r}: make it the forward of an "
                    "nn.Module"
                )
        model = getattr(parts[0], "model", None) if model is None else model
        if model is None or (globals is not None and like is None):
            raise TypeError(
                "globals: expected the model and data to run it on, got none: pass model=, and "
                "like=x with some data"
            )
        super().__init__(model)
        # What a file would hold of them
        self.arguments.pop("like", None)
        self._plates = ["data"]
        self.globals = None if globals is None else self._made(globals, like)
        self.parts = nn.ModuleList(parts)
        if globals is None:
            self._check()
            self._latents = tuple(site for part in parts for site in part.latents)
        else:
            self._latents = self._tried(like)

    def _made(self, globals: Callable, like: Tensor) -> nn.Module:
        """The guide of the latents outside the data plate, all of whose parameters exist."""
        labels = placeholders(self.model, len(like), like.device).get("y")
        with evaluating(self.model), unregistered(), poutine.block():
            trace = traced(self.model, like, labels)
            plate = data_plate((trace, trace), len(like), plate=getattr(like, "plate", None))
            outside = Contributions(trace, (plate.size,), plate).outside
            sites = [site for site in kinds(trace).latent if site in outside]
            if not sites:
                raise ValueError(
                    "globals: expected a model with latents outside its data plate, got "
                    f"{kinds(trace).latent} inside of it: leave globals out"
                )
            self._plates += plate.names
            made = globals
            if not isinstance(globals, nn.Module):
                made = globals(poutine.block(self.model, expose=sites))
            if isinstance(made, AutoGuide) and made.prototype_trace is None:
                traced(made.forward, like, labels)
        return made

    def _tried(self, like: Tensor) -> tuple[str, ...]:
        """The latents that all parts sample, which have to be those of the model."""
        labels = placeholders(self.model, len(like), like.device).get("y")
        with evaluating(self.model), evaluating(self), unregistered(), poutine.block():
            found = kinds(traced(self.forward, like, labels)).latent
            check_sites(kinds(traced(self.model, like, labels)).latent, found)
        return tuple(found)

    def _check(self) -> None:
        problems = [
            f"parts[{i}] ({type(part).__name__}) was built for another model than parts[0]"
            for i, part in enumerate(self.parts)
            if part.model is not self.model
        ]
        covered: list[str] = []
        for i, part in enumerate(self.parts):
            for site in self._parents(part):
                if site not in covered:
                    problems.append(
                        f"parts[{i}] ({type(part).__name__}) conditions on {site!r}, which no "
                        "part before it samples"
                    )
            for site in part.latents:
                if site in covered:
                    problems.append(f"site {site!r} is covered by more than one part")
                covered.append(site)
        problems += [
            f"site {site!r} is covered by no part"
            for site in self.model.latents
            if site not in covered
        ]
        if problems:
            raise ValueError(
                f"parts: expected each of {self.model.latents} once, in an order in which each "
                f"part finds what it conditions on, got: {'; '.join(problems)}"
            )

    @staticmethod
    def _parents(part: nn.Module) -> tuple[str, ...]:
        return getattr(part, "parents", ())

    @property
    def latents(self) -> tuple[str, ...]:
        """Latent sites in sampling order."""
        return self._latents

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Run the parts in their order."""
        z: dict[str, Tensor] = {}
        if self.globals is not None:
            # Its forward is run, since a call would put it under a fixed name in Pyro's store
            z.update(self.globals.forward(*args, **kwargs) or {})
        for i, part in enumerate(self.parts):
            parents = self._parents(part)
            given = {"given": {site: z[site] for site in parents}} if parents else {}
            taken = dict(kwargs)
            if not (isinstance(part, Guide) or accepts_labels(part)):
                taken.pop("y", None)
            # A program has one data plate: those of the later parts are the same one
            plate = poutine.block(hide=self._plates) if i else contextlib.nullcontext()
            with plate:
                z.update(part(*args, **taken, **given) or {})
        return z

    def __repr__(self) -> str:
        """The parts and the number of parameters."""
        shown = [] if self.globals is None else [f"{type(self.globals).__name__} of the globals"]
        shown += [repr(part) for part in self.parts]
        parts = "\n".join("  " + text.replace("\n", "\n  ") for text in shown)
        return f"{type(self).__name__}\n{parts}\n  {self._count()}"
