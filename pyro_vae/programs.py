"""What every model and guide is: an ``nn.Module`` whose ``forward`` is a Pyro program."""

from __future__ import annotations

import contextlib
import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.distributions import Distribution
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from .data import Dataset, DataSplits
from .data.given import as_dataset
from .labels import label_arguments
from .means import ShowMeans, mean_of, stand_in_data
from .recorded import Recorded
from .registration import register, unregistered
from .replacement import ReplacedPrior, check_prior, is_auxiliary, is_latent
from .turns import turn
from .unwrapping import check_batch
from .unwrapping import innermost as innermost
from .unwrapping import name_of as name_of


@contextlib.contextmanager
def evaluating(*programs: Any) -> Iterator[None]:
    """Evaluation mode without gradients; each module's own mode is restored afterwards.

    The model of a guide is in it too, since a guide may run the model's own conditionals.
    """
    modules = [m for p in programs if isinstance(p, nn.Module) for m in _run_by(p)]
    with turn:
        modes = [(module, module.training) for module in modules]
        try:
            for module in modules:
                module.training = False
            with torch.no_grad(), unregistered():
                yield
        finally:
            for module, training in modes:
                module.training = training


def _run_by(program: nn.Module) -> Iterator[nn.Module]:
    for module in program.modules():
        yield module
        if isinstance(module, Guide):
            yield from module.model.modules()


def check_tensor(x: Any, name: str = "x") -> None:
    """Raise ``TypeError`` unless data are a tensor."""
    if not isinstance(x, Tensor):
        if isinstance(x, DataSplits | Dataset):
            advice = "its .test.x" if isinstance(x, DataSplits) else "its .x"
        elif isinstance(x, TensorDataset):
            advice = "its .tensors[0]"
        elif np.ndim(x) < 2 and isinstance(x, np.ndarray | list | tuple):
            advice = "torch.from_numpy(numpy.array(..., dtype='float32'))"
        else:
            advice = "data.Dataset(...).x"
        raise TypeError(
            f"{name}: expected a tensor (n, ...), got {type(x).__name__}: pass {advice}"
        )


def as_labels(
    y: Tensor | np.ndarray | Sequence[int] | int, n: int, device: torch.device | None
) -> Tensor:
    """Labels as ``int64`` (n,) on ``device``, from n of them, also (n, 1), or from one for all.

    Raises:
        TypeError: ``y`` is no tensor, array, list, column of a table or number.
        ValueError: labels that are not integers, or neither one nor n of them.
    """
    found = y.to_numpy() if hasattr(y, "to_numpy") else y
    try:
        # A copy, since torch takes neither read-only arrays nor negative strides
        found = found.copy() if isinstance(found, np.ndarray) else found
        labels = torch.as_tensor(found, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"y: expected integer labels, a tensor, an array or a list, got {type(y).__name__}: "
            "number the classes 0, 1, ...; a Dataset numbers text, and names[k] is class k "
            f"({error})"
        ) from error
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"y: expected integer labels of shape ({n},), got {labels.dtype} "
            f"{tuple(labels.shape)}: {_integers(labels, y)}"
        )
    if labels.dim() == 0:
        labels = labels.expand(n)
    if labels.shape == (n, 1):
        labels = labels[:, 0]
    if labels.shape != (n,):
        one_hot = labels.shape[:1] == (n,) and labels.dim() == 2
        raise ValueError(
            f"y: expected integer labels of shape ({n},), one per datum, or one label for all, "
            f"got shape {tuple(labels.shape)}: "
            + ("turn one-hot rows into y.argmax(1)" if one_hot else "pass as many as data")
        )
    return labels.long()


def _integers(labels: Tensor, y: Any) -> str:
    """How to make integer labels of others."""
    if labels.is_complex() or not bool((labels == labels.round()).all()):
        return "number the classes 0, 1, ..."
    if labels.dim() == 2 and labels.shape[1] > 1:
        return "pass y.argmax(1) for one-hot rows"
    if isinstance(y, Tensor):
        return "pass y.long()"
    return "pass y.astype(int)" if hasattr(y, "astype") else "pass torch.as_tensor(y).long()"


