"""The networks that a ``VAE`` builds where a person gave none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from .. import networks
from ..conditionals.normal import DiagonalNormal, StandardNormal
from ..likelihoods import Tokens
from .sequence_decoder import SequenceDecoder


def default_decoder(
    vae: Any, context: Sequence[tuple[int, ...]], features: tuple[int, ...]
) -> nn.Module:
    """From latents and labels of the shapes ``context`` to results of the shape ``features``."""
    options = {"activation": vae.activation, "norm": vae.norm}
    if vae.pyramid is not None:
        out = {"out_shape": features, "event_dim": len(vae.event_shape)}
        return vae.pyramid.network(context, vae.pyramid.sizes[0], **out, **options)
    size = sum(map(math.prod, context))
    if isinstance(vae.likelihood, Tokens) and vae.hidden[0] is None:
        outputs = vae.likelihood.size
        return SequenceDecoder(vae.event_shape, size, outputs=outputs, skip=vae.skip)
    given = vae.event_shape, features, vae.hidden[0], vae.maps
    return networks.decoder(size, *given, skip=vae.skip, **options)


def default_conditional(vae: Any, site: str, context: Sequence[tuple[int, ...]]) -> nn.Module:
    """p(site|c) given latents and labels c of the shapes ``context``; N(0, I) at the top."""
    shape, options = vae.latent_shapes[site], {"activation": vae.activation, "norm": vae.norm}
    if site == vae.latents[0]:
        return StandardNormal(shape)
    if len(shape) > 1:
        network = vae.pyramid.network(context, shape[1:], **options)
    else:
        widths = networks.hidden_widths(vae.hidden[int(site[1:])])[::-1]
        size = sum(map(math.prod, context))
        network = networks.MLP((size,), widths, skip=vae.skip, **options)
    return DiagonalNormal(network, network.out_features, shape, norm=vae.norm)
