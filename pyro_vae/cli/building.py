"""The pair that the options ask for, its likelihood by the data, and whether memory holds it."""

from __future__ import annotations

import argparse
import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .. import guides, handlers, likelihoods, models, priors
from ..data import DataSplits
from ..ground.kinds import KINDS, maps_of
from ..ground.machine import free_memory
from ..ground.streams import forked
from ..guides import linear
from ..likelihoods.counts import Rates
from ..likelihoods.located import Located
from ..networks import ConvDecoder, ConvEncoder, MapNetwork
from ..networks.convolutional import halved
from ..networks.defaults import convolutions, halvings
from ..programs.placing import device_of
from ..programs.program import Guide
from ..training.trainer import Trainer
from . import groups
from .messages import kebab

# The number of classes, or covariates
Condition = int | models.Covariates
# Of each parameter: itself, its gradient, two moments of Adam, and the best epoch's, twice
_BYTES = 6 * 4
# More are a wish of nobody who left the widths to the shape of the data
_MOST_BY_DEFAULT = 10**8
_ROWS = 4096
_MOST_CODES = 128
_PRIOR_WIDTH, _PRIOR_LAYERS, _PRIOR_PATIENCE = 64, 8, 5


def asked_binarize(args: argparse.Namespace) -> str | None:
    """How the data are to be binarised; "auto" where their own default decides."""
    if "binarize" in args:
        return args.binarize
    if args.likelihood is None:
        return "auto"
    return "dynamic" if args.likelihood is likelihoods.Bernoulli else None


def likelihood_for(data: DataSplits, *, exposed: bool = False) -> type[likelihoods.Likelihood]:
    """The likelihood of values like these, where none was named."""
    if exposed:
        return likelihoods.Poisson
    if data.vocabulary is not None:
        return likelihoods.Tokens
    if any(column.kind == "categorical" for column in data.columns):
        return likelihoods.Mixed
    if data.train.binarize or all(((x == 0) | (x == 1)).all() for x in _parts(data)):
        return likelihoods.Bernoulli
    if all(((x >= 0) & (x <= 1)).all() for x in _parts(data)):
        return likelihoods.ContinuousBernoulli
    return likelihoods.Gaussian


def _parts(data: DataSplits) -> Iterator[Tensor]:
    """Values of some rows at a time, for those of bytes take four times as much."""
    for part in (data.train, data.test):
        yield from (part[i : i + _ROWS].x for i in range(0, len(part), _ROWS))


def _likelihood(args: argparse.Namespace, kind: type, data: DataSplits | None) -> Any:
    if kind is likelihoods.Tokens:
        return kind(data.vocabulary)
    accepted = inspect.signature(kind.__init__).parameters
    given = {k: v for k in ("sigma", "levels") if (v := getattr(args, k)) is not None}
    for name, value in given.items():
        if name not in accepted:
            raise ValueError(
                f"--{name}: expected no such option for the likelihood {kebab(kind.__name__)}, "
                f"got {value}: leave it out or choose another --likelihood"
            )
    if issubclass(kind, Rates) and data is not None and args.standardize is not False:
        kind().check(data.train.x)
        if args.exposure is not None:
            given["offset"] = data.train.y["exposure"].log()
        return kind.standardized(data.train.x, **given)
    if not issubclass(kind, Located):
        if args.standardize:
            raise ValueError(
                "--standardize: expected the likelihood gaussian or another of real values, got "
                f"{kebab(kind.__name__)}: leave it out or choose --likelihood gaussian"
            )
        if kind is likelihoods.Mixed:
            # Without data it is the number of parameters that counts, about that of this
            return likelihoods.Gaussian() if data is None else likelihoods.for_columns(data)
        return kind(**given)
    if data is not None and data.kind == "signal" and args.codes is None:
        given |= _of_signals(args, kind, data.train.x)
    given.setdefault("sigma", "per_pixel" if data is not None and data.columns else "learned")
    if data is None or not _standardizes(args, data):
        return kind(**given)
    if kind is likelihoods.LogNormal:
        kind().check(data.train.x)
    return kind.standardized(data.train.x, **given)


def _of_signals(args: argparse.Namespace, kind: type, x: Tensor) -> dict[str, Any]:
    """A sigma that begins below the deviation of all samples, in units of it by default.

    One as large as the signal leaves latents unused for long.
    """
    deviation = float(x.std())
    learned = args.sigma in (None, "learned") and kind is not likelihoods.LogNormal
    if not (learned and deviation > 0):
        return {}
    begin = (deviation if args.standardize is False else 1) / groups.SIGNAL_RATIO
    scale = {"scale": deviation} if args.standardize is None else {}
    return {"sigma": likelihoods.LearnedSigma(initial=begin), **scale}


