"""What notebook 06 has to find."""

import torch

from pyro_vae import infer


def check_a_grown_guide_begins_as_it_was(before, after):
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-3)


def check_richer_guides_for_the_same_model(flat, weights, begins, families, compared, gain):
    same = (torch.equal(value, weights[name]) for name, value in flat.state_dict().items())
    assert all(same), "freeze_model"
    for begin in begins.values():
        torch.testing.assert_close(begin, begins["bottom-up"], rtol=1e-4, atol=1e-3)
    for name in ("full covariance", "flow"):
        mean, error = gain(families, name, "bottom-up")
        assert mean > -2 * error, f"a richer family is not worse: {name}"
    mean, error = gain(compared, "full covariance", "bottom-up")
    assert mean > -error, "nor over a program of one's own"


def check_gaps_by_two_routes(family, exact, sampled, evidence):
    assert all(exact[name].min() > -0.5 for name in family), "a gap is a divergence"
    errors = {name: sampled[name] - evidence for name in family}
    assert all(errors[name].quantile(0.9) < 0.3 for name in family), "a lower bound, up to noise"
    assert errors["semi-amortised"].abs().median() < 0.1, "two routes, one number"
    middle = {name: float(exact[name].median()) for name in family}
    assert middle["bottom-up"] > middle["semi-amortised"] + 0.2, "refining helps without training"


def check_the_missing_edge_costs(deep, several, found, gain, run, x, EPOCHS):
    assert infer.check_pair(deep, several["chain"], x).lacking == {"z2": ("x",)}
    mean, error = gain(found, "bottom-up", "chain")
    assert mean > 2 * error
    mean, error = gain(found, "ladder, refined", "ladder")
    assert mean > 2 * error
    assert run.history[EPOCHS // 2]["swapped"] and run.history[EPOCHS // 2]["guide"] == "Ladder"
