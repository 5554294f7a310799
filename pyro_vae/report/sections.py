"""The pictures of a report: what is drawn of a trained pair, and when it makes sense."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .. import plots
from ..data import Dataset, DataSplits
from ..data.arguments import Arguments
from ..data.columns import of_table
from ..data.conditions import classes_of
from ..ground.drawing import shown
from ..ground.kinds import KINDS
from ..guides import NearestCode
from ..infer import PairSummary, reconstruct
from ..models import VAE, Translation
from ..programs.labels import accepts_labels, covariates_of
from ..programs.unwrapping import innermost
from ..training.trainer import Trainer

_DRAWN = 64
_SHOWN = 16
_PAIRS = 5
_FEW = 3
_HEARD = 4
_CLIPS = 24
_OUTLIERS_AMONG = 1000
_POINTS = 3000


@dataclass(frozen=True)
class Run:
    """What the sections draw from; ``test`` is binarised once."""

    trainer: Trainer
    data: DataSplits
    test: Dataset | Arguments
    sites: PairSummary

    @property
    def pair(self) -> tuple[Callable, Callable]:
        """Model and guide."""
        return self.trainer.model, self.trainer.guide

    @property
    def classes(self) -> int:
        """Number of labels that the model is conditional on, 0 for none, and for covariates."""
        condition = getattr(self.trainer.model, "condition", 0)
        return 0 if covariates_of(self.trainer.model) is not None else condition

    def vectors(self, *, least: int = 1) -> list[str]:
        """Latent sites of vectors of at least so many units, in the guide's order."""
        shapes = self.sites.latents
        return [
            site
            for site in self.sites.guide_order
            if len(shapes[site]) == 1 and shapes[site][0] >= least
        ]

    def traversed(self) -> list[str]:
        """Latent sites of vectors, and of the maps of a ladder."""
        model = innermost(self.trainer.model)
        maps = model.latent_shapes if isinstance(model, VAE) else ()
        return [s for s in self.sites.guide_order if s in maps or s in self.vectors()]

    def named(self, x: Tensor) -> Tensor:
        """Some of the data, which know the names of a table, or of what kind they are."""
        if self.data.train.kind_said and not self.data.columns:
            x.kind = self.data.kind
        return of_table(x, self.data)

    def most(self, pictures: int, rows: int) -> int:
        """How many data are drawn: so many pictures, or rows of a table or a text."""
        return rows if self.data.columns or self.data.vocabulary is not None else pictures

    def taking_turns(self) -> Dataset:
        """Test data in an order in which the labels take turns."""
        y, _ = classes_of(self.test)
        if y is None:
            return self.test
        turn = torch.zeros_like(y)
        for label in y.unique():
            rows = (y == label).nonzero()[:, 0]
            turn[rows] = torch.arange(len(rows), device=rows.device)
        order = torch.argsort(turn * (int(y.max()) + 1) + y)
        return self.test[order]


def _history(run: Run) -> Iterator[Figure | Axes]:
    if run.trainer.history:
        yield plots.history(run.trainer.history)


def _samples(run: Run) -> Iterator[Figure | Axes]:
    if not run.classes:
        y, n = run.test.y, run.most(_DRAWN, _SHOWN)
        columns = {}
        if run.data.kind == "video":
            n, columns = _CLIPS, {"columns": 2}
        if y is not None:
            y = y[torch.arange(n, device=y.device) % len(y)]
        like = run.named(run.test.x[:1])
        yield plots.samples(run.trainer.model, n, y=y, like=like, **columns)


def _conditional(run: Run) -> Iterator[Figure | Axes]:
    if covariates_of(run.trainer.model) is not None:
        for name in (n for n, shape in run.trainer.model.condition.shapes.items() if not shape):
            yield plots.conditional(run.trainer.model, vary=name, n=10, labels=run.data.labels)
    if run.classes:
        shown, like = range(min(run.classes, 2 * _SHOWN)), run.named(run.test.x[:1])
        given = {"classes": shown, "labels": run.data.labels, "like": like}
        yield plots.conditional(run.trainer.model, n=run.most(10, _FEW), **given)


def _reconstructions(run: Run) -> Iterator[Figure | Axes]:
    shown = run.taking_turns()[: run.most(_SHOWN, _PAIRS)]
    yield plots.reconstructions(*run.pair, run.named(shown.x), y=shown.y)


def _spectrograms(run: Run) -> Iterator[Figure | Axes]:
    if run.data.rate is not None:
        shown = run.taking_turns()[:_HEARD]
        again = reconstruct(*run.pair, shown.x, y=shown.y)
        titles = [f"{of}{i}" for of in ("test ", "reconstruction ") for i in range(len(shown))]
        both = torch.cat([shown.x, again])
        yield plots.spectrograms(both, run.data.rate, columns=len(shown), titles=titles)


