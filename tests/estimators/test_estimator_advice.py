"""What estimators say, and that its advice works."""

import numpy as np
from advice import Cases

from pyro_vae import likelihoods
from pyro_vae.estimators import VAETransformer

cases = Cases()
X = np.random.RandomState(0).randn(20, 3)


def fitted(**options):
    return VAETransformer(2, hidden=(4,), epochs=1, random_state=0, **options).fit(X)


@cases
def estimators(tmp):
    t = fitted()
    yield lambda: t.inverse_transform(X), lambda: t.inverse_transform(t.transform(X))
    yield (
        lambda: fitted(patience=1, validation_fraction=0.01),
        lambda: fitted(patience=1, validation_fraction=0.1),
        lambda: fitted(patience=None),
    )
    yield (
        lambda: fitted(likelihood="normal"),
        lambda: fitted(likelihood=likelihoods.StudentT()),
        lambda: fitted(likelihood=likelihoods.Gaussian.standardized),
    )
    yield (
        lambda: fitted(likelihood=likelihoods.StudentT),
        lambda: fitted(likelihood=likelihoods.StudentT()),
    )


test_what_estimators_say = cases.test()
