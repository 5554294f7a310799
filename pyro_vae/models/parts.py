"""The networks that a ``VAE`` builds where a person gave none, and as what they begin."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from .. import networks
from ..conditionals.normal import DiagonalNormal, StandardNormal
from ..ground.kinds import kind_of
from ..likelihoods import Gaussian, LearnedSigma, Mixed, PerPixelSigma, Tokens
from ..networks import Shortcut
from .sequence_decoder import SequenceDecoder

# Of more the factors would take long to find
_COLUMNS = 1000


def checked_kind(
    kind: str | None, event_shape: tuple[int, ...], likelihood: nn.Module, decoder: Any
) -> str:
    """The kind of a model's data: as it is said, else as its parts tell, else a guess.

    Raises:
        ValueError: a kind that is unknown or not of the shape, or not that of a decoder in turn.
    """
    in_turn = isinstance(decoder, SequenceDecoder) and len(event_shape) == 2
    if kind is None and in_turn:
        return "sequence"
    if kind is None and isinstance(likelihood, Tokens) and len(event_shape) == 1:
        return "tokens"
    found = kind_of(kind, event_shape)
    if in_turn and found.dims:
        t, d = event_shape
        raise ValueError(
            f"kind: expected 'sequence' for a {type(decoder).__name__}, which goes through the "
            f"{t} places of data of shape {event_shape} with {d} numbers each, got {kind!r}: pass "
            'kind="sequence", and signals (n, c, t) as x.transpose(1, 2)'
        )
    return found.name


def reader_of(vae: Any) -> Callable[[Mapping[str, tuple[int, ...]]], nn.Module] | None:
    """What makes, by the shapes of x and of vectors, the network with which guides read these.

    None where they have that of the kind of data.
    """
    if own := getattr(vae.likelihood, "encoder", None):
        return own
    if vae.kind != "sequence" or vae.hidden[0] is not None:
        return None

    def read(shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
        extra = sum(math.prod(shape) for name, shape in shapes.items() if name != "x")
        return networks.SequenceEncoder(shapes["x"], extra=extra)

    return read


def default_decoder(
    vae: Any, context: Sequence[tuple[int, ...]], features: tuple[int, ...]
) -> nn.Module:
    """From latents and labels of the shapes ``context`` to results of the shape ``features``."""
    options = {"activation": vae.activation, "norm": vae.norm}
    if vae.pyramid is not None:
        out = {"out_shape": features, "event_dim": len(vae.event_shape)}
        return vae.pyramid.network(context, vae.pyramid.sizes[0], **out, **options)
    size = sum(map(math.prod, context))
    tokens = isinstance(vae.likelihood, Tokens)
    if (tokens or vae.kind == "sequence") and vae.hidden[0] is None:
        outputs = math.prod(features[len(vae.event_shape) :])
        return SequenceDecoder(vae.event_shape, size, outputs=outputs, skip=vae.skip)
    given = vae.event_shape, features, vae.hidden[0], vae.maps
    made = networks.decoder(size, *given, skip=vae.skip, **options)
    return Shortcut(size, features, made) if vae.tabular else made


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


def gaussian_of(likelihood: nn.Module) -> Gaussian | None:
    """The ``Gaussian`` of all elements with one learned sigma, or one each; None for others."""
    if isinstance(likelihood, Mixed) and len(likelihood.likelihoods) == 1:
        likelihood = likelihood.likelihoods[0]
    noise = getattr(likelihood, "noise", None)
    own = type(likelihood) is Gaussian and isinstance(noise, LearnedSigma | PerPixelSigma)
    return likelihood if own else None


def beginning(vae: Any) -> str:
    """The linear model as which an untouched one for a table is to begin, "" for any other.

    Untouched is a default decoder whose network still gives 0, all of which is free to train.
    """
    gaussian = gaussian_of(vae.likelihood)
    own = vae.arguments.get("decoder") or not isinstance(vae.decoder, Shortcut)
    given = own or vae.condition or vae.norm is not None or vae.event_size > _COLUMNS
    if not vae.tabular or gaussian is None or given or len(vae.latents) > 1:
        return ""
    if not isinstance(vae.conditionals["z1"], StandardNormal):
        return ""
    parts = (*vae.decoder.parameters(), *gaussian.noise.parameters())
    bent = any(p.any() for p in vae.decoder.network.output_layer.parameters())
    if bent or not all(p.requires_grad for p in parts) or vae.latent_sizes["z1"] >= vae.event_size:
        return ""
    one = isinstance(gaussian.noise, LearnedSigma)
    return "probabilistic PCA" if one else "factor analysis"


def path_of(vae: Any) -> str:
    """What is told of the linear paths of a model for a table, as a line."""
    name = beginning(vae)
    begins = f"; the first fit with a BottomUp begins as {name}" if name else ""
    return f"  linear paths beside the networks of x{begins}\n"
