"""How far right estimates stray, so that a comparison fails for a defect and for no seed."""

import math

import numpy as np
import torch
from scipy import stats
from torch import nn

# The share of seeds under which a comparison of right numbers may fail
LEVEL = 1e-6


def sigmas(comparisons=1, draws=math.inf):
    """The standard errors that the largest of so many normal errors exceeds in 1 of 10^6 seeds.

    Bonferroni's, so that errors need not be independent: 4.9 for one, 5.7 for a hundred. Where
    standard errors come from few ``draws``, Student's: 5.8 for one from 40.
    """
    return float(stats.t.isf(LEVEL / (2 * comparisons), draws - 1))


def excess(errors, draws=math.inf):
    """The largest of errors, in units of their standard errors, as a share of ``sigmas``.

    The errors are to be near normal: means of many draws whose variance is finite.
    """
    z = torch.as_tensor(errors, dtype=torch.float64).detach().abs()
    return float(z.max()) / sigmas(z.numel(), draws)


def chance_of(counts, draws, probabilities):
    """The p-value of the least likely of such counts (binomial, two-sided, Bonferroni's)."""
    k, p = (torch.as_tensor(v).detach().double().numpy() for v in (counts, probabilities))
    tails = np.minimum(stats.binom.cdf(k, draws, p), stats.binom.sf(k - 1, draws, p))
    return 2 * k.size * float(tails.min())


def widened(guide, scale=1.5):
    """The guide with normals of one scale: wider than the posterior, it bounds all weights.

    The weights of a narrower one have no variance, and their estimate no standard error.
    """
    for conditional in guide.conditionals.values():
        nn.init.zeros_(conditional.raw_scale.weight)
        nn.init.constant_(conditional.raw_scale.bias, math.log(math.expm1(scale)))
    return guide
