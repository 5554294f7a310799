"""Whether single latent units stand for single known factors of variation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data import Dataset
from ..data.conditions import classes_of
from ..ground.arguments import known, whole
from ..ground.tables import Cell, Table, Tabular, mean_and_error
from ..infer.posterior import posterior_means
from ..programs.examining import examined

_CODES_AT_ONCE = 4096
_TREES = 50


@dataclass(frozen=True, repr=False)
class Disentanglement(Tabular):
    """Scores of codes against known factors, 1 for one unit per factor; ``print`` it.

    Attributes:
        scores: "MIG", "SAP", "DCI disentanglement", "DCI completeness", "DCI informativeness"
            -> mean over factors (or units) and standard error.
        per_factor: score -> one number per factor; DCI disentanglement has none.
        mutual_information: I(z_u; factor) in nats, (units, factors).
        importance: share of unit u in predicting a factor, columns add up to 1, (units, factors).
        factor_names: names of the factors.
    """

    scores: dict[str, tuple[float, float]]
    per_factor: dict[str, np.ndarray]
    mutual_information: np.ndarray
    importance: np.ndarray
    factor_names: tuple[str, ...]

    def table(self) -> Table:
        """Per score its mean and the number of each factor."""
        none = [None] * len(self.factor_names)
        cells = {
            name: [Cell(f"{v:.2f}", {"": float(v)}) for v in per]
            for name, per in self.per_factor.items()
        }
        rows = [(name, found, *cells.get(name, none)) for name, found in self.scores.items()]
        units, factors = self.importance.shape
        return Table(
            f"{units} units against {factors} factors; 1: each factor is one unit; 0: none is",
            ("score", "mean", *self.factor_names),
            rows,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: score -> mean and standard error."""
        return {s: {"mean": m, "standard_error": e} for s, (m, e) in self.scores.items()}


def disentanglement(
    model: Callable,
    guide: Callable,
    data: Dataset,
    *,
    site: str | None = None,
    categorical: Sequence[str] | None = None,
    bins: int = 20,
    folds: int = 5,
    seed: int = 0,
) -> Disentanglement:
    """Compare posterior means with the known factors of data, by three published scores.

    See ``score_codes`` for the formulas.

    Args:
        model: generative program.
        guide: inference program.
        data: a ``Dataset`` with ``factors``, such as ``data.shapes()``; a few thousand data.
        site: latent site; default: the units of all sites together.
        categorical: names of the factors whose values have no order; default: those that equal
            the labels.
        bins: bins of a code for the mutual information.
        folds: parts of the data for standard errors and held-out predictions.
        seed: of the folds and the forests.

    Returns:
        ``Disentanglement``: the scores with standard errors, and matrices (units, factors).

    Raises:
        ValueError: data without factors, an unknown site or factor, a site that a mask hides from
            some of the data.

    Example:
        >>> from pyro_vae import data, guides, likelihoods, models
        >>> d = data.shapes(200, size=16)
        >>> vae = models.VAE(d.event_shape, 3, likelihood=likelihoods.Bernoulli(), hidden=(8,))
        >>> sorted(disentanglement(vae, guides.BottomUp(vae), d, folds=2).scores)[-2:]
        ['MIG', 'SAP']
    """
    with examined(data, model, guide, labelled=True) as (data, _):
        if data.factors is None:
            raise ValueError(
                "data: expected a Dataset with factors, got none: use data.shapes(), or pass your "
                "own with Dataset(x, factors=..., factor_names=...)"
            )
        means = posterior_means(guide, data, batch_size=_CODES_AT_ONCE)
    names = data.factor_names
    if categorical is None:
        labels, _ = classes_of(data)
        labels = data.factors.new_full((len(data),), math.nan) if labels is None else labels
        equal = [bool((labels == column).all()) for column in data.factors.T]
        categorical = [name for name, same in zip(names, equal, strict=True) if same]
    sites = list(means) if site is None else [known("site", site, means)]
    if absent := [s for s in sites if means[s].isnan().any()]:
        raise ValueError(
            f"site {absent[0]!r}: a mask hides it from some of the data, which have no code then: "
            "pass site= with one that all have, or data that all have it"
        )
    codes = torch.cat([means[s].flatten(1) for s in sites], 1)
    return score_codes(
        codes.double().cpu().numpy(),
        data.factors.double().cpu().numpy(),
        factor_names=names,
        categorical=categorical,
        bins=bins,
        folds=folds,
        seed=seed,
    )


