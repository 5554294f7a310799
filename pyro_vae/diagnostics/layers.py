"""What each layer of a hierarchy has learnt."""

from __future__ import annotations

import html
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data import Dataset
from ..data.given import as_dataset
from ..infer import check_pair
from ..infer.posterior import ACTIVE, active, posterior_means
from ..infer.terms import dataset_terms
from ..programs.checks import check_data
from ..programs.placing import matched
from ..programs.running import measuring

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN_RATIOS = 4
# Equal data give means that differ by some units in the last place, by where they lie in a batch
_ROUNDING = 16


@dataclass(frozen=True)
class Layer:
    """One latent site over n data.

    Attributes:
        site: its name.
        kl: its KL term (n,), nats per datum; for a point mass -log p(z).
        means: posterior means (n, size), the other dimensions of a site flattened.
        active: units whose variance of the posterior mean is above the threshold, (size,).
        explained_variance_ratio: share of the variance of the means that each principal component
            explains, the largest first, (min(n, size),); all 0 where nothing varies.
        projection: the means on the first two principal components, (n, 2); the second column
            is 0 for a single unit.
    """

    site: str
    kl: Tensor
    means: Tensor
    active: Tensor
    explained_variance_ratio: Tensor
    projection: Tensor

    @property
    def size(self) -> int:
        """Number of units."""
        return self.means.shape[1]


