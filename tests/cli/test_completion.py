"""What a shell offers is what the parsers take."""

import re
import shutil
import subprocess

import pytest

from pyro_vae import data, experiments
from pyro_vae.cli import completion, groups, main
from pyro_vae.cli.commands import COMMANDS


@pytest.fixture
def usage(capsys):
    def told(command):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        return " ".join(capsys.readouterr().out.split("\n\n")[0].split())

    return told


@pytest.mark.parametrize("command", completion.OPTIONS)
def test_all_options_are_offered(command, usage):
    taken = {*re.findall(r"(?<=[ [])--?[a-z][a-z-]*", usage(command))} - {"-h"}
    assert sorted(completion.OPTIONS[command].split()) == sorted({*taken, "--help"})


def test_all_values_are_offered(usage):
    names = dict.fromkeys(("--data", "--reference"), data.NAMES)
    names |= {"--guide": groups.GUIDES, "--likelihood": groups.LIKELIHOODS}
    names |= {"experiment": experiments.NAMES, "completion": completion.SHELLS}
    expected = {name: " ".join(found) for name, found in names.items()}
    for command in completion.OPTIONS:
        found = re.findall(r"(--[a-z-]+) {([\w,-]+)}", usage(command))
        expected |= {option: words.replace(",", " ") for option, words in found}
    assert completion.VALUES == expected


def completed(*line):
    """What bash offers for the last word of a line."""
    script = f"""
eval "$1"
COMP_WORDS=({" ".join(f'"{word}"' for word in line)})
COMP_CWORD={len(line) - 1}
_pyro_vae
printf '%s\\n' "${{COMPREPLY[@]}}"
complete -p pyro-vae
"""
    done = subprocess.run(
        ["bash", "--norc", "-uc", script, "bash", completion.script("bash")],
        capture_output=True,
        text=True,
        check=True,
    )
    *found, registered = done.stdout.splitlines()
    assert registered == "complete -o default -F _pyro_vae pyro-vae" and not done.stderr
    return [word for word in found if word]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["enc"], ["encode"]),
        (["--v"], ["--version"]),
        (["train", "--gui"], ["--guide"]),
        (["train", "--guide", "la"], ["ladder"]),
        (["sample", "run", "--prior", ""], ["model", "mixture"]),
        (["sample", "--draw", "run", "--prior", "mi"], ["mixture"]),
        (["outliers", "run", "--by", "d"], ["density"]),
        (["encode", "run", "--data", "mn"], ["mnist-small", "mnist"]),
        (["experiment", "lad"], ["ladder-mnist"]),
        (["completion", ""], ["bash", "zsh"]),
        # Names of files, by readline
        (["evaluate", ""], []),
        (["sample", "run", "--out", ""], []),
        (["nonsense", "--"], []),
    ],
)
def test_bash_completes(line, expected):
    assert completed("pyro-vae", *line) == expected


def test_the_command_prints_the_script(capsys):
    for shell in completion.SHELLS:
        assert main(["completion", shell]) == 0
        assert capsys.readouterr().out == completion.script(shell)
    assert main(["completion", "fish"]) == 2
    assert "choose from bash, zsh" in capsys.readouterr().err.replace("'", "")


def test_every_command_is_offered():
    assert [*completion.OPTIONS] == [*COMMANDS, "completion"]
