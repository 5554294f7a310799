"""The log p(x) that linear models reach, by others than this library."""

import torch
from sklearn.decomposition import FactorAnalysis
from torch.distributions import MultivariateNormal

from pyro_vae.likelihoods import Gaussian


def exact(x, sigma, latents):
    """log p(x) of the maximum likelihood: PCA by the eigenvalues, factor analysis by others."""
    likelihood = Gaussian.standardized(x)
    rows = likelihood.inputs(x).flatten(1).double()
    if sigma == "learned":
        values, axes = torch.linalg.eigh(rows.T.cov(correction=0))
        others = values[:-latents]
        values = torch.cat([others.mean().expand_as(others), values[-latents:]])
        normal = MultivariateNormal(rows.mean(0), axes @ values.diag() @ axes.T)
        scores = normal.log_prob(rows)
    else:
        factors = FactorAnalysis(latents, svd_method="lapack").fit(rows.numpy())
        scores = torch.from_numpy(factors.score_samples(rows.numpy()))
    return scores - likelihood.scale.double().log().sum()
