"""Pictures, compared with the numbers that they show."""

import math
import re

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from pyro_vae import handlers, infer, plots
from pyro_vae.data import Dataset
from pyro_vae.guides import BottomUp, Delta
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.models import VAE
from pyro_vae.plots import drawing


@pytest.fixture(autouse=True)
def nothing_shown(monkeypatch):
    def show(*args, **kwargs):
        raise AssertionError("a picture called plt.show")

    monkeypatch.setattr(plt, "show", show)
    settings = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == settings
    plt.close("all")


def pair(event_shape=(1, 4, 5), latents=2, **kwargs):
    kwargs = {"likelihood": Bernoulli(), "hidden": ()} | kwargs
    vae = VAE(event_shape, latents=latents, **kwargs)
    return vae, BottomUp(vae)


def binary(*shape):
    return (torch.rand(shape) < 0.5).float()


def functions(event_shape=(1, 4, 5), labelled=False):
    """A pair of plain functions with a latent "code" (3,) and data at "pixels"."""
    size = math.prod(event_shape)
    encoder, decoder = nn.Linear(size, 6), nn.Linear(3 + labelled, size)

    def model(x, y=None):
        with pyro.plate("rows", len(x)):
            code = pyro.sample("code", dist.Normal(torch.zeros(len(x), 3), 1.0).to_event(1))
            given = torch.cat([code, y[:, None].float()], 1) if labelled else code
            means = decoder(given).sigmoid().reshape(len(x), *event_shape)
            pyro.sample("pixels", dist.Normal(means, 0.1).to_event(len(event_shape)), obs=x)

    def guide(x, y=None):
        with pyro.plate("rows", len(x)):
            loc, raw = encoder(x.flatten(1)).chunk(2, -1)
            pyro.sample("code", dist.Normal(loc, raw.exp()).to_event(1))

    if labelled:
        return model, guide
    return (lambda x: model(x)), (lambda x: guide(x))


def cells(ax, rows, columns, event_shape):
    """The images of a grid, (rows, columns, 3, h, w), or its vectors, (rows, columns, d)."""
    (drawn,) = ax.images
    array = torch.as_tensor(np.ma.getdata(drawn.get_array()))
    if array.dim() == 2:
        size = math.prod(event_shape)
        step = size if columns == 1 else size + 1
        assert array.shape == (rows, step * columns)
        return array.reshape(rows, columns, step)[..., :size]
    h, w = event_shape[-2:]
    if rows * columns == 1:
        return array.permute(2, 0, 1)[None, None]
    gap = (array.shape[0] - rows * h) // (rows + 1)
    assert array.shape == (rows * (h + gap) + gap, columns * (w + gap) + gap, 3)
    return torch.stack(
        [
            torch.stack(
                [
                    array[
                        gap + r * (h + gap) : (r + 1) * (h + gap),
                        gap + c * (w + gap) : (c + 1) * (w + gap),
                    ].permute(2, 0, 1)
                    for c in range(columns)
                ]
            )
            for r in range(rows)
        ]
    )


def assert_drawn(ax, x, rows, columns):
    """The grid on ``ax`` shows exactly ``x`` (rows * columns, *event), row by row."""
    event_shape = x.shape[1:]
    got = cells(ax, rows, columns, event_shape).flatten(0, 1)
    if not drawing.is_image(event_shape):
        torch.testing.assert_close(got, x.flatten(1), rtol=0, atol=1e-6)
        return
    expected = x.clamp(0, 1).reshape(len(x), -1, *event_shape[-2:]).expand_as(got)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def texts(labels):
    return [label.get_text() for label in labels]


def assert_written_beside(ax, rows, columns):
    """Row and column labels are evenly spaced about the middle of the image."""
    height, width, _ = ax.images[0].get_array().shape
    for ticks, count, length in (
        (ax.get_yticks(), rows, height),
        (ax.get_xticks(), columns, width),
    ):
        assert len(ticks) == count
        np.testing.assert_allclose(np.diff(ticks), ticks[1] - ticks[0])
        assert np.mean(ticks) == pytest.approx((length - 1) / 2)


# images


@pytest.mark.parametrize("event_shape", [(4, 5), (1, 4, 5), (3, 4, 5), (7,), (2, 4, 5), (5, 1, 1)])
def test_images_draws_each_value(event_shape):
    x = torch.randn(6, *event_shape)
    if drawing.is_image(event_shape):
        assert_drawn(plots.images(x, columns=2), x, 3, 2)
        assert_drawn(plots.images(x), x, 1, 6)
    else:
        assert_drawn(plots.images(x), x, 6, 1)
        assert_drawn(plots.images(x, columns=2), x, 3, 2)


def test_images_of_one_datum():
    x = torch.rand(1, 1, 4, 5)
    assert_drawn(plots.images(x), x, 1, 1)


def test_images_fills_the_last_row_with_white():
    ax = plots.images(torch.zeros(5, 1, 4, 5), columns=3)
    assert (cells(ax, 2, 3, (1, 4, 5))[1, 2] == 1).all()


