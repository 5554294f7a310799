"""Annealed importance sampling along a path of densities, given as functions of tensors."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..ground.arguments import whole

# Log-densities at both ends (k, n), and their gradients (k, n, d), at coordinates (k, n, d)
Ends = Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]

_TARGET_ACCEPTANCE = 0.65
# How far inverse temperatures are from even: of the logistic function that they are spaced by
_STEEPNESS = 4.0
# Parts of the path that have step sizes of their own, and how fast these are adapted
_STRETCHES, _RATE, _FORGETTING = 32, 0.5, 0.2
# A pass that adapts them has a quarter of the temperatures, or so many if they are not more than
# twice those of the path, and so many chains
_FEWEST, _ENOUGH, _FEWEST_CHAINS = 16, 64, 4


@dataclass(frozen=True)
class Point:
    """Where k chains of n data are on the path.

    Attributes:
        u: coordinates, (k, n, d).
        start: log-density at the start of the path, (k, n).
        end: the same at its end.
        start_gradient: gradient of ``start`` with respect to ``u``, (k, n, d).
        end_gradient: the same of ``end``.
    """

    u: Tensor
    start: Tensor
    end: Tensor
    start_gradient: Tensor
    end_gradient: Tensor

    def log(self, beta: float) -> Tensor:
        """Log-density at the inverse temperature ``beta``, up to a constant, (k, n)."""
        return (1 - beta) * self.start + beta * self.end

    def gradient(self, beta: float) -> Tensor:
        """Its gradient, (k, n, d)."""
        return (1 - beta) * self.start_gradient + beta * self.end_gradient

    def where(self, chosen: Tensor, other: Point) -> Point:
        """This point for the chains that are ``chosen`` (k, n), the other for the rest."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Point(
            *(torch.where(chosen if a.dim() == 2 else chosen[..., None], a, b) for a, b in pairs)
        )


@dataclass
class StepSizes:
    """Step sizes of each datum and coordinate, (n, d), for stretches of the path.

    Attributes:
        until: the inverse temperature up to which each of ``sizes`` is for.
    """

    until: list[float] = field(default_factory=list)
    sizes: list[Tensor] = field(default_factory=list)

    def at(self, beta: float) -> Tensor:
        """Those of an inverse temperature."""
        return self.sizes[min(bisect.bisect_left(self.until, beta), len(self.sizes) - 1)]


@dataclass(frozen=True)
class Schedule:
    """How much is spent on each datum.

    Args:
        temperatures: steps from the start of the path to its end; a single one moves nothing, and
            is importance sampling.
        chains: chains per datum.
        leapfrog: leapfrog steps of a proposal.
    """

    temperatures: int
    chains: int
    leapfrog: int

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value in vars(self).items():
            whole(name, value)

    @property
    def betas(self) -> list[float]:
        """Inverse temperatures from 0 to 1."""
        return inverse_temperatures(self.temperatures)

    @property
    def adapting(self) -> list[float]:
        """Those of the pass that adapts step sizes."""
        few = max(_FEWEST, min(_ENOUGH, 2 * self.temperatures))
        return inverse_temperatures(max(few, self.temperatures // 4))

    @property
    def adapting_chains(self) -> int:
        """How many chains that pass has."""
        return max(_FEWEST_CHAINS, self.chains)

    def moves(self, passes: int) -> int:
        """Transitions of so many passes besides that which adapts step sizes."""
        still = self.temperatures == 1
        return 0 if still else len(self.adapting) - 2 + passes * (self.temperatures - 1)

    def adapted(self, ends: Ends, u: Tensor, bar: tqdm) -> StepSizes:
        """Step sizes from a pass that starts at u, draws of the start, of no further use.

        They are the standard deviation over the chains of a datum, coordinate by coordinate,
        times a factor by which proposals are accepted with the probability 0.65.
        """
        found, point = StepSizes(), Point(u, *ends(u))
        variance = u.var(0)
        log_factor = u.new_full(u.shape[1:2], -0.25 * math.log(u.shape[-1]))
        inner = self.adapting[1:-1]
        for number, beta in enumerate(inner, 1):
            size = log_factor.exp()[:, None] * variance.sqrt()
            point, probability, _ = _transition(ends, point, beta, size, self.leapfrog)
            log_factor = log_factor + _RATE * (probability.mean(0) - _TARGET_ACCEPTANCE)
            variance = variance.lerp(point.u.var(0), _FORGETTING)
            if number % max(1, len(inner) // _STRETCHES) == 0 or number == len(inner):
                found.until.append(beta)
                found.sizes.append(log_factor.exp()[:, None] * variance.sqrt())
            bar.update()
        return found

    def weights(
        self, ends: Ends, u: Tensor, betas: Sequence[float], sizes: StepSizes, bar: tqdm
    ) -> tuple[Tensor, Tensor]:
        """Log-weights (k, n) of chains that begin at u, and the share of accepted proposals, (n,).

        From draws of the start, with ``betas`` from 0 to 1, the weights have the mean Z_end /
        Z_start; from draws of the end, with the same ``betas`` from 1 to 0, Z_start / Z_end.
        """
        point = Point(u, *ends(u))
        log_weights = torch.zeros_like(point.start, dtype=torch.float64)
        accepted = torch.zeros_like(log_weights)
        for number, (before, beta) in enumerate(itertools.pairwise(betas), 1):
            # Not the difference of products, which 0 times infinity would spoil
            log_weights += (beta - before) * (point.end.double() - point.start.double())
            if number < self.temperatures:
                point, _, chosen = _transition(ends, point, beta, sizes.at(beta), self.leapfrog)
                accepted += chosen
                bar.update()
        return log_weights, (accepted.mean(0) / (self.temperatures - 1 or math.nan)).to(u.dtype)


def inverse_temperatures(temperatures: int) -> list[float]:
    """From 0 to 1, the closer together the nearer they are to either end.

    b_t = (s(a (2 t / T - 1)) - s(-a)) / (s(a) - s(-a)), t = 0..T, with s the logistic function and
    a = 4: nearly geometric towards both ends, where densities change most.
    """
    steps = torch.linspace(-_STEEPNESS, _STEEPNESS, temperatures + 1, dtype=torch.float64)
    spaced = steps.sigmoid()
    return ((spaced - spaced[0]) / (spaced[-1] - spaced[0])).tolist()


def _transition(
    ends: Ends, point: Point, beta: float, size: Tensor, leapfrog: int
) -> tuple[Point, Tensor, Tensor]:
    """A Hamiltonian step that leaves a density of the path as it is.

    Returns the points, the probability with which each was to move, and whether it did, (k, n).
    Steps are up to a fifth shorter or longer by chance, so that no trajectory is periodic.
    """
    size = size * (0.8 + 0.4 * torch.rand_like(point.start))[..., None]
    momentum = torch.randn_like(point.u)
    before = point.log(beta) - 0.5 * momentum.square().sum(-1)
    new = point
    for _ in range(leapfrog):
        momentum = momentum + 0.5 * size * new.gradient(beta)
        u = new.u + size * momentum
        # Programs may not run at what is not finite; the momentum stays so, and is not accepted
        u = torch.where(u.isfinite(), u, point.u)
        new = Point(u, *ends(u))
        momentum = momentum + 0.5 * size * new.gradient(beta)
    ratio = new.log(beta) - 0.5 * momentum.square().sum(-1) - before
    # NaN compares as false
    chosen = torch.rand_like(ratio).log() < ratio
    probability = ratio.clamp(max=0).exp().nan_to_num(0)
    return new.where(chosen, point), probability, chosen
