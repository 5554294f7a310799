"""WAV files of every depth, folders of them, and what cannot be one data set."""

import wave

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile

from pyro_vae.data import Dataset, load, read_wav, write_wav
from pyro_vae.data.splits import DataSplits

RATE = 8000


def levels(*shape, seed=0):
    """Whole numbers of 16 bits, the extreme ones among them."""
    found = np.random.default_rng(seed).integers(-(2**15), 2**15, shape)
    found.flat[:2] = -(2**15), 2**15 - 1
    return found


@pytest.mark.parametrize("channels", [1, 2])
def test_what_was_written_is_read_to_the_bit(tmp_path, channels):
    x = torch.tensor(levels(channels, 500) / 2**15).float()
    write_wav(tmp_path / "x.wav", x, RATE)
    found, rate = read_wav(tmp_path / "x.wav")
    assert torch.equal(found, x) and rate == RATE
    with wave.open(str(tmp_path / "x.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getnframes()) == (channels, 2, 500)


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("channels", [1, 2])
def test_whole_numbers_of_each_depth(tmp_path, bits, channels):
    half = 2 ** (bits - 1)
    numbers = np.random.default_rng(0).integers(-half, half, (70, channels))
    numbers[0], numbers[1] = -half, half - 1
    stored = numbers + 128 if bits == 8 else numbers
    content = b"".join(
        int(k).to_bytes(bits // 8, "little", signed=bits > 8) for k in stored.flatten()
    )
    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setparams((channels, bits // 8, RATE, 0, "NONE", ""))
        file.writeframes(content)
    found, rate = read_wav(tmp_path / "x.wav")
    assert rate == RATE and found.dtype == torch.float32
    assert torch.equal(found, torch.tensor(numbers.T / half).float())
    assert found.min() == -1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floating_point(tmp_path, dtype):
    x = np.random.default_rng(0).normal(size=(60, 2)).astype(dtype)
    wavfile.write(tmp_path / "x.wav", RATE, x)
    assert torch.equal(read_wav(tmp_path / "x.wav")[0], torch.tensor(x.T).float())


def test_a_row_of_signals_has_pauses(tmp_path):
    x = torch.tensor(levels(3, 2, 100) / 2**15).float()
    write_wav(tmp_path / "x.wav", x, RATE, pause=0.01)
    found, _ = read_wav(tmp_path / "x.wav")
    assert found.shape == (2, 3 * 100 + 2 * 80)
    for i in range(3):
        assert torch.equal(found[:, 180 * i : 180 * i + 100], x[i])
    assert (found[:, 100:180] == 0).all()


def test_clipping_is_told_and_one_is_no_clipping(tmp_path):
    write_wav(tmp_path / "x.wav", torch.tensor([1.0, -1.0]), RATE)
    assert read_wav(tmp_path / "x.wav")[0].tolist() == [[32767 / 32768, -1.0]]
    with pytest.warns(UserWarning, match=r"2 of 3 samples were clipped, the largest is 3"):
        write_wav(tmp_path / "x.wav", torch.tensor([1.5, 0.5, -3.0]), RATE)
    assert read_wav(tmp_path / "x.wav")[0].tolist() == [[32767 / 32768, 0.5, -1.0]]


def test_nothing_is_left_of_a_file_that_cannot_be(tmp_path):
    for x, rate in ((torch.full((9,), torch.nan), 9), (torch.zeros(9, 2), 9), (torch.zeros(9), 0)):
        with pytest.raises(ValueError, match="expected"):
            write_wav(tmp_path / "x.wav", x, rate)
    assert [*tmp_path.iterdir()] == []


def folder(path, *names, length=50, rate=RATE, channels=1):
    for i, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        write_wav(path / name, torch.tensor(levels(channels, length + i, seed=i) / 2**15), rate)
    return path


def test_a_folder_is_a_data_set(tmp_path):
    names = [f"{i}.wav" for i in range(9)] + ["9.WAV"]
    with pytest.raises(ValueError, match=r"got 50 samples in .*0\.wav and 59 in .*9\.WAV: pass"):
        load(folder(tmp_path, *names))
    d = load(tmp_path, length=50, stratify=False)
    assert (d.event_shape, d.kind, d.rate) == ((1, 50), "signal", RATE)
    assert len(d.train) == 9 and d.train.kind_said and "kind='signal'" in repr(d.train)
    whole = {tuple(x[0].tolist()) for part in (d.train, d.test) for x in part.x}
    assert whole == {tuple(read_wav(tmp_path / n)[0][0, :50].tolist()) for n in names}
    assert load(str(tmp_path), length=20, rate=RATE).event_shape == (1, 20)


def test_class_folders_and_sets_of_their_own(tmp_path):
    for part in ("train", "test", "val"):
        folder(tmp_path, *(f"{part}/{name}/a.wav" for name in ("no", "yes")), length=30)
    d = load(tmp_path, length=30)
    assert d.labels == ("no", "yes") and d.train.y.tolist() == d.test.y.tolist() == [0, 1]
    assert len(d.validation) == 2 and d.validation.rate == RATE


def test_a_recording_is_cut_into_clips(tmp_path):
    write_wav(tmp_path / "long.wav", torch.tensor(levels(2, 1050) / 2**15), RATE)
    d = load(tmp_path / "long.wav", length=100)
    x = torch.cat([d.train.x, d.test.x])
    assert x.shape == (10, 2, 100) and d.rate == RATE
    clips = read_wav(tmp_path / "long.wav")[0].split(100, 1)[:10]
    assert {tuple(c.flatten().tolist()) for c in x} == {tuple(c.flatten().tolist()) for c in clips}
    with pytest.raises(ValueError, match="length: expected the samples of a clip"):
        load(tmp_path / "long.wav")


def test_files_that_do_not_belong_together_are_named(tmp_path):
    folder(tmp_path, "a.wav", "b.wav", length=50)
    write_wav(tmp_path / "c.wav", torch.zeros(60), 16_000)
    with pytest.raises(ValueError, match=r"expected 8000 .* of .*a\.wav, got 16000 in .*c\.wav"):
        load(tmp_path, length=50)
    with pytest.raises(ValueError, match=r"expected 22050 samples per second, got 8000"):
        load(tmp_path, length=50, rate=22_050)
    write_wav(tmp_path / "c.wav", torch.zeros(2, 60), RATE)
    with pytest.raises(ValueError, match=r"c\.wav: expected 1 channels as in .*a\.wav, got 2"):
        load(tmp_path, length=50)
    (tmp_path / "c.wav").unlink()
    with pytest.raises(ValueError, match=r"expected clips of 51, got 50 samples in .*a\.wav"):
        load(tmp_path, length=51)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"not sound at all", None])
def test_broken_files_are_named(tmp_path, content):
    folder(tmp_path, "a.wav", "b.wav")
    whole = (tmp_path / "b.wav").read_bytes()
    (tmp_path / "b.wav").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match=r"b\.wav"):
        load(tmp_path)


def test_a_rate_is_of_signals():
    x = np.random.default_rng(0).normal(size=(20, 2, 16))
    d = load(x, kind="signal", rate=100)
    assert d.rate == d.train.rate == d.test.rate == 100
    with pytest.raises(ValueError, match="rate: expected only for signals"):
        load(x, rate=100)
    with pytest.raises(ValueError, match="test: expected signals of 100 samples per second"):
        DataSplits("x", d.train, d.test.replace(rate=50))
    assert Dataset(x, kind="signal").rate is None


def test_data_of_another_kind_have_no_rate():
    d = Dataset(torch.zeros(9, 1, 16), kind="signal", rate=8000)
    assert d.replace(kind="signal").rate == d.replace(y=torch.zeros(9).long()).rate == 8000
    assert d.replace(kind="array").rate is d.replace(kind=None).rate is None
    assert load("tones", length=16, kind="array").rate is None
    with pytest.raises(ValueError, match="rate: expected only for signals"):
        d.replace(kind="array", rate=8000)


@pytest.mark.parametrize("where", [".", "covers"])
def test_a_folder_of_sounds_and_a_picture_is_told(tmp_path, where):
    for i in range(3):
        write_wav(tmp_path / f"{i}.wav", torch.zeros(20), RATE)
    (tmp_path / "notes.txt").write_text("of neither kind")
    assert load(tmp_path).kind == "signal"
    (tmp_path / where).mkdir(exist_ok=True)
    Image.new("L", (4, 4)).save(tmp_path / where / "cover.png")
    with pytest.raises(ValueError, match=r"got 1 images and 3 sounds in .*, among them .*cover"):
        load(tmp_path)
