"""In which order a guide draws the latents of a model, and what each of them has to see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from ..ground.arguments import known
from ..ground.graphs import boundary, eliminated
from .structure import Structure

Order = Literal["bottom-up", "top-down"]


@dataclass(frozen=True, repr=False)
class Factorisation:
    """A factorisation of the posterior, in the order of drawing; ``print`` it.

    Attributes:
        inputs: latent site -> the latents drawn before it, the last one first, then the observed
            sites and the arguments that it is drawn from.
    """

    inputs: Mapping[str, tuple[str, ...]]

    @property
    def latents(self) -> tuple[str, ...]:
        """The latents in the order in which they are drawn."""
        return tuple(self.inputs)

    def __repr__(self) -> str:
        """A factor per latent."""
        factors = [f"q({s}|{','.join(of)})" if of else f"q({s})" for s, of in self.inputs.items()]
        return " ".join(factors) or "nothing to draw"


def faithful_inverse(structure: Structure, order: Order = "bottom-up") -> Factorisation:
    """What a guide of a model has to see: no more independent than the posterior, no more edges.

    Each latent sees the fewest of the latents drawn before it, the observed sites and the
    arguments given which, in every distribution of the model's graph, it is independent of all
    others of them. Latents that are marked for enumeration are summed out, global ones are given.

    Source: "Faithful Inversion of Generative Models for Effective Amortized Inference", Webb,
    Golinski, Zinkov, Narayanaswamy, Rainforth, Teh, Wood (2018), whose algorithm chooses the order
    of "bottom-up"; the edges are the minimal ones for either order.

    Args:
        structure: what ``infer.structure`` returns.
        order: "bottom-up" draws from the data upwards: children first, in an order that takes few
            edges; "top-down" draws in the model's own order.

    Raises:
        ValueError: another order, a discrete latent.

    Example:
        >>> from pyro_vae import likelihoods, models
        >>> from pyro_vae.infer import structure
        >>> vae = models.VAE((6,), latents=(2, 2), likelihood=likelihoods.Gaussian(), skip=True)
        >>> faithful_inverse(structure(vae))
        q(z1|x) q(z2|z1,x)
        >>> faithful_inverse(structure(vae), "top-down")
        q(z2|x) q(z1|z2,x)
    """
    known("order", order, get_args(Order))
    drawn, given = [], [*structure.observed, *structure.arguments]
    for site, latent in structure.latents.items():
        if latent.enumerated:
            continue
        if latent.discrete:
            raise ValueError(
                f"site {site!r}: expected continuous latents, which guides can be built for, got "
                f"a {latent.distribution}: mark it infer={{'enumerate': 'parallel'}}, so that "
                "elbo='enumerate' sums it out, or write the guide by hand"
            )
        (given if latent.is_global else drawn).append(site)
    graph = structure.graph
    if order == "bottom-up":
        hidden = [site for site in structure.latents if site not in given]
        drawn = [site for site in reversed(eliminated(graph, hidden, given)) if site in drawn]
    factors = {s for s, site in structure.observed.items() if site.is_factor}
    inputs = {}
    for number, site in enumerate(drawn):
        before = drawn[:number]
        found = boundary(graph, site, [*before, *given]) - factors
        inputs[site] = tuple(s for s in (*reversed(before), *given) if s in found)
    return Factorisation(inputs)
