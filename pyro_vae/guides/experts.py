"""Guides of several modalities, of which any may be absent: an expert for each, merged."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from .. import networks
from ..conditionals.normal import precision_weighted
from ..data.arguments import Arguments
from ..programs.calling import call
from ..programs.program import Guide
from ..programs.running import undisturbed
from .experts_mixture import Component, Mixing, Mixture
from .experts_parts import Parts, factor_of, gone
from .merging import normal_of
from .places import Place
from .plates import Plates
from .rungs import check_summed_out
from .subjects import check_unweighed


class _Experts(Guide):
    """What the guides of several modalities have in common: they differ in ``_components``.

    ``modalities`` are the arguments that have an expert, ``experts`` the guides; ``may_be_none``
    the sites of the model that are left out where they observe nothing.
    """

    # Whether the model's prior is among the components of all data
    _with_prior = True

    def __init__(
        self,
        experts: Mapping[str, nn.Module | None] | Iterable[str],
        *,
        model: Callable | None = None,
        like: Any = None,
        hidden: networks.Hidden | None = None,
    ) -> None:
        """Build the experts that are not there yet; every parameter exists from here on."""
        given = experts if isinstance(experts, Mapping) else dict.fromkeys(experts)
        parts = Parts(given, model, like, hidden)
        subject = parts.subject
        super().__init__(subject.model)
        self.arguments["like"] = subject.few
        self.few, self.latents = subject.few, parts.latents
        self.modalities, self.may_be_none = tuple(given), parts.may_be_none
        self._naming, self._incomplete = parts.naming, parts.incomplete
        # Names of arguments may be those of a ModuleDict's methods
        self.experts = nn.ModuleList(parts.modules.values())
        structure = subject.structure
        check_unweighed(structure, self.latents)
        self.runs_model = self._with_prior or self._incomplete
        if self.runs_model:
            check_summed_out(structure, self.latents)
        self._globals = tuple(s for s, site in structure.latents.items() if site.is_global)
        self._plates, self.places = Plates(structure, self.latents), subject.places
        self.placing = nn.ModuleList(subject.places.values())
        self.inputs = dict.fromkeys(self.latents, self.modalities)
        self.to(*subject.like)
        if not self.parents:
            x, y = subject.few
            with undisturbed(self, device=x.device), poutine.block():
                call(self.forward, x, y)

    @property
    def parents(self) -> tuple[str, ...]:
        """The latents outside of the data plate, where it runs the model."""
        return self._globals if self.runs_model else ()

    @property
    def called_like(self) -> Callable:
        """The program whose arguments it takes."""
        return self.model

    @property
    def borrowed_modules(self) -> tuple[nn.Module, ...]:
        """The model, where it runs it."""
        runs = self.runs_model and isinstance(self.model, nn.Module)
        return (self.model,) if runs else ()

    def forward(
        self, *args: Any, given: Mapping[str, Tensor] | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Run the inference program on the model's arguments, of which some may be None.

        ``given`` are values of its ``parents``, where it has any.
        """
        if missing := [site for site in self.parents if site not in (given or {})]:
            raise ValueError(
                f"given: this guide of {self.latents} runs its model, whose {missing[0]!r} is "
                "outside of the data plate: use guides.Composed(guide, globals=AutoNormal, like=x)"
            )
        named = self._naming.named(args, kwargs)
        there = {name: named[name] for name in self.modalities if name in named}
        if not there:
            raise ValueError(
                f"{', '.join(self.modalities)}: expected at least one of them, got none, which "
                "does not tell how many data there are: pass NaN of their number under "
                "handlers.missing, or draw from the model"
            )
        present = {name: self._present(value) for name, value in there.items()}
        named |= {name: _filled(v, present[name]) for name, v in there.items()}
        seen = {name: Arguments((), self._naming.of(name, named), ()) for name in there}
        values, everything = dict(given or {}), Arguments((), named, ())
        experts = dict(zip(self.modalities, self.experts, strict=True))
        around, mixing = self._plates.of(len(next(iter(there.values())))), None
        for site in self.latents:
            opinions = {
                name: (factor_of(experts[name], seen[name], site, values), present[name])
                for name in there
            }

            def prior(site: str = site) -> Any:
                return factor_of(self.model, everything, site, values)

            components = self._components(self.places[site], opinions, prior)
            q = components[0][0]
            if len(components) > 1:
                if mixing is None:
                    mixing = Mixing([p for _, p in components], next(iter(there.values())))
                q = Mixture([part for part, _ in components], mixing, self.places[site])
            with around[site]:
                values[site] = pyro.sample(site, q)
            if len(components) > 1 and site != self.latents[-1]:
                mixing.follow(q, values[site])
        return {site: values[site] for site in self.latents}

    def _present(self, value: Tensor) -> Tensor | None:
        """Which data have a modality, (n,); None for all."""
        return ~gone(value) if self._incomplete and value.is_floating_point() else None

    @abstractmethod
    def _components(
        self, place: Place, opinions: Mapping[str, Component], prior: Callable[[], Any]
    ) -> list[Component]:
        """The distributions of a latent that are mixed, with equal weights where they are."""

    def __repr__(self) -> str:
        """The experts and the number of parameters."""
        parts = zip(self.modalities, self.experts, strict=True)
        shown = [f"{name}: {expert!r}".replace("\n", "\n  ") for name, expert in parts]
        return "\n  ".join([type(self).__name__, *shown, self._count()])


