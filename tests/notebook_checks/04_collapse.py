"""What notebook 04 has to find."""

import torch


def check_three_cures(found, terms):
    cures = ("skip", "warm-up", "free bits")
    told = {k: float(report.whole.mutual_information.mean()) for k, report in found.items()}
    active = {k: report.units["z1"].active for k, report in found.items()}
    assert found["plain"].collapsed == ("z1",), found["plain"].verdict
    assert all(not found[k].collapsed for k in cures)
    assert all(told[k] > told["plain"] + 0.5 for k in cures), told
    assert active["skip"] > active["plain"] and active["free bits"] > active["plain"], active
    for name in cures:
        gain = terms[name].elbo - terms["plain"].elbo
        assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5, name
    assert max(terms, key=lambda k: float(terms[k].elbo.mean())) == "skip"


def check_the_identity(by_hand, library):
    parts = by_hand["I(x; z)"] + by_hand["marginal KL"]
    torch.testing.assert_close(by_hand["KL"], parts, atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(by_hand.values(), library, strict=True):
        error = (ours.var() + theirs.var()).div(len(ours)).sqrt()
        assert abs(float(ours.mean() - theirs.mean())) < 5 * error
