import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.distributions import Normal, kl_divergence

from pyro_vae import data, guides, likelihoods, plots
from pyro_vae.models import VAE


def pair(latents=2, **options):
    vae = VAE((1, 4, 4), latents, likelihood=likelihoods.Bernoulli(), hidden=(8,), **options)
    return vae, guides.BottomUp(vae)


X = torch.randint(2, (30, 1, 4, 4), generator=torch.Generator().manual_seed(1)).float()


def test_points_are_the_posterior_means_and_colours_the_scores():
    _, guide = pair()
    scores = torch.arange(30.0)
    ax = plots.latent_map(guide, X, scores, name="order")
    drawn = ax.collections[0]
    np.testing.assert_allclose(drawn.get_offsets(), guide.encode(X).mean["z1"], rtol=1e-5)
    np.testing.assert_array_equal(drawn.get_array(), scores)
    assert drawn.get_clim() == pytest.approx((0.29, 28.71))
    assert [a.get_ylabel() for a in ax.figure.axes] == ["z1[1]", "order"]


def test_principal_components_and_scores_without_a_value():
    _, guide = pair(5)
    scores = [float("-inf"), *range(29)]
    ax = plots.latent_map(guide, data.Dataset(X), scores)
    means = guide.encode(X).mean["z1"].numpy()
    expected = PCA(2).fit_transform(means)
    np.testing.assert_allclose(ax.collections[0].get_offsets(), expected, atol=1e-4)
    assert ax.get_xlabel().startswith("principal component 1 of z1")
    assert ax.collections[0].get_clim() == pytest.approx((0.28, 27.72))


@pytest.mark.parametrize(
    ("color", "message"),
    [
        (torch.zeros(29), r"color: expected 30 scores, got shape \(29,\)"),
        (torch.full((30,), float("nan")), "color: expected at least one finite score"),
    ],
)
def test_bad_scores(color, message):
    with pytest.raises(ValueError, match=message):
        plots.latent_map(pair()[1], X, color)


def test_traversals_rank_units_by_their_kl_over_the_data():
    vae, guide = pair(4)
    with torch.no_grad():
        guide.conditionals["z1"].loc.weight.mul_(4)
    q = guide.conditionals["z1"](X).base_dist
    kl = kl_divergence(Normal(q.loc, q.scale), Normal(0.0, 1.0)).detach()
    labels = [
        label.get_text()
        for label in plots.traversals(vae, guide, X[0], data=X, values=[0.0]).get_yticklabels()
    ]
    order = kl.mean(0).argsort(descending=True).tolist()
    assert labels == [f"z1[{u}]\n{float(kl.mean(0)[u]):.2f} nats" for u in order]
    alone = plots.traversals(vae, guide, X[0], values=[0.0]).get_yticklabels()
    order = kl[0].argsort(descending=True).tolist()
    assert [a.get_text() for a in alone] == [f"z1[{u}]\n{float(kl[0, u]):.2f} nats" for u in order]


def test_traversals_of_a_conditional_pair_over_data():
    vae, guide = pair(condition=3)
    ax = plots.traversals(vae, guide, X[0], y=1, data=X)
    q = guide.conditionals["z1"](X, torch.eye(3)[1].expand(30, 3)).base_dist
    kl = kl_divergence(Normal(q.loc, q.scale), Normal(0.0, 1.0)).detach().mean(0)
    assert ax.get_yticklabels()[0].get_text().endswith(f"\n{float(kl.max()):.2f} nats")
