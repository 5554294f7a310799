"""Pictures of data, compared with the numbers that they show."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pytest
import torch
from drawn import assert_drawn, binary, cells, functions, pair, texts
from torchvision.utils import make_grid

from pyro_vae import handlers, infer, plots, priors
from pyro_vae.data import Dataset
from pyro_vae.infer.latent import decode_mean
from pyro_vae.plots import drawing

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


@pytest.mark.parametrize("shape", [(5, 1, 3, 4), (6, 3, 3, 4), (1, 3, 2, 2), (4, 1, 1, 3)])
@pytest.mark.parametrize("frame", [0, 2])
def test_images_are_tiled_as_torchvision_does_it(shape, frame):
    x, frame = torch.rand(shape), frame if shape[0] > 1 else 0
    for columns in (1, 3, 8):
        expected = make_grid(x, nrow=columns, padding=frame, pad_value=0.5)
        assert torch.equal(drawing.tiled(x, columns, frame, fill=0.5), expected)


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


@pytest.mark.parametrize("kind", ["library", "functions"])
def test_samples_of_another_prior(kind):
    """At the value at which the prior puts all draws."""
    model, _ = pair() if kind == "library" else functions()
    x, (site, size) = torch.rand(4, 1, 4, 5), ("z1", 2) if kind == "library" else ("code", 3)
    prior = priors.StandardNormal(size)
    prior.loc.fill_(1.5)
    prior.scale.fill_(1e-6)
    like = None if kind == "library" else x[:1]
    ax = plots.samples(model, 4, prior=prior, like=like)
    expected = decode_mean(model, {site: torch.full((4, size), 1.5)}, x)
    shown = cells(ax, 1, 4, (1, 4, 5))[0]
    torch.testing.assert_close(shown, expected.expand_as(shown), atol=1e-4, rtol=1e-4)
    with pytest.raises(TypeError, match="prior: expected"):
        plots.samples(model, 4, prior=3, like=like)


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
    with pytest.raises(ValueError, match="noise: expected a finite number >= 0, got"):
        plots.denoising(*pair(), torch.rand(4, 1, 4, 5), noise)


# outliers


def planted(linear):
    x = linear.data(40)
    x[[7, 30, 12, 3, 21]] += torch.tensor([[60.0], [50.0], [40.0], [30.0], [20.0]])
    return x


def test_outliers_finds_planted_ones_in_order(linear):
    x = planted(linear)
    (ax, _) = plots.outliers(linear.vae, linear.guide(), x, n=5).axes
    log_p = linear.evidence().log_prob(x)
    order = log_p.argsort()[:5].tolist()
    assert order == [7, 30, 12, 3, 21]
    assert_drawn(ax, x[order], 5, 1)
    # the guide is the exact posterior, so that importance sampling is exact
    said = [text.split(" nats  row ") for text in texts(ax.get_yticklabels())]
    assert [int(row) for _, row in said] == order
    assert [float(nats) for nats, _ in said] == pytest.approx(log_p[order].tolist(), abs=0.1)


def test_outliers_takes_what_there_is(linear):
    assert (
        len(plots.outliers(linear.vae, linear.guide(), linear.data(3)).axes[0].get_yticks()) == 3
    )
    with pytest.raises(ValueError, match="n: expected a whole number of at least 1, got 0"):
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


def test_a_single_datum_or_a_data_set_for_reconstructions():
    vae, guide = pair()
    x = binary(3, 1, 4, 5)
    with pytest.raises(ValueError, match=r"expected shape \(n, 1, 4, 5\)") as error:
        plots.reconstructions(vae, guide, x[0])
    assert "Sites" not in str(error.value)
    for picture in (plots.reconstructions, lambda *given: plots.denoising(*given, 0.1)):
        with pytest.raises(TypeError, match=r"x: .* got Dataset: pass its .x"):
            picture(vae, guide, Dataset(x))
