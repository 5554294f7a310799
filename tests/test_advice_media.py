"""What is said about sound, videos and their codes, and that its advice works."""

import functools

import numpy as np
import torch
from advice import Cases
from PIL import Image
from scipy.signal import resample_poly
from test_advice_cli import TINY, run

from pyro_vae import data, guides, likelihoods, models, plots

cases = Cases()


@cases
def factors(tmp):
    tone, video = torch.tensor([[0.0, 120, 0.01, 0.1]]), torch.tensor([[0.0, 0.5, 0.5, 0.1, 0.1]])
    half = tone + torch.tensor([[0.4, 0, 0, 0]])
    rounded = torch.cat([half[:, :1].round(), half[:, 1:]], 1)
    for length in (0, 2.5):
        yield lambda n=length: data.render_tones(tone, n), lambda: data.render_tones(tone, 2048)
    yield lambda: data.render_tones(tone, 9, 0), lambda: data.render_tones(tone, 9, 8000)
    yield lambda: data.render_tones(tone[0]), lambda: data.render_tones(tone[0][None], 9)
    yield (
        lambda: data.render_tones(half),
        lambda: data.render_tones(rounded),
    )
    yield (
        lambda: data.render_tones(tone, 9, 200),
        lambda: data.render_tones(tone, 9, 8000),
        lambda: data.render_tones(tone / 2, 9, 200),
    )
    yield lambda: data.render_bouncing(video, 0), lambda: data.render_bouncing(video, 16)
    yield lambda: data.render_bouncing(video[0]), lambda: data.render_bouncing(video[0][None], 2)
    yield lambda: data.render_bouncing(3 * video), lambda: data.render_bouncing(video, 2)


@cases
def mixed_folders(tmp):
    music, cover = tmp / "music", tmp / "elsewhere" / "cover.png"
    music.mkdir()
    cover.parent.mkdir()
    for i in range(3):
        data.write_wav(music / f"{i}.wav", torch.zeros(20), 8000)
    Image.new("L", (4, 4)).save(music / "cover.png")

    def moved():
        (music / "cover.png").rename(cover)
        return data.load(music)

    yield lambda: data.load(music), moved


@cases
def files(tmp):
    x, rate = torch.linspace(-1, 1, 100), 8000
    write = data.write_wav
    yield lambda: write(tmp / "x.wav", x, 0), lambda: write(tmp / "x.wav", x, rate)
    turned = torch.zeros(100, 2)
    yield (
        lambda: write(tmp / "x.wav", turned, rate),
        lambda: write(tmp / "x.wav", turned[0], rate),
        lambda: write(tmp / "x.wav", turned.T, rate),
    )
    missing = torch.tensor([0.0, torch.nan])
    yield (
        lambda: write(tmp / "x.wav", missing, rate),
        lambda: write(tmp / "x.wav", missing[:1], rate),
        lambda: write(tmp / "x.wav", missing.nan_to_num(), rate),
    )
    loud = 3 * x
    yield (
        lambda: write(tmp / "x.wav", loud, rate),
        lambda: write(tmp / "x.wav", loud / loud.abs().max(), rate),
    )
    folder = tmp / "sounds"
    folder.mkdir()
    for name in "abc":
        write(folder / f"{name}.wav", x, rate)
    (folder / "d.wav").write_bytes(b"no sound")
    yield lambda: data.load(folder), lambda: ((folder / "d.wav").unlink(), data.load(folder))


@cases
def folders(tmp):
    x, rate = torch.linspace(-1, 1, 100), 8000
    for name in "abc":
        data.write_wav(tmp / f"{name}.wav", x, rate)

    def unlike(x, rate):
        data.write_wav(tmp / "d.wav", x, rate)
        data.load(tmp)

    def resampled():
        found = resample_poly(torch.cat([x, x]).numpy(), 8000, 16_000, axis=-1)
        unlike(torch.tensor(found).clamp(-1, 1), 8000)

    yield lambda: unlike(torch.cat([x, x]), 16_000), resampled
    stereo = torch.stack([x, x])
    yield lambda: unlike(stereo, rate), lambda: unlike(stereo.mean(0), rate)
    yield (
        lambda: unlike(x[:50], rate),
        lambda: data.load(tmp, length=50),
        lambda: ((tmp / "d.wav").unlink(), data.load(tmp)),
    )
    yield lambda: data.load(tmp, length=0), lambda: data.load(tmp, length=10)
    yield lambda: data.load(tmp / "a.wav"), lambda: data.load(tmp / "a.wav", length=10)


