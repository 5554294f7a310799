"""Encoders and decoders as graphs of torch, for where neither Pyro nor this library is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from ..distributions import plain
from ..ground.arguments import known
from ..ground.turns import turn
from ..models.base import DecoderModel
from ..programs.labels import label_arguments
from ..programs.means import FillWithMeans
from ..programs.modes import evaluating
from ..programs.placing import like
from ..programs.program import Guide
from ..programs.sites import kinds
from ..programs.tracing import trace
from ..programs.unwrapping import name_of

# Rows of the example: one, and perhaps two, would be taken for rows that are broadcast
_ROWS = 3


def encoder(guide: Guide) -> nn.Module:
    """q(z|x) as a graph: from data (n, *event_shape) to the parameters of each posterior.

    Called with x, and with labels (n,) where the model is conditional, it returns a mapping from
    "site.parameter" to (n, ...), such as "z1.loc" and "z1.scale" of a normal, in any batch size.
    As in ``infer.encode`` a layer is given the means of those drawn before it. What it returns is
    a plain ``torch.fx.GraphModule`` of torch's own operations with the parameters of the guide
    themselves: ``torch.export.export``, ``torch.compile`` and ``torch.onnx.export`` take it. It
    is recorded in evaluation mode, on the device and in the dtype of the guide, without any check
    of values.

    Args:
        guide: one of a ``models.VAE`` or ``models.VQVAE``.

    Raises:
        TypeError: a guide of another model, or one that no graph can hold, by its name.

    Example:
        >>> import torch
        >>> from pyro_vae import export, guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> encode = export.encoder(guides.BottomUp(vae))
        >>> {name: tuple(value.shape) for name, value in encode(torch.zeros(5, 6)).items()}
        {'z1.loc': (5, 2), 'z1.scale': (5, 2)}
    """
    model = getattr(guide, "model", None)
    if not isinstance(guide, Guide) or not isinstance(model, DecoderModel):
        raise TypeError(
            f"guide: expected one that was built for a models.VAE or VQVAE, got {name_of(guide)}: "
            "export your own network, torch.export.export(network, (x,))"
        )
    return _recorded("guide", _Encoder(guide), guide, model, [model.event_shape])


def decoder(model: DecoderModel, sites: Sequence[str] | None = None) -> nn.Module:
    """p(x|z) as a graph: from latents (n, *shape) to the mean and the parameters of x.

    Called with a tensor for each of ``sites``, in their order, and with labels (n,) where the
    model is conditional, it returns a mapping with "mean", E[x|z] (n, *event_shape), and the
    parameters that the likelihood's distribution has, such as "logits"; the rest is as of
    ``encoder``.

    Args:
        model: a ``models.VAE`` or ``models.VQVAE``, whose codes are one-hot.
        sites: the latents that are given; the others take their conditional means. Default: all,
            ``model.latents``, the top first.

    Raises:
        TypeError: another model, or one that no graph can hold, by its name.
        ValueError: an unknown site, or none.

    Example:
        >>> import torch
        >>> from pyro_vae import export, likelihoods, models
        >>> vae = models.VAE((6,), latents=(3, 2), likelihood=likelihoods.Bernoulli())
        >>> decode = export.decoder(vae, sites=("z2",))
        >>> sorted(decode(torch.zeros(5, 2))), decode(torch.zeros(5, 2))["mean"].shape
        (['logits', 'mean'], torch.Size([5, 6]))
    """
    if not isinstance(model, DecoderModel):
        raise TypeError(
            f"model: expected a models.VAE or VQVAE, got {name_of(model)}: export your own "
            "network, torch.export.export(network, (z,))"
        )
    sites = model.latents if sites is None else tuple(sites)
    if not sites:
        raise ValueError(
            f"sites: expected some of {model.latents}, got none: leave it out for all"
        )
    for site in sites:
        known("sites", site, model.latents)
    if hasattr(model.decoder, "distribution"):
        got = f"a {type(model.decoder).__name__}, which sees x as well"
        raise _refused("model", "a decoder of latents alone", got)
    latents = model.structure.latents
    shapes = [latents[site].event_shape for site in sites]
    return _recorded("model", _Decoder(model, sites), model, model, shapes)


class _Encoder(nn.Module):
    def __init__(self, guide: Guide) -> None:
        super().__init__()
        self.guide = guide

    def forward(self, *given: Tensor) -> dict[str, Tensor]:
        x, y = given if len(given) > 1 else (*given, None)
        with FillWithMeans():
            found = trace(self.guide, x, **label_arguments(self.guide, y))
        result: dict[str, Tensor] = {}
        for site in kinds(found).latent:
            result |= _of_posterior(site, found.nodes[site]["fn"])
        return result


class _Decoder(nn.Module):
    def __init__(self, model: DecoderModel, sites: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.sites = model, sites

    def forward(self, *given: Tensor) -> dict[str, Tensor]:
        z = dict(zip(self.sites, given, strict=False))
        y = given[-1] if len(given) > len(z) else None
        # With data at hand nothing is drawn
        x = given[0].new_zeros(given[0].shape[0], *self.model.event_shape)
        with FillWithMeans():
            program = poutine.condition(self.model, data=z)
            found = trace(program, x, **label_arguments(self.model, y))
        p_x = found.nodes["x"]["fn"]
        return {**_parameters(p_x), "mean": p_x.mean}


def _parameters(distribution: Any) -> dict[str, Tensor]:
    """What a distribution was built from."""
    inner = plain(distribution)
    return {name: vars(inner)[name] for name in inner.arg_constraints if name in vars(inner)}


def _of_posterior(site: str, distribution: Any) -> dict[str, Tensor]:
    if found := _parameters(distribution):
        return {f"{site}.{name}": value for name, value in found.items()}
    raise ValueError(f"site {site!r} has a {type(plain(distribution)).__name__}, no parameters")


def _recorded(
    argument: str,
    program: nn.Module,
    recorded: Any,
    model: DecoderModel,
    shapes: Sequence[Sequence[int]],
) -> nn.Module:
    """The graph of a program of rows of these shapes, with labels where the model needs them."""
    if not isinstance(model.condition, int):
        raise _refused(argument, "a model of classes as labels, or of none", model.condition)
    kind = like(model)
    example = [torch.zeros(_ROWS, *s, dtype=kind.dtype, device=kind.device) for s in shapes]
    if model.condition:
        example.append(torch.zeros(_ROWS, dtype=torch.long, device=kind.device))
    rows = ({0: torch.export.Dim("n")},) * len(example)
    try:
        with turn, evaluating(recorded), pyro.validation_enabled(False):
            graph = torch.export.export(program, tuple(example), dynamic_shapes=(rows,))
            module = graph.module()
    except Exception as error:
        got = f"{name_of(recorded)} ({str(error).partition(chr(10))[0]})"
        raise _refused(argument, "one that torch.export can record", got) from error
    # As it was recorded; torch does not let it be told by eval()
    for part in module.modules():
        part.training = False
    return module


def _refused(argument: str, expected: str, got: object) -> TypeError:
    return TypeError(
        f"{argument}: expected {expected}, got {got}: run it by infer.encode or infer.decode"
    )
