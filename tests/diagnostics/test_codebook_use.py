import math

import pytest
import torch
from torch import nn

from pyro_vae import data, diagnostics, guides, handlers, likelihoods, models


class Given(nn.Module):
    """Outputs that are the data: two positions of one number."""

    def forward(self, x):
        return x.unsqueeze(-1)


def pair():
    vqvae = models.VQVAE((2,), 4, 1, likelihood=likelihoods.Gaussian(), hidden=(8,), grid=2)
    vqvae.codebook.weight.copy_(torch.tensor([[0.0], [1.0], [2.0], [3.0]]))
    return vqvae, guides.NearestCode(vqvae, encoder=Given())


X = torch.tensor([[0.1, 1.2], [0.9, 0.0], [1.1, 1.0], [-0.2, 3.4]])


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_counts_perplexity_and_dead_codes_by_hand(batch_size):
    vqvae, guide = pair()
    use = diagnostics.codebook(vqvae, guide, X, batch_size=batch_size)
    assert use.counts.tolist() == [3, 4, 0, 1]
    assert (use.codes, use.used, use.dead.tolist(), use.data) == (4, 3, [2], 4)
    entropy = -sum(p * math.log(p) for p in (3 / 8, 4 / 8, 1 / 8))
    assert use.perplexity == pytest.approx(math.exp(entropy))
    text, page = str(use), use.to_html()
    for part in ("3 of 4 (75.0%)", f"{math.exp(entropy):.1f}", "1 (50.0% of positions)"):
        assert part in text and part in page
    assert use.to_dict()["counts"] == [3, 4, 0, 1]


def test_it_changes_nothing_and_takes_data_sets_and_handlers():
    vqvae, guide = pair()
    before = [b.clone() for b in vqvae.buffers()]
    scaled = handlers.scale_latents(vqvae, 2.0), handlers.scale_latents(guide, 2.0)
    use = diagnostics.codebook(*scaled, data.Dataset(X))
    assert use.counts.tolist() == [3, 4, 0, 1]
    assert all(torch.equal(a, b) for a, b in zip(before, vqvae.buffers(), strict=True))
    vae = models.VAE((2,), 2, likelihood=likelihoods.Gaussian())
    with pytest.raises(TypeError, match=r"model: expected a models\.VQVAE, got VAE"):
        diagnostics.codebook(vae, guide, X)
