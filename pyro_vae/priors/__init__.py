"""What stands for p(z): fitted after training, or learned with the rest.

A prior is a module whose ``forward()`` returns a distribution; ``handlers.replace_prior`` puts it
at the top latent of any model, and ``model.sample(n, prior=...)`` draws from it once.
"""

from ..conditionals.normal import StandardNormal
from .aggregate import AggregatePosterior
from .code_prior import CodePrior
from .completion import complete
from .flow import FlowPrior
from .mixtures import MixturePrior, VampPrior
from .posterior import posterior_samples
from .two_stage import TwoStage

__all__ = [
    "AggregatePosterior",
    "CodePrior",
    "FlowPrior",
    "MixturePrior",
    "StandardNormal",
    "TwoStage",
    "VampPrior",
    "complete",
    "posterior_samples",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
