"""p(x | features): modules from the decoder's features to a distribution over data.

| likelihood | data | features per element | source |
|---|---|---|---|
| ``Bernoulli`` | 0 or 1 | 1 logit | |
| ``ContinuousBernoulli`` | [0, 1] | 1 logit | Loaiza-Ganem, Cunningham (2019) |
| ``Gaussian`` | real | 1 mean; with "predicted" also log sigma | Rybkin et al. (2021) |
| ``Categorical`` | k / (levels - 1) | ``levels`` logits | |
| ``DiscretizedLogistic`` | k / (levels - 1) | mean, log scale | Kingma et al. (2016) |
| ``Laplace`` | real, with outliers | as of ``Gaussian`` | |
| ``StudentT`` | real, with outliers | as of ``Gaussian`` | Lange et al. (1989) |
| ``LogNormal`` | positive | as of ``Gaussian``, for log x | |
| ``Poisson`` | counts | 1 log-rate | |
| ``NegativeBinomial`` | counts | 1 log-mean; with "predicted" also log a | Lopez et al. (2018) |
| ``ZeroInflated`` | counts | those of the counts inside, 1 logit | Lambert (1992) |
| ``Multinomial`` | counts of a given total | 1 logit | |
| ``Nominal`` | 0, ..., k - 1 without an order | k logits | |
| ``Tokens`` | sequences of 0, ..., k - 1, up to 0 | k logits | |
| ``Mixed`` | rows of a table | those of all its parts | Nazabal et al. (2020) |

``for_columns(data)`` is the ``Mixed`` of a table, by the kinds of its columns.

All but the last two and ``Multinomial`` are elementwise; the model declares event dimensions with
``.to_event``, where a likelihood has not done so itself: see ``Likelihood`` for correlated noise
and a topic model. Where a likelihood takes several numbers per element, they are the last
dimension of the features.

The sigma of a ``Gaussian``, ``Laplace`` (but "optimal"), ``StudentT`` (likewise) or ``LogNormal``
is an object in a slot of its own:

| sigma | what it is |
|---|---|
| ``FixedSigma`` | a given number |
| ``LearnedSigma`` | one parameter, trained with the others |
| ``OptimalSigma`` | the closed form, the root mean squared error |
| ``PerPixelSigma`` | one parameter per element |
| ``PredictedSigma`` | sigma(z), from the decoder |

So is the dispersion of a ``NegativeBinomial``: ``FixedDispersion``, ``LearnedDispersion``,
``PerColumnDispersion``, ``PredictedDispersion``.
"""

from .base import Likelihood
from .bernoulli import Bernoulli, ContinuousBernoulli
from .columns import for_columns
from .counts import Multinomial, NegativeBinomial, Poisson, ZeroInflated
from .discrete import Categorical, DiscretizedLogistic, Nominal
from .dispersion import (
    Dispersion,
    FixedDispersion,
    LearnedDispersion,
    PerColumnDispersion,
    PredictedDispersion,
)
from .gaussian import Gaussian
from .heavy import Laplace, LogNormal, StudentT
from .mixed import Mixed
from .optimal import OptimalSigma
from .sigma import FixedSigma, LearnedSigma, PerPixelSigma, PredictedSigma, Sigma
from .tokens import Tokens

__all__ = [
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Dispersion",
    "FixedDispersion",
    "FixedSigma",
    "Gaussian",
    "Laplace",
    "LearnedDispersion",
    "LearnedSigma",
    "Likelihood",
    "LogNormal",
    "Mixed",
    "Multinomial",
    "NegativeBinomial",
    "Nominal",
    "OptimalSigma",
    "PerColumnDispersion",
    "PerPixelSigma",
    "Poisson",
    "PredictedDispersion",
    "PredictedSigma",
    "Sigma",
    "StudentT",
    "Tokens",
    "ZeroInflated",
    "for_columns",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