def test_bytes_are_scaled():
    x = torch.randint(0, 256, (4, 3, 4, 5), dtype=torch.uint8)
    assert_drawn(plots.images(x), x / 255, 1, 4)


def test_the_colour_scale_of_vectors_spans_their_finite_values():
    x = torch.tensor([[-2.0, 0.0, 5.0], [1.0, math.nan, math.inf]])
    ax = plots.images(x)
    assert ax.images[0].get_clim() == (-2, 5)
    assert ax.figure.axes[1].get_ylabel() == "value"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("element", "datum")
    assert plots.images(torch.ones(2, 3)).images[0].get_clim() == (1, 2)


@pytest.mark.parametrize("columns", [2, 3])
def test_titles_stand_above_their_image(columns):
    titles = ["zero", "one", "two", "three"]
    ax = plots.images(torch.rand(4, 1, 4, 5), columns=columns, titles=titles)
    assert texts(ax.texts) == titles
    gap = math.ceil(4 / 2)
    for i, text in enumerate(ax.texts):
        x, y = text.get_position()
        left, top = gap + i % columns * (5 + gap), gap + i // columns * (4 + gap)
        assert x == left + 2
        assert top - gap < y < top
    low, high = ax.get_ylim()
    last_edge = gap + math.ceil(4 / columns) * (4 + gap) - gap - 0.5
    assert low > last_edge and high == -0.5


def test_titles_of_vectors_stand_beside_them():
    titles = ["a", "b\nc", "d"]
    assert texts(plots.images(torch.rand(3, 4), titles=titles).get_yticklabels()) == [
        "a",
        "b  c",
        "d",
    ]
    ax = plots.images(torch.rand(3, 4), titles=titles, columns=2)
    assert texts(ax.get_yticklabels()) == ["a, b  c", "d"]


@pytest.mark.parametrize(
    ("x", "kwargs", "message"),
    [
        (torch.rand(3), {}, r"x\[None\]"),
        (torch.rand(0, 1, 4, 5), {}, "n >= 1"),
        (torch.rand(3, 4), {"columns": 0}, "columns"),
        (torch.rand(3, 4), {"titles": ["a"]}, "3, one per datum, got 1"),
    ],
)
def test_images_rejects(x, kwargs, message):
    with pytest.raises(ValueError, match=message):
        plots.images(x, **kwargs)


# samples, conditional


@pytest.mark.parametrize("mean", [True, False])
def test_samples_are_the_models(mean):
    vae, _ = pair()
    torch.manual_seed(3)
    ax = plots.samples(vae, 10, mean=mean, columns=5)
    torch.manual_seed(3)
    assert_drawn(ax, vae.sample(10, mean=mean), 2, 5)


def test_samples_differ_between_calls():
    vae, _ = pair()
    first, second = (plots.samples(vae, 4).images[0].get_array() for _ in range(2))
    assert not np.array_equal(first, second)


def test_samples_of_a_label():
    vae, _ = pair(condition=3)
    torch.manual_seed(3)
    ax = plots.samples(vae, 4, y=2)
    torch.manual_seed(3)
    assert_drawn(ax, vae.sample(4, y=torch.full((4,), 2), mean=True), 1, 4)


def test_samples_of_a_model_without_condition_ignore_labels():
    vae, _ = pair()
    torch.manual_seed(3)
    ax = plots.samples(vae, 4, y=torch.arange(4))
    torch.manual_seed(3)
    assert_drawn(ax, vae.sample(4, mean=True), 1, 4)


@pytest.mark.parametrize("mean", [True, False])
def test_samples_of_a_function(mean):
    model, _ = functions()
    like = torch.rand(1, 1, 4, 5)
    torch.manual_seed(3)
    ax = plots.samples(model, 4, like=like, mean=mean)
    torch.manual_seed(3)
    p_x = pyro.poutine.trace(model).get_trace(torch.zeros(4, 1, 4, 5)).nodes["pixels"]["fn"]
    assert_drawn(ax, (p_x.mean if mean else p_x.sample()).detach(), 1, 4)


def test_samples_of_a_function_need_an_example():
    with pytest.raises(ValueError, match=r"like=x\[:1\]"):
        plots.samples(functions()[0], 4)


def test_conditional_has_a_row_per_class():
    vae, _ = pair(condition=3)
    torch.manual_seed(3)
    ax = plots.conditional(vae, n=4)
    torch.manual_seed(3)
    y = torch.tensor([0] * 4 + [1] * 4 + [2] * 4)
    assert_drawn(ax, vae.sample(12, y=y, mean=True), 3, 4)
    assert texts(ax.get_yticklabels()) == ["0", "1", "2"]
    assert ax.get_ylabel() == "label"


