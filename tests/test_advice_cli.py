"""What the command line says, and that its advice works."""

import contextlib
import functools
import io
from unittest import mock

import numpy as np
from advice import Cases
from PIL import Image

from pyro_vae import Trainer, save
from pyro_vae.cli import building, main, training
from pyro_vae.guides import BottomUp
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

cases = Cases()
TINY = ("--epochs", "1", "--hidden", "8", "--latents", "2", "--importance-samples", "0")
without_report = mock.patch.object(training, "write_report", lambda *args, **kwargs: None)


def run(*argv):
    """What a command tells on standard error; ``ValueError`` where it fails."""
    told = io.StringIO()
    with without_report, contextlib.redirect_stderr(told):
        with contextlib.redirect_stdout(io.StringIO()):
            status = main([*map(str, argv)])
    if status:
        raise ValueError(told.getvalue())
    return told.getvalue()


def train(data, out, *options):
    return lambda: run("train", "--data", data, "--out", out, *TINY, *options)


def table(path, x=None, **more):
    x = np.random.default_rng(0).normal(size=(40, 3)).astype("float32") if x is None else x
    if more:
        np.savez(path, x=x, **more)
    else:
        np.save(path, x)
    return path


@cases
def options(tmp):
    numbers, out = table(tmp / "x.npy"), tmp / "out"
    kind = ("--likelihood", "gaussian")
    levels, eighths = ("--levels", "8"), table(tmp / "k.npy", np.arange(80).reshape(40, 2) % 8 / 7)
    discrete = ("--likelihood", "categorical", "--binarize", "none")
    yield (
        train(eighths, out, *kind, *levels),
        train(eighths, out, *kind),
        train(eighths, out, *discrete, *levels),
    )
    binary = table(tmp / "b.npy", np.eye(40, 3))
    standard = ("--standardize",)
    yield (
        train(binary, out, *standard),
        train(binary, out),
        train(binary, out, *standard, *kind),
    )
    yield train(numbers, out, "--bet", "2"), train(numbers, out, "--beta", "2")
    yield (
        train(numbers, out, "--likelihood", "gausian"),
        train(numbers, out, "--likelihood", "gaussian"),
    )
    for option, bad, good in (
        ("--hidden", "wide", "20"),
        ("--latents", "2;2", "2,2"),
        ("--device", "gpu", "cpu"),
    ):
        yield train(numbers, out, option, bad), train(numbers, out, option, good)
    yield train("a\udcff.npy", out), train(numbers, out)
    grey = table(tmp / "g.npy", np.linspace(0, 1, 120).reshape(40, 3))
    asked = ("--likelihood", "bernoulli")
    yield (
        train(grey, out, *asked, "--binarize", "none"),
        train(grey, out, "--likelihood", "continuous-bernoulli", "--binarize", "none"),
        train(grey, out, *asked, "--binarize", "dynamic"),
        train(grey, out, *kind, "--binarize", "none"),
    )
    yield (
        train(numbers, out, *asked, "--binarize", "dynamic"),
        train(numbers, out, "--likelihood", "gaussian", "--binarize", "none"),
    )
    one = table(tmp / "one.npy", np.ones((1, 3)))
    yield train(one, out), train(numbers, out)
    yield train(numbers, out, *kind, "--lr", "1e30"), train(numbers, out, *kind, "--lr", "1e-3")


@cases
def labels(tmp):
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    out, asked = tmp / "out", "--conditional"
    bare = table(tmp / "x.npy", x)
    named = table(tmp / "y.npz", x, y=y)
    for name in ("a", "b"):
        (tmp / "pictures" / name).mkdir(parents=True)
        for i in range(10):
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8)).astype("uint8")
            Image.fromarray(pixels).save(tmp / "pictures" / name / f"{i}.png")
    yield (
        train(bare, out, asked),
        train(named, out, asked),
        train(tmp / "pictures", out, asked),
        train(bare, out),
    )
    far = table(tmp / "far.npz", x, y=y - 1)
    yield train(far, out, asked), train(table(tmp / "0.npz", x, y=y), out, asked)


