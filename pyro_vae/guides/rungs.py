"""What each latent of a ladder is made of, by the graph of the program that it runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ..ground.graphs import ancestors, boundary
from ..programs.inversion import faithful_inverse
from ..programs.running import traced, undisturbed
from ..programs.structure import Structure
from .merging import normal_of, parameters_of
from .subjects import Subject


def below(latents: Sequence[str], subject: Subject) -> dict[str, tuple[str, ...]]:
    """Latent -> the latents right below, and the arguments that its features are made of."""
    found = subject.structure
    inverse = faithful_inverse(found, "top-down").inputs
    below: dict[str, tuple[str, ...]] = {}
    for site in reversed(latents):
        children = [child for child in below if site in found.parents[child]]
        reached = _reached(children, below)
        seen = [*map(subject.argument, found.posterior[site])]
        seen += [name for name in map(subject.argument, inverse[site]) if name not in reached]
        below[site] = (*children, *dict.fromkeys(name for name in seen if name is not None))
    return below


def beside(latents: Sequence[str], found: Structure) -> dict[str, tuple[str, ...]]:
    """Latent -> the latents above on which the likelihood of it depends, besides by its prior."""
    given = [*found.observed, *found.arguments]
    given += [site for site, latent in found.latents.items() if latent.is_global]
    beside = {}
    for number, site in enumerate(latents):
        known = [*latents[:number], site, *given]
        data = boundary(found.graph, site, known) & found.observed.keys()
        above = reversed(latents[:number])
        beside[site] = tuple(s for s in above if boundary(found.graph, s, known) & data)
    return beside


def _reached(names: Iterable[str], below: Mapping[str, tuple[str, ...]]) -> set[str]:
    """The arguments among names, and all those from which features of latents are made."""
    return ancestors(defaultdict(tuple, below), names) - below.keys()


def inputs(
    latents: Sequence[str],
    below: Mapping[str, tuple[str, ...]],
    beside: Mapping[str, tuple[str, ...]],
    subject: Subject,
) -> dict[str, tuple[str, ...]]:
    """Latent -> the latents above that it sees, and all data that it is made of."""
    found = {}
    for site in latents:
        parents = subject.structure.parents[site]
        data = {*_reached([site], below), *map(subject.argument, parents)}
        above = [s for s in latents if s in (*parents, *beside.get(site, ()))]
        found[site] = (*reversed(above), *(name for name in subject.inputs.shapes if name in data))
    return found


def parameters(subject: Subject, latents: Iterable[str]) -> dict[str, int]:
    """Latent whose prior is no normal in its coordinates -> how many parameters that has."""
    x, y = subject.few
    with undisturbed(subject.model, device=x.device):
        trace = traced(subject.model, x, y)
    seen = {}
    for site in latents:
        prior, place = trace.nodes[site]["fn"], subject.places[site]
        if normal_of(prior, place) is None:
            seen[site] = parameters_of(prior, place).shape[-1]
    return seen


def is_plain(found: Structure) -> bool:
    """Whether latents have the weight that handlers around the model give them, no other."""
    return found.total is None and not any(s.weighed for s in found.latents.values())


def check_summed_out(found: Structure, latents: Sequence[str]) -> None:
    """Raise ``ValueError`` for a latent whose prior depends on one that is summed out."""
    summed = {site for site, latent in found.latents.items() if latent.enumerated}
    for site in latents:
        if above := ancestors(found.graph, [site]) & summed:
            raise ValueError(
                f"site {site!r}: expected a prior that depends on no latent that is summed out, "
                f"got one that depends on {min(above)!r}: use guides.BottomUp"
            )