@cases
def rates(tmp):
    x = np.zeros((9, 2, 16), "float32")
    yield (
        lambda: data.load(x, rate=100),
        lambda: data.load(x),
        lambda: data.load(x, rate=100, kind="signal"),
    )
    yield (
        lambda: data.load(x, rate=0, kind="signal"),
        lambda: data.load(x, rate=8000, kind="signal"),
    )
    d = data.load(np.random.default_rng(0).normal(size=(9, 2, 16)), rate=100, kind="signal")
    slow = data.Dataset(resample_poly(d.test.x, 1, 1, axis=-1), kind="signal", rate=100)
    yield (
        lambda: data.DataSplits("x", d.train, d.test.replace(rate=50)),
        lambda: data.DataSplits("x", d.train, slow),
    )


@cases
def pictures(tmp):
    x, video = torch.randn(3, 1, 64), torch.rand(2, 1, 3, 8, 8)
    yield lambda: plots.spectrograms(x[0, 0], 100), lambda: plots.spectrograms(x[0, 0][None], 100)
    yield (
        lambda: plots.spectrograms(x, 100, window=65),
        lambda: plots.spectrograms(x, 100, window=64),
        lambda: plots.spectrograms(torch.cat([x, x], -1), 100, window=65),
    )
    yield lambda: plots.animation(video[0, 0]), lambda: plots.animation(video[0, 0][None])
    yield lambda: plots.animation(video, fps=0), lambda: plots.animation(video, fps=8)
    moving = plots.animation(video)
    yield lambda: moving.save(tmp / "x.png"), lambda: moving.save(tmp / "x.gif")
    vqvae = models.VQVAE((1, 64), 4, 2, kind="signal", likelihood=likelihoods.Gaussian())
    guide = guides.NearestCode(vqvae)
    yield lambda: plots.code_maps(guide.codes(x)[0]), lambda: plots.code_maps(guide.codes(x))


@cases
def command_line(tmp):
    folder, out = tmp / "sounds", tmp / "out"
    folder.mkdir()
    for i in range(10):
        data.write_wav(folder / f"{i}.wav", torch.rand(16 + i) - 0.5, 8000)
    short = ["--epochs", "1", "--channels", "2", "--blocks", "0", "--quiet"]
    train = ["train", "--data", folder, "--out", out, *short]
    yield lambda: run(*train), lambda: run(*train, "--length", "16")
    options = ("--length", "16", "--codes", "4", "--skip")
    yield lambda: run(*train, *options), lambda: run(*train, *options[:-1])
    codes = ["sample", out, "-n", "2", "--out", tmp / "c.png"]
    yield lambda: run(*codes, "--prior", "mixture"), lambda: run(*codes)
    np.save(tmp / "map.npy", np.random.default_rng(0).normal(size=(20, 1, 16)))
    signals = ["train", "--data", tmp / "map.npy", "--kind", "signal", *short]
    signals += ["--out", tmp / "maps"]
    mixture = functools.partial(run, "sample", tmp / "maps", "-n", "2", "--out", tmp / "m.npy")
    mixture = functools.partial(mixture, "--prior", "mixture", "--components", "2")
    run(*signals, "--latents", "2x8")
    yield mixture, lambda: (run(*signals, "--latents", "32"), mixture())
    table = tmp / "lines.txt"
    table.write_text("\n".join("abcabcabc"))
    text = ["train", "--data", table, "--kind", "tokens", "--epochs", "1", "--out", tmp / "text"]
    yield lambda: run(*text, "--codes", "4", "--quiet"), lambda: run(*text, "--quiet")
    np.save(tmp / "x.npy", np.random.default_rng(0).normal(size=(20, 1, 16)))
    array = ["train", "--data", tmp / "x.npy", "--kind", "signal", "--out", tmp / "array", *TINY]
    run(*array)
    sample = ["sample", tmp / "array", "-n", "2", "--out"]
    yield (
        lambda: run(*sample, tmp / "x.wav"),
        lambda: run(*sample, tmp / "x.wav", "--rate", "100"),
        lambda: run(*sample, tmp / "samples.png"),
    )
    yield lambda: run(*sample, tmp / "no" / "x.wav"), lambda: run(*sample, tmp / "y.png")
    run("train", "--data", "bouncing", "--length", "2", "--size", "8", "--out", tmp / "b", *TINY)
    video = ["sample", tmp / "b", "-n", "2", "--out"]
    yield lambda: run(*video, tmp / "x.wav"), lambda: run(*video, tmp / "samples.png")


test_the_advice_works_on_what_provokes_it = cases.test()