def _interpolations(run: Run) -> Iterator[Figure | Axes]:
    ends = run.taking_turns()
    pairs = min(run.most(_PAIRS, _FEW), len(ends) // 2)
    if pairs and run.traversed():
        ends = ends[: 2 * pairs]
        y = ends.y.reshape(pairs, 2) if isinstance(ends.y, Tensor) else ends.y
        start, end = run.named(ends.x[::2]), ends.x[1::2]
        yield plots.interpolation(*run.pair, start, end, y=y, steps=run.most(10, 5))


def _traversals(run: Run) -> Iterator[Figure | Axes]:
    start = run.taking_turns()[:1]
    sites = run.traversed()
    for site in dict.fromkeys([*sites[:1], *sites[-1:]]):
        yield plots.traversals(*run.pair, run.named(start.x), site=site, y=start.y)


def _grid(run: Run) -> Iterator[Figure | Axes]:
    for site in run.vectors(least=2)[:1]:
        if run.sites.latents[site] == (2,) and KINDS[run.data.kind].dims:
            labelled = run.test.y is not None and accepts_labels(run.trainer.model)
            label = 0 if labelled else None
            if covariates_of(run.trainer.model) is not None:
                label, labelled = run.test[:1].y, False
            ax = plots.latent_grid(
                run.trainer.model, like=run.named(run.test.x[:1]), site=site, y=label
            )
            if labelled:
                ax.set_title(shown(f"label {run.data.labels[0] if run.data.labels else label}"))
            yield ax


def _map(run: Run) -> Iterator[Figure | Axes]:
    if len(run.test) > 1:
        for site in run.vectors(least=2)[:1]:
            shown = run.test[:_POINTS]
            yield plots.latent_scatter(run.trainer.guide, shown, site=site, labels=run.data.labels)


def _outliers(run: Run) -> Iterator[Figure | Axes]:
    if not run.sites.point_masses:
        # All draws of a guide that is certain are one
        draws = {"importance_samples": 1} if isinstance(run.trainer.guide, NearestCode) else {}
        yield plots.outliers(*run.pair, run.test[:_OUTLIERS_AMONG], n=_SHOWN, **draws)


def _translations(run: Run) -> Iterator[Figure | Axes]:
    if isinstance(innermost(run.trainer.model), Translation):
        yield plots.reconstructions(*run.pair, run.test[:_SHOWN])
        yield plots.samples(run.trainer.model, _PAIRS, like=run.test)


@dataclass(frozen=True)
class Section:
    """A heading, what to see below it, and the figures; none where they make no sense."""

    title: str
    caption: str
    draw: Callable[[Run], Iterator[Figure | Axes]]


TRAINING = Section(
    "Training",
    "The ELBO is a lower bound on log p(x): higher is better. A KL near 0 at the end means "
    "that a latent layer is not used.",
    _history,
)
SECTIONS = (
    TRAINING,
    Section(
        "Samples",
        "New data: z from the prior, then the mean of p(x|z); of text, what is most probable.",
        _samples,
    ),
    Section(
        "Samples by label",
        "New data for each label y: z from the prior, then the mean of p(x|z, y).",
        _conditional,
    ),
    Section(
        "Reconstructions",
        "Test data, and the mean of p(x|z) at the posterior means of z; of text, what is most "
        "probable.",
        _reconstructions,
    ),
    Section(
        "Spectrograms",
        "How loud each frequency is over time, of test data above and of reconstructions below.",
        _spectrograms,
    ),
    Section(
        "Interpolations",
        "Straight lines in latent space between two test data in each row.",
        _interpolations,
    ),
    Section(
        "Traversals",
        "One latent unit of a test datum, or channel of a map, changed at a time, those of the "
        "largest KL first.",
        _traversals,
    ),
    Section("Latent grid", "The mean of p(x|z) all over a latent space of two units.", _grid),
    Section("Latent map", "Posterior means of test data.", _map),
    Section(
        "Least likely test data",
        f"Outliers, mislabelled or broken data show up here, among the first {_OUTLIERS_AMONG:,} "
        "test data at most.",
        _outliers,
    ),
)
# Of a program with arguments of its own
OF_ARGUMENTS = (
    TRAINING,
    Section(
        "Translations",
        "Test sentences, what is most probable given z, the mean of q(z|target, source), and "
        "without it, and then draws of z from p(z|source).",
        _translations,
    ),
)
