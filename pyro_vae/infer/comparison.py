"""Several guides of one model in one table."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..data import Dataset
from ..data.arguments import Data
from ..ground.arguments import whole
from ..ground.streams import forked
from ..ground.tables import Cell, Table, Tabular, mean_and_error, or_none, two_decimals
from ..programs.autoguides import copies
from ..programs.examining import examined
from ..programs.methods import as_program
from ..programs.modes import training
from ..programs.registration import unregistered
from .engine.svi import SVI
from .importance import ImportanceEstimate, weighed
from .objectives.elbo import ELBOTerms
from .terms import dataset_terms

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAIRED = "ELBO - best"
_WARM_UP, _STEPS, _BATCH = 3, 15, 128


@dataclass(frozen=True)
class GuideResult:
    """One guide over n data.

    Attributes:
        terms: ELBO, reconstruction and KL per site, each (n,), nats per datum.
        importance: log p(x) with the guide as proposal, per datum; None for a point mass, and
            where it was not asked for.
        milliseconds: median time of a training step; NaN where it cannot be measured without
            changing state.
        point_masses: sites where the guide has no density, so that ``terms.elbo`` is no bound.
    """

    terms: ELBOTerms
    importance: ImportanceEstimate | None
    milliseconds: float
    point_masses: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class GuideComparison(Tabular, Mapping[str, GuideResult]):
    """Guides of one model side by side; ``print`` it, or index it by name.

    Attributes:
        results: name -> ``GuideResult``.
        batch_size: data per timed training step.
        samples: draws per datum for the ELBO.
    """

    results: dict[str, GuideResult]
    batch_size: int
    samples: int = 1

    def __getitem__(self, name: str) -> GuideResult:
        """The result of one guide."""
        return self.results[name]

    def __iter__(self) -> Any:
        """Go through the names."""
        return iter(self.results)

    def __len__(self) -> int:
        """Number of guides."""
        return len(self.results)

    @property
    def best(self) -> str | None:
        """The guide with the highest mean bound on log p(x); None where no bound is finite."""
        estimates = {name: r.importance for name, r in self.items()}
        return _highest({n: e.log_likelihood for n, e in estimates.items() if e is not None})

    @property
    def tightest(self) -> str | None:
        """The guide with the highest mean ELBO; None where no bound is finite."""
        return _highest({n: r.terms.elbo for n, r in self.items() if not r.point_masses})

    def gap(self, name: str) -> Tensor:
        """The best bound on log p(x) of all guides minus the ELBO of one, (n,); NaN without."""
        result = self[name]
        if self.best is None or result.point_masses:
            return torch.full_like(result.terms.elbo, math.nan)
        return self[self.best].importance.log_likelihood - result.terms.elbo

    def difference(self, name: str, other: str | None = None) -> Tensor:
        """ELBO of one guide minus that of another, (n,); NaN where one of them has none.

        KL(q_other(z|x) || p(z|x)) - KL(q_name(z|x) || p(z|x)), as both bound the same log p(x).

        Args:
            name: guide.
            other: guide to compare it with; default: the ``tightest``.
        """
        other = self.tightest if other is None else other
        result = self[name]
        if other is None or result.point_masses or self[other].point_masses:
            return torch.full_like(result.terms.elbo, math.nan)
        return result.terms.elbo - self[other].terms.elbo

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """JSON-able: guide -> quantity -> mean and standard error over the data, or a number.

        Quantities: "ELBO" ("log p(x, z)" for a point mass), "ELBO - best" where several guides
        have densities (``difference``; 0 without an error for the best one), "log p(x)",
        "inference gap" (the standard errors of both are those of paired differences), "KL z1"
        ..., in nats per datum, and "ms per step". What is not defined for a guide is left out.
        """
        return {name: self._quantities(name) for name in self}

    def _quantities(self, name: str) -> dict[str, Any]:
        result = self[name]
        values = {"log p(x, z)" if result.point_masses else "ELBO": result.terms.elbo}
        difference = self.difference(name)
        if sum(not r.point_masses for r in self.values()) > 1 and not difference.isnan().any():
            values[PAIRED] = difference
        if result.importance is not None:
            values["log p(x)"] = result.importance.log_likelihood
        if not (gap := self.gap(name)).isnan().any():
            values["inference gap"] = gap
        without_error = {PAIRED} if name == self.tightest else set()
        for site, kl in sorted(result.terms.kl.items(), key=lambda item: (len(item[0]), item[0])):
            column = f"-log p({site})" if site in result.point_masses else f"KL {site}"
            values[column] = kl
            if site in result.terms.shared:
                without_error.add(column)
        found: dict[str, Any] = {}
        for quantity, per_datum in values.items():
            mean, error = mean_and_error(per_datum)
            told = None if quantity in without_error else or_none(error)
            found[quantity] = {"mean": mean, "standard_error": told}
        if not math.isnan(result.milliseconds):
            found["ms per step"] = result.milliseconds
        return found

    def table(self) -> Table:
        """A row per guide, a column per quantity."""
        found = self.to_dict()
        columns = list(dict.fromkeys(q for quantities in found.values() for q in quantities))
        # The time is the last column, also where only one guide is a point mass
        columns.sort(key="ms per step".__eq__)
        rows = [[name, *(_cell(q.get(column)) for column in columns)] for name, q in found.items()]
        if PAIRED in columns:
            rows[[*self].index(self.tightest)][1 + columns.index(PAIRED)] = Cell("best", {"": 0.0})
        return Table(self._caption(), ("guide", *columns), rows, notes=self._notes())

    def rows(self) -> list[list[str]]:
        """The table as text: a head, then a row per guide."""
        table = self.table()
        return [list(table.header), *table.texts()]

    def _caption(self) -> str:
        first = next(iter(self.values()))
        estimates = [r.importance for r in self.values() if r.importance is not None]
        text = f"{len(first.terms.elbo)} data, nats per datum"
        if self.samples > 1:
            text += f", {self.samples} draws of the ELBO"
        if estimates:
            text += f", {estimates[0].samples} importance samples"
        text += "; standard errors are over the data"
        return text + f"; training steps of {self.batch_size} data"

    def _notes(self) -> list[str]:
        bounds = {name: r.terms.elbo for name, r in self.items()}
        lost = {name: int((~bound.isfinite()).sum()) for name, bound in bounds.items()}
        notes = [
            f"{name}: the bound is NaN or infinite for {count} of {len(bounds[name])} data"
            for name, count in lost.items()
            if count
        ]
        if shared := sorted({site for r in self.values() for site in r.terms.shared}):
            notes.append(
                f"{', '.join(shared)}: drawn once for all data, noise that is in no standard error"
            )
        return notes

    def plot(self) -> Figure:
        """Draw bounds and paired differences with errors, KL per layer, and the time of a step."""
        from .comparison_picture import guide_comparison  # with matplotlib, slow to import

        return guide_comparison(self.to_dict(), PAIRED)


def _highest(bounds: Mapping[str, Tensor]) -> str | None:
    means = {name: float(bound.double().mean()) for name, bound in bounds.items()}
    finite = {name: mean for name, mean in means.items() if math.isfinite(mean)}
    return max(finite, key=finite.__getitem__, default=None)


def _cell(value: Any) -> Cell:
    if value is None:
        return Cell("-", {})
    if isinstance(value, float):
        return Cell(f"{value:.1f}", {"": value})
    error = math.nan if value["standard_error"] is None else value["standard_error"]
    return Cell.estimate(value["mean"], error, two_decimals)


def compare_guides(
    model: Callable,
    guides: Mapping[str, Callable],
    data: Dataset | Tensor | tuple[Tensor, Tensor | None],
    *,
    samples: int = 1,
    importance_samples: int = 100,
    batch_size: int = 500,
    chunk_size: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
) -> GuideComparison:
    """Compare guides of one model on the same data, without changing any state.

    The inference gap of a guide is max_g log p_g(x) - ELBO, where log p_g(x) is the
    importance-sampling bound with guide g as proposal and the maximum is over all guides: how many
    nats the guide leaves to the best bound on the evidence that is known here.

    The guides themselves are compared by the paired differences of their bounds to that of the
    guide b with the highest mean ELBO,

        ELBO_g(x) - ELBO_b(x) = KL(q_b(z|x) || p(z|x)) - KL(q_g(z|x) || p(z|x)),

    their mean and its standard error over the data: what makes some data harder than others for
    every guide cancels, so that the error is often far below those of the two bounds. All guides
    start at the same random numbers, which cancels noise of draws, too; what is left of it is in
    the error. Of latents that are drawn once for all data it is not: more ``samples`` lessen it.

    Source: "Inference Suboptimality in Variational Autoencoders", Cremer, Li, Duvenaud (2018).

    Args:
        model: generative program.
        guides: name -> inference program for this model, trained on it.
        data: a ``Dataset``, a tensor (n, *event_shape), or a pair (x, y). Dynamic binarisation
            is drawn once, for all guides.
        samples: draws per datum for the ELBO and its terms.
        importance_samples: samples per datum for log p(x); 0 leaves log p(x) and the inference
            gap out, as latents outside the data plate need.
        batch_size: data at once.
        chunk_size: rows (datum, sample) decoded at once, bounding the memory.
        arguments: constants among the programs' own arguments, by name.
        plate: name of the plate over the data, where several could be it.

    Returns:
        ``GuideComparison``: ELBO, its paired difference to the best, log p(x), inference gap and
        KL per layer in nats per datum, each with its standard error, and the median milliseconds
        of a training step (eager, Adam, at most 128 data), measured on copies; plain functions
        cannot be copied and are not timed. Point masses have no ELBO, and no difference.

    Raises:
        ValueError: no guides, fewer than one sample, a guide for another model, data that the
            model cannot have produced; a latent that has no importance weights, see
            ``importance``, unless ``importance_samples`` is 0.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> pair = {"wide": guides.BottomUp(vae), "linear": guides.BottomUp(vae, hidden=())}
        >>> found = compare_guides(vae, pair, torch.randn(20, 6), importance_samples=10)
        >>> list(found), sorted(found["wide"].terms.kl)
        (['wide', 'linear'], ['z1'])
        >>> found.difference("wide", "linear").shape
        torch.Size([20])
    """
    if not isinstance(guides, Mapping) or not guides:
        raise ValueError(
            f"guides: expected a mapping from name to guide, got {guides!r}: pass "
            '{"bottom-up": guide}'
        )
    whole("samples", samples)
    whole("importance_samples", importance_samples, 0)
    results = {}
    own = {"arguments": arguments, "plate": plate}
    with examined(data, model, *guides.values(), **own) as (data, pairs):
        x, y = data.x, data.y
        for (name, guide), pair in zip(guides.items(), pairs, strict=True):
            terms = dataset_terms(model, guide, data, batch_size=batch_size, samples=samples)
            estimate = None
            if importance_samples and not pair.point_masses:
                estimate = weighed(
                    model, guide, x, y, samples=importance_samples, chunk_size=chunk_size
                )
            results[name] = (terms, estimate, pair.point_masses)
    times = _times(model, guides, x[:_BATCH], None if y is None else y[:_BATCH])
    return GuideComparison(
        {n: GuideResult(t, e, times[n], p) for n, (t, e, p) in results.items()},
        min(_BATCH, len(x)),
        samples,
    )


def _times(
    model: Callable, guides: Mapping[str, Callable], x: Data, y: Tensor | None
) -> dict[str, float]:
    """Median milliseconds of a training step per guide, of copies, in turns."""
    runs = {}
    for name, guide in guides.items():
        pair = as_program(model), as_program(guide)
        if all(isinstance(program, nn.Module) for program in pair):
            # What cannot be copied is not timed
            with contextlib.suppress(TypeError, RuntimeError):
                runs[name] = SVI(*copies(*pair))
    times: dict[str, list[float]] = {name: [] for name in guides}
    # What copies leave in Pyro's store under the names of the originals, these would take up
    with unregistered(stored=False), forked(x.device), warnings.catch_warnings(action="ignore"):
        for _ in range(_WARM_UP + _STEPS):
            for name, svi in list(runs.items()):
                try:
                    times[name].append(_step_time(svi, x, y))
                except ValueError:  # nothing to train, or a parameter without gradient
                    del runs[name]
    return {
        name: statistics.median(times[name][_WARM_UP:]) if name in runs else math.nan
        for name in guides
    }


def _step_time(svi: SVI, x: Data, y: Tensor | None) -> float:
    with training(svi.model), training(svi.guide), torch.enable_grad():
        started = time.perf_counter()
        float(svi.step(x, y=y))
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        return 1000 * (time.perf_counter() - started)
