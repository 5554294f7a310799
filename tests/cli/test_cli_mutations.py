"""Whatever is typed after ``pyro-vae``: an exit status and one line, never a traceback."""

import random
import resource
import urllib.error
import urllib.request
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from pyro_vae import Trainer, diagnostics, experiments
from pyro_vae.cli import main, training

# Pyro's own note before the error of this library
pytestmark = pytest.mark.filterwarnings("ignore:Encountered NaN")

COMMANDS = [
    "train --data images.npz --hidden 4 --latents 2 --epochs 1 --importance-samples 2 --quiet",
    "train --data images.npz --conditional --latents 2,2 --skip --warm-up 1 --beta 2 --out run",
    "train --data table.npy --likelihood gaussian --sigma learned --lr 0.01 --elbo trace --seed 3",
    "train --data table.npy --no-standardize --patience 3 --epochs 2 --latents 2",
    "train --data images.npz --likelihood gaussian --standardize --epochs 1 --patience 0",
    "train --data images.npz --likelihood categorical --levels 17 --batch-size 8 --clip-norm 1",
    "train --data images.npz --guide delta --beta 0 --binarize static --device cpu --threads 1",
    "train --data-root absent --data digits --hidden linear --epochs 1 --download --guide ladder",
    "evaluate MODEL --json --importance-samples 2 --data images.npz --split train",
    "evaluate MODEL --data images.npz --binarize dynamic --seed 1 --device cpu",
    "sample MODEL -n 4 --out picture.png --draw --label 1",
    "sample CONDITIONAL -n 4 --label 1 --out picture.pdf --seed 3",
    "sample MODEL -n 4 --out drawn.csv --prior mixture --components 3 --data images.npz",
    "encode MODEL --out z.npy --site z1 --data images.npz --split all --seed 1",
    "outliers MODEL -n 3 --by density --importance-samples 2 --out o.csv --data images.npz",
    "completion bash",
    "interpolate MODEL --from 1 --to 0 --steps 3 --out path.png --data images.npz",
    "experiment ladder-mnist --quick",
]
# No separator of folders, so that nothing is written outside this test's own
TOKENS = [
    "",
    " ",
    "--",
    "-",
    "-h",
    "--help",
    "-1",
    "0",
    "1",
    "3",
    "1e400",
    "nan",
    "-inf",
    "1e-320",
]
TOKENS += [
    "9" * 9,
    "9" * 30,
    "9" * 5000,
    "1,2,3",
    "1,,2",
    ",",
    "999999999,999999999",
    "0x10",
    "1_0",
]
TOKENS += ["\u0663", "\u00b2", "\udc80", "\0", "a\nb", "\u202e", "x" * 300, "MODEL", "images.npz"]
TOKENS += [
    "cuda",
    "cuda:99",
    "meta",
    "hpu",
    "xla",
    "mps",
    "cpu:3",
    "broken.npy",
    "broken.pt",
    "table.npy",
]
TOKENS += [
    "digits",
    "mnist",
    "shapes",
    ".",
    "..",
    "absent.npy",
    "a.png",
    "a.svg",
    "a.npz",
    "model.pt",
]
TOKENS += [
    "train",
    "evaluate",
    "sample",
    "--out",
    "--data",
    "--quiet",
    "--conditional",
    "--epochs",
]
TOKENS += [
    "--hidden=conv",
    "--hidden=999999999",
    "--size=4",
    "--grey",
    "--latents=",
    "--lr=1e30",
    "--beta=1e30",
    "--nonsense",
    "--sig",
    "-n",
]
TOKENS += ["delta", "per-datum", "flow", "semi-amortized", "nearest-code", "full-covariance"]
TOKENS += ["bernoulli", "gaussian", "categorical", "discretized-logistic", "learned", "optimal"]
LETTERS = "abcxyz0123456789-=,._ \t\n\0\u00e9\u2603'\"$%{}[]"


def edited(rng, text):
    at = rng.randrange(len(text) + 1)
    kind = rng.randrange(3)
    return text[:at] + (rng.choice(LETTERS) if kind else "") + text[at + (kind < 2) :]


