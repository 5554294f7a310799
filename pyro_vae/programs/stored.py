"""Parameters in Pyro's store alone, which ``pyro.param`` makes: as a file holds them, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyro
import torch
from pyro.distributions import constraints
from pyro.distributions.constraints import Constraint
from torch import Tensor
from torch.distributions import transform_to

from ..ground.arguments import is_whole

# What a file may name, and nothing else: constraints without arguments, and those with bounds
_PLAIN = ("real", "simplex", "corr_cholesky", "corr_matrix", "ordered_vector", "sphere")
_PLAIN += ("positive_ordered_vector", "softplus_positive")
_SQUARE = ("lower_cholesky", "softplus_lower_cholesky", "unit_lower_cholesky")
_SQUARE += ("positive_definite", "positive_semidefinite")
_LOWER, _UPPER = ("lower_bound",), ("upper_bound",)
_BOUNDED = {
    "greater_than": _LOWER,
    "greater_than_eq": _LOWER,
    "less_than": _UPPER,
    "interval": _LOWER + _UPPER,
    "half_open_interval": _LOWER + _UPPER,
}
_OF_MODULE = "$$$"
_WRONG = "its pyro.param sites cannot be those of a run"

# Site -> its unconstrained value, None before the program first ran, and its constraint
Entries = dict[str, tuple[Tensor | None, Constraint]]


def tensors(sites: Iterable[str]) -> dict[str, Tensor]:
    """Unconstrained tensors of the sites that Pyro's store has, in the order of their names."""
    if not sites:
        return {}
    store = dict(pyro.get_param_store().named_parameters())
    return {site: store[site] for site in sorted(sites) if site in store}


def written(sites: Mapping[str, Constraint]) -> dict[str, Any]:
    """The sites as a file holds them, those among them that are still to begin.

    ``sites`` have the constraints that they were declared with, where the store has none.

    Raises:
        TypeError: a site that no file can hold.
    """
    if not sites:
        return {}
    store = pyro.get_param_store().get_state()
    return {
        site: [
            store["params"].get(site),
            encode(site, store["constraints"].get(site, sites[site])),
        ]
        for site in sorted(sites)
    }


def read(content: Any) -> Entries:
    """What ``written`` gave; ``ValueError`` for anything else."""
    if not isinstance(content, dict):
        raise ValueError(_WRONG)
    return {site: _entry(site, entry) for site, entry in content.items()}


def put(entries: Entries) -> None:
    """Have these in Pyro's store, in place of what it has under their names."""
    if not entries:
        return
    store = pyro.get_param_store()
    state = store.get_state()
    for site, (value, constraint) in entries.items():
        for part, new in (("params", value), ("constraints", constraint)):
            state[part].pop(site, None)
            if value is not None:
                state[part][site] = new
    store.clear()
    store.set_state(state)


def encode(site: str, constraint: Constraint) -> list[Any]:
    """A constraint of ``torch.distributions`` or Pyro by its name and its numbers.

    Raises:
        TypeError: another one, or a site that is a parameter of a network.
    """
    if _OF_MODULE in site:
        raise TypeError(
            f"site {site!r}: a network that a plain function declares with pyro.module is in no "
            "file: make the function a method of an nn.Module that holds the network"
        )
    kind = type(constraint)
    for name in _PLAIN + _SQUARE:
        if kind is type(getattr(constraints, name)):
            return [name]
    for name, bounds in _BOUNDED.items():
        if kind is getattr(constraints, name):
            return [name, *(_bound(getattr(constraint, bound)) for bound in bounds)]
    if kind is constraints.independent:
        base = encode(site, constraint.base_constraint)
        return ["independent", base, int(constraint.reinterpreted_batch_ndims)]
    raise TypeError(
        f"site {site!r}: a file holds numbers under the bounds, simplices, orders and matrices "
        f"of pyro.distributions.constraints, got {constraint!r}: declare it with one of these, "
        "such as constraints.positive, or leave save and checkpoint= out"
    )


def _bound(bound: Any) -> Tensor | float:
    if isinstance(bound, Tensor):
        return bound.detach()
    # As numbers of Python, not of NumPy
    return int(bound) if isinstance(bound, int) else float(bound)


def _entry(site: Any, entry: Any) -> tuple[Tensor | None, Constraint]:
    right = isinstance(site, str) and _OF_MODULE not in site
    if not (right and isinstance(entry, list) and len(entry) == 2):
        raise ValueError(_WRONG)
    value, described = entry
    if value is None:
        return None, _decoded(described, None)
    if not _is_dense(value) or not (value.is_floating_point() or value.is_complex()):
        raise ValueError(f"{_WRONG}: {site!r}")
    constraint = _decoded(described, value.shape)
    try:
        with torch.no_grad():
            transform_to(constraint)(value)
    except Exception as error:  # whatever a value of another shape provokes
        raise ValueError(f"{_WRONG}: {site!r}: {error}") from error
    return value, constraint


def _decoded(described: Any, shape: torch.Size | None) -> Constraint:
    """A constraint of an unconstrained value of this shape, no larger than the value."""
    if not (isinstance(described, list) and described and isinstance(described[0], str)):
        raise ValueError(_WRONG)
    name, *given = described
    square = shape is None or (len(shape) > 1 and shape[-1] == shape[-2])
    if not given and (name in _PLAIN or (name in _SQUARE and square)):
        return getattr(constraints, name)
    if len(given) == len(_BOUNDED.get(name, ())) > 0 and all([_fits(b, shape) for b in given]):
        return getattr(constraints, name)(*given)
    if name == "independent" and len(given) == 2 and is_whole(dims := given[1]):
        base = _decoded(given[0], shape)
        if dims >= 0 and (shape is None or base.event_dim + dims <= len(shape)):
            return constraints.independent(base, dims)
    raise ValueError(_WRONG)


def _fits(bound: Any, shape: torch.Size | None) -> bool:
    if isinstance(bound, int | float):
        return True
    if not _is_dense(bound) or bound.is_complex():
        return False
    try:
        return shape is None or torch.broadcast_shapes(shape, bound.shape) == shape
    except RuntimeError:
        return False


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
