"""What each layer of a hierarchy has learnt."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..data import Dataset
from ..ground.arguments import positive
from ..ground.tables import Cell, Table, Tabular, mean_and_error, two_decimals
from ..infer.posterior import ACTIVE, active, centred, posterior_means
from ..infer.terms import dataset_terms
from ..plots.layers import projections
from ..programs.examining import examined

_SHOWN_RATIOS = 4
# Equal data give means that differ by some units in the last place, by where they lie in a batch
_ROUNDING = 16


@dataclass(frozen=True)
class Layer:
    """One latent site over n data.

    Attributes:
        site: its name.
        kl: its KL term (n,), nats per datum; for a point mass -log p(z).
        means: posterior means (n, size), the other dimensions of a site flattened; NaN for what
            a mask hides, a latent that a datum does not have.
        active: units whose variance of the posterior mean is above the threshold, (size,).
        explained_variance_ratio: share of the variance of the means that each principal component
            explains, the largest first, (min(n, size),); all 0 where nothing varies.
        projection: the means on the first two principal components, (n, 2); the second column
            is 0 for a single unit. The average stands for a unit that a datum does not have, and
            a datum without any is NaN.
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


@dataclass(frozen=True, repr=False)
class Layers(Tabular, Sequence[Layer]):
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

    def table(self) -> Table:
        """Per layer its KL, active units, and shares of the variance of its components."""
        rows = []
        for layer in self.layers:
            ratios = [float(r) for r in layer.explained_variance_ratio]
            shares = " ".join(f"{r:.0%}" for r in ratios[:_SHOWN_RATIOS])
            numbers: dict[Any, float] = dict(enumerate(ratios[:_SHOWN_RATIOS], start=1))
            if len(ratios) > _SHOWN_RATIOS:
                numbers["others"] = sum(ratios[_SHOWN_RATIOS:])
                shares += f" (others {numbers['others']:.0%})"
            name = f"{layer.site} (-log p)" if layer.site in self.point_masses else layer.site
            kl = Cell.estimate(*mean_and_error(layer.kl), two_decimals)
            active = int(layer.active.sum())
            units = Cell(f"{active} of {layer.size}", {"": active, "of": layer.size})
            rows.append((name, kl, units, Cell(shares, numbers)))
        return Table(
            f"{len(self.layers[0].kl)} data; standard errors are over the data; a unit is active "
            f"where the variance of its posterior mean over the data is above {self.threshold:g}",
            ("layer", "KL", "active units", "variance of the principal components"),
            rows,
            units=("", "nats/datum", "", ""),
            left=range(4),
        )

    def rows(self) -> list[list[str]]:
        """The table as text: site, KL with standard error, active units, shares of variance."""
        return self.table().texts()

    def plot(self, labels: Tensor | None = None, *, names: Sequence[str] = ()) -> Figure:
        """Draw the posterior means of each layer on their first two principal components.

        Args:
            labels: (n,), for the colours; by default the data's own.
            names: names of the classes, ``names[label]``; by default the data's own.
        """
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
    positive("threshold", threshold)
    with examined(data, model, guide, labelled=True) as (data, (pair,)):
        terms = dataset_terms(model, guide, data, batch_size=batch_size)
        means = posterior_means(guide, data, batch_size=batch_size)
    # The model samples from the top, the table starts at the data
    found = tuple(
        _layer(site, terms.kl[site].cpu(), means[site].reshape(len(data), -1).cpu(), threshold)
        for site in reversed(pair.latents)
        if site in means and means[site].is_floating_point()
    )
    labels = None if data.y is None else data.y.cpu()
    return Layers(found, threshold, labels, data.names, pair.point_masses)


def _layer(site: str, kl: Tensor, means: Tensor, threshold: float) -> Layer:
    # Slow to import, and only needed here.
    from sklearn.decomposition import PCA

    pca = PCA()
    deviations, absent = centred(means).nan_to_num(0.0), means.isnan().all(1)
    rounding = _ROUNDING * torch.finfo(means.dtype).eps * means.nan_to_num(0.0).abs().amax(0)
    varying = deviations.abs().amax(0) > rounding
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        # A site without any variance, or a single datum, has shares 0 / 0
        projection = torch.as_tensor(pca.fit_transform((deviations * varying).numpy()))[:, :2]
    ratios = torch.as_tensor(pca.explained_variance_ratio_).nan_to_num()
    padding = torch.zeros(len(means), 2 - projection.shape[1], dtype=projection.dtype)
    projection = torch.cat([projection, padding], 1).masked_fill(absent[:, None], math.nan)
    return Layer(
        site=site,
        kl=kl,
        means=means,
        active=active(means, threshold),
        explained_variance_ratio=ratios.to(means.dtype),
        projection=projection.to(means.dtype),
    )