def test_conditional_shows_each_label():
    vae, _ = pair(condition=3)
    with torch.no_grad():
        layer = vae.decoder.layers[0]
        layer.weight.zero_()
        layer.bias.zero_()
        layer.weight[:, 2:] = torch.tensor([-2.0, 0.0, 2.0])
    ax = plots.conditional(vae, n=2, classes=torch.tensor([2, 0]), labels=["a", "b", "c"])
    shown = cells(ax, 2, 2, (1, 4, 5))
    torch.testing.assert_close(shown[0], torch.tensor(2.0).sigmoid().expand_as(shown[0]))
    torch.testing.assert_close(shown[1], torch.tensor(-2.0).sigmoid().expand_as(shown[1]))
    assert texts(ax.get_yticklabels()) == ["c", "a"]


def test_conditional_of_a_function():
    model, _ = functions(labelled=True)
    like = torch.rand(1, 1, 4, 5)
    torch.manual_seed(3)
    ax = plots.conditional(model, classes=[5, 6], n=3, like=like)
    torch.manual_seed(3)
    y = torch.tensor([5, 5, 5, 6, 6, 6])
    trace = pyro.poutine.trace(model).get_trace(torch.zeros(6, 1, 4, 5), y=y)
    assert_drawn(ax, trace.nodes["pixels"]["fn"].mean.detach(), 2, 3)
    with pytest.raises(ValueError, match=r"pass classes=range\(k\)"):
        plots.conditional(model, like=like)


@pytest.mark.parametrize("classes", [None, [0, 1]])
def test_conditional_rejects_a_model_without_labels(classes):
    for model in (pair()[0], functions()[0], handlers.scale_latents(pair()[0], 0.5)):
        with pytest.raises(ValueError, match="condition=10"):
            plots.conditional(model, classes=classes, like=torch.rand(1, 1, 4, 5))


# reconstructions, denoising


@pytest.mark.parametrize("event_shape", [(1, 4, 5), (3, 4, 5), (6,)])
@pytest.mark.parametrize("kind", ["library", "functions"])
def test_reconstructions_stand_below_their_data(event_shape, kind):
    model, guide = pair(event_shape) if kind == "library" else functions(event_shape)
    x = torch.rand(4, *event_shape)
    figure = plots.reconstructions(model, guide, x)
    rows, columns = (1, 4) if len(event_shape) == 3 else (4, 1)
    above, below = figure.axes[:2]
    assert_drawn(above, x, rows, columns)
    assert_drawn(below, infer.reconstruct(model, guide, x), rows, columns)
    if len(event_shape) == 3:
        assert [texts(ax.get_yticklabels()) for ax in figure.axes] == [
            ["data"],
            ["reconstruction"],
        ]
        assert above.get_position().y0 > below.get_position().y1
    else:
        assert [ax.get_title() for ax in (above, below)] == ["data", "reconstruction"]
        assert above.images[0].get_clim() == below.images[0].get_clim()


def test_reconstructions_of_a_conditional_pair():
    vae, guide = pair(condition=3)
    x, y = torch.rand(3, 1, 4, 5), torch.tensor([2, 0, 1])
    figure = plots.reconstructions(vae, guide, x, y=y)
    assert_drawn(figure.axes[1], infer.reconstruct(vae, guide, x, y=y), 1, 3)


@pytest.mark.parametrize("noise", [0.5, lambda x: x * (torch.rand_like(x) < 0.5)])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", ["library", "functions"])
def test_denoising_reconstructs_what_it_shows(noise, wrapped, kind):
    model, guide = pair() if kind == "library" else functions()
    x = torch.rand(4, 1, 4, 5)
    shown = handlers.corrupt(guide, noise) if wrapped else guide
    torch.manual_seed(3)
    clean, corrupted, reconstruction = plots.denoising(model, shown, x, noise).axes
    torch.manual_seed(3)
    noisy = handlers.corrupted(x, noise)
    assert not torch.equal(noisy, x)
    assert_drawn(clean, x, 1, 4)
    assert_drawn(corrupted, noisy, 1, 4)
    assert_drawn(reconstruction, infer.reconstruct(model, guide, noisy), 1, 4)
    assert texts(corrupted.get_yticklabels()) == ["corrupted"]


@pytest.mark.parametrize("noise", [-1.0, math.inf, math.nan])
def test_denoising_rejects(noise):
    with pytest.raises(ValueError, match="standard deviation"):
        plots.denoising(*pair(), torch.rand(4, 1, 4, 5), noise)


# outliers


def planted(linear):
    x = linear.data(40)
    x[[7, 30, 12]] += torch.tensor([[60.0], [40.0], [20.0]])
    return x


def test_outliers_finds_planted_ones_in_order(linear):
    x = planted(linear)
    (ax, _) = plots.outliers(linear.vae, linear.guide(), x, n=5).axes
    log_p = linear.evidence().log_prob(x)
    order = log_p.argsort()[:5].tolist()
    assert order[:3] == [7, 30, 12]
    assert_drawn(ax, x[order], 5, 1)
    # the guide is the exact posterior, so that importance sampling is exact
    assert texts(ax.get_yticklabels()) == [f"{log_p[i]:.1f} nats  row {i}" for i in order]


