"""Pictures of hierarchies, compared with the numbers that they show."""

from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess

from pyro_vae import handlers, plots
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE
from pyro_vae.plots.layers import projections

# Samples by layer


class Chain:
    """z3 -> z2 -> z1 -> x with almost no noise but the top's: every layer copies one above."""

    def __init__(self, noisy="z3"):
        vae = VAE((4,), (1, 1, 1), likelihood=Gaussian(1e-6), hidden=())
        with torch.no_grad():
            for site in ("z1", "z2"):
                head = vae.conditionals[site]
                head.loc.weight.fill_(1.0)
                head.loc.bias.zero_()
                head.raw_scale.weight.zero_()
                head.raw_scale.bias.fill_(0.5 if site == noisy else -20.0)
            vae.decoder.layers[0].weight.fill_(1.0)
            vae.decoder.layers[0].bias.zero_()
        self.vae = vae


def drawn_values(ax, rows, columns):
    """One value per datum of a vector of four equal elements."""
    grid = torch.as_tensor(ax.images[0].get_array().filled(float("nan")))
    cells = grid.unfold(1, 5, 5) if grid.shape[1] > 4 else grid[:, None]
    values = cells[..., :4].nanmean(-1)
    assert values.shape == (rows, columns)
    return values


@pytest.mark.parametrize(
    ("noisy", "layer", "varies"),
    [("z2", "z1", False), ("z2", "z2", True), ("z2", 1, False), ("z2", 2, True), ("z1", 1, True)],
)
def test_layers_above_are_held_and_those_below_are_drawn(noisy, layer, varies):
    ax = plots.layer_samples(Chain(noisy).vae, layer, rows=5, columns=6)
    values = drawn_values(ax, 5, 6)
    assert (values.std(1) > 0.1).all() == varies and (values.std(1) < 0.01).all() != varies
    assert values.mean(1).std() > 0.1, "rows are different draws"


def test_the_top_layer_holds_nothing():
    ax = plots.layer_samples(Chain().vae, "z3", rows=5, columns=6)
    assert (drawn_values(ax, 5, 6).std(1) > 0.1).all()
    assert ax.get_title() == "drawn: z3, z2, z1" and not ax.get_ylabel()
    ax = plots.layer_samples(Chain().vae, 2, rows=2, columns=3)
    assert ax.get_title() == "held: z3; drawn: z2, z1"


def test_values_of_the_top_are_standard_normal():
    ax = plots.layer_samples(Chain().vae, "z1", rows=400, columns=1)
    values = drawn_values(ax, 400, 1)
    assert excess(values.mean() * 400**0.5) < 1 and excess((values.std() - 1) * 800**0.5) < 1


def test_images_labels_and_wrapped_models():
    options = {"likelihood": Bernoulli(), "hidden": (), "condition": 3}
    vae = VAE((1, 4, 4), (3, 2), **options)
    seen = []
    vae.decoder.register_forward_pre_hook(lambda m, args: seen.append(args[-1].argmax(-1)))
    wrapped = handlers.scale_latents(vae, 0.5)
    ax = plots.layer_samples(wrapped, "z1", rows=3, columns=2, y=[2, 0, 1])
    assert ax.images[0].get_array().shape == (3 * 5 + 1, 2 * 5 + 1, 3)
    assert seen[-1].tolist() == [2, 2, 0, 0, 1, 1]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["1", "2", "3"]
    plots.layer_samples(wrapped, "z1", rows=3, columns=2, y=1)
    assert seen[-1].tolist() == [1] * 6


def test_functions_with_names_of_their_own():
    def model(x):
        with pyro.plate("rows", len(x)):
            top = pyro.sample("top", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            low = pyro.sample("low", dist.Normal(top, 1e-3).to_event(1))
            pyro.sample("pixels", dist.Normal(low.expand(-1, 4), 0.1).to_event(1), obs=x)

    ax = plots.layer_samples(model, "low", rows=5, columns=3, like=torch.zeros(1, 4))
    values = drawn_values(ax, 5, 3)
    assert (values.std(1) < 0.02).all() and values.mean(1).std() > 0.1
    with pytest.raises(ValueError, match=r"like: model has no method sample"):
        plots.layer_samples(model, "low")


def test_modes_stay():
    vae = Chain().vae
    vae.decoder.eval()
    plots.layer_samples(vae, 1, rows=2, columns=2)
    assert vae.training and not vae.decoder.training


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        ("z9", {}, r"layer: expected one of \('z1', 'z2', 'z3'\), or a number .* got 'z9'"),
        (0, {}, "layer: expected one of"),
        (4, {}, "layer: expected one of .* from 1 to 3, got 4"),
        ("x", {}, "layer: expected one of"),
        (1, {"rows": 0}, "rows: expected a whole number of at least 1, got 0"),
        (1, {"columns": 0}, "columns: expected a whole number of at least 1, got 0"),
    ],
)
def test_bad_arguments(layer, options, message):
    with pytest.raises(ValueError, match=message):
        plots.layer_samples(Chain().vae, layer, **options)


def test_small_components_have_short_numbers():
    points = torch.linspace(-0.0012, 0.0015, 50)[:, None] * torch.tensor([1.0, 0.3])
    figure = projections({"z1": points}, {"z1": torch.tensor([0.9, 0.1])}, None)
    figure.canvas.draw()
    labels = [t for t in figure.axes[0].get_xticklabels() if t.get_text()]
    boxes = [t.get_window_extent() for t in labels]
    assert len(boxes) > 2
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
