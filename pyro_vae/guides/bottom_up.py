"""The usual amortised guide: the posterior of each latent from the data and the latents below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import pyro
from torch import Tensor, nn

from .. import networks
from ..conditionals.growing import grow
from ..conditionals.normal import DiagonalNormal
from ..distributions import declared
from ..ground.arguments import known
from ..programs.program import Guide
from .classes import class_probabilities
from .growing import Growth
from .plates import Plates
from .reading import Reading
from .subjects import check_unweighed, factors_of, keys_of, subject_of

Order = Literal["bottom-up", "top-down", "chain"]


class BottomUp(Guide):
    """q(z|x) = prod_i q(z_i|those before it and x that the posterior asks for), diagonal normals.

    For a ``models.VAE`` that is q(z1|x) q(z2|z1) ... q(zL|z_{L-1}), for one layer the amortised
    mean-field posterior; ``print`` shows the factorisation. The guide can be built for any program
    with a data plate: which latents and data each factor sees follows from the model's graph by
    ``infer.faithful_inverse``, so that nothing is independent that is not so in the posterior.
    Each factor is a normal in the coordinates in which the support of its latent is all real
    numbers, with one output per index of further plates. Latents outside of the data plate are
    left to ``guides.Composed(..., globals=AutoNormal)``, those marked for enumeration to
    ``elbo="enumerate"``.

    Networks see numbers near one: data standardised by those of ``like``, latents in their
    coordinates. Those for a ``VAE`` mirror the model's own: same hidden widths, label inputs,
    activation and normalisation, convolutions for latents that are maps.

    Sources: "Auto-Encoding Variational Bayes", Kingma, Welling (2014); "Stochastic
    Backpropagation and Approximate Inference in Deep Generative Models", Rezende, Mohamed,
    Wierstra (2014); "Faithful Inversion of Generative Models for Effective Amortized Inference",
    Webb, Golinski, Zinkov, Narayanaswamy, Rainforth, Teh, Wood (2018).

    Args:
        model: the generative program that it is built for.
        like: data of the form that it is trained on, with rows in n: a tuple or a mapping for
            models of several arguments, ``data.Arguments`` with constants among them. The more,
            the better are they standardised. Not needed for a ``models.VAE``. By the kind of a
            ``Dataset``, or what a program of one's own says by an attribute ``kind``, "sequence"
            or {argument: kind}, networks are chosen as in ``VAE``; else it is a guess by shape.
        order: "bottom-up" draws from the data upwards, "top-down" in the model's own order. (In
            files of version 0.1 it is "chain", which sees x in the lowest layer alone.)
        hidden: hidden widths as in ``VAE``, one for all networks or a tuple for each latent, from
            the data upwards; default the model's, or those of ``VAE``.
        encoder: your own network from the data (n, *event), each argument that the guide sees,
            [and the one-hot label (n, condition) of a ``VAE``, (n, condition + 1) where some may
            be missing] to features (n, f), which stand in the place of the data wherever these
            are seen.
        conditionals: your own conditionals in place of the default, site -> module, called with
            what ``inputs`` names for the site, values as they are in the program; each returns a
            distribution of the site's event shape.
        sites: latents that it covers, default all; the others are left to the other parts of
            ``guides.Composed``.
        start: a trained guide of the model as which it begins, exactly, in place of new networks:
            a ``BottomUp``, or one of its own class. It decides order, hidden, encoder,
            conditionals and sites, and stays as it is.

    Attributes:
        latents: the sites that it covers, in sampling order.
        inputs: site -> the latents and the arguments that its factor is given.
        parents: the latents that it conditions on and does not cover.

    Raises:
        TypeError: a model or an encoder of another type, no data for a program that needs them.
        ValueError: an unknown site or order, widths that are no positive integers, an encoder
            that does not take the data or does not return vectors, or that no covered site uses;
            a program or data of which ``infer.structure`` finds no structure; a latent that is
            discrete, hidden by a mask, or of a support without coordinates.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         rate = pyro.sample("rate", dist.Gamma(2.0, 0.1))
        ...         pyro.sample("x", dist.Poisson(rate), obs=x)
        >>> BottomUp(model, like=torch.tensor([12.0, 30.0, 7.0]))
        BottomUp
          q(rate|x) = q(rate|x)
          66,818 parameters
    """

    absent = MappingProxyType({"order": "chain"})

    def __init__(
        self,
        model: Callable,
        *,
        like: Any = None,
        order: Order = "bottom-up",
        hidden: networks.Hidden | None = None,
        encoder: nn.Module | None = None,
        conditionals: Mapping[str, nn.Module] | None = None,
        sites: Sequence[str] | None = None,
        start: Guide | None = None,
    ) -> None:
        """Build all conditionals; every parameter exists from here on."""
        growth = None
        if start is not None:
            options = {"order": (order, "bottom-up"), "hidden": (hidden, None)}
            options |= {"encoder": (encoder, None), "conditionals": (conditionals, None)}
            growth = Growth(self, start, model, {**options, "sites": (sites, None)})
            order, hidden, encoder, conditionals, sites = growth.options.values()
        subject = subject_of(model, like) if growth is None else growth.subject
        super().__init__(subject.model)
        if like is not None:
            self.arguments["like"] = subject.few
        self.subject = subject
        self.inputs = factors_of(subject, order, sites)
        self.latents = tuple(self.inputs)
        seen = dict.fromkeys(name for names in self.inputs.values() for name in names)
        self.parents = tuple(s for s in seen if s in subject.places and s not in self.inputs)
        check_unweighed(subject.structure, self.latents)
        self.norm, self.places = subject.norm, subject.places
        self.placing = nn.ModuleList(subject.places.values())
        self.few = subject.few
        self._plates = Plates(subject.structure, self.latents)
        own = dict(conditionals or {})
        for site, conditional in own.items():
            known("conditionals", site, self.latents)
            if not isinstance(conditional, nn.Module):
                raise TypeError(
                    f"conditionals[{site!r}]: expected a module that returns a distribution, got "
                    f"{conditional!r}: make a function the forward of an nn.Module"
                )
        self._own = frozenset(own)
        self.reading = Reading(subject, self.inputs, encoder, self._own)
        widths = subject.widths(hidden)
        self.conditionals = nn.ModuleDict()
        self._keys = keys_of(self.latents)
        for site, key in self._keys.items():
            if site in own:
                self.conditionals[key] = own[site]
            else:
                network, features = self.reading.network(site, widths[site])
                made = self._heads(network, features, site)
                if growth is not None:
                    grow(made, growth.start.conditionals[key], growth.memo)
                self.conditionals[key] = made
        if subject.like is not None:
            self.to(*subject.like)

    @classmethod
    def starts(cls) -> tuple[type[Guide], ...]:
        """The families that it contains, in which it can start."""
        return (BottomUp,) if cls is BottomUp else (BottomUp, cls)

    @property
    def called_like(self) -> Callable:
        """The program whose arguments it takes."""
        return self.model

    def _heads(self, network: nn.Module, features: int, site: str) -> nn.Module:
        return DiagonalNormal(network, features, self.places[site].shape, norm=self.norm)

    def forward(
        self, *args: Any, given: Mapping[str, Tensor] | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Run the inference program on the model's arguments.

        ``given`` are values of its ``parents``, where it has any.

        Raises:
            ValueError: a parent that is not given.
        """
        values = self.reading.arguments.read(self.model, *args, **kwargs)
        # As ``seen`` does, without a call in each step
        seen = dict(values) if self.reading.as_they_are else self.reading.seen(values)
        around = self._plates.of(next(iter(values.values())).shape[0])
        for site in self.parents:
            if site not in (given or {}):
                raise ValueError(
                    f"given: this guide of {self.latents} conditions on {site!r}, got "
                    f"{tuple(given or {})}: make it a part of guides.Composed, after one that "
                    "samples it"
                )
            values[site], seen[site] = given[site], self.places[site].vector(given[site])
        z: dict[str, Tensor] = {}
        for site, key in self._keys.items():
            place, names = self.places[site], self.reading.names[site]
            # A user's own module is given what the program has
            context = values if site in self.reading.raw else seen
            q = self.conditionals[key](*map(context.__getitem__, names))
            plain = place.as_it_is or site in self._own
            q = declared(q, place.event_shape, site) if plain else place.lay(q)
            with around[site]:
                z[site] = values[site] = pyro.sample(site, q)
            seen[site] = z[site] if place.as_it_is else place.vector(z[site])
        return z

    def classify(self, x: Any, *, y: Any = None, samples: int = 100) -> Tensor:
        """Class probabilities p(y|x), (n, K), of a ``models.VAE`` of partial labels.

        They are those of ``infer.discrete_posterior``, from so many draws of the other latents.
        Of covariates ``y`` has the numbers, as a ``Dataset`` does; classes in ``y`` are so for
        sure.

        Raises:
            ValueError: another model, numbers that are missing.
        """
        return class_probabilities(self, x, y, samples)

    def __repr__(self) -> str:
        """The factorisation and the number of parameters."""
        factors = " ".join(
            f"q({s}|{','.join(of)})" if of else f"q({s})" for s, of in self.inputs.items()
        )
        # A part that does not see the data is a function of its parents alone
        seen = [name for of in self.inputs.values() for name in of if name not in self.places]
        context = ",".join(dict.fromkeys([*seen, *self.parents]))
        return (
            f"{type(self).__name__}\n  q({', '.join(self.latents)}|{context}) = {factors}\n"
            f"{self.reading.told}  {self._count()}"
        )
