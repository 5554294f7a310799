"""Pictures of data: given, drawn from a model, reconstructed, denoised, unlikely."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..data import Column, Dataset, DataSplits, Vocabulary
from ..data.arguments import Arguments
from ..data.columns import of_table
from ..ground.arguments import at_least, whole
from ..ground.drawing import keep_within
from ..ground.kinds import kind_of as check_kind
from ..handlers import corrupted, replace_prior
from ..infer import evaluating, log_likelihood, reconstruct
from ..infer.latent import shown_by
from ..models import Translation
from ..programs.given import matched
from ..programs.kinds import kind_of
from ..programs.labels import Labels, accepts_labels, covariates_of
from ..programs.means import mean_of
from ..programs.placing import device_of
from ..programs.running import measuring
from ..programs.sites import kinds
from ..programs.unwrapping import innermost
from ..programs.values import check_programs, check_tensor
from .drawing import grid_axes, is_image, rows_of, run, stacked
from .sentences import check_no_pairs, check_no_text, drawn_translations, translations
from .tables import columns_of

# How much wider than high data are drawn
_WIDE = {"signal": 2, "sequence": 2, "video": 3}


def images(
    x: Tensor,
    *,
    columns: int | None = None,
    titles: Sequence[str] = (),
    kind: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw data in a grid.

    Images are (n, h, w), (n, 1, h, w) in grey or (n, 3, h, w) in colour; their values are clipped
    to [0, 1] for display, ``uint8`` divided by 255 before. Signals are drawn as curves, one per
    channel, video as strips of frames; rows of a table are written as numbers under their names,
    and text that a model draws as lines (that of ``x`` alone is ``vocabulary.text(x)``).
    Any other datum, such as a vector, is flattened and drawn as one row of a heat-map, with its
    colour scale beside it.

    Args:
        x: (n, *event), ``data.Rows`` for a table, such as ``vae.sample(10)``.
        columns: images per row; by default one row of up to 8, beyond that about a square.
            Vectors are drawn one per row unless it is given.
        titles: one per datum, such as its label; none by default.
        kind: what the dimensions of a datum mean, such as "signal", as in ``data.load``.
        ax: axes to draw on; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: no data, no event dimension, or not one title per datum.

    Example:
        >>> ax = images(torch.rand(10, 1, 8, 8), columns=5)
        >>> ax.images[0].get_array().shape  # two rows, five columns, gaps of one pixel
        (19, 46, 3)
    """
    if x.dim() < 2 or x.numel() == 0:
        raise ValueError(
            f"x: expected data of shape (n, *event) with n >= 1, got {tuple(x.shape)}: "
            "pass x[None] for a single datum"
        )
    if titles and len(titles) != len(x):
        raise ValueError(f"titles: expected {len(x)}, one per datum, got {len(titles)}")
    return _grid(x, columns, titles, kind, ax, columns_of(x))


