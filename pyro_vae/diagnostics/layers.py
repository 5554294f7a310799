"""What each layer of a hierarchy has learnt."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..data import Dataset
from ..data.conditions import classes_of
from ..ground.arguments import known, positive, whole
from ..ground.tables import Cell, Table, Tabular, mean_and_error, standard_error, two_decimals
from ..infer.objectives.elbo import ELBOTerms
from ..infer.posterior import (
    ACTIVE,
    active,
    active_by_kl,
    centred,
    count_error,
    posterior_means,
)
from ..infer.terms import dataset_terms
from ..programs.examining import examined

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
        means: posterior means (n, size), the other dimensions of a site flattened; NaN for what
            a mask hides, a latent that a datum does not have.
        active: units that are above the threshold, (units,); None where the criterion is the KL
            and the site has none per unit.
        explained_variance_ratio: share of the variance of the means that each principal component
            explains, the largest first, (min(n, size),); all 0 where nothing varies.
        projection: the means on the first two principal components, (n, 2); the second column
            is 0 for a single unit. The average stands for a unit that a datum does not have, and
            a datum without any is NaN.
        unit_kl: KL of each unit (n, units), nats per datum, whose sum over units is ``kl``; None
            where the criterion is not the KL, or the site has none per unit.
    """

    site: str
    kl: Tensor
    means: Tensor
    active: Tensor | None
    explained_variance_ratio: Tensor
    projection: Tensor
    unit_kl: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of units."""
        return self.means.shape[1]


@dataclass(frozen=True, repr=False)
class Layers(Tabular, Sequence[Layer]):
    """The layers of a pair, the one next to the data first; ``print`` it or index it by site.

    Attributes:
        layers: one ``Layer`` per latent site.
        threshold: variance of the posterior mean, or KL in nats, above which a unit is active.
        labels: labels of the data (n,), None without.
        names: class names, () without.
        point_masses: sites where the guide has no density.
        criterion: what decides on a unit, "variance" or "kl".
        without: site -> why it has no KL per unit, where that decides.
    """

    layers: tuple[Layer, ...]
    threshold: float
    labels: Tensor | None = None
    names: tuple[str, ...] = ()
    point_masses: tuple[str, ...] = ()
    criterion: Literal["variance", "kl"] = "variance"
    without: Mapping[str, str] = field(default_factory=dict)

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
            rows.append((name, kl, self._counted(layer), Cell(shares, numbers)))
        what = "where the variance of its posterior mean over the data is above {:g}"
        if self.criterion == "kl":
            what = "where its mean KL is above {:g} nats"
        return Table(
            f"{len(self.layers[0].kl)} data; standard errors are over the data; a unit is active "
            + what.format(self.threshold),
            ("layer", "KL", "active units", "variance of the principal components"),
            rows,
            [f"no KL per unit of {site}: {why}" for site, why in self.without.items()],
            units=("", "nats/datum", "", ""),
            left=range(4),
        )

    def _counted(self, layer: Layer) -> Cell | None:
        if layer.active is None:
            return None
        error = None
        if layer.unit_kl is not None and len(layer.unit_kl) > 1:
            kl = layer.unit_kl.double()
            error = count_error(kl.mean(0), standard_error(kl), self.threshold)
        return Cell.count(int(layer.active.sum()), len(layer.active), error)

    def rows(self) -> list[list[str]]:
        """The table as text: site, KL with standard error, active units, shares of variance."""
        return self.table().texts()

    def plot(self, labels: Tensor | None = None, *, names: Sequence[str] = ()) -> Figure:
        """Draw the posterior means of each layer on their first two principal components.

        Args:
            labels: (n,), for the colours; by default the data's own.
            names: names of the classes, ``names[label]``; by default the data's own.
        """
        from ..plots.layers import projections  # with matplotlib, slow to import

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
    criterion: Literal["variance", "kl"] = "variance",
    threshold: float = ACTIVE,
    batch_size: int = 500,
    samples: int = 1,
) -> Layers:
    """KL, active units and principal components of every latent layer; no state changes.

    By ``criterion="variance"`` a unit u of a layer is active where its posterior mean moves with
    the data, by ``criterion="kl"`` where it differs from its prior, as a mean over the data:

        Var_x(E_q[z_u|x]) > ``threshold``,
        E_x E_q[log q(z_u|x) - log p(z_u|parents)] > ``threshold``.

    The variance tells nothing where BatchNorm gives each unit a variance, or where the prior of a
    layer moves with the layers above and the posterior with it: all units count. A unit that is
    its prior has no KL. Sites without a KL per unit, see ``infer.elbo_terms``, are told.

    The principal components are those of the posterior means E_q[z|x] of the layer, over the data.

    Sources: "Importance Weighted Autoencoders", Burda, Grosse, Salakhutdinov (2016) for active
    units by the variance, and 0.01; "Ladder Variational Autoencoders", Sonderby et al. (2016) for
    those by the KL, and for the components per layer.

    Args:
        model: generative program.
        guide: inference program whose distributions tell their means.
        data: a ``Dataset``, a tensor (n, *event_shape), or a pair (x, y). Dynamic binarisation
            is drawn once.
        criterion: what decides on a unit.
        threshold: variance, or KL in nats, above which a unit counts as active.
        batch_size: data at once.
        samples: draws per datum for the KL; more of them make the number of units surer.

    Returns:
        ``Layers``, from the layer next to the data upwards.

    Raises:
        ValueError: another criterion, a threshold that is not positive, data that the model cannot
            have produced, a pair of which no site has a KL per unit where that decides.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=(3, 2), likelihood=likelihoods.Gaussian())
        >>> found = layers(vae, guides.BottomUp(vae), torch.randn(20, 6))
        >>> [(layer.site, layer.size) for layer in found]
        [('z1', 3), ('z2', 2)]
        >>> found["z2"].projection.shape
        torch.Size([20, 2])
        >>> by_kl = layers(vae, guides.BottomUp(vae), torch.randn(20, 6), criterion="kl")
        >>> by_kl["z1"].unit_kl.shape, by_kl["z1"].active.shape
        (torch.Size([20, 3]), torch.Size([3]))
    """
    known("criterion", criterion, ("variance", "kl"))
    positive("threshold", threshold)
    whole("samples", samples)
    with examined(data, model, guide, labelled=True) as (data, (pair,)):
        by_kl = criterion == "kl"
        terms = dataset_terms(
            model, guide, data, batch_size=batch_size, samples=samples, per_unit=by_kl
        )
        means = posterior_means(guide, data, batch_size=batch_size)
    without = {site: why for site, why in terms.per_unit.without.items() if site in means}
    if without and without.keys() == means.keys():
        site, why = next(iter(without.items()))
        raise ValueError(
            f"criterion: no latent site has a KL per unit, {site!r} because {why}: count by "
            "criterion='variance'"
        )
    # The model samples from the top, the table starts at the data
    found = tuple(
        _layer(site, terms, means[site].reshape(len(data), -1).cpu(), criterion, threshold)
        for site in reversed(pair.latents)
        if site in means and means[site].is_floating_point()
    )
    labels, names = classes_of(data)
    labels = None if labels is None else labels.cpu()
    points = pair.point_masses
    return Layers(found, threshold, labels, names, points, criterion, without)


def _layer(site: str, terms: ELBOTerms, means: Tensor, criterion: str, threshold: float) -> Layer:
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
    unit_kl = terms.per_unit.get(site)
    if unit_kl is not None:
        unit_kl = unit_kl.reshape(len(unit_kl), -1).cpu()
    if criterion == "variance":
        counted = active(means, threshold)
    else:
        counted = None if unit_kl is None else active_by_kl(unit_kl, threshold)
    return Layer(
        site=site,
        kl=terms.kl[site].cpu(),
        means=means,
        active=counted,
        explained_variance_ratio=ratios.to(means.dtype),
        projection=projection.to(means.dtype),
        unit_kl=unit_kl,
    )
