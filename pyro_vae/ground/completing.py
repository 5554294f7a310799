"""Completion in notebooks: of a class what the library and its user have written.

``dir(cls)`` would need a metaclass to say the same, which then no class of a user could combine
with ``abc.ABC`` or ``PyroModule``; so the shell is told in its place.
"""

from __future__ import annotations

import re
from inspect import isclass, ismodule
from typing import Any

_PACKAGE = __name__.partition(".")[0]
_DOTTED = re.compile(r"((?:[^\W\d]\w*\.)+)(\w*)")
# Whose methods a class has by the dozen
_MACHINERY = ("abc", "builtins", "pyro", "torch", "typing")


def complete_in(shell: Any) -> None:
    """Have an IPython shell complete ``models.VAE.`` with the names that are meant.

    With an underscore behind the dot it offers all that there is.

    Args:
        shell: ``IPython.get_ipython()``; nothing happens to None, and to IPython before 8.6,
            which Colab has.
    """
    completer = getattr(shell, "Completer", None)
    if completer is None:
        return
    try:
        from IPython.core.completer import CompletionContext, SimpleCompletion, context_matcher
    except ImportError:
        return

    @context_matcher(identifier="pyro_vae")
    def matches(context: CompletionContext) -> Any:
        asked = _DOTTED.fullmatch(context.token)
        names = offered(_named(shell.user_ns, asked[1])) if asked and asked[2][:1] != "_" else []
        if not names:
            return {"completions": []}
        found = [SimpleCompletion(text=n, type="class") for n in names if n.startswith(asked[2])]
        return {"completions": found, "matched_fragment": asked[2], "suppress": True}

    completer.custom_matchers.append(matches)


def offered(cls: Any) -> list[str]:
    """The public names of a class that no other library has put there; none for what is no class.

    Example:
        >>> from pyro_vae import guides
        >>> offered(guides.Guide)
        ['encode', 'push_to_hub', 'to_safetensors']
    """
    bases = cls.__mro__ if isclass(cls) else ()
    if all(_owner(base) != _PACKAGE for base in bases):
        return []
    own = [vars(base) for base in bases if _owner(base) not in _MACHINERY]
    hidden = {
        n for base in bases if _owner(base) == _PACKAGE for n in vars(base).get("inside", ())
    }
    return sorted({name for members in own for name in members if name[0] != "_"} - hidden)


def _owner(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _named(names: dict[str, Any], dotted: str) -> Any:
    """What a name with dots stands for, where only rooms and classes stand before the dots."""
    first, *rest = dotted.rstrip(".").split(".")
    found = names.get(first)
    for name in rest:
        found = getattr(found, name, None) if ismodule(found) or isclass(found) else None
    return found
