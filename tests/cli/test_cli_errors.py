"""Whatever is wrong is one line that names the option, and leaves nothing behind."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small import TINY, images, photographs

from pyro_vae import likelihoods, models, save
from pyro_vae.cli import commands, main
from pyro_vae.infer import SVI


def everything_below(folder):
    return {p: p.is_file() and p.read_bytes() for p in folder.rglob("*")}


BAD_TRAINING = {
    "no command": ([], "required: COMMAND"),
    "unknown command": (["trian"], "invalid choice: 'trian'"),
    "unknown option": (["train", "--latnets", "3"], "did you mean '--latents'?"),
    "negative beta": (["train", "--beta", "-1"], "--beta: expected a finite number of at least 0"),
    "nan beta": (["train", "--beta", "nan"], "got 'nan'"),
    "infinite beta": (["train", "--beta", "inf"], "got 'inf'"),
    "beta beyond single precision": (["train", "--beta", "1e39"], "got '1e39'"),
    "negative infinite beta": (["train", "--beta", "-inf"], "--beta"),
    "no epochs": (["train", "--epochs", "0"], "--epochs: expected a whole number of at least 1"),
    "zero lr": (["train", "--lr", "0"], "--lr: expected a finite number above 0"),
    "latents": (["train", "--latents", "8,x"], "such as 20 or 64,32,16, got '8,x'"),
    "hidden": (["train", "--hidden", "-4"], "--hidden: expected"),
    "guide": (["train", "--guide", "botom-up"], "did you mean 'bottom-up'?"),
    "likelihood": (["train", "--likelihood", "gausian"], "did you mean 'gaussian'?"),
    "sigma": (
        ["train", "--likelihood", "gaussian", "--sigma", "-1"],
        "sigma: expected a positive",
    ),
    "guide that needs more": (["train", "--guide", "per-datum"], "expected one of bottom-up"),
    "patience": (["train", "--patience", "-1"], "--patience: expected a whole number"),
    "standardised bits": (["train", "--standardize"], "--standardize: expected the likelihood"),
    "size": (["train", "--size", "4x5x6"], "--size: expected height and width in pixels"),
    "size of an array": (["train", "--data", "real.npy", "--size", "4"], "--size: expected only"),
    "photographs": (
        ["train", "--data", "photographs", "--channels", "64"],
        "with --size 64, or lower --hidden",
    ),
    "widths": (["train", "--hidden", "999999999"], "--size, --hidden: expected networks for"),
    "home of nobody": (
        ["train", "--data", "~nosuchuser/x.npy"],
        "--data: expected a path, got '~nosuchuser/x.npy'",
    ),
    "no UTF-8": (["train", "--out", "\udcff"], "arguments: expected text in UTF-8"),
    "sigma of another": (["train", "--sigma", "1"], "no such option for the likelihood bernoulli"),
    "device": (["train", "--device", "warp"], "--device: expected one that torch can use here"),
    "seed": (["train", "--seed", str(2**64)], "--seed: expected a whole number from 0 to"),
    "analytic": (["train", "--latents", "4,2", "--elbo", "analytic"], "use elbo='trace'"),
    "divergence": (["train", "--lr", "1e30", "--epochs", "1"], "lower --lr, set --clip-norm"),
    "no data set name": (["train", "--data", ""], "--data: expected a name or path, got ''"),
    "data set name": (["train", "--data", "digts"], "did you mean 'digits'?"),
    "missing file": (["train", "--data", "absent.npy"], "absent.npy, which is not there"),
    "absent data set": (["train", "--data", "mnist", "--data-root", "."], "--download"),
    "empty": (["train", "--data", "empty.npy"], "expected at least one datum"),
    "nan": (["train", "--data", "nan.npy"], "1 NaN or infinite, the first at x[2, 1]"),
    "inf": (["train", "--data", "inf.npy"], "1 NaN or infinite, the first at x[2, 1]"),
    "objects": (["train", "--data", "objects.npy"], "expected numeric arrays"),
    "no array": (["train", "--data", "text.npy"], "expected numeric arrays"),
    "out of range": (
        ["train", "--data", "real.npy", "--likelihood", "bernoulli"],
        "or use --likelihood gaussian",
    ),
    "grey": (
        ["train", "--binarize", "none", "--likelihood", "bernoulli"],
        "use --likelihood continuous-bernoulli",
    ),
    "grid": (["train", "--likelihood", "categorical"], "pass the data's own --levels"),
    "labels missing": (
        ["train", "--data", "unlabelled.npz", "--conditional"],
        "--conditional: expected data with labels",
    ),
    "labels negative": (
        ["train", "--data", "negative.npz", "--conditional"],
        "expected labels from 0 on",
    ),
    "labels with gaps": (["train", "--data", "gaps.npz", "--conditional"], "number the classes"),
    "output in a file": (["train", "--out", "real.npy/run"], "--out: expected a folder that can"),
    "output is a file": (["train", "--out", "real.npy"], "--out: expected a folder that can"),
}
BAD_USE = {
    "no model": (["evaluate"], "required: MODEL.pt"),
    "missing model": (["evaluate", "absent.pt"], "absent.pt"),
    "text": (["evaluate", "text.npy"], "not a checkpoint"),
    "nothing": (["sample", "nothing.pt"], "not a checkpoint"),
    "tensors": (["interpolate", "tensors.pt"], "not a checkpoint"),
    "cut": (["evaluate", "cut.pt"], "cut.pt: not a checkpoint"),
    "folder": (["evaluate", "."], "got a folder"),
    "model alone": (["sample", "alone.pt"], "expected the file of a trainer"),
    "wrong shape": (["evaluate", "MODEL", "--data", "vectors.npy"], "expected shape (n, 1, 8, 8)"),
    "wrong range": (["evaluate", "MODEL", "--binarize", "none"], "only 0 and 1"),
    "wrong data": (["evaluate", "MODEL", "--data", "nan.npy"], "NaN or infinite"),
    "no labels": (["evaluate", "CONDITIONAL", "--data", "unlabelled.npz"], "pass y="),
    "labels": (["evaluate", "CONDITIONAL", "--data", "shifted.npz"], "labels from 0 to 2"),
    "samples": (["evaluate", "MODEL", "--importance-samples", "-1"], "of at least 0, got '-1'"),
    "label": (["sample", "CONDITIONAL", "--label", "3"], "--label: expected a class from 0 to 2"),
    "no label": (["sample", "MODEL", "--label", "3"], "--label: expected no label"),
    "n": (["sample", "MODEL", "-n", "0"], "-n: expected a whole number of at least 1"),
    "format": (["sample", "MODEL", "--out", "a.xyz"], "such as picture.png, got 'a.xyz'"),
    "data for no prior": (
        ["sample", "MODEL", "--data", "digits"],
        "--data: expected only with --prior mixture, got digits",
    ),
    "components for no prior": (
        ["sample", "MODEL", "--components", "10"],
        "--components: expected only with --prior mixture, got 10",
    ),
    "components": (
        ["sample", "MODEL", "--prior", "mixture", "--components", "2000"],
        "use more data or lower --components",
    ),
    "prior": (["sample", "MODEL", "--prior", "mixtur"], "did you mean 'mixture'?"),
    "ending": (["encode", "MODEL", "--out", "z.cvs"], "did you mean '.csv'?"),
    "no ending": (["encode", "MODEL", "--out", "z"], "ends in .npy, .csv, .parquet, got 'z'"),
    "table folder": (["encode", "MODEL", "--out", "absent/z.csv"], "make absent first"),
    "table is a folder": (["encode", "MODEL", "--out", "z.npy"], "got z.npy, a folder"),
    "site": (["encode", "MODEL", "--site", "z2"], "--site: expected one of z1, got 'z2'"),
    "split": (["encode", "MODEL", "--split", "trian"], "did you mean 'train'?"),
    "other data": (["encode", "MODEL", "--data", "vectors.npy"], "shape (n, 1, 8, 8)"),
    "by": (
        ["outliers", "MODEL", "--by", "likelihood", "--importance-samples", "0"],
        "--by: expected density where --importance-samples is 0",
    ),
    "outliers of another shape": (
        ["outliers", "MODEL", "--data", "vectors.npy"],
        "shape (n, 1, 8, 8)",
    ),
    "no reference": (["outliers", "COPY", "--data", "digits"], "name them with --reference"),
    "picture folder": (["sample", "MODEL", "--out", "absent/a.png"], "make absent first"),
    "row": (["interpolate", "MODEL", "--from", "360"], "--from: expected a row from 0 to 359"),
    "steps": (["interpolate", "MODEL", "--steps", "1"], "--steps: expected a whole number"),
}


def write_bad_files():
    generator = np.random.default_rng(0)
    real = generator.normal(size=(20, 4))
    np.save("real.npy", real)
    np.save("empty.npy", real[:0])
    np.save("vectors.npy", generator.random((20, 4)))
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        broken = real.copy()
        broken[2, 1] = value
        np.save(f"{name}.npy", broken)
    np.save("objects.npy", np.array([{1: 2}], dtype=object))
    Path("text.npy").write_text("not an array")
    Path("nothing.pt").touch()
    Path("z.npy").mkdir()
    torch.save({"a": torch.zeros(1)}, "tensors.pt")
    images("unlabelled.npz", labels=False)
    photographs("photographs", 2, (427, 640))
    images("negative.npz", shift=-1)
    images("gaps.npz", shift=10**12)
    images("shifted.npz", shift=1)
    vae = models.VAE((4,), 2, likelihood=likelihoods.Gaussian(), hidden=())
    save(vae, "alone.pt")
    content = Path("alone.pt").read_bytes()
    Path("cut.pt").write_bytes(content[: len(content) // 2])


def assert_one_line(argv, message, folder, capsys):
    before = everything_below(folder)
    assert main(argv) == 2
    output = capsys.readouterr()
    assert output.out == ""
    # What is trained is told once training begins
    lines = [li for li in output.err.splitlines() if not li.startswith("pyro-vae: note: data")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("pyro-vae: error: ")
    assert message in lines[0]
    assert everything_below(folder) == before


@pytest.mark.parametrize(("argv", "message"), BAD_TRAINING.values(), ids=BAD_TRAINING.keys())
def test_bad_training_is_one_line(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_bad_files()
    if "--lr" not in argv:
        monkeypatch.setattr(
            SVI, "gradient", lambda *args, **kwargs: pytest.fail("training started")
        )
    assert_one_line(argv, message, tmp_path, capsys)


@pytest.mark.parametrize(("argv", "message"), BAD_USE.values(), ids=BAD_USE.keys())
def test_bad_use_is_one_line(argv, message, run, conditional, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_bad_files()
    paths = {"MODEL": str(run / "model.pt"), "CONDITIONAL": str(conditional / "model.pt")}
    paths["COPY"] = "copy.pt"
    shutil.copy(run / "model.pt", "copy.pt")
    assert_one_line([paths.get(a, a) for a in argv], message, tmp_path, capsys)


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path, capsys):
    images(tmp_path / "images.npz")
    (tmp_path / "run" / "model.pt").mkdir(parents=True)
    argv = ["train", "--data", str(tmp_path / "images.npz"), *TINY]
    assert_one_line([*argv, "--out", str(tmp_path / "run")], "model.pt", tmp_path, capsys)


def test_programming_errors_keep_their_traceback(monkeypatch):
    def broken(args):
        raise KeyError("lost")

    monkeypatch.setitem(commands.COMMANDS, "train", broken)
    with pytest.raises(KeyError, match="lost"):
        main(["train"])
