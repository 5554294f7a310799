"""Which latents carry information about the data, and what to do about those that do not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data import Dataset
from ..ground.arguments import positive
from ..ground.tables import Cell, Table, Tabular, mean_and_error, number, standard_error
from ..infer.aggregate import Draws, Total, draw, pair_densities
from ..infer.posterior import ACTIVE, centred, count_error, mean_variance, posterior_means
from ..programs.examining import examined

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_REMEDIES = (
    "try warm-up of beta (schedules.WarmUp), skip connections (VAE(skip=True)), a ladder guide, "
    "handlers.free_bits, a smaller sigma of the likelihood, or beta < 1"
)


@dataclass(frozen=True)
class Information:
    """KL = I + marginal KL of a latent site or of all, term by term: nats, one per datum.

    Attributes:
        kl: log q(z_i|x_i) - log p(z_i), (n,).
        mutual_information: log q(z_i|x_i) - log q(z_i), (n,).
        marginal_kl: log q(z_i) - log p(z_i), (n,).
        name: what the mutual information is between, such as "I(x; z2|z3)".
    """

    kl: Tensor
    mutual_information: Tensor
    marginal_kl: Tensor
    name: str


@dataclass(frozen=True)
class Units:
    """How far the posterior mean of each unit of a site moves over the data, and its KL.

    Attributes:
        variance: variance over x of E[z_u|x], (units,).
        standard_error: of the variance, (units,).
        threshold: variance, or KL in nats, above which a unit is active.
        share: share of the data that have the site, which masks hide from the others.
        kl: KL of each unit in nats per datum, (units,), and its standard error; None where the
            site has none per unit.
        kl_error: see there.
    """

    variance: Tensor
    standard_error: Tensor
    threshold: float
    share: float = 1.0
    kl: Tensor | None = None
    kl_error: Tensor | None = None

    @property
    def active(self) -> int:
        """Number of units whose variance is above the threshold."""
        return int((self.variance > self.threshold).sum())

    @property
    def error(self) -> float:
        """Standard error of that number: units close to the threshold may fall on either side."""
        return count_error(self.variance, self.standard_error, self.threshold)

    @property
    def active_by_kl(self) -> int:
        """Number of units whose KL is above the threshold in nats; 0 where the site has none."""
        return 0 if self.kl is None else int((self.kl > self.threshold).sum())

    @property
    def error_by_kl(self) -> float:
        """Standard error of that number."""
        return 0.0 if self.kl is None else count_error(self.kl, self.kl_error, self.threshold)

    def __len__(self) -> int:
        """Count the units."""
        return len(self.variance)


@dataclass(frozen=True, repr=False)
class Collapse(Tabular):
    """What ``collapse`` found; ``print`` it, ``plot()`` it, or read the parts.

    Attributes:
        sites: latent site -> its ``Information``, bottom to top.
        units: latent site -> its ``Units``.
        whole: ``Information`` of all latents together.
        compared: of each datum how many have the same latents, itself among them, (n,); None
            where no mask differs between data.
        without: latent site -> why it has no KL per unit.
    """

    sites: dict[str, Information]
    units: dict[str, Units]
    whole: Information
    compared: Tensor | None = None
    without: Mapping[str, str] = field(default_factory=dict)

    @property
    def cap(self) -> float:
        """The largest value that the estimate of the mutual information can take, log N.

        N is the number of data with the same latents, its logarithm the mean over the data.
        """
        if self.compared is None:
            return math.log(len(self.whole.kl))
        return float(self.compared.double().log().mean())

    @property
    def collapsed(self) -> tuple[str, ...]:
        """Sites without information: see ``collapse`` for the rule."""
        return tuple(s for s in self.sites if self._is_collapsed(s))

    def _is_collapsed(self, site: str) -> bool:
        units = self.units[site]
        mean, error = mean_and_error(self.sites[site].mutual_information)
        # A unit at the threshold carries half of it; without active units, noise may carry more
        little = 0.5 * units.threshold if units.active else 5 * units.threshold * len(units)
        return mean <= units.share * little + 2 * error

    @property
    def verdict(self) -> str:
        """One line: which sites collapsed and what to try."""
        collapsed = self.collapsed
        chosen = collapsed or tuple(self.sites)
        active = sum(self.units[s].active for s in chosen)
        units = f"{active} of {sum(len(self.units[s]) for s in chosen)} units active"
        by_kl = sum(self.units[s].active_by_kl for s in chosen)
        if by_kl != active and not self.without.keys() & {*chosen}:
            units += f", {by_kl} by their KL"
        if not collapsed:
            return f"no site collapsed: {units}"
        information = sum(float(self.sites[s].mutual_information.mean()) for s in collapsed)
        return (
            f"{_spans(collapsed, tuple(self.sites))} collapsed: {units}, "
            f"{number(information)} nats about x; {_REMEDIES}"
        )

    def table(self) -> Table:
        """Per site and for the whole: the three terms, and the active units."""
        header = "site", "KL", "mutual information", "", "marginal KL", "active units", "by KL"
        rows = []
        for name, found in {**self.sites, "all": self.whole}.items():
            units = [self.units[name]] if name in self.units else list(self.units.values())
            terms = (found.kl, found.mutual_information, found.marginal_kl)
            kl, information, marginal = map(mean_and_error, terms)
            active = Cell.count(
                sum(u.active for u in units),
                sum(map(len, units)),
                math.sqrt(sum(u.error**2 for u in units)),
            )
            known = [u for u in units if u.kl is not None]
            by_kl = Cell.count(
                sum(u.active_by_kl for u in known),
                sum(len(u.kl) for u in known),
                math.sqrt(sum(u.error_by_kl**2 for u in known)),
            )
            row = name, kl, information, found.name, marginal, active, by_kl if known else None
            rows.append(row)
        return Table(self.verdict, header, rows, self._notes())

    def _notes(self) -> list[str]:
        threshold = next(iter(self.units.values())).threshold
        notes = [
            f"{len(self.whole.kl)} data, nats per datum with standard errors over the data; a "
            f"unit is active if the variance of its posterior mean is above {threshold:g}, by KL "
            f"if its KL is above {threshold:g} nats",
            f"the mutual information cannot be estimated above log N = {self.cap:.2f}",
        ]
        if float(self.whole.mutual_information.mean()) > self.cap - 1:
            notes[1] += ", which it has reached: it is at least this; use more data"
        if self.compared is not None:
            sizes = f"{int(self.compared.min())} to {int(self.compared.max())}"
            notes.append(
                f"masks differ: I is given the mask, for a datum is compared with those under its "
                f"own alone (N = {sizes})"
            )
        notes += [f"no KL per unit of {site}: {why}" for site, why in self.without.items()]
        return notes

    def plot(self) -> Figure:
        """Draw KL = I + marginal KL per site, and the variance of each unit's mean."""
        from ..plots.information import collapse as picture  # with matplotlib, slow to import

        return picture(self)


