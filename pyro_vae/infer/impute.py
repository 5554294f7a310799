"""What is missing of data, drawn and averaged over the posterior of their latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor

from ..data import Column, Dataset
from ..data.arguments import Data, columns_of
from ..data.columns import frame_of
from ..distributions import Joint, Nominal, base_of
from ..ground.arguments import whole
from ..programs.autoguides import takes_all
from ..programs.given import given, matched
from ..programs.labels import accepts_labels
from ..programs.means import mean_of
from ..programs.missing import completed, takes_missing
from ..programs.reading import Contributions
from ..programs.running import measuring, traced
from ..programs.sites import kinds
from ..programs.unwrapping import name_of
from .densities import can_broadcast, check_weighed, repeated, split
from .densities import draws as drawn_from
from .weights import weight_statistics

if TYPE_CHECKING:
    import pandas

# Numbers of one kind at once: of all samples of some data
_NUMBERS = 2**23
_DATA = 512


@dataclass(frozen=True)
class Imputation:
    """Completed data; what is seen of them is as it was.

    Of a program with several sites that observe real numbers, ``mean``, ``standard_error`` and
    ``draws`` are mappings from site to such tensors.

    Attributes:
        mean: E[x_missing | x_seen], (n, *event); of a category the most probable one.
        standard_error: its Monte Carlo standard error, 0 for what is seen; NaN for categories.
        draws: (draws, n, *event), each from p(x_missing | x_seen), all of equal weight.
        effective_sample_size: (sum w)^2 / sum w^2 of the importance weights, (n,), between 1 and
            ``samples``.
        pareto_k: how heavy the tail of the weights is, (n,), as of ``infer.importance``: above
            0.7 the results cannot be trusted.
        samples: importance samples per datum.
        columns: name and kind of each column, where the model or the data know those of a table.
        index: what the rows of such data are called, (n,), or None.
    """

    mean: Tensor | dict[str, Tensor]
    standard_error: Tensor | dict[str, Tensor]
    draws: Tensor | dict[str, Tensor]
    effective_sample_size: Tensor
    pareto_k: Tensor
    samples: int
    columns: tuple[Column, ...] = ()
    index: np.ndarray | None = None

    def to_frame(self) -> pandas.DataFrame:
        """The completed table, ``mean``, with the names of its columns, categories and rows.

        Raises:
            ImportError: pandas is not installed.
            ValueError: data whose columns have no names.
        """
        if not self.columns:
            raise ValueError(
                "columns: expected those of a table, got none: pass data.Dataset(frame) to "
                "infer.impute, or build the model with columns=d.columns"
            )
        return frame_of(self.columns, self.mean, self.index)


def impute(
    model: Callable,
    guide: Callable,
    x: Any,
    *,
    y: Tensor | None = None,
    samples: int = 1000,
    draws: int = 1,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
) -> Imputation:
    """Complete data of which some values are missing, by importance sampling with the guide.

    With z_k ~ q(z|x) and the weights w_k = p(x_seen, z_k) / q(z_k|x), self-normalised,

        E[x_missing | x_seen] = sum_k w_k E[x_missing | z_k] / sum_k w_k,

    and each draw is one of p(x_missing | z_k) for a k that is chosen with probability w_k, with
    replacement. Both approach those of the model as ``samples`` grows, whatever the guide. A datum
    of which nothing is seen is completed as by ``model.sample``. Evaluation mode; the RNG is
    restored, so that other draws need another seed.

    Source: "MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets", Mattei,
    Frellsen (2019).

    Args:
        model: generative program under ``handlers.missing``.
        guide: inference program.
        x: (n, *event), NaN where missing, a ``Dataset`` of such data, or the programs' own
            arguments, a tuple or a mapping of tensors with n rows each.
        y: (n,) labels for a conditional pair.
        samples: importance samples per datum.
        draws: completions of each datum.
        arguments: constants among the programs' own arguments, by name.
        plate: name of the plate over the data, where several could be it.

    Returns:
        ``Imputation``, in the units of ``x``; of what a site observes where that is made of x.

    Raises:
        TypeError: a model to which NaN does not mean missing.
        ValueError: fewer than one sample or draw; what ``infer.importance`` refuses.

    Example:
        >>> from pyro_vae import guides, handlers, likelihoods, models
        >>> model = handlers.missing(models.VAE((3,), 2, likelihood=likelihoods.Gaussian()))
        >>> x = torch.tensor([[1.0, torch.nan, 0.5], [torch.nan, 2.0, 1.0]])
        >>> found = impute(model, guides.BottomUp(model), x, samples=100, draws=5)
        >>> found.mean.shape, found.draws.shape, found.draws[:, 0, 0]
        (torch.Size([2, 3]), torch.Size([5, 2, 3]), tensor([1., 1., 1., 1., 1.]))
    """
    whole("samples", samples)
    whole("draws", draws)
    if not takes_missing(model):
        raise TypeError(
            f"model: expected one to which NaN means missing, got {name_of(model)}: pass "
            "handlers.missing(model), and a guide that is built for it"
        )
    columns, index = getattr(model, "columns", ()), None
    if isinstance(x, Dataset):
        x = matched(x, model, guide, arguments=arguments, plate=plate)
        if isinstance(x, Dataset):
            columns, index = x.columns or columns, x.index
            x, y = x.x, x.y if y is None and accepts_labels(model) else y
    x, y = given(x, y, model, guide, arguments=arguments, plate=plate)
    numbers = samples * max(1, sum(column[0].numel() for column in columns_of(x)))
    block = len(x) if takes_all(guide) else max(1, min(_DATA, _NUMBERS // numbers))
    if (sums := check_weighed(model, guide, x, y, block)) is not None:
        raise ValueError(
            f"site {sums.sites[0]!r}: expected latents that the guide draws, got one that is "
            "summed out: draw it in the guide, and remove the mark"
        )
    with measuring(model, guide, device=x.device), pyro.validation_enabled(False):
        vectorised = can_broadcast(guide, x, y)
        parts = [
            _Part(model, guide, *data, samples, draws, vectorised) for data in split(x, y, block)
        ]
    sites = parts[0].sites
    mean, error = (
        {s: torch.cat([part.sites[s][i] for part in parts]) for s in sites} for i in (0, 1)
    )
    drawn = {s: torch.cat([part.sites[s][2] for part in parts], 1) for s in sites}
    if len(sites) == 1:
        mean, error, drawn = (found.popitem()[1] for found in (mean, error, drawn))
    ess, pareto_k = (torch.cat(c) for c in zip(*[part.trust for part in parts], strict=True))
    return Imputation(mean, error, drawn, ess, pareto_k, samples, columns, index)


class _Part:
    """Some data: site -> mean, its error, and draws; and how far to trust these."""

    def __init__(
        self,
        model: Callable,
        guide: Callable,
        x: Data,
        y: Tensor | None,
        samples: int,
        draws: int,
        vectorised: bool,
    ) -> None:
        n, k = len(x), samples
        z, log_q, dims = drawn_from(guide, x, y, k, vectorised=vectorised)
        held = {site: v.flatten(0, 1).movedim(0, dims[site]) for site, v in z.items()}
        trace = traced(poutine.condition(model, data=held), *repeated(x, y, k))
        read = Contributions(trace, (k * n,), getattr(x, "plate", None))
        log_p = sum(map(read.density, read.sites)).reshape(k, n)
        log_weights = log_p.double() - log_q.double()
        self.trust = weight_statistics(log_weights)[2:]
        weights = log_weights.softmax(0)
        chosen = torch.multinomial(weights.T, draws, replacement=True).T
        self.sites = {}
        for site in (s for s in kinds(trace).observed if s not in held):
            node, at = trace.nodes[site], read.dimension(site)
            value = node["value"]
            if not (value.is_floating_point() and value.numel()):
                continue
            node = {**node, "fn": completed(node["fn"], value)}

            def by_sample(values: Tensor, at: int = at) -> Tensor:
                return values.movedim(at, 0).unflatten(0, (k, n))

            seen = by_sample(value)[0]
            w = weights.reshape(k, n, *(1,) * (seen.dim() - 1)).to(value.dtype)
            mean, error = average(node, w, by_sample)
            drawn = by_sample(node["fn"].sample()).to(value.dtype)
            drawn = drawn[chosen, torch.arange(n, device=value.device)]
            gone = seen.isnan()
            self.sites[site] = (
                mean.where(gone, seen),
                error.where(gone, 0.0),
                drawn.where(gone, seen),
            )


def average(
    node: Mapping[str, Any], weights: Tensor, by_sample: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Weighted mean over the samples, and its standard error; of classes the likeliest, NaN."""
    p = base_of(node["fn"])
    if isinstance(p, torch.distributions.Categorical | Nominal):
        classes = [by_sample(c.expand(node["fn"].shape())) for c in p.logits.exp().unbind(-1)]
        found = torch.stack([(weights * c).sum(0) for c in classes], -1).argmax(-1)
        return found.to(weights.dtype), torch.full_like(found, torch.nan, dtype=weights.dtype)
    if isinstance(p, Joint):
        each = [average({**node, "fn": part}, weights, by_sample) for part in p.parts]
        order = torch.cat(p.columns).argsort()
        mean, error = (torch.cat(v, -1).index_select(-1, order) for v in zip(*each, strict=True))
        return mean, error
    means = by_sample(mean_of(node["fn"], node["name"]))
    mean = (weights * means).sum(0)
    return mean, (weights * (means - mean)).square().sum(0).sqrt()