def test_outliers_takes_what_there_is(linear):
    assert (
        len(plots.outliers(linear.vae, linear.guide(), linear.data(3)).axes[0].get_yticks()) == 3
    )
    with pytest.raises(ValueError, match="n: expected at least 1"):
        plots.outliers(linear.vae, linear.guide(), linear.data(3), n=0)


def test_outliers_of_images_agree_with_log_likelihood():
    vae, guide = pair()
    x = binary(20, 1, 4, 5)
    (ax,) = plots.outliers(vae, guide, x, n=6, importance_samples=20).axes
    log_p = infer.log_likelihood(vae, guide, x, importance_samples=20)
    order = log_p.argsort()[:6]
    assert [f"{log_p[i]:.1f} nats\nrow {i}" for i in order] == texts(ax.texts)
    got = ax.images[0].get_array()
    assert_drawn(plots.images(x[order], titles=[" "] * 6), x[order], 1, 6)
    np.testing.assert_array_equal(got, plt.gca().images[0].get_array())


def test_outliers_of_a_conditional_pair_use_the_datasets_labels():
    vae, guide = pair(condition=2)
    x, y = binary(9, 1, 4, 5), torch.arange(9) % 2
    expected = infer.log_likelihood(vae, guide, x, y=y, importance_samples=100).argsort()
    for data, given in ((Dataset(x, y), None), ((x, y), None), (x, y), (Dataset(x, 1 - y), y)):
        figure = plots.outliers(vae, guide, data, n=9, y=given)
        rows = [int(title.split()[-1]) for title in texts(figure.axes[0].texts)]
        assert rows == expected.tolist()


def test_outliers_of_functions():
    model, guide = functions((6,))
    x = torch.rand(8, 6)
    x[5] += 30
    figure = plots.outliers(model, guide, x, n=2)
    assert figure.axes[0].get_yticklabels()[0].get_text().endswith("row 5")


def test_dynamic_binarisation_is_drawn_for_the_picture():
    vae, guide = pair()
    data = Dataset(torch.full((9, 1, 4, 5), 0.5), binarize="dynamic")
    figure = plots.outliers(vae, guide, data, n=9)
    assert set(np.unique(figure.axes[0].images[0].get_array())) == {0.0, 1.0}


# interpolation


@pytest.mark.parametrize("event_shape", [(1, 4, 5), (4, 5), (6,)])
@pytest.mark.parametrize("kind", ["library", "functions"])
def test_interpolation_runs_between_the_reconstructions(event_shape, kind):
    model, guide = pair(event_shape) if kind == "library" else functions(event_shape)
    x = torch.rand(6, *event_shape)
    ends = infer.reconstruct(model, guide, x)
    if drawing.is_image(event_shape):
        ends = ends.reshape(6, -1, *event_shape[-2:]).expand(6, 3, *event_shape[-2:])
    many = plots.interpolation(model, guide, x[:3], x[3:], steps=5)
    shown = cells(many, 3, 5, event_shape)
    torch.testing.assert_close(shown[:, 0], ends[:3])
    torch.testing.assert_close(shown[:, 4], ends[3:])
    assert texts(many.get_xticklabels()) == ["0", "0.25", "0.5", "0.75", "1"]
    one = plots.interpolation(model, guide, x[1], x[4], steps=5)
    torch.testing.assert_close(cells(one, 1, 5, event_shape)[0], shown[1])
    between = infer.interpolate(model, guide, x[1], x[4], steps=5)
    assert_drawn(one, between, 1, 5)


def test_interpolation_between_labels():
    vae, guide = pair(condition=3)
    x, y = torch.rand(4, 1, 4, 5), torch.tensor([[0, 2], [1, 0]])
    ax = plots.interpolation(vae, guide, x[:2], x[2:], steps=3, y=y)
    shown = cells(ax, 2, 3, (1, 4, 5))
    for i in range(2):
        expected = infer.interpolate(vae, guide, x[i], x[i + 2], steps=3, y=y[i])
        torch.testing.assert_close(shown[i], expected.expand_as(shown[i]))
    same = plots.interpolation(vae, guide, x[:2], x[2:], steps=3, y=y[0])
    torch.testing.assert_close(cells(same, 2, 3, (1, 4, 5))[0], shown[0])


@pytest.mark.parametrize(
    ("start", "end", "kwargs", "message"),
    [
        ((1, 4, 5), (2, 1, 4, 5), {}, "equal shapes"),
        ((4, 4), (4, 4), {}, "one datum of shape"),
        ((0, 1, 4, 5), (0, 1, 4, 5), {}, "one datum of shape"),
        ((1, 4, 5), (1, 4, 5), {"steps": 1}, "steps"),
        ((1, 4, 5), (1, 4, 5), {"y": torch.tensor([1])}, "labels of start and end"),
    ],
)
@pytest.mark.parametrize("kind", ["library", "functions"])
def test_interpolation_rejects(start, end, kwargs, message, kind):
    model, guide = pair() if kind == "library" else functions()
    with pytest.raises(ValueError, match=message):
        plots.interpolation(model, guide, torch.rand(start), torch.rand(end), **kwargs)