def _grid(
    x: Tensor,
    columns: int | None,
    titles: Sequence[str],
    kind: str | None,
    ax: Axes | None,
    table: Sequence[Column] | Vocabulary,
) -> Axes:
    """Data in a grid, or below each other, as ``images`` draws them."""
    if table:
        return grid_axes(x, columns or 1, ax, titles=titles, table=table)
    image = is_image(x.shape[1:]) if kind is None else check_kind(kind, x.shape[1:]).dims > 1
    if x.dtype == torch.uint8 and image:
        x = x / 255
    if columns is None:
        square = math.ceil(math.sqrt(len(x)))
        columns = max(8, square) if image else 1
        if kind in _WIDE:
            columns = max(1, square // _WIDE[kind])
    return grid_axes(x, min(whole("columns", columns), len(x)), ax, titles=titles, kind=kind)


def samples(
    model: Callable,
    n: int = 64,
    *,
    y: Tensor | int | None = None,
    mean: bool = True,
    prior: nn.Module | Literal["uniform"] | None = None,
    like: Tensor | Dataset | DataSplits | Arguments | None = None,
    columns: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw what a model generates, by ancestral sampling with torch's global RNG.

    Args:
        model: generative program.
        n: number of data.
        y: labels (n,), or one label for all, for a conditional model.
        mean: show the means of p(x|z) for drawn z in place of drawn x.
        prior: a module of ``priors`` from which the top latent is drawn in place of the model's
            own; for a ``models.VQVAE`` a fitted ``priors.CodePrior``, or "uniform".
        like: any data (m, *event), or a ``Dataset``, needed for a model without a ``sample``
            method of its own; of a ``models.Translation`` arguments, whose sources are translated.
        columns: images per row, as in ``images``.
        ax: axes to draw on; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        TypeError: ``prior`` is nothing that returns a distribution.
        ValueError: a model without ``sample``, and no ``like``; a prior that does not fit.

    Example:
        >>> from pyro_vae import likelihoods, models, priors
        >>> vae = models.VAE((1, 8, 8), latents=2, likelihood=likelihoods.Bernoulli(), hidden=())
        >>> samples(vae, 16, prior=priors.StandardNormal(2)).images[0].get_array().shape
        (19, 73, 3)
    """
    check_programs(model)
    if isinstance(like, Arguments) and isinstance(innermost(model), Translation):
        return drawn_translations(model, n, like, ax)
    like = None if like is None else like if isinstance(like, Arguments) else shown_by(like)
    x = _draw(model, n, y=y, mean=mean, like=like, prior=prior)
    return _grid(x, columns, (), kind_of(like, model), ax, columns_of(x, model))


def _draw(
    model: Callable,
    n: int,
    *,
    y: Labels,
    mean: bool,
    like: Tensor | None,
    prior: nn.Module | Literal["uniform"] | None = None,
) -> Tensor:
    """Data (n, *event), or the means of their distributions, by ancestral sampling."""
    if not accepts_labels(model):
        y = None  # the labels of a data set, which such a model ignores everywhere
    if hasattr(model, "sample"):
        drawn = model.sample(n, y=y, mean=mean, **({} if prior is None else {"prior": prior}))
        return drawn if columns_of(drawn) else of_table(drawn, like)
    if prior is not None:
        model = replace_prior(model, prior)
    if like is not None:
        check_tensor(like, "like")
    with evaluating(model):
        trace = run(model, n, y, like)
    site = kinds(trace).observed[-1]
    p_x = trace.nodes[site]["fn"]
    x = (mean_of(p_x, site) if mean else p_x.sample()).reshape(n, *like.shape[1:])
    return of_table(x, like)


def conditional(
    model: Callable,
    *,
    classes: Sequence[int] | None = None,
    n: int = 8,
    labels: Sequence[str] = (),
    vary: str | None = None,
    y: Mapping[str, Any] | None = None,
    mean: bool = True,
    like: Tensor | Dataset | DataSplits | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a row of samples for each label of a conditional model, or value of a covariate.

    Args:
        model: generative program p(x, z|y).
        classes: labels to show, by default all that a library model knows; of a number its
            values, by default five from two standard deviations below its mean on.
        n: samples per label.
        labels: names of the classes, ``labels[y]``; by default their numbers; of covariates a
            mapping, such as ``d.labels``.
        vary: which of ``models.Covariates`` has these values, by default the first.
        y: the others, by default the first class, mean numbers and the mean log exposure.
        mean: show the means of p(x|z, y) for drawn z in place of drawn x.
        like: any data (m, *event), or a ``Dataset``, needed for a model without a ``sample``
            method of its own.
        ax: axes to draw on; by default those of a new figure.

    Returns:
        The axes, with a row of ``n`` data per class.

    Raises:
        ValueError: the model knows no labels; no classes, or fewer than one sample per class.

    Example:
        >>> from pyro_vae import likelihoods, models
        >>> vae = models.VAE(
        ...     (1, 8, 8), latents=2, likelihood=likelihoods.Bernoulli(), hidden=(), condition=3
        ... )
        >>> [label.get_text() for label in conditional(vae, n=4).get_yticklabels()]
        ['0', '1', '2']
        >>> given = models.Covariates(numbers=("age", "dose"), loc=[40, 1], scale=[10, 0.5])
        >>> options = {"likelihood": likelihoods.Bernoulli(), "hidden": ()}
        >>> vae = models.VAE((1, 8, 8), latents=2, condition=given, **options)
        >>> [label.get_text() for label in conditional(vae, y={"dose": 2.0}).get_yticklabels()]
        ['20', '30', '40', '50', '60']
    """
    check_programs(model)
    condition, covariates = getattr(model, "condition", None), covariates_of(model)
    if not accepts_labels(model):
        raise ValueError(
            "model: expected a conditional model, this one takes no labels: build it with their "
            "number, such as models.VAE(..., condition=10), or use plots.samples"
        )
    given: dict[str, Any] = {}
    if covariates is not None:
        vary, classes, given = covariates.varied(vary, classes, y)
        labels = labels.get(vary, ()) if isinstance(labels, Mapping) else labels
    elif classes is None:
        if condition is None:
            raise ValueError("classes: this model does not tell its labels: pass classes=range(k)")
        classes = range(condition)
    classes = list(classes) if covariates is not None else [int(c) for c in classes]
    if not classes:
        raise ValueError("classes: expected at least one, got none")
    whole("n", n)
    rows = torch.tensor(classes, device=device_of(model)).repeat_interleave(n)
    names = [str(labels[c]) if len(labels) else f"{c:.4g}" for c in classes]
    labelled = rows if covariates is None else {**given, vary: rows}
    like = None if like is None else shown_by(like)
    drawn = _draw(model, len(rows), y=labelled, mean=mean, like=like)
    known = {"table": columns_of(drawn, model), "kind": kind_of(like, model)}
    ax = grid_axes(drawn, n, ax, row_labels=names, **known)
    ax.set_ylabel("label" if vary is None else vary)
    keep_within(ax)
    return ax


def reconstructions(
    model: Callable, guide: Callable, x: Tensor | Arguments, *, y: Tensor | None = None
) -> Figure:
    """Draw data, and below each E[x|z] at its posterior means.

    Args:
        model: generative program.
        guide: inference program.
        x: (n, *event), of a ``models.Translation`` its arguments; about 16 are well readable.
        y: labels (n,) for a conditional pair.

    Returns:
        A figure of two axes: the data, the reconstructions; of one for a table or text.

    Raises:
        ValueError: no data, or data of the wrong shape.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((1, 8, 8), latents=2, likelihood=likelihoods.Bernoulli(), hidden=())
        >>> len(reconstructions(vae, guides.BottomUp(vae), torch.zeros(5, 1, 8, 8)).axes)
        2
    """
    if isinstance(x, Arguments) and isinstance(innermost(model), Translation):
        return translations(model, guide, x).figure
    check_tensor(x)
    with measuring(model, guide, device=x.device):
        result = reconstruct(model, guide, x, y=y)
    known = {"table": columns_of(x, model), "kind": kind_of(x, model)}
    return stacked({"data": x, "reconstruction": result}, **known)


def denoising(
    model: Callable,
    guide: Callable,
    x: Tensor,
    noise: float | Callable[[Tensor], Tensor],
    *,
    y: Tensor | None = None,
) -> Figure:
    """Draw data, corrupted data, and what the pair reconstructs from exactly these.

    A guide under ``handlers.corrupt`` is used without that handler, so that noise is added once.

    Args:
        model: generative program.
        guide: inference program, with or without handlers.
        x: (n, *event).
        noise: standard deviation of additive Gaussian noise, or a function from x to the
            corrupted x; drawn with torch's global RNG.
        y: labels (n,) for a conditional pair.

    Returns:
        A figure of three axes: the data, the corrupted data, the reconstructions; of one for a
        table.

    Raises:
        ValueError: a negative or non-finite standard deviation, or data of the wrong shape.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((1, 8, 8), latents=2, likelihood=likelihoods.Bernoulli(), hidden=())
        >>> len(denoising(vae, guides.BottomUp(vae), torch.zeros(5, 1, 8, 8), 0.3).axes)
        3
    """
    check_no_text(model, "plots.reconstructions, and word_dropout= of a SequenceDecoder")
    if not callable(noise):
        at_least("noise", noise)
    check_tensor(x)
    guide = innermost(guide)
    noisy = corrupted(x, noise)
    with measuring(model, guide, device=x.device):
        result = reconstruct(model, guide, noisy, y=y)
    rows = {"data": x, "corrupted": noisy, "reconstruction": result}
    return stacked(rows, table=columns_of(x, model), kind=kind_of(x, model))


def outliers(
    model: Callable,
    guide: Callable,
    data: Dataset | Tensor | tuple[Tensor, Tensor | None],
    *,
    n: int = 16,
    importance_samples: int = 100,
    y: Tensor | None = None,
) -> Figure:
    """Draw the data that a pair finds least likely, the least likely first.

    Each is titled with its log p(x) in nats by importance sampling, and its row in the data, or
    what the rows of a table are called.

    Args:
        model: generative program.
        guide: inference program.
        data: a ``Dataset``, a tensor (m, *event), or a pair (x, y). Dynamic binarisation is
            drawn once.
        n: number of data to show; all if there are fewer.
        importance_samples: samples per datum.
        y: labels (m,) for a conditional pair; by default the data's own.

    Returns:
        A figure of one grid.

    Raises:
        ValueError: n < 1, or data of the wrong shape or range.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((1, 8, 8), latents=2, likelihood=likelihoods.Bernoulli(), hidden=())
        >>> x = torch.zeros(20, 1, 8, 8)
        >>> len(outliers(vae, guides.BottomUp(vae), x, n=4).axes[0].texts)
        4
    """
    whole("n", n)
    check_no_pairs(model)
    data = data if isinstance(data, Tensor) else matched(data, model, guide, labelled=True)
    with measuring(model, guide, device=data.device):
        x, y = rows_of(data, y)
        log_p = log_likelihood(model, guide, x, y=y, importance_samples=importance_samples)
    worst = log_p.argsort()[:n]
    names = data.index if isinstance(data, Dataset) else None
    titles = [
        f"{float(log_p[i]):.1f} nats\n{f'row {i}' if names is None else names[i]}"
        for i in worst.tolist()
    ]
    ax = _grid(x[worst], None, titles, kind_of(data, model), None, columns_of(data, model))
    ax.set_title(f"log p(x) of the {len(worst)} least likely of {len(x)} data", fontsize="medium")
    return ax.figure
