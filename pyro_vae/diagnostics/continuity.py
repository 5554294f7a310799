"""Whether the way between two data leads through data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data import Dataset
from ..data.arguments import LabelData
from ..data.conditions import classes_of
from ..ground.arguments import whole
from ..ground.tables import Table, Tabular, mean_and_error
from ..infer.latent import decode_mean
from ..programs.coordinates import constrained, unconstrained
from ..programs.encoding import encode
from ..programs.examining import examined
from ..programs.labels import label_arguments


@dataclass(frozen=True, repr=False)
class Continuity(Tabular):
    """How much of the decoded way between two data a classifier knows; ``print`` it.

    Attributes:
        recognised: pair and step -> whether the decoded point is taken for the class of one of
            its ends, bool (pairs, steps); the first and the last step are the reconstructions.
        pairs: rows of the data between which the ways lead, (pairs, 2).
    """

    recognised: Tensor
    pairs: Tensor

    def _of(self, steps: slice | list[int]) -> Tensor:
        return self.recognised[:, steps].double().mean(1)

    @property
    def share(self) -> tuple[float, float]:
        """Share of the points between the ends that are recognised; standard error over pairs."""
        return mean_and_error(self._of(slice(1, -1)))

    @property
    def ends(self) -> tuple[float, float]:
        """The same for the reconstructed ends themselves."""
        return mean_and_error(self._of([0, -1]))

    @property
    def relative(self) -> tuple[float, float]:
        """The first share divided by the second; the standard error by the delta method.

        What a model loses on the way, apart from what it loses by its reconstructions.
        """
        between, ends = self._of(slice(1, -1)), self._of([0, -1])
        ratio = float(between.mean() / ends.mean())
        return ratio, mean_and_error(between - ratio * ends)[1] / float(ends.mean())

    def table(self) -> Table:
        """Shares that are recognised, with standard errors over the pairs."""
        pairs, steps = self.recognised.shape
        rows = {
            "between the ends": self.share,
            "half way": mean_and_error(self._of([steps // 2])),
            "at the ends": self.ends,
            "between / at the ends": self.relative,
        }
        return Table(
            f"share taken for the class of an end, {pairs} pairs in {steps} steps",
            ("point", "recognised"),
            list(rows.items()),
        )


def continuity(
    model: Callable,
    guide: Callable,
    data: Dataset | tuple[Tensor, Tensor],
    classifier: Any = None,
    *,
    pairs: int = 200,
    steps: int = 11,
    seed: int = 0,
) -> Continuity:
    """Share of the decoded way between two data that a classifier takes for one of its ends.

    Data of two classes are encoded to their posterior means; the straight line between these, that
    of ``infer.interpolate``, is decoded in ``steps`` points. In a latent space without holes the
    points look like one end, then like the other; through a hole the way leads to other classes.
    Compare pairs of equal latent size on the same data: an autoencoder (``guides.Delta``, beta 0)
    against a VAE. Where these reconstruct unequally well, ``relative`` is the fairer number. A
    classifier calls anything by some name, so that a blur may count as recognised.

    Args:
        model: generative program.
        guide: inference program.
        data: labelled data, such as a test set. Dynamic binarisation is drawn once.
        classifier: anything with scikit-learn's ``predict``: rows (n, d) -> classes (n,). Default:
            a random forest fitted to ``data``; better one fitted to the training set.
        pairs: number of pairs, drawn from different classes.
        steps: points of a way with its ends, at least 3.
        seed: of the choice of pairs and of the default classifier.

    Returns:
        ``Continuity``.

    Raises:
        ValueError: data without labels or of one class only, too few steps or pairs.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> x, y = torch.randn(40, 6), torch.arange(40) % 2
        >>> continuity(vae, guides.BottomUp(vae), (x, y), pairs=20).share[0]
        1.0
    """
    whole("steps", steps, 3)
    whole("pairs", pairs)
    with examined(data, model, guide, labelled=True) as (data, _):
        classes, _ = classes_of(data)
        if classes is None or len(classes.unique()) < 2:
            raise ValueError(
                "data: expected labels of at least two classes, to tell the ends apart"
            )
        x, y = data.x, data.y
        rows = _pairs(classes.cpu(), pairs, seed).to(data.device)
        if classifier is None:
            classifier = _forest(x, classes, seed)
        t = torch.linspace(0, 1, steps, device=data.device, dtype=x.dtype)
        found = []
        for ends in rows.split(max(1, 2000 // steps)):
            start, end = (_coordinates(model, guide, x[i], y[i]) for i in ends.T)
            line = {}
            for s, v in start.items():
                weight = t.reshape(-1, *(1,) * (v.dim() - 1))
                line[s] = torch.lerp(v[:, None], end[s][:, None], weight).flatten(0, 1)
            # As in infer.interpolate: a model sees the nearer end and its label
            nearer = torch.where(t > 0.5, ends[:, 1:], ends[:, :1]).flatten()
            on = x[nearer], y[nearer]
            decoded = decode_mean(model, constrained(model, line, *on), *on)
            predicted = torch.as_tensor(classifier.predict(_rows(decoded)))
            told = predicted.reshape(len(ends), steps)
            own = classes[ends].cpu()
            found.append((told == own[:, :1]) | (told == own[:, 1:]))
    return Continuity(torch.cat(found), rows.cpu())


def _coordinates(model: Callable, guide: Callable, x: Tensor, y: LabelData) -> dict[str, Tensor]:
    """The posterior means of data, in unconstrained coordinates."""
    return unconstrained(model, encode(guide, x, **label_arguments(guide, y)).mean, x, y)


def _pairs(y: Tensor, pairs: int, seed: int) -> Tensor:
    """Rows of two data of different classes each, (pairs, 2)."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.empty(0, 2, dtype=torch.long)
    while len(found) < pairs:
        drawn = torch.randint(len(y), (2 * pairs, 2), generator=generator)
        found = torch.cat([found, drawn[y[drawn[:, 0]] != y[drawn[:, 1]]]])
    return found[:pairs]


def _rows(x: Tensor) -> Any:
    return x.flatten(1).float().cpu().numpy()


def _forest(x: Tensor, y: Tensor, seed: int) -> Any:
    # Slow to import, and only needed here
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(100, random_state=seed).fit(_rows(x), y.cpu().numpy())
