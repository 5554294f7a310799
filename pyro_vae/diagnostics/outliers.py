"""How well a pair tells data that it was not made for from those that it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import Dataset
from ..ground.tables import Table, Tabular
from ..infer.importance import weighed
from ..infer.terms import dataset_terms
from ..programs.examining import examined
from .rarity import log_density

Data = Dataset | Tensor | tuple[Tensor, Tensor | None]


@dataclass(frozen=True, repr=False)
class Outliers(Tabular):
    """Area under the ROC curve of four scores, per kind of outlier; ``print`` it.

    Attributes:
        scores: kind -> score -> values, (n,), large for what the score finds strange; the kind
            "normal" are the data that belong.
        auroc: kind of outlier -> score -> probability that an outlier scores above a datum that
            belongs (ties count half), and its standard error.
    """

    scores: dict[str, dict[str, Tensor]]
    auroc: dict[str, dict[str, tuple[float, float]]]

    def table(self) -> Table:
        """Per score the AUROC of each kind."""
        sizes = {kind: len(found["KL"]) for kind, found in self.scores.items()}
        return Table(
            f"outliers against {sizes['normal']} data that belong; 0.5: chance",
            ("AUROC", *(f"{kind} ({sizes[kind]})" for kind in self.auroc)),
            [(s, *(found[s] for found in self.auroc.values())) for s in self.scores["normal"]],
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: kind -> score -> AUROC and standard error."""
        return {
            kind: {s: {"auroc": a, "standard_error": e} for s, (a, e) in found.items()}
            for kind, found in self.auroc.items()
        }


def outliers(
    model: Callable,
    guide: Callable,
    normal: Data,
    strange: Data | Mapping[str, Data],
    *,
    reference: Data | None = None,
    importance_samples: int = 50,
    batch_size: int = 500,
) -> Outliers:
    """Tell outliers from data that belong, by four scores, each judged by its AUROC.

    | score | large for |
    |---|---|
    | -ELBO | data that the bound finds unlikely |
    | -log p(x) | data that the model finds unlikely, by importance sampling |
    | KL | data whose posterior is far from the prior |
    | rarity | -E_q[log q(z)], data in thin parts of latent space, see ``rarity`` |

    A low likelihood is not the same as being strange: simple images of another kind can be more
    likely than the data that belong, with an AUROC below 0.5.

    Sources: "The meaning and use of the area under a receiver operating characteristic (ROC)
    curve", Hanley, McNeil (1982) for the standard error; "Do Deep Generative Models Know What
    They Don't Know?", Nalisnick, Matsukawa, Teh, Gorur, Lakshminarayanan (2019).

    Args:
        model: generative program.
        guide: inference program with densities.
        normal: data that belong but were not trained on, such as the test set.
        strange: data that do not belong, such as a class that was held out or corrupted images;
            or a mapping from the names of several kinds to their data.
        reference: the data that populate the latent space for the rarity, such as the training
            set; default ``normal``, each left out of its own density.
        importance_samples: samples per datum for log p(x); 0 leaves that score out.
        batch_size: data at once.

    Returns:
        ``Outliers``: scores and AUROC with standard errors.

    Raises:
        ValueError: a kind called "normal", fewer than two data of a kind, data that the model
            cannot have produced (corrupt binary images by flipping pixels, not by adding noise).

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> found = outliers(
        ...     vae, guides.BottomUp(vae), torch.randn(40, 6), {"far": 9 + torch.randn(40, 6)}
        ... )
        >>> found.auroc["far"]["-ELBO"][0]
        1.0
    """
    kinds = dict(strange) if isinstance(strange, Mapping) else {"outliers": strange}
    if "normal" in kinds:
        raise ValueError("strange: 'normal' is the name of the data that belong: choose another")
    scores, populating = {}, reference
    for name, given in {"normal": normal, **kinds}.items():
        with examined(given, model, guide, labelled=True) as (d, _):
            if len(d) < 2:
                raise ValueError(f"{name}: expected at least 2 data, got {len(d)}")
        terms = dataset_terms(model, guide, d, batch_size=batch_size)
        found = {"-ELBO": -terms.elbo}
        if importance_samples:
            estimate = weighed(model, guide, d.x, d.y, samples=importance_samples)
            found["-log p(x)"] = -estimate.log_likelihood
        found["KL"] = sum(terms.kl.values())
        populating = d if populating is None else populating
        where = None if d is populating else populating
        density, _ = log_density(model, guide, d, reference=where, batch_size=batch_size)
        found["rarity"] = -density
        scores[name] = found
    auroc = {
        name: {s: area_under_roc(scores["normal"][s], scores[name][s]) for s in scores["normal"]}
        for name in kinds
    }
    return Outliers(scores, auroc)


def area_under_roc(negative: Tensor, positive: Tensor) -> tuple[float, float]:
    """Area under the ROC curve of a score (n,) against (m,), and its standard error."""
    # Slow to import, and only needed here
    from sklearn.metrics import roc_auc_score

    values = torch.cat([negative, positive]).double().cpu().numpy()
    truth = np.repeat([0, 1], [len(negative), len(positive)])
    a = float(roc_auc_score(truth, values))
    n, m = len(negative), len(positive)
    both, twice = a / (2 - a), 2 * a * a / (1 + a)
    variance = (a * (1 - a) + (m - 1) * (both - a * a) + (n - 1) * (twice - a * a)) / (n * m)
    return a, math.sqrt(max(variance, 0.0))
