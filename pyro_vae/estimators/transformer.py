"""A variational autoencoder as a transformer and a density of scikit-learn."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags, check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from .. import networks
from ..data import Column
from ..ground.arguments import whole
from ..ground.streams import forked
from ..guides import BottomUp
from ..handlers import missing
from ..likelihoods import Gaussian
from ..models import VAE
from ..programs.encoding import decode_mean
from ..programs.program import Guide
from ..schedules import Schedule
from ..training.trainer import Trainer
from .densities import log_densities

_DTYPES = (np.float64, np.float32)


class VAETransformer(TransformerMixin, BaseEstimator):
    """``models.VAE`` of a table, under the contract of scikit-learn's transformers and densities.

    p(x, z) = p(x|z) p(z) is trained on the rows of X by the bound E_q[log p(x|z)] - beta KL;
    ``transform`` gives the means of q(z|x), ``inverse_transform`` those of p(x|z),
    ``score_samples`` log p(x) in nats. It goes into pipelines, grid searches, ``clone`` and
    ``pickle``; what is handed in is copied for each ``fit`` and never trained itself. For labels,
    images and programs of your own there are ``models.VAE`` and ``Trainer``.

    Columns may have any scale with the default likelihood, which standardises by the data that it
    is fitted to, and so log p(x) is in the units of X. The networks compute in the precision of
    X, float64 or float32. With the same ``random_state`` and data all results are the same on one
    machine; a row has the same result in whatever company it is.

    Source: "Auto-Encoding Variational Bayes", Kingma, Welling (2014).

    Args:
        latents: size of z1, or the sizes of z1, z2, ..., of several layers.
        likelihood: a module of ``likelihoods``, or a callable that makes one from X, a tensor
            (n, d), such as ``likelihoods.Gaussian.standardized``. Default: that, with a
            deviation for each column; networks then have linear paths beside them, and the fit
            of one layer with a ``BottomUp`` begins as factor analysis, see
            ``guides.linear_start``.
        guide: a callable that makes the guide from the model: a class such as ``guides.Ladder``.
        beta: weight of the KL: a number, or an object of ``schedules``.
        hidden: hidden widths of the networks, as of ``models.VAE``.
        epochs: passes over the data.
        batch_size: rows per step.
        lr: learning rate of Adam.
        patience: end when the bound of rows that are held out has not risen for so many epochs,
            and keep the best of them. Default: all rows are trained on, for all epochs.
        validation_fraction: share of the rows that ``patience`` holds out.
        missing: whether NaN means missing, see ``handlers.missing``; refused otherwise.
        importance_samples: draws of each datum's latents in ``score_samples``.
        device: where to compute; default: the CPU.
        random_state: an int, a ``numpy.random.RandomState``, or None for numpy's global one.
        verbose: whether to show a progress bar in ``fit``.

    Attributes:
        model_: the trained model, under ``handlers.missing`` where that was asked for.
        guide_: the trained guide.
        history_: a dict per epoch, see ``Trainer.history``.
        n_iter_: number of epochs.
        n_features_in_: columns of X.
        feature_names_in_: their names, where X had some.

    Raises:
        TypeError: from ``fit``, a sparse matrix, a likelihood or a guide that is none.
        ValueError: from ``fit``, X that is no finite table, arguments out of range.

    Example:
        >>> from sklearn.datasets import load_wine
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> X = load_wine().data
        >>> vae = VAETransformer(latents=2, hidden=(16,), epochs=5, random_state=0)
        >>> make_pipeline(StandardScaler(), vae).fit(X).transform(X).shape
        (178, 2)
        >>> vae.get_feature_names_out()
        array(['z1_0', 'z1_1'], dtype=object)
    """

    def __init__(
        self,
        latents: int | Sequence[int] = 10,
        *,
        likelihood: nn.Module | Callable[[Tensor], nn.Module] | None = None,
        guide: Callable[[Any], Guide] = BottomUp,
        beta: float | Schedule | Mapping[str, float | Schedule] = 1.0,
        hidden: networks.Hidden | None = None,
        epochs: int = 100,
        batch_size: int = 128,
        lr: float = 1e-3,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        missing: bool = False,
        importance_samples: int = 100,
        device: str | torch.device | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.latents = latents
        self.likelihood = likelihood
        self.guide = guide
        self.beta = beta
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.missing = missing
        self.importance_samples = importance_samples
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train a new pair on the rows of X (n, d); y is there for pipelines alone."""
        x = self._tensor(X, reset=True)
        random = check_random_state(self.random_state)
        seed = int(random.randint(2**31 - 1))
        training, validation = self._held_out(x, random)
        with forked(seed=seed):
            likelihood = self._likelihood(training)
            options = {"likelihood": likelihood, "columns": self._columns(), "hidden": self.hidden}
            vae = VAE(x.shape[1:], self.latents, **options)
            model = missing(vae) if self.missing else vae
            guide = copy.deepcopy(self.guide)(model)
        for part in (vae, guide):
            if isinstance(part, nn.Module):
                part.to(x.dtype)
        beta = copy.deepcopy(self.beta)
        options = {"lr": self.lr, "seed": seed, "device": self.device}
        trainer = Trainer(model, guide, beta=beta, **options)
        trainer.fit(
            training,
            validation=validation,
            epochs=self.epochs,
            batch_size=min(whole("batch_size", self.batch_size), len(training)),
            patience=self.patience,
            progress=self.verbose,
        )
        self.model_, self.guide_, self.history_ = model, guide, trainer.history
        self.n_iter_, self._seed = len(trainer.history), seed
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The means of q(z|x).

        Args:
            X: (n, d).

        Returns:
            (n, size), the sizes of z1, z2, ... side by side: ``get_feature_names_out`` tells.
        """
        check_is_fitted(self)
        x = self._tensor(X)
        with forked(x.device):
            mean = self.guide_.encode(x).mean
        return _array(torch.cat([mean[site].flatten(1) for site in self._sizes()], 1))

    def inverse_transform(self, X: Any) -> np.ndarray:
        """The means of p(x|z).

        Args:
            X: latents (n, size) as ``transform`` gives them.

        Returns:
            (n, d).

        Raises:
            ValueError: latents of another size.
        """
        check_is_fitted(self)
        z = torch.tensor(check_array(X, dtype=_DTYPES), dtype=self._dtype(), device=self._device())
        sizes = self._sizes()
        if z.shape[1] != sum(sizes.values()):
            raise ValueError(
                f"X: expected latents (n, {sum(sizes.values())}), got {tuple(z.shape)}: pass "
                "what transform returns"
            )
        by_site = dict(zip(sizes, z.split([*sizes.values()], 1), strict=True))
        x = z.new_zeros(len(z), self.n_features_in_)
        return _array(decode_mean(self.model_, by_site, x=x))

    def score_samples(self, X: Any) -> np.ndarray:
        """Estimate log p(x) of each row by importance sampling with the guide as proposal.

        log 1/K sum_k p(x, z_k) / q(z_k|x), z_k ~ q(z|x), K = ``importance_samples``: below
        log p(x) on average, and closer to it for more of them. Each row is given the same random
        numbers, so that rows are compared without noise between them, while the noise of a mean
        over rows is that of their common numbers; ``infer.importance`` draws anew for each and
        tells its errors. Values that are missing are left out of the density.

        Source: "Importance Weighted Autoencoders", Burda, Grosse, Salakhutdinov (2016).

        Args:
            X: (n, d).

        Returns:
            (n,), in nats.
        """
        check_is_fitted(self)
        samples = whole("importance_samples", self.importance_samples)
        x = self._tensor(X)
        return _array(log_densities(self.model_, self.guide_, x, samples=samples, seed=self._seed))

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of ``score_samples`` over the rows of X (n, d): nats per datum."""
        return float(self.score_samples(X).mean())

    def sample(
        self, n_samples: int = 1, *, random_state: int | np.random.RandomState | None = None
    ) -> np.ndarray:
        """Draw rows (n_samples, d) from p(x); ``random_state`` is by default the estimator's."""
        check_is_fitted(self)
        random = check_random_state(self.random_state if random_state is None else random_state)
        with forked(self._device(), int(random.randint(2**31 - 1))):
            return _array(self.model_.sample(whole("n_samples", n_samples)))

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns that ``transform`` gives: "z1_0", "z1_1", ..., "z2_0", ..."""
        check_is_fitted(self)
        sizes = self._sizes().items()
        return np.array([f"{site}_{i}" for site, size in sizes for i in range(size)], object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = bool(self.missing)
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _tensor(self, X: Any, *, reset: bool = False) -> Tensor:
        finite = "allow-nan" if self.missing else True
        X = validate_data(self, X, reset=reset, dtype=_DTYPES, ensure_all_finite=finite)
        if reset:
            return torch.tensor(X)
        return torch.tensor(X, dtype=self._dtype(), device=self._device())

    def _held_out(self, x: Tensor, random: np.random.RandomState) -> tuple[Tensor, Tensor | None]:
        """The rows that are trained on, and those that are not."""
        if self.patience is None:
            return x, None
        held = round(self.validation_fraction * len(x))
        if not 0 < held < len(x):
            raise ValueError(
                f"validation_fraction: expected a share of the {len(x)} rows that leaves some for "
                f"both, got {self.validation_fraction!r}: pass 0.1 and more rows, or patience=None"
            )
        order = torch.from_numpy(random.permutation(len(x)))
        return x[order[held:]], x[order[:held]]

    def _columns(self) -> list[Column]:
        """Those of X, which are numbers for the default likelihood."""
        if self.likelihood is not None:
            return []
        names = getattr(self, "feature_names_in_", range(self.n_features_in_))
        return [Column(str(name), "numeric") for name in names]

    def _likelihood(self, x: Tensor) -> nn.Module:
        if self.likelihood is None:
            return Gaussian.standardized(x, "per_pixel")
        # A class would take X for its first argument
        is_module = inspect.isclass(self.likelihood) and issubclass(self.likelihood, nn.Module)
        if not callable(self.likelihood) or is_module:
            raise TypeError(
                f"likelihood: expected a module or a callable, got {self.likelihood!r}: pass "
                "such as likelihoods.StudentT(), or likelihoods.Gaussian.standardized"
            )
        given = copy.deepcopy(self.likelihood)
        return given if isinstance(given, nn.Module) else given(x)

    def _sizes(self) -> dict[str, int]:
        """Site -> how many numbers it is, from z1 on."""
        return dict(reversed(self.model_.latent_sizes.items()))

    def _dtype(self) -> torch.dtype:
        return self.model_.one_hot.dtype

    def _device(self) -> torch.device:
        return self.model_.one_hot.device


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()
