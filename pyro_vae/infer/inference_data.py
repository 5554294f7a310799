"""Draws, densities and data in the form that ArviZ reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro.poutine import Trace
from torch import Tensor

from ..data import Dataset
from ..data.arguments import Data
from ..ground.arguments import whole
from ..ground.optional import needed
from ..programs.autoguides import takes_all
from ..programs.given import given, matched
from ..programs.reading import Contributions
from ..programs.running import measuring, trace_pair, traced
from ..programs.sites import kinds
from .densities import check_weighed, repeated, rows_at_once

if TYPE_CHECKING:
    import xarray
    from arviz import InferenceData

_DATA = 512
_EXTRA, _WHAT = "arviz", "to_inference_data"
# What ArviZ calls the groups, and what is in each
_Groups = dict[str, dict[str, list[Tensor]]]


def to_inference_data(
    model: Callable,
    guide: Callable,
    x: Any,
    *,
    y: Tensor | None = None,
    draws: int = 100,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
) -> InferenceData:
    """Draws of q(z|x) and of p(x, z) as an ``arviz.InferenceData``, for its plots and statistics.

    The groups are ``posterior``, z_k ~ q(z|x), ``posterior_predictive``, x ~ p(x|z_k),
    ``log_likelihood``, log p(x|z_k) per datum in nats, ``sample_stats``, the ``log_weight`` log
    p(x, z_k) - log q(z_k|x) that ``arviz.psislw`` takes, ``prior`` and ``prior_predictive``, as
    many draws of p(x, z), and ``observed_data``. Their dimensions are chain (one), draw, "datum"
    and those of the site; elements of a table's row have their names. Evaluation mode; the
    RNG is restored. With ArviZ 1 the result is an ``xarray.DataTree`` of the same groups.

    Source: "ArviZ a unified library for exploratory analysis of Bayesian models in Python", Kumar,
    Carroll, Hartikainen, Martin (2019).

    Args:
        model: generative program.
        guide: inference program.
        x: (n, *event_shape), or the programs' own arguments, a tuple or a mapping of tensors with
            n rows each.
        y: (n,) labels for a conditional pair.
        draws: per datum; all of them lie in memory.
        arguments: constants among the programs' own arguments, by name.
        plate: name of the plate over the data, where several could be it.

    Raises:
        ModuleNotFoundError: arviz is not installed; the message names the command.
        ValueError: fewer than one draw; what ``importance`` refuses; latents that are summed out.
    """
    arviz = needed("arviz", _EXTRA, _WHAT)
    draws = whole("draws", draws)
    index = None
    if isinstance(x, Dataset):
        x = matched(x, model, guide, name="x")
        x, y, index = x.x, x.y if y is None else y, x.index
    x, y = given(x, y, model, guide, arguments=arguments, plate=plate)
    n = len(x)
    sums = check_weighed(model, guide, x, y, n if takes_all(guide) else min(n, _DATA))
    if sums is not None and not sums.in_guide:
        raise ValueError(
            "guide: expected one that draws all latents, got one without "
            f"{', '.join(sums.marks)}, summed out: use guides.Labelled(guide) for classes, or "
            "draw them in your own"
        )
    groups: _Groups = {}
    at_once = max(1, rows_at_once(x, None) // n)
    with measuring(model, guide, device=x.device):
        for start in range(0, draws, at_once):
            some = min(at_once, draws - start)
            for group, site, value in _drawn(model, guide, *repeated(x, y, some)):
                row = value.reshape(some, n, *value.shape[1:])
                groups.setdefault(group, {}).setdefault(site, []).append(row)
    arrays = {
        group: {site: torch.cat(parts).cpu().numpy()[None] for site, parts in sites.items()}
        for group, sites in groups.items()
    }
    names = [column.name for column in getattr(model, "columns", ())]
    coords = {"datum": np.arange(n) if index is None else index}
    coords |= {"chain": [0], "draw": np.arange(draws)} | ({"x_dim_0": names} if names else {})
    sampled = ["chain", "draw", "datum"]
    # Each draw has the data
    observed = {site: value[0, 0] for site, value in arrays.pop("observed_data").items()}
    sets = {group: _named(sites, sampled, coords) for group, sites in arrays.items()}
    sets["observed_data"] = _named(observed, ["datum"], coords)
    if int(arviz.__version__.partition(".")[0]) > 0:
        return needed("xarray", _EXTRA, _WHAT).DataTree.from_dict(sets)
    return arviz.InferenceData(**sets)


def _named(
    sites: Mapping[str, np.ndarray], dims: Sequence[str], coords: Mapping[str, Any]
) -> xarray.Dataset:
    """A group whose first dimensions are ``dims``, with what the places of dimensions are."""
    found = {
        site: ([*dims, *(f"{site}_dim_{i}" for i in range(value.ndim - len(dims)))], value)
        for site, value in sites.items()
    }
    used = {dim for named, _ in found.values() for dim in named}
    kept = {dim: places for dim, places in coords.items() if dim in used}
    return needed("xarray", _EXTRA, _WHAT).Dataset(found, coords=kept)


def _drawn(
    model: Callable, guide: Callable, x: Data, y: Tensor | None
) -> list[tuple[str, str, Tensor]]:
    """Group, site and value, rows first, of one draw for each row."""
    plate, found = getattr(x, "plate", None), []
    p, q = trace_pair(model, guide, x, y)
    before = traced(model, x, y)
    shape = (len(x),)
    densities = Contributions(p, shape, plate)
    log_weight = sum(map(densities.density, densities.sites))
    observed = kinds(p).observed
    found += [("log_likelihood", site, densities.density(site)) for site in observed]
    of_guide = Contributions(q, shape, plate)
    log_weight = log_weight - sum(map(of_guide.density, of_guide.sites))
    found.append(("sample_stats", "log_weight", log_weight))
    found += [("posterior", site, of_guide.value(site)) for site in kinds(q).latent]
    found += [("observed_data", site, densities.value(site)) for site in observed]
    found += [("posterior_predictive", *told) for told in _predicted(p, shape, plate)]
    prior = Contributions(before, shape, plate)
    found += [("prior", site, prior.value(site)) for site in kinds(before).latent]
    found += [("prior_predictive", *told) for told in _predicted(before, shape, plate)]
    return found


def _predicted(
    trace: Trace, shape: tuple[int, ...], plate: str | None
) -> list[tuple[str, Tensor]]:
    """Values that the observed sites of a trace could have had as well."""
    observed, read = kinds(trace).observed, Contributions(trace, shape, plate)
    for site in observed:
        trace.nodes[site]["value"] = trace.nodes[site]["fn"].sample()
    return [(site, read.value(site)) for site in observed]
