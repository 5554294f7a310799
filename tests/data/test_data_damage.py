"""Files of images and arrays that are broken, strange or made to do harm."""

import random
import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae.data import load
from pyro_vae.data.images import read_images

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 8, 3)).astype(np.uint8)


def image(mode="RGB"):
    return Image.fromarray(PIXELS).convert(mode)


def read(path, grey=False, background=None):
    return read_images([path], size=None, grey=grey, background=background)[0]


def expected(picture):
    """Channels first, by another route than the reader's."""
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("RGB", "a.png"),
        ("RGB", "a.bmp"),
        ("RGB", "A.PNG"),
        ("L", "a.png"),
        ("1", "a.png"),
        ("P", "a.png"),
        ("P", "a.gif"),
        ("CMYK", "a.tif"),
        ("YCbCr", "a.tif"),
    ],
)
def test_pixels_of_any_colours_are_read(tmp_path, mode, name):
    original = image(mode)
    original.save(tmp_path / name)
    plain = original.convert("RGBA").convert("RGB") if mode == "P" else original.convert("RGB")
    assert torch.equal(read(tmp_path / name), expected(plain))
    grey = read(tmp_path / name, grey=True)
    assert grey.shape == (1, 6, 8)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize(
    ("background", "ground"),
    [("white", (255, 255, 255)), ("#ff8000", (255, 128, 0)), ((1, 2, 3), (1, 2, 3))],
)
def test_transparent_pixels_show_the_background(tmp_path, mode, background, ground):
    original = image(mode)
    original.putalpha(Image.fromarray(PIXELS[..., 0]))
    original.save(tmp_path / "a.png")
    colour, alpha = image(mode).convert("RGB"), PIXELS[..., :1] / 255
    mixed = np.asarray(colour) * alpha + np.array(ground) * (1 - alpha)
    found = read(tmp_path / "a.png", background=background)
    # Pillow rounds to whole numbers
    np.testing.assert_allclose(found.permute(1, 2, 0), mixed, atol=1)
    assert read(tmp_path / "a.png", grey=True, background=background).shape == (1, 6, 8)


def icons(folder, alpha):
    """Black discs on a transparent ground, whose hidden colour is noise."""
    for k in range(3):
        pixels = RNG.integers(0, 256, (6, 6, 4)).astype(np.uint8)
        pixels[..., 3] = alpha
        pixels[2:4, 2:4] = (0, 0, 0, 255)
        Image.fromarray(pixels).save(folder / f"{k}.png")


def test_icons_become_black_on_white_and_that_is_told(tmp_path):
    icons(tmp_path, alpha=0)
    with pytest.warns(UserWarning, match=r"3 of 3 images .* background=\"white\"") as told:
        d = load(tmp_path)
    assert [warning.filename for warning in told] == [__file__]
    disc = torch.ones(6, 6)
    disc[2:4, 2:4] = 0
    assert torch.equal(d.train.x, disc.expand(2, 1, 6, 6))
    # The advice, which ends the notice
    assert torch.equal(load(tmp_path, background="white").train.x, d.train.x)
    assert load(tmp_path, background="black").train.x.max() == 0


def test_opaque_pictures_with_an_alpha_channel_are_read_without_a_notice(tmp_path):
    icons(tmp_path, alpha=255)
    assert load(tmp_path).event_shape == (3, 6, 6)


@pytest.mark.parametrize("background", ["whitish", (1, 2), (0, 0, 256), (0.5, 0, 0), 3])
def test_a_background_that_is_no_colour(tmp_path, background):
    icons(tmp_path, alpha=0)
    with pytest.raises(ValueError, match="background: expected the name of a colour"):
        load(tmp_path, background=background)


def test_grey_pictures_have_one_channel_if_all_are_grey(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for k in range(2):
            image("L").save(tmp_path / part / f"{k}.png")
    d = load(tmp_path)
    assert d.event_shape == (1, 6, 8)
    assert torch.equal(d.train.x[0], expected(image("L").convert("RGB"))[:1] / 255)
    assert load(tmp_path, grey=None).event_shape == (3, 6, 8)
    image().save(tmp_path / "test" / "2.png")
    assert load(tmp_path).event_shape == (3, 6, 8)


def test_cmyk_photographs(tmp_path):
    image("CMYK").save(tmp_path / "a.jpg", quality=100)
    difference = read(tmp_path / "a.jpg").float() - expected(image("CMYK").convert("RGB"))
    # the picture is lossy, and of noise
    assert difference.abs().mean() < 16


# Where the pixel at the top left of the stored picture is to be seen, by the standard
CORNERS = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0)}


CORNERS |= {5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}


@pytest.mark.parametrize("orientation", CORNERS)
def test_orientations_of_a_camera(tmp_path, orientation):
    picture = Image.new("RGB", (8, 6))
    picture.putpixel((0, 0), (255, 0, 0))
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    found = read(tmp_path / "a.png")
    assert found.shape == ((3, 6, 8) if orientation < 5 else (3, 8, 6))
    row, column = CORNERS[orientation]
    assert found[0, row, column] == 255 and found.sum() == 255