# traversals


def test_traversals_show_infer_traverse():
    vae, guide = pair(latents=5)
    x, values = binary(1, 4, 5), [-2.0, -0.5, 0.5, 2.0]
    ax = plots.traversals(vae, guide, x, dims=[4, 0, 2], values=values)
    expected = infer.traverse(
        vae, guide, x, site="z1", dims=[4, 0, 2], values=torch.tensor(values)
    )
    assert_drawn(ax, expected.flatten(0, 1), 3, 4)
    assert_written_beside(ax, 3, 4)
    assert texts(ax.get_xticklabels()) == ["-2", "-0.5", "0.5", "2"]
    assert [t.split()[0] for t in texts(ax.get_yticklabels())] == ["z1[4]", "z1[0]", "z1[2]"]


def test_traversals_choose_the_units_of_largest_kl():
    vae, guide = pair(latents=12)
    x = binary(1, 1, 4, 5)
    q = guide(x) and pyro.poutine.trace(guide).get_trace(x).nodes["z1"]["fn"].base_dist
    kl = torch.distributions.kl_divergence(q, dist.Normal(0.0, 1.0))[0]
    order = kl.argsort(descending=True)[:10].tolist()
    ax = plots.traversals(vae, guide, x)
    names = [f"z1[{d}]\n{kl[d]:.2f} nats" for d in order]
    assert texts(ax.get_yticklabels()) == names
    assert_drawn(ax, infer.traverse(vae, guide, x[0], site="z1", dims=order).flatten(0, 1), 10, 7)


def test_kl_of_a_unit_is_measured_against_its_conditional_prior():
    vae, guide = pair(latents=(3, 2))
    x = binary(1, 1, 4, 5)
    means = infer.encode(guide, x).mean
    q = pyro.poutine.trace(guide).get_trace(x).nodes["z1"]["fn"].base_dist
    model = pyro.poutine.condition(vae, data={"z2": means["z2"]})
    p = pyro.poutine.trace(model).get_trace(x).nodes["z1"]["fn"].base_dist
    kl = torch.distributions.kl_divergence(q, p)[0]
    ax = plots.traversals(vae, guide, x, dims=[0, 1, 2])
    names = [f"z1[{d}]\n{kl[d]:.2f} nats" for d in range(3)]
    assert texts(ax.get_yticklabels()) == names
    upper = plots.traversals(vae, guide, x, site="z2", dims=[1])
    assert_drawn(upper, infer.traverse(vae, guide, x[0], site="z2", dims=[1])[0], 1, 7)


def test_traversals_of_a_point_mass_rank_by_distance_from_the_prior_mean():
    vae, _ = pair(latents=4)
    guide, x = Delta(vae), binary(1, 4, 5)
    order = guide.encode(x[None]).mean["z1"][0].abs().argsort(descending=True).tolist()
    labels = texts(plots.traversals(vae, guide, x).get_yticklabels())
    assert [t.split()[0] for t in labels] == [f"z1[{d}]" for d in order]


def test_traversals_of_functions_and_vectors():
    model, guide = functions((6,))
    x = torch.rand(6)
    ax = plots.traversals(model, guide, x, dims=[2, 0])
    expected = infer.traverse(model, guide, x, site="code", dims=[2, 0])
    assert_drawn(ax, expected.flatten(0, 1), 2, 7)
    assert ax.get_yticklabels()[0].get_text().startswith("code[2]")


@pytest.mark.parametrize("y", [2, torch.tensor(2)])
def test_traversals_of_a_conditional_pair(y):
    vae, guide = pair(condition=3)
    x = binary(1, 4, 5)
    ax = plots.traversals(vae, guide, x, dims=[0, 1], y=y)
    expected = infer.traverse(vae, guide, x, site="z1", y=torch.tensor(2))
    assert_drawn(ax, expected.flatten(0, 1), 2, 7)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"site": "z9"}, r"\('z1',\), got 'z9'"),
        ({"dims": [2]}, "units 0 to 1 of 'z1'"),
        ({"dims": []}, "units 0 to 1"),
        ({"values": []}, "values"),
        ({"values": torch.zeros(2, 2)}, "values"),
        ({"x": binary(2, 1, 4, 5)}, r"pass x\[0\]"),
        ({"x": torch.rand(4, 4)}, "one datum of shape"),
    ],
)
def test_traversals_reject(kwargs, message):
    kwargs = {"x": binary(1, 4, 5)} | kwargs
    with pytest.raises(ValueError, match=message):
        plots.traversals(*pair(), **kwargs)


# latent_grid


