"""Sound, videos and codes, compared with the numbers that they show."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae import plots


def frames(content):
    """Grey values of each frame, (t, h, w), and how long it stands, in ms."""
    with Image.open(io.BytesIO(content)) as picture:
        found = []
        for i in range(picture.n_frames):
            picture.seek(i)
            found.append((np.asarray(picture.convert("L")), picture.info["duration"]))
        assert picture.info["loop"] == 0
    return torch.tensor(np.stack([pixels for pixels, _ in found])), {ms for _, ms in found}


def test_an_animation_shows_each_frame(tmp_path):
    torch.manual_seed(0)
    x = (torch.rand(3, 1, 5, 4, 6) < 0.5).float()
    moving = plots.animation(x, columns=2, enlarge=1, fps=10)
    got, durations = frames(moving.content)
    assert got.shape == (5, 2 * 6 + 2, 2 * 8 + 2) and durations == {100}
    for i in range(3):
        top, left = 2 + 6 * (i // 2), 2 + 8 * (i % 2)
        assert torch.equal(got[:, top : top + 4, left : left + 6] / 255, x[i, 0])
    # The place of a fourth video, and the gaps
    assert (got[:, 8:, 10:] == 255).all() and (got[:, :2] == 255).all()
    moving.save(tmp_path / "x.gif")
    assert (tmp_path / "x.gif").read_bytes() == moving.content
    assert "data:image/gif;base64," in moving._repr_html_()


def test_pixels_are_repeated_and_channels_are_colours_or_averaged():
    x = torch.rand(1, 3, 2, 4, 4).round()
    with Image.open(io.BytesIO(plots.animation(x, enlarge=2).content)) as picture:
        pixels = np.asarray(picture.convert("RGB"))[2:-2, 2:-2]
    assert np.array_equal(pixels[::2, ::2] / 255, x[0, :, 0].movedim(0, -1).numpy())
    assert np.array_equal(pixels[1::2, 1::2], pixels[::2, ::2])
    five = torch.rand(1, 5, 2, 4, 4)
    assert plots.animation(five).content == plots.animation(five.mean(1)).content


@pytest.mark.parametrize("rate", [8000, 1000])
def test_a_sine_is_loud_at_its_frequency(rate):
    time = torch.arange(1024) / rate
    tones = torch.stack([(2 * torch.pi * f * rate * time).sin() for f in (0.125, 0.25)])
    figure = plots.spectrograms(torch.stack([tones, 0.1 * tones], 1), rate, titles=["a", "b"])
    for ax, share in zip(figure.axes, (0.125, 0.25), strict=False):
        (drawn,) = ax.images
        decibels = np.asarray(drawn.get_array())
        left, right, low, high = drawn.get_extent()
        assert (low, high) == (0, rate / 2000) and 0 <= left < right <= 1024 / rate
        loudest = decibels.argmax(0) / (len(decibels) - 1) * high
        np.testing.assert_allclose(loudest, share * rate / 1000, atol=1e-9)
        assert decibels.max() == pytest.approx(0, abs=0.1) and decibels.min() >= -80
    assert [ax.get_title() for ax in figure.axes[:2]] == ["a", "b"]


def test_half_the_amplitude_is_six_decibels_less():
    sine = (torch.arange(512) * torch.pi / 4).sin()
    figure = plots.spectrograms(torch.stack([sine, sine / 2]), 8000)
    first, second = (float(ax.images[0].get_array().max()) for ax in figure.axes[:2])
    assert first - second == pytest.approx(20 * np.log10(2), abs=1e-3)


@pytest.mark.parametrize("shape", [(3, 7), (3, 2, 5), (2, 4, 3, 5)])
def test_code_maps_show_each_number(shape):
    numbers = torch.arange(np.prod(shape)).reshape(shape) % 16
    ax = plots.code_maps(numbers, codes=16)
    grid = torch.tensor(np.ma.filled(ax.images[0].get_array().astype(float), -1))
    n, t, h, w = (*shape[:1], *(1,) * (4 - len(shape)), *shape[1:])
    assert grid.shape == (n * (h + 1) - 1, t * (w + 1) - 1)
    for i in range(n):
        for k in range(t):
            at = grid[i * (h + 1) : i * (h + 1) + h, k * (w + 1) : k * (w + 1) + w]
            assert torch.equal(at, numbers.reshape(n, t, h, w)[i, k].double())
    assert (grid == -1).sum() == grid.numel() - numbers.numel()
    assert ax.images[0].get_clim() == (-0.5, 15.5)