def score_codes(
    codes: np.ndarray,
    factors: np.ndarray,
    *,
    factor_names: Sequence[str] = (),
    categorical: Sequence[str] = (),
    bins: int = 20,
    folds: int = 5,
    seed: int = 0,
) -> Disentanglement:
    """Score codes of any origin against known factors.

    - Mutual information gap: for each factor v the difference of the two largest I(z_u; v) over
      units u, divided by H(v). Codes are binned into ``bins`` of equal width; each value of a
      factor is one of its own. With few data per cell I is too large, for all units alike.
    - Separated attribute predictability: the difference of the two best single units at
      predicting the factor: R^2 of a line, for categories the balanced accuracy of a linear
      support vector machine. Perfect codes of k balanced categories reach 1 - 1/k.
    - DCI: the share P of each unit in predicting each factor, from a random forest's
      importances. Disentanglement: 1 - entropy of a unit's shares over factors (base: factors),
      averaged with the units' weights; completeness: 1 - entropy of a factor's shares over units
      (base: units); informativeness: R^2, or accuracy, of the forest on data held out.

    Standard errors: the delete-a-fold jackknife for MIG and SAP; the spread over the folds of a
    cross-validation for DCI. An angle, whose ends meet, suits neither R^2 nor equal-width bins.

    Sources: "Isolating Sources of Disentanglement in VAEs", Chen, Li, Grosse, Duvenaud (2018);
    "Variational Inference of Disentangled Latent Concepts from Unlabeled Observations", Kumar,
    Sattigeri, Balakrishnan (2018); "A Framework for the Quantitative Evaluation of Disentangled
    Representations", Eastwood, Williams (2018).

    Args:
        codes: (n, units), units >= 2.
        factors: (n, factors).
        factor_names: names of the factors; default "0", "1", ...
        categorical: names of the factors whose values have no order.
        bins: bins of a code for the mutual information.
        folds: parts of the data for standard errors and held-out predictions, at least 2.
        seed: of the folds and the forests.

    Returns:
        ``Disentanglement``.

    Raises:
        ValueError: shapes that do not fit, fewer than two units, folds or values of a factor, an
            unknown name.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> factors = rng.integers(0, 5, (400, 2))
        >>> found = score_codes(factors + 0.0, factors, folds=2)
        >>> round(found.scores["MIG"][0], 1), round(found.scores["SAP"][0], 1)
        (1.0, 1.0)
    """
    names = tuple(factor_names) or tuple(map(str, range(factors.shape[-1])))
    _check(codes, factors, names, categorical, bins, folds)
    is_category = [name in categorical for name in names]
    fold = np.random.default_rng(seed).permutation(len(codes)) % folds
    everything = np.ones(len(codes), bool)
    measures = {"MIG": (_mig, bins), "SAP": (_sap, is_category)}
    scores, per_factor = {}, {}
    for name, (measure, argument) in measures.items():
        per_factor[name] = measure(codes, factors, everything, argument)
        left_out = [measure(codes, factors, fold != f, argument).mean() for f in range(folds)]
        error = math.sqrt((folds - 1) * np.var(left_out))
        scores[name] = float(per_factor[name].mean()), error
    found = [_dci(codes, factors, fold == f, is_category, seed) for f in range(folds)]
    for name in ("disentanglement", "completeness", "informativeness"):
        means = np.array([part[name].mean() for part in found])
        scores[f"DCI {name}"] = mean_and_error(torch.from_numpy(means))
        if name != "disentanglement":
            per_factor[f"DCI {name}"] = np.mean([part[name] for part in found], 0)
    information = _mutual_information(codes, factors, bins)
    importance = np.mean([part["importance"] for part in found], 0)
    return Disentanglement(scores, per_factor, information, importance, names)


