"""What a guide does not see although the posterior of a model depends on it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..data.arguments import Data, columns_of
from ..ground.graphs import boundary
from .inspecting import FEW, Argument, columns_by_name, noted, structure


def lacking(
    model: Callable, guide: Callable, x: Data, y: Tensor | None = None
) -> dict[str, tuple[str, ...]]:
    """Latent of a guide -> the latents, data and arguments that it lacks; none where it has all.

    In the guide's own order of drawing each latent is to see those that were drawn before it, the
    observed sites and the arguments of which it is not independent given all others of them, in
    the posterior of the model's graph. A guide without them cannot be exact.

    Raises:
        ValueError: a program of which no structure is found, see ``infer.structure``.
    """
    found = structure(model, x if y is None else (x, y))
    n = min(FEW, len(columns_of(x)[0])) if columns_of(x) else 0
    x, y = (x[:n] if n else x), (None if y is None else y[:n])
    run = noted(guide, x, y)
    names = {id(t): name for name, t in columns_by_name(model, x, y).items()}
    own = {name: names.get(id(t)) for name, t in columns_by_name(guide, x, y).items()}
    given = [s for s, site in found.observed.items() if not site.is_factor]
    given += found.arguments
    given += [s for s, latent in found.latents.items() if latent.is_global]
    before: list[str] = []
    result = {}
    for site in run.nodes:
        latent = found.latents.get(site)
        if latent is None or latent.is_global:
            continue
        seen = {s for s in run.seen[site] if isinstance(s, str)}
        arguments = {own.get(s.name) for s in run.seen[site] if isinstance(s, Argument)}
        seen |= {node for node in given if found.argument_of(node) in arguments}
        needed = boundary(found.graph, site, [*before, *given])
        # A guide of what all data share is a product with that of the data
        needed -= {s for s, latent in found.latents.items() if latent.is_global}
        if missing := tuple(s for s in (*reversed(before), *given) if s in needed - seen):
            result[site] = missing
        before.append(site)
    return result
