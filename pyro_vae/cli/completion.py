"""Scripts that make a shell complete the command line, without torch to ask it for its options.

What they offer stands here a second time; a test compares it with the parsers.
"""

from __future__ import annotations

from .. import experiments

SHELLS = ("bash", "zsh")

_DATA = (
    "--data --data-root --download --size --kind --vocabulary --rate --length --grey --binarize"
)
_COMMON = "--seed --device --threads --help"
_PAIR = (
    "--latents --hidden --channels --blocks --guide --likelihood --sigma --standardize "
    "--no-standardize --codes --levels --skip --conditional --condition-on --condition-on-numbers "
    "--exposure"
)
_TRAINING = (
    "--beta --warm-up --epochs --patience --batch-size --accumulate --lr --clip-norm --elbo "
    "--precision --out --quiet --checkpoint --resume --importance-samples"
)
OPTIONS = {
    "train": f"{_DATA} {_PAIR} {_TRAINING} {_COMMON}",
    "evaluate": f"--json --importance-samples {_DATA} --split {_COMMON}",
    "sample": f"-n --label --given --draw --prior --components --out {_DATA} --split {_COMMON}",
    "encode": f"--site --out {_DATA} --split {_COMMON}",
    "outliers": f"-n --by --importance-samples --reference --out {_DATA} --split {_COMMON}",
    "interpolate": f"--from --to --steps --out {_DATA} --split {_COMMON}",
    "experiment": "--help",
    "completion": "--help",
}
_NAMES = "digits mnist-small mnist fashion-mnist omniglot cifar10 shapes tones bouncing"
# Behind an option or a command; elsewhere names of files
VALUES = {
    "--data": _NAMES,
    "--reference": _NAMES,
    "--kind": "vector signal image video tokens sequence array",
    "--vocabulary": "characters words",
    "--binarize": "dynamic static none",
    "--split": "test train all",
    "--guide": "bottom-up delta flow full-covariance ladder",
    "--likelihood": (
        "bernoulli continuous-bernoulli gaussian negative-binomial poisson categorical "
        "discretized-logistic laplace log-normal student-t"
    ),
    "--elbo": "trace analytic",
    "--precision": "float32 tf32 bf16",
    "--prior": "model mixture",
    "--by": "density likelihood",
    "experiment": " ".join(experiments.NAMES),
    "completion": " ".join(SHELLS),
}
_SCRIPT = """\
_pyro_vae() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    local command= words= i
    for ((i = 1; i < COMP_CWORD; i++)); do
        [[ ${{COMP_WORDS[i]}} == -* ]] || {{ command=${{COMP_WORDS[i]}}; break; }}
    done
    case $command in
        "") words="{commands} --help --version" ;;
{options}
    esac
    if [[ $command && $current != -* ]]; then
        case $before in
{values}
            *) words= ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _pyro_vae pyro-vae
"""


def script(shell: str) -> str:
    """What a shell has to run; zsh by its emulation of bash.

    Example:
        >>> script("zsh").splitlines()[0]
        'autoload -U +X bashcompinit && bashcompinit'
    """
    first = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return first + _SCRIPT.format(
        commands=" ".join(OPTIONS),
        options="\n".join(f'        {k}) words="{v}" ;;' for k, v in OPTIONS.items()),
        values="\n".join(f'            {k}) words="{v}" ;;' for k, v in VALUES.items()),
    )