def _filled(value: Tensor, present: Tensor | None) -> Tensor:
    """The data, with zeros for those that are absent, which experts are given all the same."""
    if present is None:
        return value
    return value.where(present.reshape(-1, *(1,) * (value.dim() - 1)), 0.0)


def _of_nobody(opinions: Mapping[str, Component], prior: Callable[[], Any]) -> list[Component]:
    """The prior, for data of which nothing is there, where there may be some."""
    present = [p for _, p in opinions.values()]
    if any(p is None for p in present):
        return []
    return [(prior(), ~torch.stack(present).any(0))]


def _both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _normal(distribution: Any, place: Place, whose: str) -> dist.Distribution:
    """A normal of vectors (..., n, size); ``ValueError`` for what is none in coordinates."""
    found = normal_of(distribution, place)
    if found is None:
        raise ValueError(
            f"site {place.site!r}: expected diagonal normals to multiply, got another "
            f"distribution of {whose}: use guides.MixtureOfExperts, or experts such as "
            "guides.BottomUp"
        )
    return dist.Normal(*found).to_event(1)


def _normals(
    place: Place, opinions: Mapping[str, Component], prior: Callable[[], Any]
) -> tuple[dist.Distribution, dict[str, tuple[dist.Distribution, Tensor | None]]]:
    """Of the prior, and of each expert."""
    experts = {
        name: (_normal(q, place, f"experts[{name!r}]"), present)
        for name, (q, present) in opinions.items()
    }
    return _normal(prior(), place, "the model's prior"), experts


class ProductOfExperts(_Experts):
    """q(z|x_S) ~ p(z) prod_{m in S} r_m(z|x_m): the prior times what each modality says.

    x_S are the modalities that are there. In the posterior p(z|x_S) ~ p(z) prod_m p(x_m|z), and an
    expert, a normal r_m, stands for a likelihood: r_m(z|x_m) ~ p(x_m|z) ~ p(z|x_m) / p(z), *not*
    for the posterior of its modality, which would count the prior as often as there are
    modalities. So a guide of one modality alone is no expert of this kind (unless it is trained
    as one), but one for a ``MixtureOfExperts``. The product of normals N(mu_m, sigma_m^2) with
    the model's own prior N(m, s^2) is, by ``conditionals.precision_weighted``,

        q(z|x_S) = N(v (m / s^2 + sum_m mu_m / sigma_m^2), v), 1/v = 1/s^2 + sum_m 1/sigma_m^2,

    which is exact for any S where each likelihood is a diagonal normal of z, and the prior where
    nothing is there. Where the model has several latents each is merged so given those above it.

    A modality is absent where its argument is None, for all data of a call, or, under
    ``handlers.missing``, where a row is NaN throughout (classes are floating numbers then). The
    site that is called as such an argument is no part of the bound, whether the program samples it
    without ``obs`` or not at all; for stock Pyro's objectives the model has to be under
    ``handlers.missing``, or to sample it by ``if``.

    **Train** single modalities, too: experts that always act together need not be right alone.
    ``elbo=infer.SubsetELBO()`` adds the bound of each modality alone to that of all, as the paper.

    Source: "Multimodal Generative Models for Scalable Weakly-Supervised Learning", Wu, Goodman
    (2018).

    Args:
        experts: modality, which is the name of the argument that the model observes -> a guide of
            the model that is built for data with this modality alone, in the model's order, such
            as ``BottomUp(model, like={"image": x}, order="top-down")``, a Pyro program of your own
            that samples the latents, an encoder, a network from this argument (n, *event) to
            features (n, f), or None for networks of the default. Names alone stand for None.
        model: the generative program; default: that of the guides.
        like: data of all modalities, as of ``BottomUp``; default: what the guides keep. Classes
            have an indicator each in networks of the default.
        hidden: hidden widths of the networks of the default.

    Attributes:
        modalities: the arguments that have an expert.
        experts: these, as guides, in the same order.
        latents: the sites that it covers, in sampling order.
        parents: latents outside of the data plate, which ``guides.Composed`` gives it.

    Raises:
        TypeError: an expert that is no module, no model, or no data.
        ValueError: an unknown modality, or one without data; a guide of another model or of other
            latents; an expert or a prior that is no diagonal normal in the latent's coordinates;
            what ``Ladder`` refuses; when run, data without any modality.

    Example:
        >>> def model(image=None, label=None):
        ...     n = len(label if image is None else image)
        ...     with pyro.plate("data", n):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         loc = z @ torch.ones(2, 6)
        ...         pyro.sample("image", dist.Normal(loc, 1.0).to_event(1), obs=image)
        ...         pyro.sample("label", dist.Categorical(logits=z @ torch.eye(2, 3)), obs=label)
        >>> data = {"image": torch.randn(8, 6), "label": torch.arange(8) % 3}
        >>> guide = ProductOfExperts(["image", "label"], model=model, like=data)
        >>> guide(label=data["label"])["z"].shape
        torch.Size([8, 2])
    """

    def _components(
        self, place: Place, opinions: Mapping[str, Component], prior: Callable[[], Any]
    ) -> list[Component]:
        q, experts = _normals(place, opinions, prior)
        for expert, present in experts.values():
            product = precision_weighted(q, expert)
            if present is not None:
                there, new, old = present.unsqueeze(-1), product.base_dist, q.base_dist
                loc = torch.where(there, new.loc, old.loc)
                product = dist.Normal(loc, torch.where(there, new.scale, old.scale)).to_event(1)
            q = product
        return [(place.lay(q), None)]