def _check(
    codes: np.ndarray,
    factors: np.ndarray,
    names: tuple[str, ...],
    categorical: Sequence[str],
    bins: int,
    folds: int,
) -> None:
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or codes.shape[1] < 2:
        raise ValueError(
            f"codes and factors: expected shapes (n, units) with at least 2 units and "
            f"(n, factors), got {codes.shape} and {factors.shape}"
        )
    whole("bins", bins, 2)
    if len(codes) < 10 * whole("folds", folds, 2):
        raise ValueError(f"folds: expected 10 data in each of {folds}, got {len(codes)} in all")
    for name in categorical:
        known("categorical", name, names)
    if constant := [n for n, v in zip(names, factors.T, strict=True) if len(np.unique(v)) < 2]:
        raise ValueError(
            f"factors: expected at least two values of each, {constant[0]!r} is constant: leave "
            "it out"
        )


def _mutual_information(codes: np.ndarray, factors: np.ndarray, bins: int) -> np.ndarray:
    from sklearn.metrics import mutual_info_score

    edges = [np.linspace(z.min(), z.max(), bins + 1)[1:-1] for z in codes.T]
    binned = map(np.digitize, codes.T, edges)
    return np.array([[mutual_info_score(_indices(v), z) for v in factors.T] for z in binned])


def _indices(v: np.ndarray) -> np.ndarray:
    return np.unique(v, return_inverse=True)[1]


def _gap(values: np.ndarray) -> np.ndarray:
    ordered = np.sort(values, 0)
    return ordered[-1] - ordered[-2]


def _mig(codes: np.ndarray, factors: np.ndarray, rows: np.ndarray, bins: int) -> np.ndarray:
    from sklearn.metrics import mutual_info_score

    codes, factors = codes[rows], factors[rows]
    entropy = np.array([mutual_info_score(v, v) for v in map(_indices, factors.T)])
    return _gap(_mutual_information(codes, factors, bins)) / entropy


def _sap(
    codes: np.ndarray, factors: np.ndarray, rows: np.ndarray, is_category: Sequence[bool]
) -> np.ndarray:
    codes, factors = codes[rows], factors[rows]
    measures = [_balanced_accuracy if c else _squared_correlation for c in is_category]
    columns = list(zip(measures, factors.T, strict=True))
    return _gap(np.array([[predict(z, v) for predict, v in columns] for z in codes.T]))


def _squared_correlation(z: np.ndarray, v: np.ndarray) -> float:
    z, v = z - z.mean(), v - v.mean()
    spread = (z @ z) * (v @ v)
    return float((z @ v) ** 2 / spread) if spread > 1e-20 else 0.0


def _balanced_accuracy(z: np.ndarray, v: np.ndarray) -> float:
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.svm import LinearSVC

    z = ((z - z.mean()) / max(float(z.std()), 1e-10))[:, None]
    machine = LinearSVC(class_weight="balanced", dual=False).fit(z, v)
    return float(balanced_accuracy_score(v, machine.predict(z)))


def _dci(
    codes: np.ndarray,
    factors: np.ndarray,
    held_out: np.ndarray,
    is_category: Sequence[bool],
    seed: int,
) -> dict[str, np.ndarray]:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    columns, informativeness = [], []
    for v, category in zip(factors.T, is_category, strict=True):
        forest = RandomForestClassifier if category else RandomForestRegressor
        fitted = forest(_TREES, random_state=seed, min_samples_leaf=3)
        fitted.fit(codes[~held_out], v[~held_out])
        columns.append(fitted.feature_importances_)
        informativeness.append(fitted.score(codes[held_out], v[held_out]))
    importance = np.stack(columns, 1)
    weights = importance.sum(1) / importance.sum()
    return {
        "disentanglement": np.array(weights @ _concentration(importance)),
        "completeness": _concentration(importance.T),
        "informativeness": np.array(informativeness),
        "importance": importance,
    }


def _concentration(importance: np.ndarray) -> np.ndarray:
    """1 - entropy of each row, normalised to add up to 1, to the base of its length."""
    if importance.shape[1] == 1:
        return np.ones(len(importance))
    total = importance.sum(1, keepdims=True)
    p = importance / np.maximum(total, 1e-12)
    entropy = -(p * np.log(np.maximum(p, 1e-12))).sum(1) / math.log(importance.shape[1])
    return np.where(total[:, 0] > 0, 1 - entropy, 0.0)
