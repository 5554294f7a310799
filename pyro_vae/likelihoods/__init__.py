"""p(x | features): modules from the decoder's features to a distribution over data.

| likelihood | data | features per element | source |
|---|---|---|---|
| ``Bernoulli`` | 0 or 1 | 1 logit | |
| ``ContinuousBernoulli`` | [0, 1] | 1 logit | Loaiza-Ganem, Cunningham (2019) |
| ``Gaussian`` | real | 1 mean; with "predicted" also log sigma | Rybkin et al. (2021) |
| ``Categorical`` | k / (levels - 1) | ``levels`` logits | |
| ``DiscretizedLogistic`` | k / (levels - 1) | mean, log scale | Kingma et al. (2016) |

These are elementwise; the model declares event dimensions with ``.to_event``, where a likelihood
has not done so itself: see ``Likelihood`` for correlated noise and a topic model. Where a
likelihood takes several numbers per element, they are the last dimension of the features.

The sigma of a ``Gaussian`` is an object in a slot of its own:

| sigma | what it is |
|---|---|
| ``FixedSigma`` | a given number |
| ``LearnedSigma`` | one parameter, trained with the others |
| ``OptimalSigma`` | the closed form, the root mean squared error |
| ``PerPixelSigma`` | one parameter per element |
| ``PredictedSigma`` | sigma(z), from the decoder |
"""

from .base import Likelihood
from .bernoulli import Bernoulli, ContinuousBernoulli
from .discrete import Categorical, DiscretizedLogistic
from .gaussian import Gaussian
from .optimal import OptimalSigma
from .sigma import FixedSigma, LearnedSigma, PerPixelSigma, PredictedSigma, Sigma

__all__ = [
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "FixedSigma",
    "Gaussian",
    "LearnedSigma",
    "Likelihood",
    "OptimalSigma",
    "PerPixelSigma",
    "PredictedSigma",
    "Sigma",
]