def _latents(args: argparse.Namespace, data: DataSplits) -> tuple[tuple[Any, ...], Any]:
    """The latents, and the channels of convolutional networks, None for their default."""
    shape, takes_maps = data.event_shape, args.guide in (guides.BottomUp, guides.Ladder)
    signal = data.kind == "signal" and len(shape) == 2 and getattr(args, "hidden", None) is None
    channels = args.channels or groups.SIGNAL_CHANNELS
    size = halved(shape[1:], len(channels))
    if args.latents is not None or not signal or not takes_maps or math.prod(size) < 2:
        return args.latents or groups.LATENTS, args.channels
    return ((groups.SIGNAL_LATENTS, *size),), channels


def _standardizes(args: argparse.Namespace, data: DataSplits) -> bool:
    if args.standardize is None:
        return len(data.event_shape) == 1 and data.kind != "signal"
    return args.standardize


def pair(
    args: argparse.Namespace, data: DataSplits, kind: type, condition: Condition
) -> tuple[models.VAE | models.VQVAE, Guide]:
    """Model and guide, from torch's global stream."""
    model = _model(args, data, _likelihood(args, kind, data), condition)
    return model, _guide(args, model)


def _guide(args: argparse.Namespace, model: Any) -> Guide:
    return args.guide(model) if args.codes is None else guides.NearestCode(model)


def with_prior(
    trainer: Trainer, data: DataSplits, epochs: int, *, progress: bool
) -> Trainer[Any, Any]:
    """The pair of a VQ-VAE, with a prior fitted to the codes of its data."""
    model, seed = trainer.model, trainer.seed
    with forked(device_of(model), seed):
        prior = priors.CodePrior(model, width=_PRIOR_WIDTH, layers=_PRIOR_LAYERS)
        prior.to(device_of(model)).fit(
            trainer.guide,
            data.train,
            validation=data.test,
            epochs=epochs,
            patience=_PRIOR_PATIENCE,
            seed=seed,
            progress=progress,
        )
    found = Trainer(handlers.replace_prior(model, prior), trainer.guide, seed=seed)
    found.objective = trainer.objective
    found.history.extend(trainer.history)
    found.state.step = trainer.step
    return found


def _model(
    args: argparse.Namespace,
    data: DataSplits,
    likelihood: Any,
    condition: Condition,
) -> models.VAE | models.VQVAE:
    if args.codes is not None:
        return _quantised(args, data, likelihood, condition)
    asked = args.channels is not None or args.blocks is not None
    small = math.prod(data.event_shape) <= groups.LARGEST_DENSE
    latents, channels = _latents(args, data)
    asked |= any(isinstance(latent, tuple) for latent in latents)
    dense = small and not asked and data.kind not in ("signal", "video", "tokens", "sequence")
    return models.VAE(
        data.event_shape,
        latents=latents,
        likelihood=likelihood,
        hidden=getattr(args, "hidden", groups.DENSE if dense else None),
        kind=data.kind,
        channels=channels,
        blocks=args.blocks,
        skip=args.skip,
        condition=condition,
        columns=data.columns,
    )


def _quantised(
    args: argparse.Namespace, data: DataSplits, likelihood: Any, condition: Condition
) -> models.VQVAE:
    """A grid of codes, of as many halvings as leave a prior few positions enough to walk over."""
    if isinstance(condition, models.Covariates) or data.kind == "tokens":
        raise ValueError(
            f"--codes: expected data that have no text and are told of classes alone, got "
            f"{data.name}: leave --codes out"
        )
    other = args.guide is not guides.BottomUp or args.latents is not None or args.skip
    if other or args.warm_up or args.beta != 1:
        raise ValueError(
            "--codes: expected no --latents, --guide, --skip, --beta or --warm-up beside it, as a "
            "grid of codes has a guide of its own and a KL that is the same whatever is learnt: "
            "leave these out, or --codes"
        )
    hidden = getattr(args, "hidden", None)
    # Refuses those of dense networks
    convolutions(data.kind, data.event_shape, hidden, args.channels, args.blocks)
    size = maps_of(data.event_shape, KINDS[data.kind].dims)[1:]
    channels = args.channels or tuple(
        min(32 * 2**i, 64) for i in range(halvings(size, _MOST_CODES))
    )
    return models.VQVAE(
        data.event_shape,
        args.codes,
        likelihood=likelihood,
        condition=condition,
        kind=data.kind,
        hidden=hidden,
        columns=data.columns,
        **({"channels": channels} if size else {}),
        **({} if args.blocks is None else {"blocks": args.blocks}),
    )


