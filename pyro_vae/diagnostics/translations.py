"""How many sentences are translated exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.arguments import Arguments
from ..distributions import up_to_end
from ..ground.tables import Table, Tabular, mean_and_error
from ..models import Translation
from ..programs.encoding import encode_means
from ..programs.examining import examined


@dataclass(frozen=True, repr=False)
class Accuracy(Tabular):
    """Which sentences are translated exactly; ``print`` it, or read the parts.

    Attributes:
        exact: sentences, from the source alone, (n,).
        words: share of the words of each, the end too, that are right in their place, (n,).
        informed: as ``exact`` where z is the mean of q(z | target, source); None without a guide.
    """

    exact: Tensor
    words: Tensor
    informed: Tensor | None = None

    def rows(self) -> list[tuple[str, float, float]]:
        """What, share of the sentences or words, and its standard error over the sentences."""
        shares = {"exact": self.exact, "words": self.words, "exact, given z": self.informed}
        return [(k, *mean_and_error(v.double())) for k, v in shares.items() if v is not None]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: what -> mean and standard error."""
        return {k: {"mean": mean, "standard_error": error} for k, mean, error in self.rows()}

    def table(self) -> Table:
        """All shares with their standard errors."""
        return Table(
            f"translations of {len(self.exact)} sentences, share that is right",
            ("what", "share"),
            [(name, (mean, error)) for name, mean, error in self.rows()],
        )


def translations(
    model: Translation,
    data: Arguments,
    guide: Callable | None = None,
    *,
    batch_size: int = 500,
) -> Accuracy:
    """The share of sentences that ``model.translate`` gives as in the data, without changing it.

    Args:
        model: the ``models.Translation``.
        data: its arguments ``source`` and ``target``, best such as it was not trained on.
        guide: its guide, for translations that are told z, the mean of q(z | target, source).
        batch_size: sentences at once.

    Raises:
        TypeError: another model.
        ValueError: data that the model cannot have produced.

    Example:
        >>> from pyro_vae import data, models
        >>> pair = data.language_pair(50, 10)
        >>> model = models.Translation(pair.source, pair.target, width=16)
        >>> translations(model, pair.test).exact.shape
        torch.Size([10])
    """
    if not isinstance(model, Translation):
        raise TypeError(f"model: expected a models.Translation, got {type(model).__name__}")
    found: list[list[Tensor]] = []
    programs = (model,) if guide is None else (model, guide)
    with examined(data, *programs) as (data, _):
        for part in data.split(batch_size):
            source, target = model.sides(part)
            alone = model.translate(source)
            found.append([(alone == target).all(-1), _right(alone, target)])
            if guide is not None:
                z = encode_means(guide, part)["z1"]
                found[-1].append((model.translate(source, z=z) == target).all(-1))
    return Accuracy(*(torch.cat(column).cpu() for column in zip(*found, strict=True)))


def _right(found: Tensor, target: Tensor) -> Tensor:
    counted = up_to_end(target)
    return ((found == target) & counted).sum(-1) / counted.sum(-1)
