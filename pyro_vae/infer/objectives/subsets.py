"""The bounds of several sets of modalities in one objective."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from torch import Tensor

from ...data.arguments import Arguments, Data, Key
from ...ground.arguments import known
from ...programs.calling import positional
from ...programs.checks import PairSummary
from ...programs.unwrapping import innermost, name_of
from .elbo import ELBOTerms, Estimator
from .pyro_elbo import as_estimator

T = TypeVar("T")


class SubsetELBO(Estimator):
    """ELBO(x) + sum_S ELBO(x_S): the bound of all modalities, and that of each alone.

    The experts of ``guides.ProductOfExperts`` act together in the bound of all data, which does
    not make each of them right by itself, as is asked of them where the other modalities are
    absent. Here model and guide are run on each subset S as well, the arguments of all other
    modalities being None. ``terms``, and so what a trainer logs as "elbo", are those of all data.

    Where rows have some modalities only, under ``handlers.missing``, a bound of none is 0.

    Source: "Multimodal Generative Models for Scalable Weakly-Supervised Learning", Wu, Goodman
    (2018), section 2.2, whose random subsets of many modalities may be named instead.

    Args:
        subsets: names of arguments, a sequence for each bound besides that of all; default: each
            of the guide's ``modalities`` alone.
        of: how each bound is estimated: "trace", "analytic", or an estimator such as
            ``ImportanceWeightedELBO(10)``.

    Raises:
        TypeError: a guide that does not tell its modalities.
        ValueError: when called, an unknown modality.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> from pyro_vae import Trainer, guides
        >>> def model(left=None, right=None):
        ...     with pyro.plate("data", len(right if left is None else left)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("left", dist.Normal(z, 1.0), obs=left)
        ...         pyro.sample("right", dist.Normal(-z, 1.0), obs=right)
        >>> data = {"left": torch.randn(8), "right": torch.randn(8)}
        >>> guide = guides.ProductOfExperts(["left", "right"], model=model, like=data)
        >>> trainer = Trainer(model, guide, elbo=SubsetELBO())
        >>> row = trainer.fit(data, epochs=1, progress=False).history[-1]
        >>> row["objective"] < row["elbo"]
        True
    """

    def __init__(
        self,
        subsets: Sequence[Sequence[str]] | None = None,
        of: Literal["trace", "analytic"] | Estimator = "trace",
    ) -> None:
        """Take over how the bounds are estimated."""
        self.of = as_estimator(of)
        if hasattr(self.of, "backward"):
            raise ValueError(
                f"of: expected an estimator with a gradient of its own, got {of!r}: pass 'trace', "
                "'analytic', or such as infer.ImportanceWeightedELBO(10)"
            )
        super().__init__(self.of.reduction)
        self.subsets = None if subsets is None else tuple(map(_subset, subsets))
        self.recordable, self.gradient = self.of.recordable, self.of.gradient
        self.of_units = self.of.of_units

    def _each(
        self, run: Callable[[Arguments], T], guide: Callable, x: Data, y: Tensor | None
    ) -> list[T]:
        """What ``run`` gives for the data of each subset, the other modalities being left out."""
        inner = innermost(guide)
        modalities = getattr(inner, "modalities", None)
        if modalities is None:
            raise TypeError(
                f"guide: expected one of several modalities, got {name_of(guide)}: pass such as "
                "guides.ProductOfExperts, or elbo='trace'"
            )
        if not isinstance(x, Arguments):
            x = Arguments((x,), {} if y is None else {"y": y})
        positions = [p.name for p in positional(guide)]
        names: dict[Key, str] = {
            k: positions[k] if isinstance(k, int) else k for k, _ in x.items()
        }
        found = []
        for subset in self.subsets or [(name,) for name in modalities]:
            for name in subset:
                known("subsets", name, modalities)
            hidden = {*modalities} - {*subset}
            gone = {key for key, _ in x.items() if names.get(key, key) in hidden}
            part = dataclasses.replace(
                x,
                args=tuple(None if i in gone else v for i, v in enumerate(x.args)),
                kwargs={name: v for name, v in x.kwargs.items() if name not in gone},
                columns=tuple(key for key in x.columns or () if key not in gone),
            )
            found.append(run(part))
        return found

    def prepare(self, model: Callable, guide: Callable, x: Data, y: Tensor | None = None) -> None:
        """As the estimator of each bound."""
        self.of.prepare(model, guide, x, y)

    def examine(
        self, model: Callable, guide: Callable, x: Data, y: Tensor | None = None
    ) -> PairSummary:
        """As the estimator of each bound, for each subset."""
        found = self.of.examine(model, guide, x, y)
        self._each(lambda part: self.of.examine(model, guide, part), guide, x, y)
        return found

    def __call__(
        self, model: Callable, guide: Callable, x: Data, y: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, ELBOTerms]:
        """The sum of the losses, and the terms of all data."""
        loss, terms = self.of(model, guide, x, y, **options)
        losses = self._each(lambda part: self.of(model, guide, part)[0], guide, x, y)
        return sum(losses, start=loss), terms

    def _objective(self, *_: Any) -> Tensor:
        raise NotImplementedError

    def _kl(self, *_: Any) -> Tensor:
        raise NotImplementedError


def _subset(names: Any) -> tuple[str, ...]:
    if isinstance(names, str) or not (found := tuple(names)):
        raise ValueError(
            f"subsets: expected some names for each, got {names!r}: pass such as "
            "[('image',), ('label',)]"
        )
    return found