@pytest.mark.parametrize("event_shape", [(1, 4, 5), (6,)])
def test_latent_grid_shows_infer_grid(event_shape):
    vae, _ = pair(event_shape)
    like = torch.rand(1, *event_shape)
    ax = plots.latent_grid(vae, like=like, steps=5)
    axis, means = infer.grid_2d(vae, like=like, steps=5)
    assert_drawn(ax, means.flatten(0, 1), 5, 5)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z1[0]", "z1[1]")
    # the second unit grows upwards, and the row above has the smaller position
    assert [float(t) for t in texts(ax.get_xticklabels())] == pytest.approx(
        axis.tolist(), abs=0.01
    )
    heights = [float(t) for t in texts(ax.get_yticklabels())]
    assert heights == pytest.approx(axis.flip(0).tolist(), abs=0.01)
    assert list(ax.get_yticks()) == sorted(ax.get_yticks())


def test_latent_grid_thins_its_labels_and_centres_them():
    ax = plots.latent_grid(pair()[0], like=torch.rand(1, 1, 4, 5), steps=15)
    assert_written_beside(ax, 8, 8)


def test_latent_grid_of_an_upper_site_and_a_label():
    vae, _ = pair(latents=(5, 2), condition=3)
    like = torch.rand(1, 1, 4, 5)
    ax = plots.latent_grid(vae, like=like, site="z2", steps=3, y=1)
    _, means = infer.grid_2d(vae, like=like, site="z2", steps=3, y=1)
    assert_drawn(ax, means.flatten(0, 1), 3, 3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "'z1' has 5: use plots.traversals"),
        ({"site": "code"}, r"one of \('z2', 'z1'\), got 'code'"),
        ({"steps": 0}, "steps"),
    ],
)
def test_latent_grid_rejects(kwargs, message):
    with pytest.raises(ValueError, match=message):
        plots.latent_grid(pair(latents=(5, 2))[0], like=torch.rand(1, 1, 4, 5), **kwargs)


def test_a_site_that_is_no_vector_is_named():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("grid", dist.Normal(torch.zeros(3, 2), 1.0).to_event(2))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match=r"'grid' has shape \(3, 2\)"):
        plots.latent_grid(model, like=torch.rand(1, 3), site="grid")


# latent_scatter


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


@pytest.mark.parametrize(
    ("latents", "n", "kwargs", "message"),
    [
        (1, 5, {}, "at least two units, 'z1' has 1"),
        (2, 5, {"site": "z2"}, r"one of \('z1',\)"),
        (2, 5, {"y": torch.zeros(4)}, "expected 5 labels"),
        (2, 0, {}, "at least one datum"),
        (3, 1, {}, "at least 2 data"),
    ],
)
def test_scatter_rejects(latents, n, kwargs, message):
    with pytest.raises(ValueError, match=message):
        plots.latent_scatter(pair(latents=latents)[1], torch.rand(n, 1, 4, 5), **kwargs)


# history


def rows(epochs=4, sites=("z1", "z2"), beta=1.0, validation=True):
    return [
        {
            "epoch": i,
            "elbo": -100.0 / i,
            "objective": -90.0 / i,
            "reconstruction": -80.0 / i,
            "kl": {site: float(i + j) for j, site in enumerate(sites)},
            "beta": beta,
            "lr": 1e-3,
            "guide": "BottomUp",
            "seconds": 1.0,
        }
        | (
            {
                "validation": {
                    "elbo": -110.0 / i,
                    "elbo_se": 0.5,
                    "reconstruction": -85.0 / i,
                    "kl": {site: 2.0 * i + j for j, site in enumerate(sites)},
                }
            }
            if validation
            else {}
        )
        for i in range(1, epochs + 1)
    ]


def curves(ax):
    return {line.get_label(): line.get_xydata().tolist() for line in ax.get_lines()}


def test_history_draws_the_numbers():
    data = rows()
    bound, kl, beta = plots.history(data).axes
    assert curves(bound) == {
        "ELBO, training": [[i, -100 / i] for i in range(1, 5)],
        "ELBO, validation": [[i, -110 / i] for i in range(1, 5)],
    }
    assert curves(kl) == {
        "z1": [[i, i] for i in range(1, 5)],
        "z1, validation": [[i, 2 * i] for i in range(1, 5)],
        "z2": [[i, i + 1] for i in range(1, 5)],
        "z2, validation": [[i, 2 * i + 1] for i in range(1, 5)],
    }
    ((_, line),) = curves(beta).items()
    assert line == [[i, 1] for i in range(1, 5)]
    band = bound.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == -110.5 and band[:, 1].max() == -27
    assert [ax.get_ylabel() for ax in (bound, kl)] == ["nats per datum"] * 2
    assert {ax.get_xlabel() for ax in (bound, kl, beta)} == {"epoch"}


@pytest.mark.parametrize("beta", [0.5, 0.0, {"z1": 1.0, "z2": 0.5}])
def test_history_draws_the_objective_where_beta_is_not_one(beta):
    bound = plots.history(rows(beta=beta, validation=False)).axes[0]
    assert curves(bound) == {
        "ELBO, training": [[i, -100 / i] for i in range(1, 5)],
        "objective, training": [[i, -90 / i] for i in range(1, 5)],
    }