def checked_labels(program: Any, y: Any, n: int, device: torch.device | None) -> Any:
    """``y`` for a program, checked before it is traced: a trace adds its table to any error."""
    if getattr(program, "condition", None) == 0:
        return y
    labels = None if y is None else as_labels(y, n, device)
    if hasattr(program, "label_features"):
        program.label_features(labels, n)
    return labels


def check_finite(value: Tensor, name: str = "x") -> None:
    """Raise ``ValueError`` if any entry is NaN or infinite."""
    if not (finite := value.isfinite()).all():
        raise ValueError(
            f"{name}: expected finite values, got {int((~finite).sum())} NaN or infinite: "
            "remove or fill these entries"
        )


@contextlib.contextmanager
def training(module: nn.Module, mode: bool = True) -> Iterator[None]:
    """Training mode, or evaluation mode with gradients; each module's own mode is restored.

    Parts that are in evaluation mode under a module that trains stay in it.
    """
    modes = {m: m.training for m in module.modules()}
    if not (mode and module.training):
        module.train(mode)
    try:
        yield
    finally:
        for m, mode in modes.items():
            m.training = mode


class Program(Recorded, nn.Module):
    """An ``nn.Module`` whose ``forward`` is a Pyro program, trainable by stock Pyro."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Register this instance's parameters with Pyro, then run the program."""
        register(self)
        return super().__call__(*args, **kwargs)

    def _repr_html_(self) -> str:
        """What ``print`` shows, for notebooks."""
        return f"<pre>{html.escape(repr(self))}</pre>"

    def _count(self) -> str:
        total = sum(p.numel() for p in self.parameters())
        frozen = sum(p.numel() for p in self.parameters() if not p.requires_grad)
        return f"{total:,} parameters" + (f" ({frozen:,} frozen)" if frozen else "")


def decode(
    model: Any,
    z: Mapping[str, Tensor],
    *,
    x: Tensor | None = None,
    y: Tensor | Sequence[int] | int | None = None,
) -> Distribution:
    """The distribution of the observed site given latents; latents not given take their mean.

    Args:
        model: a generative program with one observed site when it is given ``x``.
        z: site -> tensor (n, *latent shape).
        x: (n, *event) where the program needs it; the result does not depend on it.
        y: labels (n,), or one label for all, for a conditional model.

    Returns:
        p(x|z), batch shape (n,).

    Raises:
        ValueError: an unknown site, latents that are not finite, labels that do not fit, a latent
            that is not given and has no mean.
    """
    return _decoded(model, z, x, y)["fn"]


def decode_mean(
    model: Any,
    z: Mapping[str, Tensor],
    *,
    x: Tensor | None = None,
    y: Tensor | Sequence[int] | int | None = None,
) -> Tensor:
    """E[x|z], ``decode(model, z, x=x, y=y).mean``, as ``mean_of`` finds it: (n, *event).

    Raises:
        ValueError: as ``decode``; a p(x|z) that has no mean.
    """
    observed = _decoded(model, z, x, y)
    return mean_of(observed["fn"], observed["name"])


def _decoded(model: Any, z: Mapping[str, Tensor], x: Tensor | None, y: Any) -> dict[str, Any]:
    first = next(iter(z.values()))
    size = len(first)
    for site, value in z.items():
        check_finite(value, f"z[{site!r}]")
    y = checked_labels(model, y, size, first.device)
    kwargs: dict[str, Any] = label_arguments(model, y)
    if x is None:
        kwargs["size"] = size
    args = () if x is None else (x,)
    with evaluating(model), ShowMeans(), stand_in_data():
        trace = poutine.trace(poutine.condition(model, data=dict(z))).get_trace(*args, **kwargs)
    unknown = [name for name in z if name not in trace.nodes]
    if unknown:
        raise ValueError(f"z: the model has no latent site {unknown[0]!r}")
    return _observation(trace, given=z)


def _observation(trace: poutine.Trace, given: Mapping[str, Tensor]) -> dict[str, Any]:
    """The data site of a trace whose latents in ``given`` were conditioned on."""
    # A program run without data has its data site last, sampled like a latent.
    sites = [
        site
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and name not in given
        and not site_is_subsample(site)
        and not site["infer"].get("_deterministic", False)
    ]
    observed = [site for site in sites if site["is_observed"]]
    return (observed or sites)[-1]


