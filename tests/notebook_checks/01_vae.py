"""What notebook 01 has to find."""

import torch


def check_terms_by_hand(S, draws, kl, reconstruction, terms):
    torch.testing.assert_close(kl, terms.kl["z1"])
    noise = 2**0.5 * float((draws.var(0) / S).sum().sqrt()) / len(kl)  # of the mean over the data
    assert abs(float((reconstruction - terms.reconstruction).mean())) < 5 * noise


def check_the_gap_is_what_the_bound_lacks(gap, bound, log_p, sampled):
    assert (gap > 0).all()
    assert abs(float((bound + gap - log_p).mean())) < 0.1
    short = log_p - sampled  # far too low where q lies beside the posterior, and only there
    assert short.mean() > -0.1
    near = short[gap < 2]
    assert len(near) >= 5 and near.abs().median() < 0.2


def check_reparametrised_gradients_are_the_better_ones(means, errors, variances):
    assert variances[1] > 10 * variances[0]
    assert ((means[0] - means[1]).abs() < 5 * (errors[0] ** 2 + errors[1] ** 2).sqrt()).all()


def check_the_vae_can_draw(distances, autoencoder, trainer, x):
    assert distances[1] < 0.8 * distances[0], distances
    spread = [pair.guide.encode(x).mean["z1"].std() for pair in (autoencoder, trainer)]
    assert spread[0] > 1.5 * spread[1] and 0.6 < spread[1] < 1.3, spread
