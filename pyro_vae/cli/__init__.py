"""The command line: train a pair, evaluate it, draw from it, encode, find what is rare.

Bad input ends with one line on standard error that says what was expected and what to do, and
with exit status 2; programming errors keep their traceback.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from .completion import script
from .messages import BAD_INPUT, DONE, INTERRUPTED, in_options
from .options import parse

__all__ = ["main"]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


_BAD = (ValueError, TypeError, OSError, FloatingPointError, ImportError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; by default those of the process.

    Returns:
        The exit status: 0; 2 for bad input, with one line on standard error; 130 when Ctrl-C
        ended training or the program.

    Raises:
        SystemExit: with status 0, after ``--help``.

    Example:
        >>> main(["train", "--beta", "-1"])
        2
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        args = parse(argv)
        args.command_line = shlex.join(["pyro-vae", *argv])
        if args.command == "completion":
            print(script(args.shell), end="")
            return DONE
        # Help takes no torch
        import matplotlib
        import torch

        from .commands import COMMANDS

        matplotlib.use("agg")
        if args.threads is not None:
            torch.set_num_threads(args.threads)
        return COMMANDS[args.command](args)
    except _BAD as error:
        return _refuse(str(error))
    except (MemoryError, RuntimeError) as error:
        import torch

        # What torch raises has no class of its own, but on a GPU
        if isinstance(error, torch.OutOfMemoryError):
            return _refuse(str(error))
        if not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
            raise
        return _refuse(
            "not enough memory for sizes as large as these: lower --latents, --hidden, "
            "--batch-size, --importance-samples or -n"
        )
    except KeyboardInterrupt:
        print("pyro-vae: interrupted", file=sys.stderr)
        return INTERRUPTED


def _refuse(message: str) -> int:
    # A shell passes bytes that are no text, which not every stream takes
    printable = in_options(message).encode(errors="backslashreplace").decode()
    print(f"pyro-vae: error: {printable}", file=sys.stderr)
    return BAD_INPUT