class Model(Program):
    """A generative program p(x, z): ``model(x=None, *, y=None, size=None)``.

    Attributes:
        event_shape: shape of one datum.
        latent_sizes: latent site -> its size, in sampling order (top first).
    """

    event_shape: tuple[int, ...]
    latent_sizes: dict[str, int]

    @property
    def latents(self) -> tuple[str, ...]:
        """Latent sites in sampling order, top first."""
        return tuple(self.latent_sizes)

    def _refuse_labels(self, y: Any) -> None:
        if y is not None and getattr(self, "condition", None) == 0:
            raise ValueError(
                "y: expected none, as this model is not conditional on labels, got "
                f"{type(y).__name__}: leave y out, or build the model with condition=k"
            )

    def sample(
        self,
        n: int,
        *,
        y: Tensor | Sequence[int] | int | None = None,
        mean: bool = False,
        prior: Callable | None = None,
    ) -> Tensor:
        """Draw from the generative model by ancestral sampling.

        Args:
            n: number of data.
            y: labels (n,), or one label for all, for a conditional model.
            mean: return the means of p(x|z) for drawn z in place of drawn x.
            prior: a module of ``priors`` from which the top latent is drawn in place of p(zL).

        Returns:
            (n, *event_shape).

        Raises:
            TypeError: ``prior`` is nothing that returns a distribution.
            ValueError: n < 1, labels that do not fit, labels for a model without condition, a
                prior that is not fitted yet or does not fit.
        """
        if n < 1:
            raise ValueError(f"n: expected at least 1, got {n}")
        self._refuse_labels(y)
        parameter = next(self.parameters(), None)
        y = checked_labels(self, y, n, None if parameter is None else parameter.device)
        other = contextlib.nullcontext()
        if prior is not None:
            check_prior(prior)
            other = ReplacedPrior(prior, self.latents[0])
        with evaluating(self, prior), other:
            trace = poutine.trace(self).get_trace(size=n, **label_arguments(self, y))
        site = trace.nodes["x"]
        return mean_of(site["fn"], "x") if mean else site["value"]

    def decode(
        self,
        z: Tensor | Mapping[str, Tensor],
        *,
        y: Tensor | Sequence[int] | int | None = None,
    ) -> Distribution:
        """The observation distribution p(x|z), in evaluation mode and without gradients.

        Args:
            z: (n, size) for a model with one latent layer, or site -> (n, size); layers that are
                not given are filled with their conditional means.
            y: labels (n,), or one label for all, for a conditional model.

        Returns:
            A distribution of batch shape (n,) and event shape ``event_shape``.

        Raises:
            ValueError: unknown site, wrong size, unequal n, a tensor for many layers, values that
                are not finite, labels that do not fit, labels for a model without condition.
        """
        self._refuse_labels(y)
        if isinstance(z, Tensor):
            if len(self.latents) != 1:
                raise ValueError(
                    f"z: a tensor is enough for one latent layer, this model has {self.latents}: "
                    f"pass a mapping such as {{{self.latents[0]!r}: z}}"
                )
            z = {self.latents[0]: z}
        if not z:
            raise ValueError(f"z: expected at least one of {self.latents}, got an empty mapping")
        for site, value in z.items():
            if site not in self.latent_sizes:
                raise ValueError(f"z: unknown site {site!r}, the model has {self.latents}")
            if value.dim() != 2 or value.shape[-1] != self.latent_sizes[site]:
                raise ValueError(
                    f"z[{site!r}]: expected shape (n, {self.latent_sizes[site]}), "
                    f"got {tuple(value.shape)}"
                )
        if len({len(value) for value in z.values()}) > 1:
            raise ValueError(f"z: unequal n, got { {s: len(v) for s, v in z.items()} }")
        first = next(iter(z.values()))
        # With data at hand nothing is drawn, which may be slow (a pixel at a time) or random
        x = next(self.parameters(), first).new_zeros(len(first), *self.event_shape)
        return decode(self, z, x=x, y=y)


