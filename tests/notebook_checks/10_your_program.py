"""What notebook 10 has to find."""

import torch


def check_counts(gap, best, compared, evidence, unseen, point, some, b):
    for name in gap:
        estimate = compared[name].importance
        noise = estimate.standard_error.square().sum().sqrt() / len(unseen)
        assert abs(estimate.log_likelihood.mean() - evidence.mean()) < 3 * noise
    assert -0.01 < gap["by hand"] < 0.02
    assert best["bottom-up"] - 0.01 < gap["bottom-up"] < 0.1
    mode = (1 + some.sum(1)) / b
    assert (point / mode - 1).abs().median() < 0.1, "the point is at the mode"


def check_what_guides_of_a_track_see(lacking, before, begun, STEPS):
    assert lacking["mean field"] == {f"z{t}": (f"z{t - 1}",) for t in range(2, STEPS + 1)}
    assert lacking["bottom-up"] == lacking["top-down"] == {}
    assert torch.allclose(before, begun, rtol=1e-5), "at first the same guide"


def check_a_track(gap, best, compared, evidence, moments, mean, scale):
    assert all(best[name] - 0.1 < gap[name] < best[name] + 0.2 for name in best), gap
    assert gap["bottom-up, grown"] < 0.05
    reached = compared["bottom-up, grown"].importance.log_likelihood
    assert (reached - evidence).abs().mean() < 0.05
    m, s = moments["bottom-up, grown"]
    assert (m - mean).abs().max() < 0.3 and (s / scale - 1).abs().max() < 0.15
    assert (moments["mean field"][1] < 0.8 * scale).all(), "mean field is too sure"
