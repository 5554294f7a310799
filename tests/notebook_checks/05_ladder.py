"""What notebook 05 has to find."""

import torch


def check_the_ladder_uses_all_layers(sites, terms, found):
    upper = {k: [float(t.kl[site].mean()) for site in sites[1:]] for k, t in terms.items()}
    active = {k: sum(int(layer.active.sum()) for layer in v) for k, v in found.items()}
    assert sum(upper["VAE"]) < 0.3, upper
    assert min(upper["LVAE+BN+WU"]) > 0.1 and sum(upper["LVAE+BN+WU"]) > 1, upper
    assert active["LVAE+BN+WU"] > active["VAE"], active
    assert sum(upper["VAE+WU"]) < 0.3, upper
    assert terms["VAE+WU"].kl["z1"].mean() > terms["VAE"].kl["z1"].mean()
    bounds = {k: float(t.elbo.mean()) for k, t in terms.items()}
    assert min(bounds, key=bounds.get) == "VAE+BN+WU", bounds
    assert max(bounds, key=bounds.get) == "LVAE+BN+WU", bounds
    gain = terms["LVAE+BN+WU"].elbo - terms["VAE"].elbo
    assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5, gain.mean()


def check_the_merge_by_hand(merged, mean, v, vae, guide):
    torch.testing.assert_close(merged.mean, mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(merged.stddev, v.sqrt(), atol=1e-5, rtol=1e-4)
    ours, theirs = ({id(p) for p in module.parameters()} for module in (vae, guide))
    assert not ours & theirs