@dataclass(frozen=True)
class Encoding:
    """Means and samples of q(z|x) per latent site, each (n, size).

    Where a distribution has no formula for its mean, as a flow, it is that of 1,000 draws, always
    the same ones; for a ``Categorical`` it is the most probable category.
    """

    mean: dict[str, Tensor]
    sample: dict[str, Tensor]


def encode(guide: Any, x: Any, *, y: Tensor | Sequence[int] | int | None = None) -> Encoding:
    """Means and samples of the approximate posterior, for any guide.

    The mean of a layer is its conditional mean given the *means* of the layers that the guide
    samples before it; the samples are one joint draw, which advances torch's global RNG.

    Args:
        guide: an inference program.
        x: (n, *event), finite, a tensor or anything that ``data.Dataset`` takes; values outside
            the likelihood's range, such as grey pixels for a binary likelihood, are encoded as
            they are.
        y: labels (n,), or one label for all, for a conditional guide.

    Returns:
        ``Encoding`` with a tensor (n, *latent shape) per site.

    Raises:
        TypeError: ``x`` holds no data.
        ValueError: data of the wrong shape or dtype or not finite, labels that do not fit, a
            distribution that has no mean, such as a Cauchy.
    """
    x, arguments = _encodable(guide, x, y)
    with evaluating(guide):
        drawn = poutine.trace(guide).get_trace(x, **arguments)
        return Encoding(mean=_means(guide, x, arguments), sample=_latents(drawn))


def encode_means(
    guide: Any, x: Any, *, y: Tensor | Sequence[int] | int | None = None
) -> dict[str, Tensor]:
    """``encode(guide, x, y=y).mean`` in half the time: nothing is drawn."""
    x, arguments = _encodable(guide, x, y)
    with evaluating(guide):
        return _means(guide, x, arguments)


def _encodable(guide: Any, x: Any, y: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The guide's arguments, data and others, once all are found to fit."""
    if not isinstance(x, Tensor):
        data = as_dataset(x, "x")
        data.check_classes(guide, getattr(guide, "model", None))
        x, y = data.x, data.y if y is None else y
        like = next(guide.parameters(), None) if isinstance(guide, nn.Module) else None
        x = x if like is None else x.to(like)
    check_batch(guide, len(x))
    model = getattr(guide, "model", None)
    if hasattr(model, "check_shape"):
        model.check_shape(x)
        check_finite(x)
    y = checked_labels(model, y, len(x), x.device)
    return x, label_arguments(guide, y)


def _means(guide: Any, x: Tensor, arguments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with ShowMeans():
        return _latents(poutine.trace(guide).get_trace(x, **arguments))


def _latents(trace: poutine.Trace) -> dict[str, Tensor]:
    return {
        name: site["value"]
        for name, site in trace.nodes.items()
        if is_latent(site) and not is_auxiliary(site)
    }


class Guide(Program):
    """An inference program q(z|x): ``guide(x, *, y=None)``, built for a model.

    Attributes:
        model: the generative program that it was built for (not a child: its parameters are
            the model's own).
        latents: the latent sites that it covers, in sampling order.
    """

    model: Model
    latents: tuple[str, ...]

    def __init__(self, model: Model) -> None:
        """Keep ``model`` at hand without making its parameters the guide's."""
        super().__init__()
        object.__setattr__(self, "model", model)

    @property
    def borrowed_modules(self) -> tuple[nn.Module, ...]:
        """The modules of ``model`` that it runs: with another model it means nothing."""
        return ()

    def encode(self, x: Any, *, y: Tensor | Sequence[int] | int | None = None) -> Encoding:
        """Means and samples of q(z|x) per latent site, in evaluation mode without gradients.

        The samples are draws, which advance torch's global RNG.

        Args:
            x: (n, *event_shape), finite, a tensor or anything that ``data.Dataset`` takes.
            y: labels (n,), or one label for all, for a conditional model.

        Returns:
            ``Encoding`` whose ``mean`` and ``sample`` map a site to a tensor (n, size).
        """
        return encode(self, x, y=y)
