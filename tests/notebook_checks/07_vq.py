"""What notebook 07 has to find."""

import math

import torch


def check_codes_and_their_use(same, kl, positions, CODES, counts, use, perplexity):
    assert same, "the nearest code"
    assert math.isclose(kl, positions * math.log(CODES), rel_tol=1e-5)
    assert torch.equal(counts, use.counts)
    assert math.isclose(perplexity, use.perplexity, rel_tol=1e-5)
    assert use.perplexity > CODES / 4, "no collapse of the codebook"


def check_the_prior(elbo, gain, vqvae, guide, prior, digits):
    assert abs(elbo["learnt"] - elbo["uniform"] - gain) < 0.01
    assert gain > 2, "the codes of digits are far from uniform"
    mask = torch.zeros(vqvae.grid_shape, dtype=torch.bool)
    mask[: vqvae.grid_shape[0] // 2] = True
    grid = guide.codes(digits.test.x[:50])
    assert torch.equal(prior.complete(grid, mask)[:, mask], grid[:, mask]), "what is given stays"