def _spans(sites: tuple[str, ...], order: tuple[str, ...]) -> str:
    """Names with neighbours joined: "z1, z3..z5"."""
    spans = [list(s) for chosen, s in itertools.groupby(order, sites.__contains__) if chosen]
    return ", ".join("..".join(dict.fromkeys([s[0], s[-1]])) for s in spans)


def collapse(
    model: Callable,
    guide: Callable,
    data: Dataset | Tensor | tuple[Tensor, Tensor | None],
    *,
    threshold: float = ACTIVE,
    batch_size: int = 500,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
) -> Collapse:
    """Which latent sites have collapsed: KL, mutual information with the data, active units.

    With x drawn from the N data and one z_i ~ q(z|x_i) for each, the three numbers

        KL(q(z|x) || p(z)) = mean_i log q(z_i|x_i) - log p(z_i)
        I_q(x; z)          = mean_i log q(z_i|x_i) - log q(z_i)
        KL(q(z) || p(z))   = mean_i log q(z_i) - log p(z_i),    q(z) = 1/N sum_j q(z|x_j)

    are unbiased for these data and obey KL = I + marginal KL datum by datum; z are all latents
    together. q(z_i) is the exact sum over all N data, j = i included, so that no term of I is
    above log N. As an estimate for the population that the data come from, I is too small on
    average (it is concave in the distribution of x) and the marginal KL too large by as much.

    A site's row is about its own conditional q(z_s|x, what the guide sampled before it):

    - KL: the site's term of the bound; the terms of all sites add up to the KL of the whole.
    - One layer, or a guide that samples in the model's order (top-down): I(x; z_s|z_above), what
      the site adds to the layers above it. It vanishes just where q(z_s|x, z_above) does not
      depend on x, and these terms add up to the I of the whole. The marginal KL is that between
      q(z_s|z_above) and p(z_s|z_above), never negative in expectation.
    - A site that the guide samples after latents that the model samples later (bottom-up):
      I(x, z_below; z_s), the information that the site has about everything it was inferred from;
      at least I(x; z_s), by data processing, and 0 just where the conditional ignores its input.
      q(z_s) is estimated with one draw of z_below per datum, unbiased as a density. What is left
      of the KL is a marginal KL for the top site, whose prior has no parents; for lower sites the
      prior p(z_s|z_above) sees latents that q(z_s) does not, so that the rest may be negative.
      Here the rows of I and of the rest do not add up to those of the whole.

    A unit u is active if the variance over the data of its posterior mean E[z_u|x], with the
    latents before it at their means, is above ``threshold``. Under a top-down guide the mean of a
    site that equals its prior p(z_s|z_above) still moves with the layers above.

    A site counts as collapsed if its I is no more than two standard errors above a small value:
    1/2 ``threshold`` nats, what one unit at the threshold carries where q is about as wide as the
    prior, or 5 ``threshold`` nats per unit where no unit is active.

    Masks that hide latents of some data, as for sequences of unequal lengths: which latents a
    datum has is given, like a label. q(z) is over the N_m data under the same mask m alone, I is
    I(x; z|m), and a latent that a datum does not have counts 0, also in what is a small I. All of
    the above holds for each m by itself; no term of I is above log N_m. The variance of a unit is
    over the data that have it. Masks of observed sites change nothing of this.

    The cost grows as N^2 densities (10,000 data and 20 units: about a minute on one core); the
    memory does not. A guide that does not broadcast over sample dimensions is run on every pair of
    data: pass a thousand.

    Sources: "ELBO surgery: yet another way to carve up the variational evidence lower bound",
    Hoffman, Johnson (2016); "Importance Weighted Autoencoders", Burda, Grosse, Salakhutdinov
    (2016) for active units, "Ladder Variational Autoencoders", Sonderby et al. (2016) for those by
    the KL; "Avoiding Latent Variable Collapse with Generative Skip Models",
    Dieng, Kim, Rush, Blei (2019).

    Args:
        model: generative program.
        guide: inference program with densities.
        data: a ``Dataset``, a tensor (n, *event_shape), or a pair (x, y). Dynamic binarisation is
            drawn once. With labels, x stands for (x, y) and p(z) for p(z|y).
        threshold: variance, or KL in nats, above which a unit is active.
        batch_size: data encoded at once.
        arguments: constants among the programs' own arguments, by name.
        plate: name of the plate over the data, where several could be it.

    Returns:
        ``Collapse``: per site and for the whole the three terms (n,) in nats, the variances of
        all units, and a verdict. The RNG is restored: a second call gives the same numbers.

    Raises:
        ValueError: fewer than two data, or a datum under a mask of its own; a threshold that is
            not positive, a guide that is a point mass, data that the model cannot have produced.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> result = collapse(vae, guides.BottomUp(vae), torch.randn(50, 6))
        >>> whole = result.whole
        >>> bool(torch.allclose(whole.kl, whole.mutual_information + whole.marginal_kl))
        True
    """
    positive("threshold", threshold)
    with examined(data, model, guide, arguments=arguments, plate=plate) as (data, _):
        if len(data) < 2:
            raise ValueError("data: expected at least 2 data to compare with each other, got 1")
        draws = draw(model, guide, data, batch_size)
        compared = _compared(draws)
        aggregates, names = _aggregates(guide, data, draws)
        means = posterior_means(guide, data, batch_size=batch_size)
    sites = {
        s: _information(draws.log_q[s], draws.log_p[s], aggregates[s], names[s])
        for s in reversed(draws.model_order)
    }
    log_q, log_p = sum(draws.log_q.values()), sum(draws.log_p.values())
    whole = _information(log_q, log_p, aggregates["all"], f"I(x; {','.join(sorted(draws.z))})")
    units = {s: _units(means[s], draws.unit_kl.get(s), threshold) for s in sites}
    return Collapse(sites, units, whole, compared, draws.unit_kl.without)