def test_history_draws_beta_per_site():
    data = rows(beta={"z1": 0.25, "z2": 2.0}) + rows(1, beta=1.0)
    data[-1]["epoch"] = 5
    assert curves(plots.history(data).axes[2]) == {
        "z1": [[i, 0.25] for i in range(1, 5)] + [[5, 1]],
        "z2": [[i, 2] for i in range(1, 5)] + [[5, 1]],
    }


def test_history_marks_swaps():
    data = rows()
    data[2] |= {"swapped": True, "guide": "Ladder"}
    figure = plots.history(data)
    for ax in figure.axes:
        marks = [line for line in ax.get_lines() if line.get_linestyle() == ":"]
        assert [set(mark.get_xdata()) for mark in marks] == [{2.5}]
        assert [text.strip() for text in texts(ax.texts)] == ["Ladder"]


def test_history_bears_gaps():
    data = rows()
    del data[1]["validation"]
    data[2]["validation"]["elbo"] = None
    data[3]["kl"] = {"z1": 4.0, "z3": 1.0}
    del data[0]["beta"]
    bound, kl, beta = plots.history(data).axes
    seen = curves(bound)["ELBO, validation"]
    assert [math.isnan(value) for _, value in seen] == [False, True, True, False]
    np.testing.assert_equal(curves(kl)["z3"], [[i, math.nan] for i in (1, 2, 3)] + [[4, 1]])
    assert math.isnan(beta.get_lines()[0].get_ydata()[0])


def test_history_of_one_epoch_is_visible():
    for ax in plots.history(rows(1)).axes:
        assert all(line.get_marker() == "o" for line in ax.get_lines())
        ax.figure.draw_without_rendering()
        assert all(float(t) == int(float(t)) for t in texts(ax.get_xticklabels()))


def test_history_of_nothing_tells_what_to_do():
    with pytest.raises(ValueError, match=r"call trainer\.fit first"):
        plots.history([])
    with pytest.raises(ValueError, match="expected 3, got 2"):
        plots.history(rows(), axes=plt.subplots(1, 2)[1])


def test_history_uses_given_axes():
    figure, axes = plt.subplots(3, 1)
    assert plots.history(rows(), axes=axes) is figure
    assert all(ax.get_lines() for ax in axes)


# all of them


def every_axes_picture(vae, guide, x, y):
    return {
        "images": lambda ax: plots.images(x, ax=ax),
        "samples": lambda ax: plots.samples(vae, 4, y=1, ax=ax),
        "conditional": lambda ax: plots.conditional(vae, n=2, ax=ax),
        "interpolation": lambda ax: plots.interpolation(vae, guide, x[0], x[1], y=y[:2], ax=ax),
        "traversals": lambda ax: plots.traversals(vae, guide, x[0], y=y[0], ax=ax),
        "latent_grid": lambda ax: plots.latent_grid(vae, like=x, y=1, steps=2, ax=ax),
        "latent_scatter": lambda ax: plots.latent_scatter(guide, x, y=y, ax=ax),
    }


def every_figure_picture(vae, guide, x, y):
    return {
        "reconstructions": lambda: plots.reconstructions(vae, guide, x, y=y),
        "denoising": lambda: plots.denoising(vae, guide, x, 0.1, y=y),
        "outliers": lambda: plots.outliers(vae, guide, x, y=y, n=2, importance_samples=5),
    }


@pytest.mark.parametrize("event_shape", [(1, 4, 5), (6,)])
def test_given_axes_are_used_and_no_others(event_shape):
    vae, guide = pair(event_shape, condition=2)
    x, y = binary(4, *event_shape), torch.tensor([0, 1, 0, 1])
    for name, picture in every_axes_picture(vae, guide, x, y).items():
        figure, (left, right) = plt.subplots(1, 2)
        before = plt.get_fignums()
        assert picture(left) is left, name
        assert plt.get_fignums() == before, name
        assert not right.has_data(), name
        plt.close(figure)


class Noisy(nn.Module):
    """A linear map behind batch normalisation and dropout."""

    def __init__(self, size_in, size_out):
        super().__init__()
        self.linear = nn.Linear(size_in, size_out)
        self.norm, self.dropout = nn.BatchNorm1d(size_out), nn.Dropout(0.5)

    def forward(self, x, *labels):
        return self.dropout(self.norm(self.linear(x.flatten(1))))