class MixtureOfExperts(_Experts):
    """q(z|x_S) = 1/|S| sum_{m in S} q_m(z|x_m): the posteriors of single modalities, mixed.

    x_S are the modalities that are there. Each expert stands for the posterior p(z|x_m) of its
    modality. log q is that of the mixture, so that bounds and importance weights are right; a
    draw is from one component, chosen for each datum and shared by all latents. As the weights
    are constants, its path gives the gradient. The choice is stratified over the data of a
    batch, or over the samples of each under ``infer.ImportanceWeightedELBO``: as many samples as
    modalities give one of each, as in the paper, whose objective that is.

    Data without any modality, rows of NaN under ``handlers.missing``, have the prior.

    Source: "Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models",
    Shi, Siddharth, Paige, Torr (2019).

    Args, attributes and errors are those of ``ProductOfExperts``, but experts may be any guides,
    such as ``FullCovariance``, and so may priors.

    Example:
        >>> def model(left=None, right=None):
        ...     with pyro.plate("data", len(right if left is None else left)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("left", dist.Normal(z, 1.0), obs=left)
        ...         pyro.sample("right", dist.Normal(-z, 1.0), obs=right)
        >>> data = {"left": torch.randn(8), "right": torch.randn(8)}
        >>> guide = MixtureOfExperts(["left", "right"], model=model, like=data)
        >>> guide(**data)["z"].shape
        torch.Size([8])
    """

    _with_prior = False

    def _components(
        self, place: Place, opinions: Mapping[str, Component], prior: Callable[[], Any]
    ) -> list[Component]:
        return [*opinions.values(), *_of_nobody(opinions, prior)]


class MixtureOfProducts(_Experts):
    """q(z|x_S) = 1/(2^|S| - 1) sum_{T in S, T not empty} q_T(z|x_T), products of experts, mixed.

    x_S are the modalities that are there, and q_T(z|x_T) ~ p(z) prod_{m in T} r_m(z|x_m) is what
    ``ProductOfExperts`` gives for the modalities of T, with the same experts: each stands for a
    likelihood. (The authors' code has the prior in the product of all modalities alone.) It is a
    mixture as ``MixtureOfExperts`` is one. There are 2^M - 1 components of M modalities.

    Source: "Generalized Multimodal ELBO", Sutter, Daunhawer, Vogt (2021).

    Args, attributes and errors are those of ``ProductOfExperts``.

    Example:
        >>> def model(left=None, right=None):
        ...     with pyro.plate("data", len(right if left is None else left)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("left", dist.Normal(z, 1.0), obs=left)
        ...         pyro.sample("right", dist.Normal(-z, 1.0), obs=right)
        >>> data = {"left": torch.randn(8), "right": torch.randn(8)}
        >>> guide = MixtureOfProducts(["left", "right"], model=model, like=data)
        >>> guide(**data)["z"].shape
        torch.Size([8])
    """

    def _components(
        self, place: Place, opinions: Mapping[str, Component], prior: Callable[[], Any]
    ) -> list[Component]:
        first, experts = _normals(place, opinions, prior)
        products: list[tuple[dist.Distribution, Tensor | None]] = [(first, None)]
        for expert, present in experts.values():
            products += [
                (precision_weighted(q, expert), _both(there, present)) for q, there in products
            ]
        laid = [(place.lay(q), present) for q, present in products[1:]]
        return [*laid, *_of_nobody(opinions, prior)]
