import pytest
import torch

from pyro_vae import guides, likelihoods, models, plots, priors


@pytest.fixture
def pair():
    vqvae = models.VQVAE((1, 8, 8), 5, 4, likelihood=likelihoods.Bernoulli())
    with torch.no_grad():
        vqvae.codebook.weight.copy_(torch.randn(5, 4))
    return vqvae, guides.NearestCode(vqvae)


def cell(ax, row, column):
    """One image of the grid, 8 x 8 in a frame of one pixel."""
    grid = torch.as_tensor(ax.images[0].get_array())[..., 0]
    return grid[1 + 9 * row : 9 + 9 * row, 1 + 9 * column : 9 + 9 * column]


def test_every_code_is_decoded_alone(pair):
    vqvae, _ = pair
    ax = plots.codes(vqvae, columns=2)
    for code in range(5):
        expected = vqvae.decode(torch.full((1, 2, 2), code)).mean[0, 0]
        torch.testing.assert_close(cell(ax, *divmod(code, 2)), expected)


def test_completions_show_data_reconstructions_and_draws(pair):
    vqvae, guide = pair
    prior = priors.CodePrior(vqvae, width=4, layers=2)
    x = torch.randint(2, (3, 1, 8, 8)).float()
    prior.fit(guide, x, epochs=1, progress=False)
    ax = plots.completions(vqvae, guide, prior, x, rows=2, n=2)  # everything is given
    means = vqvae.decode(guide.codes(x)).mean
    for row in range(3):
        torch.testing.assert_close(cell(ax, row, 0), x[row, 0])
        for column in (1, 2, 3):
            torch.testing.assert_close(cell(ax, row, column), means[row, 0])
    labels = [t.get_text() for t in ax.get_xticklabels()]
    assert labels == ["data", "all codes", "2 of 2\nrows given"]
    with pytest.raises(ValueError, match="rows: expected 0 to 2, got"):
        plots.completions(vqvae, guide, prior, x, rows=3)