@cases
def trained(tmp):
    numbers, out = table(tmp / "x.npy"), tmp / "out"
    train(numbers, out, "--checkpoint", "1")()
    resume = functools.partial(run, "train", "--resume", out)
    yield lambda: resume("--beta", "2"), resume
    begun = tmp / "begun"
    train(numbers, begun)()
    again = functools.partial(run, "train", "--resume", begun)
    yield again, lambda: (train(numbers, begun, "--checkpoint", "1")(), again())
    model, picture = out / "model.pt", tmp / "new" / "a.png"
    sample = functools.partial(run, "sample", model, "-n", "2", "--out")
    yield lambda: sample(picture), lambda: (picture.parent.mkdir(), sample(picture))
    yield lambda: sample(tmp / "a.xyz"), lambda: sample(tmp / "a.png")
    vae = VAE((3,), 2, hidden=(4,), likelihood=Gaussian())
    other = tmp / "vae.pt"
    save(vae, other)
    read = functools.partial(run, "sample", other, "-n", "2", "--out", tmp / "b.png")
    yield read, lambda: (Trainer(vae, BottomUp(vae)).save(other), read())
    alone = tmp / "alone"
    alone.mkdir()
    (alone / "model.pt").write_bytes(model.read_bytes())
    evaluate = functools.partial(run, "evaluate", alone, "--importance-samples", "0")
    yield evaluate, lambda: evaluate("--data", numbers)
    yield train(numbers, numbers / "out"), train(numbers, tmp / "another")
    yield train("~nobody-of-this-name/x.npy", out), train(numbers, out)


@cases
def sizes(tmp):
    pictures = tmp / "pictures"
    pictures.mkdir()
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (256, 256)).astype("uint8")
        Image.fromarray(pixels).save(pictures / f"{i}.png")
    out, wide = tmp / "out", ("--hidden", "9000000", "--latents", "2", "--epochs", "1")
    start = ("train", "--data", pictures, "--out", out, "--quiet", "--importance-samples", "0")
    small = ("--size", "8", "--epochs", "1")
    narrow = (*start, *small, "--hidden", "8", "--latents", "2")
    yield lambda: run(*start, *wide), lambda: run(*narrow)
    yield lambda: run(*narrow, "--size", "8x"), lambda: run(*narrow, "--size", "8x8")
    numbers = table(tmp / "x.npy")

    def refuse(*args, **kwargs):
        raise MemoryError

    def large():
        with mock.patch.object(building, "pair", refuse):
            train(numbers, out)()

    yield large, train(numbers, out, "--latents", "1", "--batch-size", "8")


@cases
def notes(tmp):
    factor = np.random.default_rng(0).normal(size=(400, 1))
    numbers, out = table(tmp / "x.npy", factor.repeat(6, 1)), tmp / "out"

    def told(epochs, *options):
        return lambda: run(
            *("train", "--data", numbers, "--out", out, "--hidden", "8", "--patience", "0"),
            *("--importance-samples", "0", "--epochs", epochs, "--lr", "0.05"),
            *("--batch-size", "60", *options),
        )

    def active(*options):
        def follow():
            assert "collapse" not in told(*options)()

        return follow

    yield (
        told(20, "--latents", "2", "--warm-up", "0", "--beta", "300"),
        active(20, "--latents", "2", "--warm-up", "0", "--beta", "0.1"),
        active(20, "--latents", "2", "--warm-up", "100", "--beta", "1"),
        active(20, "--latents", "2,2", "--beta", "0.1", "--guide", "ladder"),
        active(20, "--latents", "2,2", "--beta", "0.1", "--skip"),
    )


test_the_advice_works_on_what_provokes_it = cases.test()
