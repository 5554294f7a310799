"""Checking a model and a guide against each other and the data, before any training."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

from pyro.infer.util import validation_enabled
from torch import Tensor

from ..data.arguments import Arguments, Data, columns_of, named
from .autoguides import check_rows, is_messenger, is_per_datum
from .belonging import check_borrowed
from .broadcasting import check_shapes, warn_enumerated
from .calling import positional
from .missing import JointError, filled, has_missing, rows_missing, takes_missing
from .plates import AmbiguousPlateError
from .program import Guide, Model
from .reading import contributions
from .running import naming_overflow, overflow, shown_to, trace_pair, traced, undisturbed
from .sites import check_latents, check_observed, compute_log_probs, kinds, point_masses
from .support import check_observed_support
from .unwrapping import innermost, name_of
from .values import check_finite, check_program, check_tensor, span_of


@dataclass(frozen=True)
class PairSummary:
    """What ``check_pair`` found.

    Attributes:
        latents: latent site -> event shape of one datum's value, in the model's sampling order.
        observed: observed sites of the model.
        guide_order: latent sites in the guide's sampling order.
        point_masses: those where the guide has no density, so that there is no bound.
        outside: sites outside the data plate, which all data share.
    """

    latents: dict[str, tuple[int, ...]]
    observed: tuple[str, ...]
    guide_order: tuple[str, ...]
    point_masses: tuple[str, ...]
    outside: tuple[str, ...] = ()


def check_data(model: Callable, x: Data, y: Tensor | None = None) -> None:
    """Raise ``ValueError`` for data that the model cannot have produced.

    Checks all of ``x`` and ``y``: emptiness, shape, NaN and infinity, the likelihood's range,
    labels. Programs without a ``check_data`` of their own are checked for finite values, and
    for the support of sites that observe ``x`` itself. Raises ``TypeError`` unless ``x`` is a
    tensor. Under ``handlers.missing`` NaN may be where single numbers are observed.
    """
    if isinstance(x, Arguments):
        if has_missing(x) and takes_missing(model):
            _check_missing(model, x, y)
            x = filled(x)
        for key in x.columns:
            check_finite(x[key], named(key))
        check_observed_support(model, x, y)
        return
    check_tensor(x)
    if len(x) == 0:
        raise ValueError(f"x: expected at least one datum, got shape {tuple(x.shape)}")
    if y is not None and len(y) != len(x):
        raise ValueError(f"y: expected {len(x)} labels, one per datum, got {len(y)}")
    if missing := bool(x.isnan().any() and takes_missing(model)):
        _check_missing(model, x, y)
    if hasattr(model, "check_data"):
        model.check_data(x)
        if hasattr(model, "label_features"):
            model.label_features(y, len(x))
    else:
        x = filled(x) if missing else x
        check_finite(x)
        check_observed_support(model, x, y)


def _check_missing(model: Callable, x: Data, y: Tensor | None) -> None:
    """Raise ``ValueError`` for missing values that are no single numbers of observed sites."""
    rows = rows_missing(x)
    x, y = x[rows], None if y is None else y[rows]
    keys = x.columns if isinstance(x, Arguments) else ("x",)
    for key, column in zip(keys, columns_of(x), strict=True):
        lost = ""
        with undisturbed(model, device=x.device), validation_enabled(True):
            try:
                with naming_overflow():
                    trace = traced(model, filled(x, but=column), y)
                    compute_log_probs(trace, kinds(trace).observed)
                for site in kinds(trace).observed:
                    if trace.nodes[site]["log_prob"].isnan().any():
                        lost = f"log-probability of site {site!r}"
            except JointError:
                raise
            except FloatingPointError as error:
                lost = str(error).partition(" became ")[0]
            except Exception:  # what is wrong with a program is told when it is run
                return
        if lost:
            raise ValueError(
                f"{named(key)}: expected missing values only of what is observed, and on which "
                f"nothing else depends, got NaN that make the {lost} NaN: fill these, or remove "
                "their rows"
            )


def check_guide(model: Callable, guide: Callable) -> None:
    """Raise for what is known without data; ``check_pair`` runs the programs later."""
    for name, program in (("model", model), ("guide", guide)):
        # Most often it can
        if isinstance(program, type) or not callable(program):
            check_program(name, program)
    check_borrowed(model, guide)
    if not (isinstance(model, Model) and isinstance(guide, Guide)):
        return
    built, here = map(_told, (guide.model, model))
    if built != here:
        raise ValueError(
            f"guide: it was built for another model, of {built}; this one has {here}: build it "
            "with this model"
        )


def check_modalities(data: Arguments, guide: Callable) -> None:
    """Raise ``ValueError`` where a part of a guide would never be trained."""
    names = dict(enumerate(p.name for p in positional(guide)))
    there = {names.get(key, key) for key in data.columns or ()}
    for modality in getattr(innermost(guide), "modalities", ()):
        if modality not in there:
            raise ValueError(
                f"expected some data with {modality!r}, of which the guide has an expert, got "
                f"{data!r}: pass them, or build the guide without this expert"
            )


def _told(model: Callable) -> str:
    if not hasattr(model, "latent_sizes"):
        return f"the program {name_of(model)}"
    shapes = getattr(model, "latent_shapes", model.latent_sizes)
    return f"data {model.event_shape} and latents {shapes}"


def check_minibatches(guide: Callable) -> None:
    """Raise ``ValueError`` for a guide that cannot be trained on shuffled minibatches."""
    if is_per_datum(guide):
        raise ValueError(
            f"guide: {name_of(guide)} has parameters for each datum by its place in the batch, "
            "which changes from epoch to epoch: use guides.PerDatum(vae, x), which is AutoNormal "
            "with rows found by their values, or infer.SVI with all data in each step; if all "
            "latents are outside the data plate, run guide(x) once before"
        )


def compared(
    model: Callable,
    guide: Callable,
    x: Data,
    y: Tensor | None,
    *,
    enumerating: bool = True,
    observing: bool = False,
) -> PairSummary:
    """What ``infer.check_pair`` finds of a pair and data as programs are given them, and raises.

    The model alone may have sites to enumerate unless, the guide observed ones where that is told.
    """
    with undisturbed(model, guide, device=x.device), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model_trace, guide_trace = trace_pair(model, guide, x, y, enumerating=enumerating)
            sides = contributions(model_trace, guide_trace, x)
            check_shapes(model_trace, guide_trace, sides[0].plate, observing=observing)
        except AmbiguousPlateError:
            raise
        except Exception:
            check_rows(guide, len(x))
            _check_alone(model, guide, x, y, enumerating=enumerating)
            raise
        in_model, in_guide = kinds(model_trace), kinds(guide_trace)
        latents = [in_model.random[s] for s in in_model.latent]
        # The model itself would have drawn others, which might be broadcast
        if any([s["value"].shape != s["fn"].batch_shape + s["fn"].event_shape for s in latents]):
            _check_alone(model, guide, x, y, enumerating=enumerating)
        for read in sides:
            compute_log_probs(read.trace, read.sites)
            for site in read.sites:
                node = read.trace.nodes[site]
                if read(site).isnan().any():
                    if node["value"].isfinite().all() and node["value"].square().isinf().any():
                        values = span_of(node["value"])
                        raise overflow(f"the log-probability of site {site!r}, with {values},")
                    raise ValueError(
                        f"site {site!r}: its log-probability is NaN for a "
                        f"{type(node['fn']).__name__} with {span_of(node['value'])}: check "
                        "parameters and data"
                    )
    if not enumerating:
        warn_enumerated(guide_trace)
    return PairSummary(
        {site["name"]: tuple(site["fn"].event_shape) for site in latents},
        tuple(in_model.observed),
        tuple(in_guide.latent),
        tuple(point_masses(guide_trace)),
        tuple(dict.fromkeys(site for read in sides for site in read.outside)),
    )


def _check_alone(
    model: Callable, guide: Callable, x: Data, y: Tensor | None, *, enumerating: bool
) -> None:
    """Raise for what shows where the model runs by itself, not on the latents of the guide."""
    if is_messenger(guide):
        return
    with naming_overflow():
        model_trace = traced(shown_to(guide, model), x, y)
    try:
        with naming_overflow(guide, x, y):
            guide_trace = traced(guide, x, y)
    except Exception as error:
        if isinstance(guide, Guide) and innermost(guide.model) is not innermost(model):
            raise ValueError(
                f"guide: it was built for another model, of {_told(guide.model)}: build it with "
                f"this model ({error})"
            ) from error
        raise
    check_observed(model_trace)
    built = isinstance(guide, Guide)
    check_latents(model_trace, guide_trace, enumerating=enumerating, built=built)
    for site in (s for s in kinds(model_trace).latent if s in guide_trace.nodes):
        shapes = [tuple(t.nodes[site]["value"].shape) for t in (model_trace, guide_trace)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"site {site!r}: the model's value has shape {shapes[0]} for {len(x)} data, the "
                f"guide's {shapes[1]}: build the guide for this model"
            )
