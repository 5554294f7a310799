"""What notebook 03 has to find."""

import torch


def check_sigma_is_the_error(runs):
    for run in runs.values():
        assert abs(float(run.model.likelihood.sigma) / run.history[-1]["rmse"] - 1) < 0.03


def check_a_fixed_sigma_costs(bounds):
    best = float(bounds["learned"].elbo.mean())
    assert all(best > float(t.elbo.mean()) + 5 for name, t in bounds.items() if name != "learned")
    assert bounds["sigma = 1"].kl["z1"].mean() < bounds["learned"].kl["z1"].mean()
    assert bounds["learned"].kl["z1"].mean() < bounds["sigma = 0.02"].kl["z1"].mean()


def check_a_sigma_per_pixel_is_better(before, after, difference, error, found):
    torch.testing.assert_close(before, after)
    assert difference.mean() > 5 * error
    off = {k: max(abs(i - e) for _, i, _, e in result.rows()) for k, result in found.items()}
    assert off["sigma(z)"] < 0.7 * off["one sigma"], off


def check_the_mixture_is_nearer(distance, with_mixture, with_normal):
    assert float(distance["mixture"]) < 0.9 * float(distance["N(0, I)"]), distance
    gain = with_mixture.elbo - with_normal.elbo
    assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5
