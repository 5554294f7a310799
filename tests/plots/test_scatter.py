"""Pictures of where data lie in latent space, compared with the numbers that they show."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from drawn import functions, pair, texts
from sklearn.decomposition import PCA

from pyro_vae import plots
from pyro_vae.data import Dataset

X = torch.randint(2, (30, 1, 4, 4), generator=torch.Generator().manual_seed(1)).float()
SMALL = {"event_shape": (1, 4, 4), "hidden": (8,)}


def offsets(ax):
    return np.concatenate([np.asarray(c.get_offsets()) for c in ax.collections])


def test_scatter_shows_the_posterior_means(linear):
    x = linear.data(30)
    ax = plots.latent_scatter(linear.guide(), x)
    np.testing.assert_allclose(offsets(ax), linear.posterior(x)[0], rtol=1e-4, atol=1e-5)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z1[0]", "z1[1]")
    assert ax.get_legend() is None


def test_scatter_in_blocks_is_the_same(linear, monkeypatch):
    x = linear.data(30)
    monkeypatch.setattr("pyro_vae.plots.scatter._ENCODED_AT_ONCE", 7)
    ax = plots.latent_scatter(linear.guide(), x, y=torch.zeros(30))
    np.testing.assert_allclose(offsets(ax), linear.posterior(x)[0], rtol=1e-4, atol=1e-5)


def test_scatter_colours_by_label(linear):
    x, y = linear.data(30), torch.arange(30) % 3
    guide = linear.guide()
    mean = guide.encode(x).mean["z1"]
    named = Dataset(x, y, names=["a", "b", "c"])
    for data, given, names, expected in (
        (named, None, (), ["a", "b", "c"]),
        (named, None, ["u", "v", "w"], ["u", "v", "w"]),
        ((x, y), None, (), ["0", "1", "2"]),
        (x, y, (), ["0", "1", "2"]),
        (x, y, ["u", "v", "w"], ["u", "v", "w"]),
    ):
        ax = plots.latent_scatter(guide, data, y=given, labels=names)
        assert texts(ax.get_legend().get_texts()) == expected
        for label, points in enumerate(ax.collections):
            np.testing.assert_array_equal(points.get_offsets(), mean[y == label])
        assert len({tuple(c.get_facecolor()[0]) for c in ax.collections}) == 3


@pytest.mark.parametrize("classes", [10, 25, 40])
def test_scatter_tells_many_classes_apart(linear, classes):
    x = linear.data(classes)
    ax = plots.latent_scatter(linear.guide(), x, y=torch.arange(classes))
    looks = {
        (tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes()) for c in ax.collections
    }
    assert len(looks) == classes == len(ax.get_legend().get_texts())


def test_scatter_of_very_many_classes_has_a_colour_scale(linear):
    x = linear.data(50)
    ax = plots.latent_scatter(linear.guide(), x, y=torch.arange(50))
    np.testing.assert_array_equal(ax.collections[0].get_array(), np.arange(50))
    assert ax.figure.axes[1].get_ylabel() == "label"


def test_scatter_of_many_units_shows_principal_components():
    guide = pair(latents=(5, 3))[1]
    x = torch.rand(40, 1, 4, 5)
    for site, size in (("z1", 5), ("z2", 3)):
        mean = guide.encode(x).mean[site].numpy()
        assert mean.shape[1] == size
        ax = plots.latent_scatter(guide, x, site=site)
        centred = mean - mean.mean(0)
        _, s, axes = np.linalg.svd(centred, full_matrices=False)
        np.testing.assert_allclose(
            np.abs(offsets(ax)), np.abs(centred @ axes[:2].T), rtol=1e-3, atol=1e-5
        )
        np.testing.assert_allclose(offsets(ax), PCA(2).fit_transform(mean), rtol=1e-3, atol=1e-5)
        shares = s**2 / (s**2).sum()
        assert f"1 of {site} ({shares[0]:.0%} of the variance)" in ax.get_xlabel()
        assert f"2 of {site} ({shares[1]:.0%} of the variance)" in ax.get_ylabel()


def test_scatter_of_a_collapsed_posterior():
    guide = pair(latents=3)[1]
    x = torch.zeros(10, 1, 4, 5)
    ax = plots.latent_scatter(guide, x)
    np.testing.assert_allclose(offsets(ax), 0, atol=1e-5)
    assert "variance" in ax.get_xlabel()


def test_scatter_of_functions_and_conditional_guides():
    _, guide = functions((6,))
    x = torch.rand(9, 6)
    ax = plots.latent_scatter(guide, x, y=torch.arange(9) % 2)
    assert "1 of code" in ax.get_xlabel()
    _, guide = pair(condition=3)
    x, y = torch.rand(9, 1, 4, 5), torch.arange(9) % 3
    points = offsets(plots.latent_scatter(guide, x, y=y))
    expected = guide.encode(x, y=y).mean["z1"][y.argsort(stable=True)]
    np.testing.assert_allclose(points, expected, rtol=1e-6)


def test_scatter_of_a_positive_site_is_in_logarithms():
    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("size", dist.LogNormal(x, 0.1).to_event(1))

    x = torch.randn(30, 3)
    ax = plots.latent_scatter(guide, x[:, :2])
    # E[z] = exp(x + 0.1^2 / 2)
    np.testing.assert_allclose(offsets(ax), x[:, :2] + 0.005, rtol=1e-4, atol=1e-5)
    assert (ax.get_xlabel(), ax.get_ylabel()) == tuple(
        f"size[{unit}], unconstrained" for unit in range(2)
    )
    ax = plots.latent_map(guide, x, x[:, 0])
    np.testing.assert_allclose(offsets(ax)[:30], PCA(2).fit_transform(x), rtol=1e-3, atol=1e-4)
    assert ax.get_xlabel().startswith("principal component 1 of size, unconstrained (")


@pytest.mark.parametrize(
    ("latents", "n", "kwargs", "message"),
    [
        (1, 5, {}, "at least two units, 'z1' has 1"),
        (2, 5, {"site": "z2"}, "site: expected one of z1, got 'z2'"),
        (2, 5, {"y": torch.zeros(4)}, "expected 5 labels"),
        (2, 0, {}, "at least one datum"),
        (3, 1, {}, "at least 2 data"),
    ],
)
def test_scatter_rejects(latents, n, kwargs, message):
    with pytest.raises(ValueError, match=message):
        plots.latent_scatter(pair(latents=latents)[1], torch.rand(n, 1, 4, 5), **kwargs)


# latent_map


def test_points_are_the_posterior_means_and_colours_the_scores():
    _, guide = pair(**SMALL)
    scores = torch.arange(30.0)
    ax = plots.latent_map(guide, X, scores, name="order")
    drawn = ax.collections[0]
    np.testing.assert_allclose(drawn.get_offsets(), guide.encode(X).mean["z1"], rtol=1e-5)
    np.testing.assert_array_equal(drawn.get_array(), scores)
    assert drawn.get_clim() == pytest.approx((0.29, 28.71))
    assert [a.get_ylabel() for a in ax.figure.axes] == ["z1[1]", "order"]


def test_principal_components_and_scores_without_a_value():
    _, guide = pair(latents=5, **SMALL)
    scores = [float("-inf"), *range(29)]
    ax = plots.latent_map(guide, Dataset(X), scores)
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
        plots.latent_map(pair(**SMALL)[1], X, color)


def inside(ax):
    """Whether all that is drawn and written is in the figure, but for rounding."""
    ax.figure.draw_without_rendering()
    box, paper = ax.get_tightbbox(), ax.figure.bbox
    return box.x0 > -2 and box.y0 > -2 and box.x1 < paper.x1 + 2 and box.y1 < paper.y1 + 2


@pytest.mark.parametrize("layout", [None, "constrained"])
@pytest.mark.parametrize("latents", [2, 5])
def test_points_fit_the_axes_of_a_paper(layout, latents):
    guide, x = pair(latents=latents)[1], torch.rand(40, 1, 4, 5)
    names = [f"class {i}" for i in range(9)] + [
        "a class of a long name that nobody can abbreviate"
    ]
    data = Dataset(x, torch.arange(40) % 10, names=names)
    _, ax = plt.subplots(figsize=(3.5, 3.0), layout=layout)
    assert plots.latent_scatter(guide, data, ax=ax, s=3.0) is ax and inside(ax)
    assert [float(c.get_sizes()[0]) for c in ax.collections] == [3.0] * 10
    told = texts(ax.get_legend().get_texts())
    assert told[:9] == names[:9] and told[9].split() == names[9].split() and "\n" in told[9]
    assert ax.get_window_extent().width > ax.figure.bbox.width / 5
    short = latents > 2
    assert ("PC 1 of z1 (" in ax.get_xlabel()) == ("PC 2 of z1 (" in ax.get_ylabel()) == short
    _, ax = plt.subplots(figsize=(3.5, 3.0), layout=layout)
    plots.latent_map(guide, x, x.flatten(1).sum(1), name="sum", ax=ax, s=2.5)
    assert float(ax.collections[0].get_sizes()[0]) == 2.5
    # The layout of matplotlib is one draw behind where its own change of limits changes ticks
    assert layout is not None or inside(ax)


def test_a_legend_may_be_left_out(linear):
    x = linear.data(9)
    ax = plots.latent_scatter(linear.guide(), x, y=torch.arange(9) % 3, legend=False)
    assert ax.get_legend() is None and len(ax.collections) == 3
    with pytest.raises(ValueError, match="s: expected a positive finite number, got 0"):
        plots.latent_scatter(linear.guide(), x, s=0)


@pytest.mark.parametrize("layout", [None, "constrained"])
def test_grids_fit_the_axes_of_a_paper(layout):
    vae, guide = pair(latents=2)
    given, x = pair(latents=2, condition=10)[0], torch.rand(6, 1, 4, 5)
    for draw in (
        lambda ax: plots.interpolation(vae, guide, x[:3], x[3:], ax=ax),
        lambda ax: plots.traversals(vae, guide, x[0], ax=ax),
        lambda ax: plots.latent_grid(vae, like=x, ax=ax),
        lambda ax: plots.conditional(given, ax=ax),
        lambda ax: plots.samples(vae, 16, ax=ax),
    ):
        _, ax = plt.subplots(figsize=(3.5, 3.0), layout=layout)
        draw(ax)
        assert inside(ax)
        boxes = [t.get_window_extent() for t in ax.get_xticklabels() if t.get_text()]
        assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
