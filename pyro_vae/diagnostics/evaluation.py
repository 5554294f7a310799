"""One table of what a pair achieves on data."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from ..data import Dataset
from ..data.arguments import Data, columns_of
from ..ground.arguments import known, whole
from ..ground.tables import Cell, Table, Tabular, mean_and_error, number, or_none, with_error
from ..infer.annealed import AnnealedEstimate, estimated
from ..infer.annealing import Schedule
from ..infer.budget import Budget
from ..infer.importance import ImportanceEstimate, weighed
from ..infer.objectives.elbo import ELBOTerms, check_possible
from ..infer.terms import dataset_terms
from ..infer.weights import TRUSTED_PARETO_K
from ..programs.examining import examined
from ..programs.given import matched
from ..programs.unwrapping import innermost
from .baselines import baselines
from .noise import apart, ratios, told


@dataclass(frozen=True, repr=False)
class Evaluation(Tabular):
    """Bound, its terms and log p(x) over a data set; ``print`` it, or read the parts.

    Attributes:
        terms: bound, reconstruction and KL per site, each (n,), nats per datum; of latents
            that all data share the table has the KL in nats per data set.
        importance: log p(x) with its diagnostics per datum, None if it was not asked for.
        dimensions: elements of a datum, of those that are seen their mean over the data.
        levels: number of values of a discrete pixel, None for other data.
        point_masses: latent sites where the guide has no density: then there is no bound, and
            what stands for KL is -log p(z).
        baselines: name -> log p(x) of a model without a network, (n,), see
            ``diagnostics.baselines``; empty where none compares with the pair, None without
            training data to fit them to.
        annealed: log p(x) by annealed importance sampling per datum, None if it was not asked for.
        decibels: of signals, signal to noise ratio of reconstructions, (n,), as of
            ``signal_to_noise``; None for others.
        units: of sequences, "token" and "character" -> how many each datum has, (n,).
    """

    terms: ELBOTerms
    importance: ImportanceEstimate | None
    dimensions: float
    levels: int | None = None
    point_masses: tuple[str, ...] = ()
    baselines: Mapping[str, Tensor] | None = None
    annealed: AnnealedEstimate | None = None
    units: Mapping[str, Tensor] = field(default_factory=dict)
    decibels: Tensor | None = None

    @property
    def log_likelihood(self) -> tuple[str, Tensor] | None:
        """What is nearest to log p(x), and what the table calls it; None without an estimate."""
        if self.annealed is not None:
            return "log p(x), annealed", self.annealed.log_likelihood
        return None if self.importance is None else ("log p(x)", self.importance.log_likelihood)

    @property
    def bound(self) -> str:
        """What reconstruction minus KL is: the ELBO, or no bound for a guide without density."""
        return "log p(x, z)" if self.point_masses else "ELBO"

    def rows(self) -> list[tuple[str, float, float, str]]:
        """The table: quantity, mean over the data, standard error, unit."""
        quantities = {self.bound: self.terms.elbo, "reconstruction": self.terms.reconstruction}
        whole = self.terms.kl_global
        for site, kl in sorted(self.terms.kl.items()):
            if site not in whole:
                quantities[f"-log p({site})" if site in self.point_masses else f"KL {site}"] = kl
        if self.importance is not None:
            quantities["log p(x)"] = self.importance.log_likelihood
        if self.annealed is not None:
            quantities["log p(x), annealed"] = self.annealed.log_likelihood
        quantities |= self.baselines or {}
        rows = [(name, *mean_and_error(v), "nats/datum") for name, v in quantities.items()]
        for site, kl in sorted(whole.items()):
            name = f"-log p({site})" if site in self.point_masses else f"KL {site}"
            rows.append((name, float(kl), math.nan, "nats/data set"))
        if self.levels is not None:
            best, _ = self.log_likelihood or (self.bound, None)
            bits = -quantities[best] / (self.dimensions * math.log(2))
            rows.append((f"-{best}", *mean_and_error(bits), "bits/dim"))
        if self.decibels is not None and len(heard := apart(self.decibels)[0]):
            rows.append(("SNR of reconstructions", *mean_and_error(heard), "dB"))
        if self.units:
            best, log_p = self.log_likelihood or (self.bound, self.terms.elbo)
            unit, counts = [*self.units.items()][-1]
            bits = (value / math.log(2) for value in per_unit(-log_p, counts))
            rows.append((f"-{best}", *bits, f"bits/{unit}"))
            nats, error = per_unit(-log_p, self.units["token"])
            rows.append(("perplexity", math.exp(nats), math.exp(nats) * error, "per token"))
        if self.importance is not None:
            ess = self.importance.effective_sample_size
            rows.append(("effective sample size", *mean_and_error(ess), "samples"))
            if not self.importance.pareto_k.isnan().any():
                rows.append(("Pareto k above 0.7", 100 * self.untrusted, math.nan, "% of data"))
        if self.annealed is not None:
            if self.importance is not None:
                seconds = self.importance.seconds
                rows.append(("time of importance sampling", seconds, math.nan, "s"))
            rows.append(("time of annealing", self.annealed.seconds, math.nan, "s"))
        return rows

    @property
    def unbeaten(self) -> dict[str, tuple[float, float]]:
        """Baselines that the pair does not beat: by how many nats per datum, standard error.

        Compared is log p(x) of each datum, or the bound where that was not estimated.
        """
        _, pair = self.log_likelihood or ("", self.terms.elbo)
        ahead = {
            name: mean_and_error(log_p - pair.double())
            for name, log_p in (self.baselines or {}).items()
        }
        return {name: (mean, error) for name, (mean, error) in ahead.items() if mean >= 0}

    @property
    def remark(self) -> str:
        """A sentence about the baselines that the pair does not beat; "" where it beats all."""
        if not self.unbeaten:
            return ""
        ahead = " and ".join(f"{name} by {with_error(*by)}" for name, by in self.unbeaten.items())
        return (
            f"The pair does not beat models without a network, in nats per datum: {ahead}. More "
            "data or training, fewer or more latents, or another likelihood may help"
        )

    @property
    def untrusted(self) -> float:
        """Fraction of the data whose log p(x) estimate cannot be trusted (Pareto k > 0.7)."""
        if self.importance is None:
            return math.nan
        return float((self.importance.pareto_k > TRUSTED_PARETO_K).double().mean())

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: quantity -> mean, standard error, unit."""
        return {
            name: {"mean": mean, "standard_error": or_none(se), "unit": unit}
            for name, mean, se, unit in self.rows()
        }

    def table(self) -> Table:
        """Quantities with their standard errors and units."""
        rows = [
            (name, mean, Cell("" if math.isnan(se) else f"+- {number(se)}", {"": se}), unit)
            for name, mean, se, unit in self.rows()
        ]
        return Table(
            self._header(),
            ("quantity", "mean", "standard error", "unit"),
            rows,
            notes=[*([self.remark] if self.remark else ()), *told(self.decibels)],
            line=f"  {{:<{max(22, *(len(name) for name, *_ in rows))}}} {{:>10}} {{:<11}} {{}}",
            left=(0, 3),
        )

    def _header(self) -> str:
        text = f"{len(self.terms.reconstruction)} data"
        if self.importance is not None:
            text += f", {self.importance.samples} importance samples"
        if (found := self.annealed) is not None:
            text += f", {found.chains} chains of {found.temperatures} temperatures"
        text += "; standard errors are over the data"
        if self.baselines:
            return text
        why = "without reference=" if self.baselines is None else "for such a pair"
        return f"{text}; no baselines {why}"