def animation(path):
    frames = [Image.new("RGB", (4, 4), (40 * k, 0, 0)) for k in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def bomb(path, width=20000, height=20000):
    """A picture of a few bytes whose header asks for more than a gigabyte."""
    image().save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(bytes(content))


BAD = {
    "empty.png": lambda path: path.write_bytes(b""),
    "text.jpg": lambda path: path.write_text("no image"),
    "cut.png": lambda path: (image().save(path), path.write_bytes(path.read_bytes()[:60])),
    "sixteen.png": lambda path: Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(path),
    "real.tif": lambda path: Image.fromarray(PIXELS[..., 0].astype(np.float32)).save(path),
    "whole.tif": lambda path: Image.fromarray(PIXELS[..., 0].astype(np.int32)).save(path),
    "animated.gif": animation,
    "animated.png": animation,
    "animated.webp": animation,
    "pages.tif": animation,
    "bomb.png": bomb,
    "large.png": lambda path: bomb(path, 10000, 10000),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_refused_by_name(tmp_path, name):
    image().save(tmp_path / "good.png")
    BAD[name](tmp_path / name)
    with pytest.raises(ValueError, match=r"images: expected .* got 1 others: ") as error:
        load(tmp_path)
    assert f"{tmp_path / name} (" in str(error.value) and "good.png" not in str(error.value)
    assert str(error.value).endswith("): remove or replace them")


def test_all_bad_images_are_refused_at_once(tmp_path):
    for name, make in BAD.items():
        make(tmp_path / name)
    with pytest.raises(ValueError, match=rf"got {len(BAD)} others: .* and {len(BAD) - 5} more"):
        load(tmp_path)


def test_images_of_any_size_are_read_where_pillow_is_told_to(tmp_path, monkeypatch):
    image().save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(ValueError, match=r"a.png \(Image size \(48 pixels\) exceeds limit"):
        read(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read(tmp_path / "a.png").shape == (3, 6, 8)


def test_other_files_and_folders_by_the_name_of_images_are_left_out(tmp_path):
    for k in range(2):
        image().save(tmp_path / f"{k}.png")
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / ".hidden.png").write_text("text")
    d = load(tmp_path)
    assert len(d.train) + len(d.test) == 2
    (tmp_path / "folder.png").mkdir()
    assert len(load(tmp_path).train) == 1


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.gif", "a.tif", "a.webp"])
def test_mutated_images_are_read_or_refused(tmp_path, name):
    image().save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    refused = 0
    for seed in range(40):
        rng = random.Random(seed)
        content = bytearray(whole)
        for _ in range(rng.choice([1, 2, 8])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        (tmp_path / name).write_bytes(content[: rng.randrange(len(content)) if seed % 4 else None])
        try:
            with warnings.catch_warnings(action="ignore"):  # Pillow's, of broken metadata
                pixels = read(tmp_path / name)
        except ValueError as error:
            assert str(error).startswith("images: expected whole files of one picture each")
            refused += 1
        else:
            assert pixels.dtype == torch.uint8 and pixels.dim() == 3
    assert refused >= 10


def tiff_of_five_channels(path):
    """Red, green, blue and two others behind them, written by hand."""
    pixels, bits = bytes(range(2 * 3 * 5)), struct.pack("<5H", *[8] * 5)
    fields = {
        256: (3, 1, 3),
        257: (3, 1, 2),
        258: (3, 5, 8 + len(pixels)),
        259: (3, 1, 1),
        262: (3, 1, 2),
        273: (4, 1, 8),
        277: (3, 1, 5),
        278: (3, 1, 2),
        279: (4, 1, len(pixels)),
        338: (3, 2, 0),
    }
    entries = b"".join(struct.pack("<HHII", tag, *value) for tag, value in fields.items())
    head = struct.pack("<2sHI", b"II", 42, 8 + len(pixels) + len(bits))
    path.write_bytes(head + pixels + bits + struct.pack("<H", len(fields)) + entries + bytes(4))


def test_channels_behind_the_colours_are_not_left_out(tmp_path):
    tiff_of_five_channels(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as opened:
        assert opened.mode == "RGB"
    with pytest.raises(
        ValueError, match=r"a.tif \(5 channels, 3 of them colours; tifffile.imread"
    ):
        load(tmp_path)


def test_pages_of_a_tiff_are_no_animation(tmp_path):
    animation(tmp_path / "a.tif")
    with pytest.raises(
        ValueError, match=r"a stack of 3 frames; .*; tifffile.imread\(path\) reads"
    ):
        load(tmp_path)


def test_large_pictures_are_read_only_at_a_size_that_was_chosen(tmp_path):
    for k in range(3):
        Image.new("1", (9000, 9000)).save(tmp_path / f"{k}.png")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"got 243,000,000 in .*0.png of 9000 x 9000 pixels"):
            load(tmp_path)
        # The advice
        assert load(tmp_path, size=64).event_shape == (1, 64, 64)
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()


def test_pictures_that_fill_the_memory_together_are_refused(tmp_path, monkeypatch):
    for k in range(4):
        image().save(tmp_path / f"{k}.png")
    monkeypatch.setattr("pyro_vae.data.images.memory", lambda: 2 * 4 * 3 * 6 * 8 - 1)
    with pytest.raises(ValueError, match=r"got 4 of 6 x 8 pixels, .* smaller size=, or grey=True"):
        load(tmp_path)
    assert load(tmp_path, size=5).event_shape == (3, 5, 5)
    assert load(tmp_path, grey=True).event_shape == (1, 6, 8)


def test_masks_of_0_and_1(tmp_path):
    (tmp_path / "masks").mkdir()
    masks = (PIXELS[..., 0] > 100).astype(np.uint8)
    for k in range(2):
        Image.fromarray(masks).save(tmp_path / "masks" / f"{k}.png")
    with pytest.raises(
        ValueError, match=r"got pictures of 0 and 1 alone.*fromarray\(255 \* pixels"
    ):
        load(tmp_path / "masks")
    for k in range(2):
        Image.fromarray(255 * masks).save(tmp_path / "masks" / f"{k}.png")
    assert load(tmp_path / "masks").train.x.unique().tolist() == [0, 1]
