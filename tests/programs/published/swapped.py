"""The library's guides in the place of a published pair's own."""

from __future__ import annotations

from pyro.infer.autoguide import AutoNormal

from pyro_vae import guides, infer
from pyro_vae.programs.given import as_arguments
from pyro_vae.programs.program import Guide

from .pair import Pair
from .uses import told

FAMILIES: dict[str, type[Guide]] = {
    family.__name__: family
    for family in (
        guides.BottomUp,
        guides.FullCovariance,
        guides.Flow,
        guides.Ladder,
        guides.Delta,
        guides.SemiAmortized,
    )
}


def guide_of(pair: Pair, family: str) -> Guide:
    """A guide of a family for the model of a pair, with an autoguide for latents of all data."""
    like = as_arguments(pair.data, pair.model, **told(pair))
    like = pair.data if like is None else like
    refined = family == "SemiAmortized"
    made = FAMILIES["BottomUp" if refined else family]
    guide = made(pair.model, like=like, hidden=(32,))
    latents = infer.structure(pair.model, like=like).latents.values()
    if any(latent.is_global for latent in latents):
        guide = guides.Composed(guide, globals=AutoNormal, like=like, model=pair.model)
    return guides.SemiAmortized(guide) if refined else guide