def per_unit(values: Tensor, counts: Tensor) -> tuple[float, float]:
    """The sum of values (n,) over that of counts (n,), and its standard error over the data.

    Example:
        >>> import torch
        >>> per_unit(torch.tensor([2.0, 4.0]), torch.tensor([1, 2]))
        (2.0, 0.0)
    """
    values, counts = values.double(), counts.double()
    ratio = float(values.sum() / counts.sum())
    _, error = mean_and_error(values - ratio * counts)
    return ratio, error / float(counts.mean())


def _units(model: Callable, x: Data) -> dict[str, Tensor]:
    """Of how many tokens and characters the data consist, as the model or its likelihood tells."""
    for part in (model, getattr(model, "likelihood", None)):
        if (count := getattr(part, "units", None)) is not None:
            return count(x)
    return {}


def evaluate(
    model: Callable,
    guide: Callable,
    data: Dataset | Tensor | tuple[Tensor, Tensor | None],
    *,
    reference: Dataset | Tensor | tuple[Tensor, Tensor | None] | None = None,
    importance_samples: int | Budget = 100,
    method: Literal["importance", "annealed", "both"] = "importance",
    temperatures: int = 1000,
    chains: int = 16,
    batch_size: int = 500,
    chunk_size: int | None = None,
    progress: bool = True,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
) -> Evaluation:
    """Bound, reconstruction, KL per site and log p(x) of a pair, without changing any state.

    ELBO = E_q[log p(x|z)] - sum_i KL_i <= log p(x) = log E_q[p(x, z) / q(z|x)].

    The KL of latents that all data share is divided among the data at hand: bounds of such pairs
    on sets of unequal size do not compare.

    Args:
        model: generative program.
        guide: inference program.
        data: a ``Dataset``, a tensor (n, *event_shape), a pair (x, y), or anything else that
            ``data.Dataset`` takes. Dynamic binarisation is drawn once.
        reference: the training data, ``d.train``, to which an independent model of each element
            and, beside a density, probabilistic PCA with as many latents are fitted: what the
            pair has to beat. Default: the table goes without them.
        importance_samples: samples per datum for log p(x), or an ``infer.Budget`` of time and
            error for them; 0 leaves log p(x) out, and so does a guide that is a point mass, such
            as ``guides.Delta``. Latents outside the data plate need 0: no datum has weights of
            its own.
        method: how log p(x) is estimated: by ``infer.importance``, by ``infer.annealed``, which
            takes long, or by both; then the table has the time of each.
        temperatures: as of ``infer.annealed``.
        chains: as of ``infer.annealed``.
        batch_size: data at once.
        chunk_size: rows (datum, sample) decoded at once, bounding the memory.
        progress: show progress bars, of annealing and of a ``Budget``.
        arguments: constants among the programs' own arguments, by name.
        plate: name of the plate over the data, where several could be it.

    Returns:
        ``Evaluation``: all numbers in nats per datum, with bits per dimension for discrete
        pixels, bits per character and perplexity for tokens, the signal to noise ratio of
        reconstructions for signals, the effective sample size and the Pareto k of the importance
        weights.

    Raises:
        ValueError: data that the model cannot have produced, a reference of another shape.

    Warns:
        UserWarning: Pareto k > 0.7 for more than one datum in ten: log p(x) is underestimated,
            and nothing but importance sampling was asked for.

    Example:
        >>> import torch
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> result = evaluate(vae, guides.BottomUp(vae), torch.zeros(5, 6), importance_samples=0)
        >>> sorted(result.to_dict())
        ['ELBO', 'KL z1', 'reconstruction']
    """
    if not isinstance(importance_samples, Budget):
        whole("importance_samples", importance_samples, 0)
    known("method", method, ("importance", "annealed", "both"))
    schedule = Schedule(temperatures, chains, leapfrog=3)
    own = {"arguments": arguments, "plate": plate}
    shared = {"chunk_size": chunk_size, "progress": progress}
    with examined(data, model, guide, **own) as (data, (pair,)):
        x, y, points = data.x, data.y, pair.point_masses
        terms = dataset_terms(model, guide, data, batch_size=batch_size)
        signals = getattr(innermost(model), "kind", None) == "signal"
        signals = signals and isinstance(x, Tensor) and not x.isnan().any()
        noise = ratios(model, guide, x, y, batch_size=batch_size) if signals else None
        estimate = annealed = None
        if importance_samples and method != "annealed" and not points:
            estimate = weighed(model, guide, x, y, samples=importance_samples, **shared)
        if method != "importance" and not points:
            annealed = estimated(model, guide, x, y, schedule, **shared)
        compared = None
        if reference is not None:
            train = matched(reference, model, guide, name="reference", **own)
            compared = {} if points else baselines(model, guide, x, y, train)
    result = Evaluation(
        terms,
        estimate,
        dimensions=sum(int((~column.isnan()).sum()) for column in columns_of(x)) / max(1, len(x)),
        levels=getattr(getattr(model, "likelihood", None), "levels", None),
        point_masses=points,
        baselines=compared,
        annealed=annealed,
        units=_units(model, x),
        decibels=noise,
    )
    if not points:
        check_possible(float(terms.elbo.mean()), float(terms.reconstruction.mean()), len(x))
    if annealed is None and result.untrusted > 0.1:
        warnings.warn(
            f"log p(x) cannot be trusted: the importance weights of {100 * result.untrusted:.0f}% "
            "of the data have Pareto k > 0.7, so that it is probably too low: use more "
            "importance_samples, a better guide, or method='annealed'",
            stacklevel=2,
        )
    return result
