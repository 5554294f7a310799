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


# A terminal in which a real zsh reads a line, whose tab is pressed before what was typed is asked
_ZSH = """
zmodload zsh/zpty
zpty shell "zsh -f -i"
zpty -w shell "PS1=; autoload -U compinit && compinit -D -u; source $1"
zpty -w shell "show() { print -r \\"<\\$BUFFER>\\"; BUFFER=; zle accept-line }"
zpty -w shell "zle -N show; bindkey '^G' show; bindkey '^I' expand-or-complete"
zpty -w shell "print be''gin"
zpty -r shell told "*begin*"
zpty -w -n shell "$2"$'\t\a'
zpty -r shell told "*<*>*"
print -r -- "$told"
zpty -d shell
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pyro-vae enc", "pyro-vae encode "),
        ("pyro-vae train --check", "pyro-vae train --checkpoint "),
        ("pyro-vae train --guide full", "pyro-vae train --guide full-covariance "),
        ("pyro-vae experiment ladder-m", "pyro-vae experiment ladder-mnist "),
    ],
)
def test_zsh_completes(line, expected, tmp_path):
    (tmp_path / "completion").write_text(completion.script("zsh"))
    done = subprocess.run(
        ["zsh", "-fc", _ZSH, "zsh", str(tmp_path / "completion"), line],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert re.findall("<(.*)>", done.stdout)[-1] == expected