def test_pictures_change_no_state():
    decoder = nn.Sequential(Noisy(3, 20), nn.Unflatten(1, (1, 4, 5)))

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = decoder

        def forward(self, z, label):
            return self.inner(torch.cat([z, label[:, :1]], 1))

    vae = VAE((1, 4, 5), 2, likelihood=Bernoulli(), hidden=(), condition=2, decoder=Decoder())
    guide = BottomUp(vae, encoder=Noisy(20, 4))
    vae.train()
    guide.train()
    vae.decoder.inner[0].dropout.eval()
    modes = {m: m.training for program in (vae, guide) for m in program.modules()}
    state = [{k: v.clone() for k, v in program.state_dict().items()} for program in (vae, guide)]
    x, y = binary(4, 1, 4, 5), torch.tensor([0, 1, 0, 1])
    axes_pictures = every_axes_picture(vae, guide, x, y)
    figure_pictures = every_figure_picture(vae, guide, x, y)
    draws = {"samples", "conditional", "denoising"}
    for name, picture in (axes_pictures | figure_pictures).items():
        random = torch.get_rng_state()
        picture(None) if name in axes_pictures else picture()
        assert torch.equal(torch.get_rng_state(), random) == (name not in draws), name
        assert {m: m.training for m in modes} == modes, name
        for program, before in zip((vae, guide), state, strict=True):
            for key, value in program.state_dict().items():
                assert torch.equal(value, before[key]), (name, key)
            assert all(p.grad is None for p in program.parameters()), name
        plt.close("all")
    assert not list(pyro.get_param_store().keys())


def test_labels_stay_on_the_figure():
    vae, guide = pair(latents=4)
    x = binary(2, 1, 4, 5)
    for figure in (
        plots.reconstructions(vae, guide, x),
        plots.denoising(vae, guide, x, 0.1),
        plots.traversals(vae, guide, x[0]).figure,
    ):
        figure.draw_without_rendering()
        left, bottom, right, top = figure.bbox.extents
        for ax in figure.axes:
            for text in [
                *ax.get_xticklabels(),
                *ax.get_yticklabels(),
                ax.xaxis.label,
                ax.yaxis.label,
            ]:
                if text.get_text():
                    box = text.get_window_extent()
                    assert left <= box.x0 and box.x1 <= right, text
                    assert bottom <= box.y0 and box.y1 <= top, text


def test_a_notebook_shows_a_figure_once(monkeypatch):
    figure = plots.history(rows())
    with pytest.raises(NotImplementedError):
        figure._ipython_display_()
    assert plt.fignum_exists(figure.number)
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "module://matplotlib_inline.backend")
    with pytest.raises(NotImplementedError):
        figure._ipython_display_()
    assert not plt.fignum_exists(figure.number)


def test_every_public_picture_is_exported():
    assert sorted(plots.__all__) == plots.__all__
    named = re.findall(r"``(\w+)``", plots.__doc__.split("A datum of shape")[0])
    assert sorted(n for n in named if n not in ("Axes", "Figure")) == plots.__all__
    assert all(callable(getattr(plots, n)) for n in plots.__all__)


# arguments in other forms


@pytest.mark.parametrize("as_y", [list, np.array])
def test_labels_in_other_forms(as_y):
    vae, guide = pair(condition=3)
    x, y = binary(3, 1, 4, 5), torch.tensor([2, 0, 1])
    other = as_y(y.tolist())

    def shown(labels):
        torch.manual_seed(3)
        drawn = [
            plots.samples(vae, 3, y=labels),
            plots.samples(vae, 3, y=labels[0]),
            plots.reconstructions(vae, guide, x, y=labels).axes[1],
            plots.denoising(vae, guide, x, 0.1, y=labels).axes[2],
            plots.outliers(vae, guide, x, y=labels, importance_samples=2).axes[0],
            plots.interpolation(vae, guide, x[0], x[1], y=labels[:2], steps=3),
            plots.traversals(vae, guide, x[0], y=labels[0], dims=[0, 1]),
            plots.latent_grid(vae, like=x, y=int(labels[0]), steps=3),
        ]
        return [ax.images[0].get_array() for ax in drawn]

    for a, b in zip(shown(y), shown(other), strict=True):
        np.testing.assert_array_equal(a, b)
    points = [plots.latent_scatter(guide, x, y=labels) for labels in (y, other)]
    for a, b in zip(*(ax.collections for ax in points), strict=True):
        np.testing.assert_array_equal(a.get_offsets(), b.get_offsets())


def test_a_single_datum_or_a_data_set_for_reconstructions():
    vae, guide = pair()
    x = binary(3, 1, 4, 5)
    with pytest.raises(ValueError, match=r"expected shape \(n, 1, 4, 5\)") as error:
        plots.reconstructions(vae, guide, x[0])
    assert "Sites" not in str(error.value)
    for picture in (plots.reconstructions, lambda *given: plots.denoising(*given, 0.1)):
        with pytest.raises(TypeError, match=r"x: .* got Dataset: pass its .x"):
            picture(vae, guide, Dataset(x))


def test_pairs_in_double_precision():
    vae, guide = pair()
    x = binary(5, 1, 4, 5)
    expected = guide.encode(x).mean["z1"]
    vae.double(), guide.double()
    offsets = plots.latent_scatter(guide, Dataset(x)).collections[0].get_offsets()
    np.testing.assert_allclose(offsets, expected, rtol=1e-4, atol=1e-5)
    log_p = infer.log_likelihood(vae, guide, x.double(), importance_samples=100)
    axes = plots.outliers(vae, guide, Dataset(x)).axes[0]
    assert texts(axes.texts)[0].startswith(f"{float(log_p.min()):.1f} nats")
