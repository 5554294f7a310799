"""Latents of data, and data of latents: what a guide encodes and a model decodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pyro import poutine
from pyro.distributions import Distribution
from torch import Tensor

from ..data.arguments import Arguments, Data
from ..data.columns import of_table
from ..data.writing import columns_of, write
from ..ground.arguments import known
from ..ground.tables import pandas_or
from .autoguides import check_batch
from .calling import arguments_of
from .given import matched
from .labels import (
    Labels,
    check_none_missing,
    checked_labels,
    label_arguments,
    lacks_labels,
)
from .means import ShowMeans, mean_of, stand_in_data
from .missing import takes_missing
from .modes import evaluating
from .sites import kinds
from .tracing import trace
from .values import check_finite, check_program

if TYPE_CHECKING:
    import pandas


def decode(
    model: Any, z: Mapping[str, Tensor], *, x: Data | None = None, y: Labels = None
) -> Distribution:
    """The distribution of the observed site given latents; latents not given take their mean.

    Args:
        model: a generative program with one observed site when it is given ``x``.
        z: site -> tensor (n, *latent shape).
        x: (n, *event) where the program needs it; the result does not depend on it.
        y: labels (n,), or one label for all, for a conditional model.

    Returns:
        p(x|z), batch shape (n,).

    Raises:
        ValueError: an unknown site, latents that are not finite, labels that do not fit, a latent
            that is not given and has no mean; missing labels.
    """
    return _decoded(model, z, x, y)["fn"]


def decode_mean(
    model: Any, z: Mapping[str, Tensor], *, x: Data | None = None, y: Labels = None
) -> Tensor:
    """E[x|z] (n, *event), as ``mean_of`` finds it of what ``decode`` gives; errors are of both.

    Of a model that knows the columns of a table they are ``Rows``.
    """
    observed = _decoded(model, z, x, y)
    return of_table(mean_of(observed["fn"], observed["name"]), model)


def _decoded(model: Any, z: Mapping[str, Tensor], x: Data | None, y: Any) -> dict[str, Any]:
    first = next(iter(z.values()))
    size = len(first)
    for site, value in z.items():
        check_finite(value, f"z[{site!r}]", of_nan="")
    y = checked_labels(model, y, size, first.device)
    if lacks_labels(model) and "y" not in z:
        check_none_missing(model, y, size)
    if x is None:
        args, kwargs = (), {"size": size, **label_arguments(model, y)}
    else:
        args, kwargs = arguments_of(model, x, y)
    with evaluating(model), ShowMeans(), stand_in_data():
        found = trace(poutine.condition(model, data=dict(z)), *args, **kwargs)
    if unknown := [name for name in z if name not in found.nodes]:
        raise ValueError(f"z: the model has no latent site {unknown[0]!r}")
    return _observation(found, given=z)


def _observation(trace: poutine.Trace, given: Mapping[str, Tensor]) -> dict[str, Any]:
    """The data site of a trace whose latents in ``given`` were conditioned on."""
    found = kinds(trace)
    # A program run without data has its data site last, sampled like a latent.
    sites = [s for s in found.observed if s not in given] or found.latent
    return trace.nodes[sites[-1]]


@dataclass(frozen=True)
class Encoding:
    """Means and samples of q(z|x) per latent site, each (n, size); ``index`` names the rows.

    Where a distribution has no formula for its mean, as a flow, it is that of 1,000 draws, always
    the same ones; for a ``Categorical`` it is the most probable category. ``shared`` are sites
    outside the data plate, of which there is one value for all data, and no row in a table.
    """

    mean: dict[str, Tensor]
    sample: dict[str, Tensor]
    index: np.ndarray | None = None
    shared: tuple[str, ...] = ()

    def to_frame(self) -> pandas.DataFrame:
        """The means as a ``pandas.DataFrame``, a row per datum, named as those of its table.

        A column is an element of a latent, such as "z1[0]".

        Raises:
            ImportError: pandas is not installed.
        """
        pandas = pandas_or("array(), or write(path), which writes .csv without it")
        found = [column for z in self._rows().items() for column in columns_of(*z)]
        return pandas.DataFrame(dict(found), index=self.index)

    def array(self, site: str | None = None) -> np.ndarray:
        """The means of one site, (n, *latent shape).

        Args:
            site: which; default the only one.

        Raises:
            ValueError: another site, none where there are several.

        Example:
            >>> import torch
            >>> Encoding({"z1": torch.zeros(3, 2)}, {}).array().shape
            (3, 2)
        """
        sites = [*self.mean]
        if site is None and len(sites) != 1:
            raise ValueError(
                f"site: expected one of {', '.join(sites)}, got none: pass array({sites[-1]!r}), "
                "or use mean, a tensor per site"
            )
        return self.mean[known("site", sites[0] if site is None else site, sites)].numpy(
            force=True
        )

    def write(self, path: str | Path, site: str | None = None) -> None:
        """Write the means into a file, as ``data.write``: ``.npy``, ``.csv`` or ``.parquet``.

        Args:
            path: where to.
            site: the only one to write; default: all, of which ``.npy`` holds one.

        Raises:
            ValueError: an unknown site, another ending, several sites for ``.npy``.
        """
        found = self._rows() if site is None else {site: self.array(site)}
        write(path, found, index=self.index)

    def _rows(self) -> dict[str, Tensor]:
        return {site: mean for site, mean in self.mean.items() if site not in self.shared}


def encode(guide: Any, x: Any, *, y: Labels = None) -> Encoding:
    """Means and samples of the approximate posterior, for any guide.

    The mean of a layer is its conditional mean given the *means* of the layers that the guide
    samples before it; the samples are one joint draw, which advances torch's global RNG.

    Args:
        guide: an inference program.
        x: (n, *event), finite (or missing, for the guide of a model under ``handlers.missing``),
            a tensor or anything that ``data.Dataset`` takes; values outside the likelihood's
            range, such as grey pixels for a binary likelihood, are encoded as they are.
        y: labels (n,), or one label for all, for a conditional guide; a mapping of such where its
            model has ``models.Covariates``.

    Returns:
        ``Encoding`` with a tensor (n, *latent shape) per site; of a latent that all data share,
        outside the data plate, (*latent shape,).

    Raises:
        TypeError: ``x`` holds no data.
        ValueError: data of the wrong shape or dtype or not finite, labels that do not fit, a
            distribution that has no mean, such as a Cauchy.
    """
    index = None
    if not isinstance(x, Tensor | Arguments):
        x = matched(x, guide, getattr(guide, "model", None), name="x")
        index = getattr(x, "index", None)
    args, kwargs = _encodable(guide, x, y)
    with evaluating(guide):
        drawn = trace(guide, *args, **kwargs)
        mean = _latents(_at_means(guide, args, kwargs))
    # Where no site is in a plate, their rows are the data nevertheless
    inside = [site for site in mean if drawn.nodes[site]["cond_indep_stack"]] or mean
    shared = tuple(site for site in mean if site not in inside)
    return Encoding(mean, _latents(drawn), index, shared)


def encode_means(guide: Any, x: Any, *, y: Labels = None) -> dict[str, Tensor]:
    """``encode(guide, x, y=y).mean`` in half the time: nothing is drawn."""
    return _latents(trace_means(guide, x, y=y))


def trace_means(guide: Any, x: Any, *, y: Labels = None) -> poutine.Trace:
    """The trace of a guide whose latents are all at their means."""
    args, kwargs = _encodable(guide, x, y)
    with evaluating(guide):
        return _at_means(guide, args, kwargs)


def _encodable(guide: Any, x: Any, y: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The guide's arguments, data and others, once all are found to fit."""
    # Most often it can
    if isinstance(guide, type) or not callable(guide):
        check_program("guide", guide)
    if not isinstance(x, Tensor | Arguments):
        data = matched(x, guide, getattr(guide, "model", None), name="x")
        x, y = data.x, data.y if y is None else y
    check_batch(guide, len(x))
    model = getattr(guide, "model", None)
    if hasattr(model, "check_shape"):
        model.check_shape(x)
        incomplete = x.isnan().any() and takes_missing(model)
        check_finite(x.nan_to_num(0.0, math.inf, -math.inf) if incomplete else x)
    if isinstance(x, Tensor):
        y = checked_labels(model, y, len(x), x.device)
    return arguments_of(guide, x, y)


def _at_means(guide: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> poutine.Trace:
    with ShowMeans():
        return trace(guide, *args, **kwargs)


def _latents(trace: poutine.Trace) -> dict[str, Tensor]:
    return {site: trace.nodes[site]["value"] for site in kinds(trace).latent}
