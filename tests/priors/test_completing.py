"""Completions of data: what is given stays, the rest comes from the prior."""

import pytest
import torch

from pyro_vae import guides, infer, likelihoods, models, plots, priors


@pytest.fixture(scope="module", params=[((2, 32), "signal"), ((1, 8, 8, 8), "video")])
def fitted(request):
    event_shape, kind = request.param
    torch.manual_seed(0)
    options = {"likelihood": likelihoods.Gaussian(), "kind": kind, "channels": (4, 4), "blocks": 0}
    vqvae = models.VQVAE(event_shape, 5, 3, **options)
    guide, x = guides.NearestCode(vqvae), torch.randn(12, *event_shape)
    with torch.no_grad():
        vqvae.codebook.weight.copy_(torch.randn(5, 3))
    prior = priors.CodePrior(vqvae, width=4, layers=2)
    return vqvae, guide, prior.fit(guide, x, epochs=1, progress=False), x


def test_the_first_codes_stay(fitted):
    vqvae, guide, prior, x = fitted
    height, codes = vqvae.grid_shape[0], guide.codes(x)
    mask = torch.zeros(vqvae.grid_shape, dtype=torch.bool)
    mask[: height // 2] = True
    torch.manual_seed(1)
    found = priors.complete(vqvae, guide, prior, x, n=2)
    assert found.shape == (12, 2, *vqvae.event_shape)
    torch.manual_seed(1)
    drawn = prior.complete(codes.repeat_interleave(2, 0), mask)
    assert torch.equal(drawn[:, : height // 2], codes.repeat_interleave(2, 0)[:, : height // 2])
    torch.testing.assert_close(found.flatten(0, 1), vqvae.decode(drawn).mean)
    assert not torch.equal(found[:, 0], found[:, 1])


def test_all_codes_given_are_a_reconstruction(fitted):
    vqvae, guide, prior, x = fitted
    found = priors.complete(vqvae, guide, prior, x, rows=vqvae.grid_shape[0])
    torch.testing.assert_close(found[:, 0], infer.reconstruct(vqvae, guide, x))
    with pytest.raises(ValueError, match=f"rows: expected 0 to {vqvae.grid_shape[0]}, got 99"):
        priors.complete(vqvae, guide, prior, x, rows=99)


def test_pictures_are_those_of_the_kind(fitted):
    vqvae, guide, prior, x = fitted
    ax = plots.completions(vqvae, guide, prior, x[:3], rows=1, n=2)
    unit = {"signal": "steps", "video": "frames"}[vqvae.kind]
    labels = [t.get_text() for t in ax.get_xticklabels()]
    assert labels[2] == f"1 of {vqvae.grid_shape[0]}\n{unit} given"
    assert ("time" in ax.get_xlabel()) == (vqvae.kind == "signal")
    assert ("time" in plots.codes(vqvae).get_xlabel()) == (vqvae.kind == "signal")
