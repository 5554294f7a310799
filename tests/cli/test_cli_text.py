"""The command line trains on lines of text, and gives text."""

import json
from itertools import product

import pytest

from pyro_vae import load
from pyro_vae.cli import main

TINY = ["--kind", "tokens", "--epochs", "1", "--latents", "2", "--importance-samples", "2"]


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "lines.txt"
    found = [" ".join(words) for words in product(["a", "the"], ["cat", "dog"], ["ran", "sat"])]
    path.write_text("\n".join(found))
    return path


@pytest.fixture(scope="module")
def run(lines, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    options = ["--vocabulary", "words", "--quiet", "--out", str(out)]
    assert main(["train", "--data", str(lines), *TINY, *options]) == 0
    return out


def test_text_is_trained_on_drawn_and_interpolated(run, lines, capsys):
    vocabulary = load(run / "model.pt").model.likelihood.vocabulary
    assert vocabulary.words and len(vocabulary) == 7
    record = json.loads((run / "run.json").read_text())
    assert record["evaluation"]["quantities"]["perplexity"]["unit"] == "per token"
    for command in (
        ["sample", str(run), "-n", "5", "--draw"],
        ["interpolate", str(run), "--from", "0", "--to", "0", "--steps", "5"],
    ):
        capsys.readouterr()
        assert main(command) == 0
        # An empty line is a sentence, too
        drawn = capsys.readouterr().out.split("\n")[:-1]
        assert len(drawn) == 5 and {*" ".join(drawn).split()} <= {*vocabulary.symbols}


def test_other_text_is_read_by_the_vocabulary_of_the_model(run, tmp_path, capsys):
    path = tmp_path / "other.txt"
    path.write_text("a dog sat\nthe dog ran\n")
    assert main(["evaluate", str(run), "--data", str(path), "--importance-samples", "2"]) == 0
    assert "per token" in capsys.readouterr().out
    path.write_text("a dog sat\nthe zebra ran\n")
    assert main(["evaluate", str(run), "--data", str(path)]) == 2
    assert "got 'zebra', the first in line 2" in capsys.readouterr().err


def test_empty_lines_are_refused(tmp_path, capsys):
    path = tmp_path / "empty.txt"
    path.write_text("a\n\nb\n")
    assert main(["train", "--data", str(path), *TINY]) == 2
    assert "1 that are empty, the first is line 2" in capsys.readouterr().err
