"""Curves and strips of frames, compared with the numbers that they show."""

import math

import numpy as np
import pytest
import torch
from drawn import cells
from matplotlib.collections import LineCollection

from pyro_vae import guides, likelihoods, models, plots
from pyro_vae.plots.signals import strips

SIGNAL, VIDEO = (2, 20), (1, 5, 4, 6)


def curves(ax):
    """Values of each curve by its channel, (channels, n, t), from the scale that the axes tell."""
    told = ax.get_xlabel().split()
    low, high = float(told[2]), float(told[5])
    lines = [c for c in ax.collections if isinstance(c, LineCollection) and len(c.get_segments())]
    drawn = [np.stack(c.get_segments()) for c in lines if len(c.get_segments()[0]) > 2]
    down = np.stack(drawn)[..., 1]
    share = (1 - 0.06 - down % 1) / (1 - 2 * 0.06)
    return torch.as_tensor(low + share * (high - low)).float(), np.stack(drawn)


@pytest.mark.parametrize("event_shape", [(2, 20), (20,), (1, 20)])
def test_curves_draw_each_value(event_shape):
    x = torch.randn(6, *event_shape)
    x[0].view(-1)[0], x[1].view(-1)[0] = -4.0, 4.0
    values, places = curves(plots.images(x, kind="signal", columns=2))
    torch.testing.assert_close(values, x.reshape(6, -1, 20).movedim(0, 1), atol=1e-4, rtol=1e-4)
    rows, columns = places[0, :, 0, 1] // 1, places[0, :, 0, 0] // 1
    assert rows.tolist() == [0, 0, 1, 1, 2, 2] and columns.tolist() == [0, 1] * 3


@pytest.mark.parametrize("event_shape", [(1, 5, 4, 6), (3, 5, 4, 6), (5, 4, 6)])
def test_strips_are_the_frames_of_a_video(event_shape):
    x = torch.rand(3, *event_shape)
    found = strips(x)
    frames = x.reshape(3, -1, 5, 4, 6)
    assert found.shape == (3, frames.shape[1], 4, 5 * 6 + 4)
    for frame in range(5):
        at = frame * 7
        assert torch.equal(found[..., at : at + 6], frames[:, :, frame])
    assert (found[..., 6] == 1).all()
    ends = strips(x, most=2)
    assert torch.equal(ends[..., :6], frames[:, :, 0])
    assert torch.equal(ends[..., 7:], frames[:, :, -1])


def test_channels_that_are_no_colours_are_averaged():
    x = torch.rand(3, 2, 5, 4, 6)
    assert torch.equal(strips(x), strips(x.mean(1, keepdim=True)))


def test_a_kind_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="kind: expected a datum of shape"):
        plots.images(torch.rand(3, 1, 4, 6), kind="signal")


def pair(event_shape, kind, noise="predicted"):
    options = {"likelihood": likelihoods.Gaussian(noise), "kind": kind, "channels": (3,)}
    vae = models.VAE(event_shape, 2, **options)
    return vae, guides.BottomUp(vae)


def test_samples_are_drawn_by_the_kind_of_the_model():
    vae, _ = pair(SIGNAL, "signal")
    torch.manual_seed(0)
    x = vae.sample(5, mean=True)
    torch.manual_seed(0)
    values, _ = curves(plots.samples(vae, 5))
    torch.testing.assert_close(values, x.movedim(0, 1), atol=0.02, rtol=0.02)
    vae, _ = pair(VIDEO, "video")
    torch.manual_seed(0)
    x = strips(vae.sample(4, mean=True))
    torch.manual_seed(0)
    drawn = cells(plots.samples(vae, 4), 4, 1, x.shape[1:])
    np.testing.assert_allclose(drawn[:, 0, 0], x[:, 0].clamp(0, 1), atol=1e-6)


@pytest.mark.parametrize(("event_shape", "kind"), [(SIGNAL, "signal"), (VIDEO, "video")])
def test_pictures_of_pairs(event_shape, kind):
    vae, guide = pair(event_shape, kind)
    x = torch.rand(3, *event_shape)
    assert len(plots.reconstructions(vae, guide, x).axes) == 2
    assert len(plots.denoising(vae, guide, x, 0.1).axes) == 3
    assert len(plots.uncertainty(vae, guide, x).axes) >= 3
    ax = plots.traversals(vae, guide, x[0], dims=[1, 0], values=[-1, 0, 1])
    assert [t.get_text().split("\n")[0] for t in ax.get_yticklabels()] == ["z1[1]", "z1[0]"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["-1", "0", "1"]
    assert len(plots.interpolation(vae, guide, x[0], x[1], steps=4).get_xticklabels()) == 4
    assert plots.latent_grid(vae, like=x, steps=3).get_xlabel() == "z1[0]"
    assert len(plots.outliers(vae, guide, x, n=2, importance_samples=2).axes) == 1


def test_many_clips_stand_beside_their_reconstructions():
    vae, guide = pair(VIDEO, "video")
    for n, beside in ((2, False), (6, True)):
        figure = plots.reconstructions(vae, guide, torch.rand(n, *VIDEO))
        figure.draw_without_rendering()
        data, again = (ax.get_position() for ax in figure.axes)
        assert bool(data.x1 < again.x0) == beside != bool(data.y0 > again.y1)


def test_no_label_of_a_few_rows_is_cut_off():
    vae, guide = pair(VIDEO, "video")
    ax = plots.traversals(vae, guide, torch.rand(*VIDEO), dims=[0], values=[-1, 0, 1])
    ax.figure.draw_without_rendering()
    label, whole = ax.yaxis.label.get_window_extent(), ax.figure.bbox
    assert whole.y0 <= label.y0 and label.y1 <= whole.y1


def test_reconstructions_share_one_scale():
    vae, guide = pair(SIGNAL, "signal")
    x = 3 * torch.randn(3, *SIGNAL)
    given, made = plots.reconstructions(vae, guide, x).axes
    assert given.get_xlabel() == made.get_xlabel()
    values, _ = curves(given)
    torch.testing.assert_close(values, x.movedim(0, 1), atol=0.05, rtol=0.02)
    assert math.isclose(given.get_ylim()[0], 3)