def check_memory(
    args: argparse.Namespace, data: DataSplits, kind: type, condition: Condition
) -> None:
    """Raise ``ValueError`` for a pair that memory cannot hold, before any of it is built.

    So it does for networks of a hundred million parameters that were not asked for by --hidden.
    """
    with torch.device("meta"):
        known = data if kind is likelihoods.Tokens else None
        model = _model(args, data, _likelihood(args, kind, known), condition)
        try:
            guide = _guide(args, model)
        except RuntimeError:  # one that looks at values: about as large as this one, or larger
            guide = guides.BottomUp(model)
        parts = {id(p): p.numel() for module in (model, guide) for p in module.parameters()}
        maps = sum(map(_maps, (*model.modules(), *guide.modules())))
    count, free = sum(parts.values()), free_memory(args.device)
    rows = math.ceil(min(args.batch_size, len(data.train)) / (args.accumulate or 1))
    needed = _BYTES * count + 4 * rows * maps
    too_many = "hidden" not in args and count > _MOST_BY_DEFAULT
    if too_many or (free is not None and needed > free):
        has = "" if free is None else f", of {free / 2**30:.1f} GiB that are free"
        raise ValueError(
            f"--size, --hidden: expected networks for this machine, got {count:,} parameters for "
            f"data of shape {data.event_shape}, {needed / 2**30:.1f} GiB in training{has}: make "
            "the pictures of a folder smaller with --size 64, or lower --hidden or --latents, or "
            "--batch-size, or pass --accumulate 4"
        )


def _maps(network: nn.Module) -> int:
    """How many numbers a convolutional network of the library makes of a datum on its way."""
    sizes: list[int] = []
    if isinstance(network, ConvEncoder):
        network, shapes = network.convolutions, [network.maps_shape]
    elif isinstance(network, ConvDecoder):
        shapes = [(network.first.in_features,)]
    elif isinstance(network, MapNetwork):
        shapes = network.in_shapes
    else:
        return 0
    leaves = [module for module in network.modules() if not [*module.children()]]
    hooks = [m.register_forward_hook(lambda *run: sizes.append(run[-1].numel())) for m in leaves]
    network(*(torch.empty(1, *shape) for shape in shapes))
    for hook in hooks:
        hook.remove()
    return sum(sizes)


def told(data: DataSplits, binarize: str | None, trainer: Trainer) -> str:
    """Kind, range, likelihood and binarisation of a run, in one line."""
    low, high = zip(*((float(x.min()), float(x.max())) for x in _parts(data)), strict=True)
    shape = data.event_shape
    kind = {"video": "videos", "tokens": "rows of tokens"}.get(data.kind, f"{data.kind}s")
    if data.kind == "image":
        channels = shape[0] if len(shape) == 3 else 1
        kind = {1: "grey pictures", 3: "colour pictures"}.get(channels, "pictures")
    unsure = len(shape) == 2 and not data.train.kind_said
    guess = " (a guess: --kind signal for signals)" if unsure else ""
    if data.vocabulary is not None:
        kind = f"lines of {'words' if data.vocabulary.words else 'characters'}"
    likelihood = getattr(trainer.model, "likelihood", None)
    name = kebab(type(likelihood).__name__)
    if (noise := getattr(likelihood, "noise", None)) is not None:
        name += f" ({kebab(type(noise).__name__)})"
    if getattr(likelihood, "scale", None) is not None:
        what = "samples" if data.kind == "signal" else "columns" if len(shape) == 1 else "pixels"
        name += f" of standardised {what}"
    begins = linear.begins(trainer.model, trainer.guide, data.train.x)
    how = {"dynamic": "dynamically, afresh in each batch", "static": "once"}
    binarized = how.get(binarize, "no")
    return (
        f"data {data.name}: {len(data.train)} + {len(data.test)} {kind} of shape {shape}{guess}, "
        f"values {min(low):.4g} to {max(high):.4g}; likelihood {name}; binarised: {binarized}"
        f"{f'; begins as {begins}' if begins else ''}"
    )
