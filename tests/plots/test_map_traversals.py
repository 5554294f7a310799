"""Traversals and grids of latents that are maps: channels, or one unit of them."""

import pytest
import torch
from drawn import texts
from torch import nn

from pyro_vae import Trainer, data, guides, infer, likelihoods, plots
from pyro_vae.models import VAE
from pyro_vae.report import write_report


@pytest.fixture
def pair():
    torch.manual_seed(0)
    vae = VAE((1, 8, 8), ((2, 4, 4), 3), likelihood=likelihoods.Bernoulli(), channels=(4, 4))
    return vae, guides.Ladder(vae)


def decoded(pair, x, change):
    """E[x|z1] with z1 the posterior mean, changed, by the decoder itself."""
    vae, guide = pair
    z = infer.encode(guide, x[None]).mean["z1"].clone()
    change(z[0])
    with torch.no_grad():
        return vae.likelihood(vae.decoder(z)).mean[0]


@pytest.mark.parametrize("dim", [(1,), (1, 2, 3), 16 + 2 * 4 + 3])
def test_channels_and_units_are_changed_where_they_are(pair, dim):
    x = (torch.rand(1, 8, 8) < 0.5).float()
    moved = infer.traverse(*pair, x, site="z1", dims=[dim], values=torch.tensor([-2.0, 2.0]))
    place = (1, 2, 3) if isinstance(dim, int) else dim

    def change(z):
        z[place] = 2.0

    torch.testing.assert_close(moved[0, 1], decoded(pair, x, change))
    assert moved.shape == (1, 2, 1, 8, 8)


def test_a_row_is_a_channel_with_the_kl_of_all_its_positions(pair):
    vae, guide = pair
    for parameter in guide.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = (torch.rand(1, 8, 8) < 0.5).float()
    ax = plots.traversals(vae, guide, x, site="z1", values=[-1, 0, 1])
    names = texts(ax.get_yticklabels())
    found = {name.split("\n")[0]: float(name.split()[-2]) for name in names}
    assert {*found} == {"z1[0]", "z1[1]"} and [*found.values()] == sorted(found.values())[::-1]
    q = infer.encode(guide, x[None]).mean
    parts = plots.traversals(
        vae, guide, x, site="z1", dims=[(0, i, j) for i in range(4) for j in range(4)], values=[0]
    )
    of_units = sum(float(name.split()[-2]) for name in texts(parts.get_yticklabels()))
    assert q["z1"].shape == (1, 2, 4, 4)
    assert abs(of_units - found["z1[0]"]) <= 16 * 0.005 + 0.005
    assert texts(parts.get_yticklabels())[5].startswith("z1[0, 1, 1]\n")


@pytest.mark.parametrize("dims", [[(2,)], [(0, 4)], [(0, 0, 0, 0)], [32], [-1], []])
def test_units_that_are_not_there_are_refused(pair, dims):
    x = torch.zeros(1, 8, 8)
    with pytest.raises(ValueError, match="dims: expected units"):
        plots.traversals(*pair, x, site="z1", dims=dims)


def test_a_map_of_two_channels_has_a_grid(pair):
    vae, _ = pair
    x = torch.zeros(1, 1, 8, 8)
    ax = plots.latent_grid(vae, like=x, steps=3)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z1[0]", "z1[1]")
    axis, means = infer.grid_2d(vae, like=x, steps=3)
    z = torch.empty(1, 2, 4, 4)
    z[:, 0], z[:, 1] = axis[2], axis[0]
    with torch.no_grad():
        expected = vae.likelihood(vae.decoder(z)).mean[0]
    torch.testing.assert_close(means[2, 2], expected)
    with pytest.raises(ValueError, match="site: expected two units, 'z2' has 3"):
        plots.latent_grid(vae, like=x, site="z2")


def test_a_report_of_maps_alone_has_traversals(tmp_path):
    vae = VAE((1, 8, 8), ((2, 4, 4),), likelihood=likelihoods.Bernoulli(), channels=(4,))
    d = data.load((torch.rand(20, 1, 8, 8) < 0.5).float())
    trainer = Trainer(vae, guides.Ladder(vae), seed=0).fit(d.train, epochs=1, progress=False)
    write_report(tmp_path / "report.html", trainer, d)
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Traversals</h2>" in page and "<h2>Interpolations</h2>" in page
    assert "Could not be drawn" not in page
