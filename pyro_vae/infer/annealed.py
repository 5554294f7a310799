"""log p(x) by annealed importance sampling, which does not trust the guide."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

import pyro
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data.arguments import Data
from ..ground.streams import RandomStream, forked
from ..ground.tables import Table, Tabular, mean_and_error
from ..programs.autoguides import takes_all
from ..programs.given import given
from ..programs.running import measuring
from .annealing import Schedule, StepSizes
from .blocks import Blocks
from .densities import check_weighed, rows_at_once, split
from .path import Path, prior_of
from .weights import weight_statistics

# Rows (datum, chain) of a block on a CPU and elsewhere. Fixed, so that the draws do not depend on
# chunk_size
_ROWS, _ROWS_ELSEWHERE = 2**11, 2**16


@dataclass(frozen=True, repr=False)
class AnnealedEstimate(Tabular):
    """Log p(x) per datum by annealed importance sampling, in nats; ``print`` it.

    Attributes:
        log_likelihood: log mean_k w_k over the chains of a datum, (n,); in expectation at most
            log p(x).
        standard_error: its Monte Carlo standard error by the delta method, (n,).
        effective_sample_size: (sum w)^2 / sum w^2, (n,), between 1 and ``chains``.
        acceptance: share of the proposals that were accepted, (n,); NaN where nothing moved.
        temperatures: steps from the start of the path to its end.
        chains: chains per datum.
        leapfrog: leapfrog steps of a proposal.
        start: what the path starts from, "guide" or "prior".
        seconds: time that it took.
    """

    log_likelihood: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor
    acceptance: Tensor
    temperatures: int
    chains: int
    leapfrog: int
    start: str
    seconds: float

    def table(self) -> Table:
        """Means over the data with their standard errors."""
        n = len(self.log_likelihood)
        percent = mean_and_error(100 * self.acceptance)
        rows = [
            ("log p(x)", mean_and_error(self.log_likelihood), "nats/datum"),
            ("Monte Carlo error", mean_and_error(self.standard_error), "nats/datum"),
            ("effective sample size", mean_and_error(self.effective_sample_size), "chains"),
            ("acceptance", percent, "% of proposals"),
            ("time", self.seconds, "s"),
        ]
        text = f"{n} data, {self.chains} chains, {self.temperatures} temperatures from the "
        text += f"{self.start}, {self.leapfrog} leapfrog steps; standard errors are over the data"
        return Table(text, ("quantity", "mean", "unit"), rows, left=(0, 2))


def annealed(
    model: Callable,
    guide: Callable | None,
    x: Any,
    *,
    y: Tensor | None = None,
    temperatures: int = 1000,
    chains: int = 16,
    leapfrog: int = 3,
    chunk_size: int | None = None,
    seed: int | None = None,
    folder: str | File | None = None,
    progress: bool = True,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
) -> AnnealedEstimate:
    """Estimate log p(x) by annealing from the guide, or the prior, to the posterior.

    Chains start at draws z_0 of q(z|x) and go along the path

        f_t(z) = q(z|x)^(1 - b_t) p(x, z)^b_t,    0 = b_0 < b_1 < ... < b_T = 1,

    z_t ~ T_t(z_t | z_{t-1}), which leaves f_t as it is. The weight of a chain,

        log w = sum_{t=1}^T (b_t - b_{t-1}) (log p(x, z_{t-1}) - log q(z_{t-1}|x)),

    has E[w] = p(x) whatever the guide, so that E[log mean_k w_k] <= log p(x); one temperature is
    ``infer.importance``. How far it is below hangs on how well chains follow the path, and less
    on the guide: ``infer.sandwich`` measures it. At the same cost more temperatures help more
    than more leapfrog steps. The b_t are spaced by a logistic function, the closer together the
    nearer to either end: b_t = (s(8 t / T - 4) - s(-4)) / (s(4) - s(-4)), s(a) = 1 / (1 + e^-a).

    T_t is a Hamiltonian proposal that is accepted or rejected, in unconstrained coordinates of all
    latents of a datum, whose volume counts in both densities. A first pass finds step sizes for
    each datum and coordinate along the path, so that 65 % are accepted; its draws are dropped, and
    the step sizes are fixed, so that the estimate stays unbiased. What is NaN is never accepted.

    All chains of all data of a block run at once, as recorded tensors where the programs can be
    recorded, in at most ``chunk_size`` rows at a time, on which the result does not depend. Each
    leapfrog step runs model and guide at all chains: a guide whose density is costly, as of a flow
    with a pass per latent, or one that refines itself, makes it slow; the prior costs nothing.
    The densities are those of ``infer.importance``, without discrete latents that are marked
    ``infer={"enumerate": "parallel"}``, which are summed out of model and guide. Evaluation mode;
    the RNG is restored.

    Sources: "Annealed Importance Sampling", Neal (2001); "On the Quantitative Analysis of
    Decoder-Based Generative Models", Wu, Burda, Salakhutdinov, Grosse (2017), for the spacing.

    Args:
        model: generative program whose latents are continuous, or marked to be summed out.
        guide: inference program from which chains start; None starts from the prior p(z).
        x: (n, *event_shape), or the programs' own arguments, a tuple or a mapping of tensors
            with n rows each.
        y: (n,) labels for a conditional pair.
        temperatures: steps of the path, T.
        chains: chains per datum, k.
        leapfrog: leapfrog steps of a proposal. The time is that of about 1.25 T ``leapfrog``
            gradients at n k rows.
        chunk_size: rows (datum, chain) at once, but all chains of a datum at least, and all data
            of an autoguide with a place for each; default 2^20 / (elements of a datum).
        seed: of a random stream of its own; None goes on from torch's global one.
        folder: where each block of data is kept as it is finished. A second call with the same
            folder goes on after the last one; with the same ``seed``, to the same numbers.
        progress: show a progress bar.
        arguments: constants among the programs' own arguments, by name.
        plate: name of the plate over the data, where several could be it.

    Returns:
        ``AnnealedEstimate`` with a tensor (n,) per quantity, in nats.

    Raises:
        ValueError: latents that are discrete, outside the data plate, or point masses; a guide
            without a density of the latents themselves; what ``infer.importance`` refuses; a
            folder of another estimate.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> options = {"temperatures": 5, "chains": 4, "leapfrog": 2, "progress": False}
        >>> estimate = annealed(vae, guides.BottomUp(vae), torch.zeros(3, 6), **options)
        >>> estimate.log_likelihood.shape, estimate.chains
        (torch.Size([3]), 4)
    """
    schedule = Schedule(temperatures, chains, leapfrog)
    programs = (model,) if guide is None else (model, guide)
    x, y = given(x, y, *programs, arguments=arguments, plate=plate)
    options = {"chunk_size": chunk_size, "seed": seed, "folder": folder, "progress": progress}
    return estimated(model, guide, x, y, schedule, **options)


def estimated(
    model: Callable,
    guide: Callable | None,
    x: Data,
    y: Tensor | None,
    schedule: Schedule,
    *,
    chunk_size: int | None = None,
    seed: int | None = None,
    folder: str | File | None = None,
    progress: bool = True,
) -> AnnealedEstimate:
    """``annealed`` of data as programs are given them, with labels where they take them."""
    settings = {**vars(schedule), "start": "prior" if guide is None else "guide"}
    programs = (model,) if guide is None else (model, guide)
    found = passes(
        *(model, prior_of(model) if guide is None else guide, x, y, schedule),
        chunk_size=chunk_size,
        seed=seed,
        kept=Blocks(folder, settings, *programs),
        progress=progress,
    )
    statistics = weight_statistics(found["forward"])[:3]
    seconds = float(found["seconds"].sum())
    return AnnealedEstimate(*statistics, found["acceptance"], **settings, seconds=seconds)


def passes(
    model: Callable,
    guide: Callable,
    x: Data,
    y: Tensor | None,
    schedule: Schedule,
    *,
    chunk_size: int | None,
    seed: int | None,
    kept: Blocks,
    progress: bool,
    exact: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Annealing of all data, block by block.

    With draws of the posteriors, ``exact``, site -> (n, ...), it goes back from these, too.

    Returns:
        "forward" and "reverse" log-weights (k, n), "acceptance" of the first (n,), and "seconds"
        of each block.
    """
    at_once = _data_at_once(guide, x, schedule, chunk_size)
    rows = _ROWS if x.device.type == "cpu" else _ROWS_ELSEWHERE
    block = len(x) if takes_all(guide) else max(1, rows // schedule.chains)
    sums = check_weighed(model, guide, x, y, block)
    with (
        measuring(model, guide, device=x.device),
        pyro.validation_enabled(False),
        RandomStream(seed).on(x.device),
    ):
        path, found = Path(model, guide, x, y, sums), []
        parts = [*split(x, y, block)]
        seeds = torch.randint(2**62, (len(parts),)).tolist()
        moves = schedule.moves(1 if exact is None else 2)
        with tqdm(total=moves * len(parts), unit="step", disable=not progress) as bar:
            for number, (part, of_block) in enumerate(zip(parts, seeds, strict=True)):
                results = kept.read(number, *part)
                if results is None:
                    ends = None
                    if exact is not None:
                        first = number * block
                        ends = {s: z[None, first : first + block] for s, z in exact.items()}
                    with forked(x.device, of_block):
                        results = _block(path, *part, schedule, at_once, bar, ends)
                    kept.write(number, *part, results)
                bar.update((number + 1) * moves - bar.n)
                found.append(results)
    return {name: torch.cat([r[name] for r in found], -1) for name in found[0]}


def _data_at_once(guide: Callable, x: Data, schedule: Schedule, chunk_size: int | None) -> int:
    chunk_size = rows_at_once(x, chunk_size)
    return len(x) if takes_all(guide) else max(1, chunk_size // schedule.adapting_chains)


def _block(
    path: Path,
    x: Data,
    y: Tensor | None,
    schedule: Schedule,
    at_once: int,
    bar: tqdm,
    exact: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    began, ends = time.perf_counter(), path.ends(x, y, at_once)
    sizes = StepSizes()
    if schedule.temperatures > 1:
        sizes = schedule.adapted(ends, path.draw(x, y, schedule.adapting_chains, at_once), bar)
    u, betas = path.draw(x, y, schedule.chains, at_once), schedule.betas
    forward, acceptance = schedule.weights(ends, u, betas, sizes, bar)
    results = {"forward": forward, "acceptance": acceptance}
    if exact is not None:
        u = path.coordinates(exact, x, y, at_once).expand_as(u)
        results["reverse"], _ = schedule.weights(ends, u, betas[::-1], sizes, bar)
    seconds = forward.new_tensor([time.perf_counter() - began])
    return {**results, "seconds": seconds}