@dataclass(frozen=True)
class Layers(Sequence[Layer]):
    """The layers of a pair, the one next to the data first; ``print`` it or index it by site.

    Attributes:
        layers: one ``Layer`` per latent site.
        threshold: variance of the posterior mean above which a unit is active.
        labels: labels of the data (n,), None without.
        names: class names, () without.
        point_masses: sites where the guide has no density.
    """

    layers: tuple[Layer, ...]
    threshold: float
    labels: Tensor | None = None
    names: tuple[str, ...] = ()
    point_masses: tuple[str, ...] = ()

    def __getitem__(self, key: str | int) -> Layer:
        """The layer of a site, or by number from the data upwards."""
        if not isinstance(key, str):
            return self.layers[key]
        found = {layer.site: layer for layer in self.layers}
        if key not in found:
            raise KeyError(f"expected one of {tuple(found)}, got {key!r}")
        return found[key]

    def __len__(self) -> int:
        """Number of layers."""
        return len(self.layers)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """The table: site, KL with standard error, active units, explained variance ratios."""
        rows = []
        for layer in self.layers:
            n = len(layer.kl)
            error = float(layer.kl.double().std()) / math.sqrt(n) if n > 1 else math.nan
            kl = f"{round(float(layer.kl.mean()), 2) + 0.0:.2f}"  # no minus zero
            kl += "" if math.isnan(error) else f" +- {error:.2f}"
            ratios = layer.explained_variance_ratio
            shares = " ".join(f"{float(r):.0%}" for r in ratios[:_SHOWN_RATIOS])
            rest = float(ratios[_SHOWN_RATIOS:].sum())
            shares += f" (others {rest:.0%})" if len(ratios) > _SHOWN_RATIOS else ""
            name = f"{layer.site} (-log p)" if layer.site in self.point_masses else layer.site
            rows.append((name, kl, f"{int(layer.active.sum())} of {layer.size}", shares))
        return rows

    def _header(self) -> str:
        return (
            f"{len(self.layers[0].kl)} data; standard errors are over the data; a unit is active "
            f"where the variance of its posterior mean over the data is above {self.threshold:g}"
        )

    _COLUMNS = ("layer", "KL, nats/datum", "active units", "variance of the principal components")

    def __str__(self) -> str:
        """The table as text."""
        table = [self._COLUMNS, *self.rows()]
        widths = [max(len(row[i]) for row in table) for i in range(4)]
        lines = [
            "  " + "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
        return "\n".join([self._header(), *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The table for notebooks and reports."""

        def line(cells: Sequence[str], tag: str) -> str:
            cells = [html.escape(cell).replace("+-", "&plusmn;") for cell in cells]
            style = " style='text-align:left'"
            return "<tr>" + "".join(f"<{tag}{style}>{c}</{tag}>" for c in cells) + "</tr>"

        body = "".join(line(row, "td") for row in self.rows())
        caption = html.escape(self._header())
        return f"<table><caption>{caption}</caption>{line(self._COLUMNS, 'th')}{body}</table>"

    def plot(self, labels: Tensor | None = None, *, names: Sequence[str] = ()) -> Figure:
        """Draw the posterior means of each layer on their first two principal components.

        Args:
            labels: (n,), for the colours; by default the data's own.
            names: names of the classes, ``names[label]``; by default the data's own.
        """
        from ..plots.layers import projections

        labels = self.labels if labels is None else torch.as_tensor(labels)
        return projections(
            {layer.site: layer.projection for layer in self.layers},
            {layer.site: layer.explained_variance_ratio for layer in self.layers},
            labels,
            names or self.names,
        )


def layers(
    model: Callable,
    guide: Callable,
    data: Dataset | Tensor | tuple[Tensor, Tensor | None],
    *,
    threshold: float = ACTIVE,
    batch_size: int = 500,
) -> Layers:
    """KL, active units and principal components of every latent layer; no state changes.

    A unit u of a layer is active where Var_x(E_q[z_u|x]) > ``threshold``; the principal components
    are those of the posterior means E_q[z|x] of the layer, over the data.

    Sources: "Importance Weighted Autoencoders", Burda, Grosse, Salakhutdinov (2016) for active
    units; "Ladder Variational Autoencoders", Sonderby et al. (2016) for the components per layer.

    Args:
        model: generative program.
        guide: inference program whose distributions tell their means.
        data: a ``Dataset``, a tensor (n, *event_shape), or a pair (x, y). Dynamic binarisation
            is drawn once.
        threshold: variance above which a unit counts as active.
        batch_size: data at once.

    Returns:
        ``Layers``, from the layer next to the data upwards.

    Raises:
        ValueError: a threshold that is not positive, data that the model cannot have produced.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=(3, 2), likelihood=likelihoods.Gaussian())
        >>> found = layers(vae, guides.BottomUp(vae), torch.randn(20, 6))
        >>> [(layer.site, layer.size) for layer in found]
        [('z1', 3), ('z2', 2)]
        >>> found["z2"].projection.shape
        torch.Size([20, 2])
    """
    if not threshold > 0:
        raise ValueError(f"threshold: expected a positive number, got {threshold!r}")
    data = matched(as_dataset(data), model, guide)
    with measuring(model, guide, device=data.device):
        x, y = data.batch(torch.arange(len(data), device=data.device))
        check_data(model, x, y)
        summary = check_pair(model, guide, x, y=y)
        fixed = Dataset(x, y, channels="first")
        terms = dataset_terms(model, guide, fixed, batch_size=batch_size)
        means = posterior_means(guide, fixed, batch_size=batch_size)
    # The model samples from the top, the table starts at the data
    found = tuple(
        _layer(site, terms.kl[site].cpu(), means[site].reshape(len(x), -1).cpu(), threshold)
        for site in reversed(summary.latents)
    )
    labels = None if y is None else y.cpu()
    return Layers(found, threshold, labels, tuple(data.names), summary.point_masses)


def _layer(site: str, kl: Tensor, means: Tensor, threshold: float) -> Layer:
    # Slow to import, and only needed here.
    from sklearn.decomposition import PCA

    pca = PCA()
    centred = means.double() - means.double().mean(0)
    rounding = _ROUNDING * torch.finfo(means.dtype).eps * means.abs().amax(0)
    varying = centred.abs().amax(0) > rounding
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        # A site without any variance, or a single datum, has shares 0 / 0
        projection = torch.as_tensor(pca.fit_transform((centred * varying).numpy()))[:, :2]
    ratios = torch.as_tensor(pca.explained_variance_ratio_).nan_to_num()
    padding = torch.zeros(len(means), 2 - projection.shape[1], dtype=projection.dtype)
    return Layer(
        site=site,
        kl=kl,
        means=means,
        active=active(means, threshold),
        explained_variance_ratio=ratios.to(means.dtype),
        projection=torch.cat([projection, padding], 1).to(means.dtype),
    )
