"""The ladder guide: a bottom-up pass over the data meets the model's own top-down conditionals."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import pyro
import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from .. import networks
from ..conditionals.normal import DiagonalNormal, precision_weighted
from ..data.arguments import Data
from ..ground.arguments import known
from ..programs.calling import arguments_of
from ..programs.program import Guide
from . import rungs
from .growing import Growth
from .leading import Drawing, Following, Leading, Posterior
from .merging import normal_of, parameters_of
from .plates import Plates
from .reading import Reading
from .subjects import Subject, chain, keys_of, subject_of


class Ladder(Guide):
    """q(z|x) = q(zL|x) q(z_{L-1}|zL, x) ... q(z1|z2, x), merging data and prior by precision.

    A deterministic bottom-up pass d_i = MLP_i(d_{i-1}), d_0 = x, proposes N(mu_i, sigma_i^2) for
    each layer. Then each layer from the top down merges its proposal with the model's own
    p(z_i|z_{i+1}) = N(m, s^2), the same module, so that this probability is written and evaluated
    once:

        q(z_i|z_{i+1}, x) = N((mu_i / sigma_i^2 + m / s^2) v, v), 1 / v = 1 / sigma_i^2 + 1 / s^2.

    The top layer's posterior is its proposal. The networks mirror the model's: same hidden
    widths, label inputs, activation and normalisation. Where latents of a ``models.VAE`` are
    maps, (channels, h, w), d_i are maps of their size, made by strided convolutions, and maps are
    merged as vectors are, element by element.

    **Any program** is run itself, top-down: at each latent site that sees anything its prior,
    given what has been drawn, is merged with the proposal, in the coordinates in which the support
    is all real numbers; a site whose prior is no diagonal normal there gets a normal whose network
    sees d_i and the prior's parameters (``print`` tells). d_i is made of the data that the site's
    posterior depends on and of the d_j of the latents right below it. Where these data see other
    latents above as well, the proposal, which is a likelihood of the site, sees them, too.
    Training by this library's estimators evaluates each conditional once; stock SVI runs the
    program twice, in the guide up to its last latent. Scales and masks that the program has of
    its own count in the guide as in the model.

    Source: "Ladder Variational Autoencoders", Sonderby, Raiko, Maaloe, Sonderby, Winther (2016).

    Args:
        model: the generative program that it is built for.
        like: data of the form that it is trained on; not needed for a ``models.VAE``.
        hidden: hidden widths as in ``BottomUp``; default the model's.
        upward: what a layer of the bottom-up pass hands to the next: its "activations" (the
            paper), or its "means" mu_i (the authors' released code by default), which makes the
            next network as small as that of ``BottomUp``.
        encoder: your own network from the data to features (n, f), as in ``BottomUp``.
        start: a trained ladder of the model as which it begins, as in ``BottomUp``.

    Attributes:
        latents: the sites that it covers, in sampling order.
        parents: latents outside of the data plate, which ``guides.Composed`` gives it.

    Raises:
        TypeError: a model or an encoder of another type, no data for a program that needs them;
            when run, a conditional of a ``models.VAE`` that is no diagonal normal.
        ValueError: another ``upward``, widths that are no positive integers, an encoder that does
            not take the data or does not return vectors; what ``BottomUp`` refuses; a latent that
            depends on one that is summed out.

    Example:
        >>> import torch
        >>> from pyro_vae import likelihoods, models
        >>> vae = models.VAE((6,), latents=(3, 2), likelihood=likelihoods.Gaussian())
        >>> guide = Ladder(vae)
        >>> list(guide(torch.zeros(5, 6)))
        ['z2', 'z1']
        >>> def counts(x):
        ...     with pyro.plate("data", len(x)):
        ...         level = pyro.sample("level", dist.Normal(2.0, 1.0))
        ...         rate = pyro.sample("rate", dist.LogNormal(level, 0.5))
        ...         pyro.sample("x", dist.Poisson(rate), obs=x)
        >>> Ladder(counts, like=torch.tensor([12.0, 30.0, 7.0]), hidden=(32,))
        Ladder
          q(rate, level|x) = q(level|x) q(rate|level,x)
          1,252 parameters
    """

    def __init__(
        self,
        model: Callable,
        *,
        like: Any = None,
        hidden: networks.Hidden | None = None,
        upward: Literal["activations", "means"] = "activations",
        encoder: nn.Module | None = None,
        start: Guide | None = None,
    ) -> None:
        """Build the bottom-up networks and their heads; every parameter exists from here on."""
        growth = None
        if start is not None:
            options = {"hidden": (hidden, None), "upward": (upward, "activations")}
            growth = Growth(self, start, model, {**options, "encoder": (encoder, None)})
            hidden, upward, encoder = growth.options.values()
        subject = subject_of(model, like) if growth is None else growth.subject
        super().__init__(subject.model)
        if like is not None:
            self.arguments["like"] = subject.few
        self.subject = subject
        self.upward = known("upward", upward, ("activations", "means"))
        found = subject.structure
        self.latents = tuple(site for site in found.latents if site in subject.places)
        self.places, self._plates = subject.places, Plates(found, self.latents)
        self.placing = nn.ModuleList(subject.places.values())
        self.few, self.runs_model = subject.few, subject.few is not None
        upwards = [*reversed(self.latents)]
        below = rungs.below(self.latents, subject) if self.runs_model else chain(subject)
        self._beside = rungs.beside(self.latents, found) if self.runs_model else {}
        self.reading = Reading(subject, below, encoder)
        self.inputs = rungs.inputs(self.latents, below, self._beside, subject)
        self._keys = keys_of(upwards)
        # What sees nothing gains nothing from its prior, which the proposal can be
        above = [site for site in self.latents if found.parents[site]]
        self._seen = rungs.parameters(subject, above) if self.runs_model else {}
        self._merged = frozenset(above) - self._seen.keys()
        sizes = {s: sum(self.places[o].size for o in of) for s, of in self._beside.items()}
        self._late = {s: k for s in sizes if (k := sizes[s] + self._seen.get(s, 0))}
        widths = subject.widths(hidden)
        self.networks, self.heads = nn.ModuleDict(), nn.ModuleDict()
        for site, key in self._keys.items():
            network, features = self.reading.network(site, widths[site])
            self.networks[key] = network
            self.heads[key] = self._head(site, features, widths[site], subject)
            shape = subject.places[site].shape
            handed = (features, *shape[1:]) if self._hands_activations(site) else shape
            self.reading.shapes[site] = handed
        if growth is not None:
            self.networks = growth.copied(growth.start.networks)
            self.heads = growth.copied(growth.start.heads)
        self._globals = tuple(s for s, site in found.latents.items() if site.is_global)
        self._led: Leading | None = None
        self.leads = self.runs_model and not self._globals and rungs.is_plain(found)
        rungs.check_summed_out(found, self.latents)
        if subject.like is not None:
            self.to(*subject.like)

    @classmethod
    def starts(cls) -> tuple[type[Guide], ...]:
        """Its own family, in which it can start."""
        return (Ladder,)

    def _head(
        self, site: str, features: int, widths: tuple[int, ...] | None, subject: Subject
    ) -> nn.Module:
        network: nn.Module = nn.Identity()
        if site in self._late:
            hidden = networks.hidden_widths(widths)[-1:]
            options = {"activation": subject.activation, "norm": subject.norm}
            network = networks.MLP((features,), hidden, extra=self._late[site], **options)
            features = network.out_features
        return DiagonalNormal(network, features, self.places[site].shape, norm=subject.norm)

    def _hands_activations(self, site: str) -> bool:
        return self.upward == "activations" or site in self._late

    @property
    def parents(self) -> tuple[str, ...]:
        """The latents outside of the data plate."""
        return self._globals

    @property
    def called_like(self) -> Callable:
        """The program whose arguments it takes."""
        return self.model

    @property
    def borrowed_modules(self) -> tuple[nn.Module, ...]:
        """What it runs: the conditionals below the top of a ``models.VAE``, else the model."""
        if self.runs_model:
            return (self.model,) if isinstance(self.model, nn.Module) else ()
        return tuple(self.model.conditionals[site] for site in self.latents[1:])

    def forward(
        self, *args: Any, given: Mapping[str, Tensor] | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Run the inference program on the model's arguments, from the top down.

        ``given`` are values of its ``parents``, where it has any.
        """
        if self._led is not None:
            return self._follow(self._led)
        n, seen = self._read(args, kwargs)
        features, proposals = self._bottom_up(seen)
        if not self.runs_model:
            return self._top_down(n, proposals, kwargs.get("y"))
        if missing := [site for site in self.parents if site not in (given or {})]:
            raise ValueError(
                f"given: this guide of {self.latents} runs its model, whose {missing[0]!r} is "
                "outside of the data plate: use guides.Composed(guide, globals=AutoNormal, like=x)"
            )
        posterior = self._posterior(features, proposals)
        return Drawing(posterior, self.latents, given or {}).run(self.model, *args, **kwargs)

    def _read(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[int, dict[str, Tensor]]:
        """The number of data of a call, and its arguments as networks see them."""
        values = self.reading.arguments.read(self.model, *args, **kwargs)
        return next(iter(values.values())).shape[0], self.reading.seen(values)

    def _bottom_up(
        self, seen: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, dist.Distribution]]:
        """Features of each layer, and its proposal where that sees nothing from above."""
        features: dict[str, Tensor] = {}
        proposals: dict[str, dist.Distribution] = {}
        for site, key in self._keys.items():
            context = map(seen.__getitem__, self.reading.names[site])
            features[site] = self.networks[key](*context)
            if site not in self._late:
                proposals[site] = self.heads[key](features[site])
            activations = self._hands_activations(site)
            seen[site] = features[site] if activations else proposals[site].mean
        return features, proposals

    def _top_down(
        self, n: int, proposals: Mapping[str, Any], y: Tensor | None
    ) -> dict[str, Tensor]:
        """From the conditionals of a ``models.VAE``, which its next run takes over."""
        z: dict[str, Tensor] = {}
        around = self._plates.of(n)
        for site in self.latents:
            q = proposals[site]
            if z:
                q = precision_weighted(q, self.model.conditional(site, z, y))
            with around[site]:
                z[site] = pyro.sample(site, q)
        return z

    def _posterior(
        self, features: Mapping[str, Tensor], proposals: Mapping[str, dist.Distribution]
    ) -> Posterior:
        def posterior(
            site: str, prior: Any, drawn: Mapping[str, Tensor]
        ) -> TorchDistributionMixin:
            place = self.places[site]
            q = proposals.get(site)
            if q is None:
                seen = [self.places[s].vector(drawn[s]) for s in self._beside[site]]
                seen += [parameters_of(prior, place)] if site in self._seen else []
                q = self.heads[self._keys[site]](features[site], *seen)
            if site in self._merged:
                loc, scale = normal_of(prior, place)
                q = precision_weighted(q, dist.Normal(loc, scale).to_event(1))
            return place.lay(q)

        return posterior

    # One run of the program for model and guide

    @contextlib.contextmanager
    def leading(self, x: Data, y: Tensor | None = None) -> Iterator[Leading]:
        """A handler under which the model draws its latents from this guide, to be run next.

        Within the context the next run of the guide has the distributions and values of that of
        the model, each conditional of which is thereby evaluated once.
        """
        args, kwargs = arguments_of(self.model, x, y)
        n, seen = self._read(args, kwargs)
        posterior = self._posterior(*self._bottom_up(seen))
        self._led = Leading(posterior, self.latents, n)
        try:
            yield self._led
        finally:
            self._led = None

    def _follow(self, led: Leading) -> dict[str, Tensor]:
        around = self._plates.of(led.n)
        z: dict[str, Tensor] = {}
        with Following(led):
            for site, q in led.drawn.items():
                with around[site]:
                    z[site] = pyro.sample(site, q)
        return z

    def __repr__(self) -> str:
        """The factorisation and the number of parameters of its own."""
        factors = " ".join(f"q({s}|{','.join(of)})" for s, of in self.inputs.items())
        seen = dict.fromkeys(n for of in self.inputs.values() for n in of if n not in self.places)
        names = ", ".join(reversed(self.latents))
        lines = [f"q({names}|{','.join(seen)}) = {factors}"]
        if self._seen:
            lines.append(f"no normal prior, whose parameters are seen: {', '.join(self._seen)}")
        lines += [line for line in self.reading.told.strip().split("\n  ") if line]
        return "\n  ".join([type(self).__name__, *lines, self._count()])