def _compared(draws: Draws) -> Tensor | None:
    """How many data have the latents of each; ``ValueError`` for one that is alone with them."""
    if (alike := draws.alike) is None:
        return None
    compared = alike.bincount()[alike]
    if (alone := compared == 1).any():
        raise ValueError(
            f"site {draws.unlike!r}: expected at least two data under each mask, to compare with "
            f"each other, got {int(alone.sum())} data under masks of their own, the first in row "
            f"{int(alone.nonzero()[0])}: leave these out, use more data, or read the KL alone, "
            "infer.elbo_terms(model, guide, x).kl"
        )
    return compared


def _information(log_q: Tensor, log_p: Tensor, log_aggregate: Tensor, name: str) -> Information:
    return Information(log_q - log_p, log_q - log_aggregate, log_aggregate - log_p, name)


def _aggregates(
    guide: Callable, data: Dataset, draws: Draws
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Log q of each site's draws without x, and of "all"; what I per site is between."""
    order, n, alike = list(draws.z), len(data), draws.alike
    rank = {s: i for i, s in enumerate(draws.model_order)}
    prefix = {s: Total(n, data.device, alike) for s in order}
    for row, column, densities in pair_densities(guide, data, draws.z):
        pair, own = torch.zeros((), dtype=torch.float64), 0.0
        for s in order:
            pair, own = pair + densities[s].double(), own + draws.log_q[s]
            prefix[s].add(row, column, pair, own)
    log_n = math.log(n) if alike is None else alike.bincount()[alike].double().log()
    joint = {s: total.log - log_n for s, total in prefix.items()}
    found, names = {"all": joint[order[-1]]}, {}
    for i, s in enumerate(order):
        before = order[:i]
        if all(rank[b] < rank[s] for b in before):
            found[s] = joint[s] - (joint[order[i - 1]] if before else 0.0)
            names[s] = f"I(x; {s}|{','.join(before)})" if before else f"I(x; {s})"
            continue
        alone = Total(n, data.device, alike)
        # The other latents belong to x_j, also those that the guide samples later
        parents = {b: draws.z[b] for b in order if b != s}
        for row, column, densities in pair_densities(
            guide, data, {s: draws.z[s]}, parents=parents, sites=[s]
        ):
            alone.add(row, column, densities[s], draws.log_q[s])
        found[s] = alone.log - log_n
        names[s] = f"I(x,{','.join(before)}; {s})"
    return found, names


def _units(means: Tensor, unit_kl: Tensor | None, threshold: float) -> Units:
    variance, deviations = mean_variance(means), centred(means)
    fourth, n = deviations.pow(4).nanmean(0), (~deviations.isnan()).sum(0)
    error = ((fourth - variance.square()).clamp(min=0) / n).sqrt()
    share = float((~deviations.isnan()).any(1).double().mean())
    found = variance, error.nan_to_num(0.0), threshold, share
    if unit_kl is None:
        return Units(*found)
    kl = unit_kl.reshape(len(unit_kl), -1).double()
    return Units(*found, kl.mean(0), standard_error(kl))