def mutated(rng):
    """A command line with some words gone, doubled, exchanged, replaced or misspelt."""
    words = rng.choice(COMMANDS).split()
    for _ in range(rng.choice([1, 1, 2, 3, 6])):
        at = rng.randrange(len(words)) if words else 0
        kind = rng.randrange(6)
        if kind == 0:
            del words[at : at + 1]
        elif kind == 1:
            words.insert(at, rng.choice(words or TOKENS))
        elif kind == 2:
            words.insert(at, rng.choice(TOKENS))
        elif kind == 3 and words:
            words[at] = edited(rng, words[at])
        else:
            words[at : at + 1] = [rng.choice(TOKENS)]
    return words


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data, and two trained pairs."""
    folder = tmp_path_factory.mktemp("mutations")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 17, (24, 1, 4, 4)) / 16, np.arange(24) % 3
    np.savez(folder / "images.npz", x=x, y=y)
    np.save(folder / "table.npy", rng.normal(size=(24, 3)))
    (folder / "broken.npy").write_bytes(b"no array")
    (folder / "broken.pt").write_bytes(b"PK no archive")
    tiny = ["--epochs", "1", "--hidden", "4", "--latents", "2", "--importance-samples", "2"]
    for name, more in (("model", []), ("conditional", ["--conditional"])):
        out = ["--out", str(folder / name), "--quiet"]
        assert main(["train", "--data", str(folder / "images.npz"), *tiny, *more, *out]) == 0
    return folder


@pytest.fixture
def light(folder, tmp_path, monkeypatch):
    """The same folder for each test, where training, evaluation and the network cost nothing."""
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    for file in folder.iterdir():
        if file.is_file():
            (inside / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(inside)
    monkeypatch.delenv("PYRO_VAE_DATA", raising=False)
    monkeypatch.setenv("HOME", str(inside))
    fit, evaluate = Trainer.fit, diagnostics.evaluate

    def short_fit(self, data, *, epochs, **options):
        assert epochs >= 1
        return fit(self, data[:8], epochs=1, **{**options, "validation": data[:4]})

    def short_evaluate(model, guide, data, *, importance_samples, **options):
        few = 2 if importance_samples else 0
        return evaluate(model, guide, data[:4], importance_samples=few, **options)

    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(Trainer, "fit", short_fit)
    monkeypatch.setattr(diagnostics, "evaluate", short_evaluate)
    monkeypatch.setattr(training, "write_report", lambda *args, **kwargs: None)
    monkeypatch.setattr(experiments, "run", lambda name, arguments: 0)
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**32, hard))
    yield folder
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def outcome(argv, folder, capsys):
    """The exit status, and what is wrong about the way it ended, if anything."""
    paths = {name: str(folder / name.lower() / "model.pt") for name in ("MODEL", "CONDITIONAL")}
    try:
        status = main([paths.get(word, word) for word in argv])
    except SystemExit as end:
        status = end.code if {"-h", "--help"} & set(argv) else "exit"
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
    finally:
        plt.close("all")
        lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("pyro-vae: error: ")]
    # 130 is an interrupted run: here training is cut short
    if status not in (0, 2, 130) or len(errors) != (status == 2):
        return status, f"status {status}, {lines}"
    strange = [line for line in lines if not line.startswith(("pyro-vae: ", "epoch "))]
    return status, f"printed {strange}" if strange else None


def check_mutations(number, folder, capsys):
    statuses, wrong = [], {}
    for seed in range(number):
        argv = mutated(random.Random(seed))
        status, complaint = outcome(argv, folder, capsys)
        statuses.append(status)
        if complaint:
            wrong[" ".join(map(ascii, argv))] = complaint
    assert not wrong
    # neither were all harmless nor all refused
    assert 0.1 < statuses.count(2) / number < 0.98


def test_commands_that_were_not_changed(light, capsys):
    for command in COMMANDS[:7] + COMMANDS[8:10] + COMMANDS[11:]:
        assert outcome(command.split(), light, capsys) in ((0, None), (130, None)), command


def test_mutated_arguments(light, capsys):
    check_mutations(100, light, capsys)


@pytest.mark.slow
def test_five_hundred_mutated_arguments(light, capsys):
    check_mutations(500, light, capsys)
