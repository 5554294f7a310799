"""What is said about values in files, and that its advice works."""

import functools
import sys
from unittest import mock

import numpy as np
import torch
from advice import Cases
from test_advice_cli import run, table, train

from pyro_vae import Trainer, data, infer
from pyro_vae.guides import BottomUp
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

cases = Cases()


@cases
def files(tmp):
    x = torch.zeros(3, 2)
    both = {"z1": x, "z2": x}
    write = functools.partial(data.write, values=both)
    yield (
        lambda: write(tmp / "z.npy"),
        lambda: data.write(tmp / "z.npy", both["z1"]),
        lambda: write(tmp / "z.csv"),
    )
    same = {"z": x, "z[0]": x[:, 0]}
    yield (
        lambda: data.write(tmp / "z.csv", same),
        lambda: data.write(tmp / "z.csv", {"z": x, "other": x[:, 0]}),
    )
    without = mock.patch.dict(sys.modules, {"pyarrow": None})
    yield without(lambda: write(tmp / "z.parquet")), without(lambda: write(tmp / "z.csv"))
    yield lambda: write(tmp / "z.cvs"), lambda: write(tmp / "z.csv")
    yield (
        lambda: write(tmp / "z.csv", index=[*"abcd"]),
        lambda: write(tmp / "z.csv", index=[*"abc"]),
    )


@cases
def encodings(tmp):
    found = infer.encode(BottomUp(VAE((4,), (3, 2), likelihood=Gaussian())), torch.randn(5, 4))
    yield found.array, lambda: found.array("z2"), lambda: found.mean["z2"]
    without = mock.patch.dict(sys.modules, {"pandas": None})
    yield (
        without(found.to_frame),
        lambda: found.array("z1"),
        without(lambda: found.write(tmp / "z.csv")),
    )


@cases
def commands(tmp):
    numbers, out = table(tmp / "x.npy"), tmp / "out"
    train(numbers, out)()
    encode = functools.partial(run, "encode", out, "--out")
    yield lambda: encode(out), lambda: encode(tmp / "z.csv")
    yield lambda: encode(tmp / "z.cvs"), lambda: encode(tmp / "z.csv")
    (tmp / "folder.csv").mkdir()
    yield lambda: encode(tmp / "folder.csv"), lambda: encode(tmp / "z.csv")
    vae = VAE((3,), (3, 2), likelihood=Gaussian())
    Trainer(vae, BottomUp(vae)).save(tmp / "deep.pt")
    deep = functools.partial(run, "encode", tmp / "deep.pt", "--data", numbers, "--out")
    yield (
        lambda: deep(tmp / "z.npy"),
        lambda: deep(tmp / "z.npy", "--site", "z1"),
        lambda: deep(tmp / "z.csv"),
    )
    sample = functools.partial(run, "sample", out, "-n", "2", "--out", tmp / "a.npy")
    mixture = functools.partial(sample, "--prior", "mixture", "--components")
    yield lambda: sample("--data", numbers), sample, lambda: mixture("2", "--data", numbers)
    yield lambda: mixture("200"), lambda: mixture("2")
    yield lambda: sample("--components", "2"), sample, lambda: mixture("2")
    text = [tmp / "letters.csv", tmp / "others.csv"]
    for path, letters in zip(text, ("abc", "abd"), strict=True):
        rows = [f"{i % 7}.5,{letter},{'+-'[i % 2]}" for i, letter in enumerate(letters * 10)]
        path.write_text("\n".join(["size,letter,sign", *rows]))
    short = ("--out", tmp / "letters", "--epochs", "1", "--importance-samples", "0")
    coded = functools.partial(run, "train", "--data", text[0], *short)
    yield lambda: coded("--codes", "4"), lambda: coded("--latents", "1")
    letters = functools.partial(run, "encode", tmp / "letters", "--out", tmp / "z.csv", "--data")
    yield lambda: letters(text[1]), lambda: letters(text[0])
    interpolate = functools.partial(run, "interpolate", out, "--out")
    yield lambda: interpolate(tmp / "a.xyz"), lambda: interpolate(tmp / "a.png")
    outliers = functools.partial(run, "outliers", out, "--importance-samples")
    yield (
        lambda: outliers("0", "--by", "likelihood"),
        lambda: outliers("2", "--by", "likelihood"),
    )
    np.save(tmp / "new.npy", np.zeros((5, 3)))
    copy = tmp / "copy.pt"
    copy.write_bytes((out / "model.pt").read_bytes())
    rare = functools.partial(run, "outliers", copy, "--data", tmp / "new.npy")
    yield rare, lambda: rare("--reference", numbers)


test = cases.test()
