"""What notebook 09 has to find."""

import torch


def check_densities_integrate(integral, closed):
    assert abs(integral["Bernoulli as it is often used"] - closed) < 1e-4
    assert abs(integral["ContinuousBernoulli"] - 1) < 1e-4


def check_a_table_and_curves(by_hand, by_library, sigma, trainer, found):
    assert torch.allclose(by_hand, by_library, atol=0.05)
    assert abs(sigma - 0.1) < 0.03, "the noise level is found from the data"
    start, end = (trainer.history[i]["validation"]["elbo"] for i in (0, -1))
    assert end > start + 1
    assert found.terms.elbo.mean() > found.baselines["independent normal"].mean()
