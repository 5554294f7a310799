"""What every model and guide is: an ``nn.Module`` whose ``forward`` is a Pyro program."""

from __future__ import annotations

import contextlib
import functools
import html
from collections.abc import Callable, Mapping
from typing import Any

from pyro import poutine
from pyro.distributions import Distribution
from torch import Tensor, nn

from ..data.columns import of_table
from ..ground.arguments import known, whole
from ..ground.recorded import Recorded
from ..storage.safetensors import Exported
from .encoding import Encoding, decode, encode
from .labels import Labels, checked_labels, label_arguments
from .means import mean_of
from .modes import evaluating
from .placing import device_of, like
from .registration import register
from .replacement import ReplacedPrior, check_prior


class Program(Exported, Recorded, nn.Module):
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


class Model(Program):
    """A generative program p(x, z): ``model(x=None, *, y=None, size=None)``.

    Called with data (n, *event_shape), or without to draw ``size`` of them (default: as many as
    there are labels, else 1), and with labels (n,) where it is conditional, it returns the data.

    Attributes:
        event_shape: shape of one datum.
        latent_sizes: latent site -> how many numbers it is, in sampling order (top first).
        columns: of ``models.VAE``, name and kind of each column of a table, () for other data.
    """

    event_shape: tuple[int, ...]
    latent_sizes: dict[str, int]

    @functools.cached_property
    def latent_shapes(self) -> dict[str, tuple[int, ...]]:
        """Latent site -> shape of its value for one datum; of vectors, unless a model tells."""
        return {site: (size,) for site, size in self.latent_sizes.items()}

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
        self, n: int, *, y: Labels = None, mean: bool = False, prior: Callable | None = None
    ) -> Tensor:
        """Draw from the generative model by ancestral sampling.

        Args:
            n: number of data.
            y: labels (n,), or one label for all, for a conditional model; a mapping of such where
                it has ``models.Covariates``.
            mean: return the means of p(x|z) for drawn z in place of drawn x.
            prior: a module of ``priors`` from which the top latent is drawn in place of p(zL).

        Returns:
            (n, *event_shape); of a model that knows the columns of a table ``data.Rows``, which
            are a tensor with ``to_frame()``.

        Raises:
            TypeError: ``prior`` is nothing that returns a distribution.
            ValueError: n < 1, labels that do not fit, labels for a model without condition, a
                prior that is not fitted yet or does not fit.
        """
        whole("n", n)
        self._refuse_labels(y)
        y = checked_labels(self, y, n, device_of(self, default=None))
        other = contextlib.nullcontext()
        if prior is not None:
            check_prior(prior)
            other = ReplacedPrior(prior, self.latents[0])
        with evaluating(self, prior), other:
            trace = poutine.trace(self).get_trace(size=n, **label_arguments(self, y))
        site = trace.nodes["x"]
        return of_table(mean_of(site["fn"], "x") if mean else site["value"], self)

    def decode(self, z: Tensor | Mapping[str, Tensor], *, y: Labels = None) -> Distribution:
        """The observation distribution p(x|z), in evaluation mode and without gradients.

        Args:
            z: (n, *shape) for a model with one latent layer, or site -> (n, *shape); layers that
                are not given are filled with their conditional means.
            y: as of ``sample``.

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
            known("z", site, self.latents)
            if value.shape[1:] != (shape := self.latent_shapes[site]):
                raise ValueError(
                    f"z[{site!r}]: expected shape (n, {', '.join(map(str, shape))}), "
                    f"got {tuple(value.shape)}"
                )
        if len({len(value) for value in z.values()}) > 1:
            raise ValueError(f"z: unequal n, got { {s: len(v) for s, v in z.items()} }")
        first = next(iter(z.values()))
        # With data at hand nothing is drawn, which may be slow (a pixel at a time) or random
        x = like(self, default=first).new_zeros(len(first), *self.event_shape)
        return decode(self, z, x=x, y=y)


class Guide(Program):
    """An inference program q(z|x): ``guide(x, *, y=None)``, built for a model.

    Called with data (n, *event_shape), and labels (n,) for a conditional model, it returns site ->
    sample (n, *shape), in sampling order.

    Attributes:
        model: the generative program that it was built for (not a child: its parameters are
            the model's own).
        latents: the latent sites that it covers, in sampling order.
    """

    model: Callable
    latents: tuple[str, ...]
    # Whether it runs its model, with which alone it means anything
    runs_model = False
    inside = (
        *("borrowed_modules", "called_like", "few", "inputs", "placing", "places", "reading"),
        *("runs_model", "starts", "subject"),
    )

    def __init__(self, model: Callable) -> None:
        """Keep ``model`` at hand without making its parameters the guide's."""
        super().__init__()
        object.__setattr__(self, "model", model)

    @property
    def borrowed_modules(self) -> tuple[nn.Module, ...]:
        """The modules of ``model`` that it runs: with another model it means nothing."""
        return ()

    def _parts(self) -> dict[str, nn.Module]:
        if not isinstance(self.model, nn.Module):
            raise TypeError(
                "guide: expected one whose model is a module, got one of a plain function, which "
                "no file can hold: save the trainer of both"
            )
        return {"model": self.model, "guide": self}

    def encode(self, x: Any, *, y: Labels = None) -> Encoding:
        """Means and samples of q(z|x) per latent site, in evaluation mode without gradients.

        The samples are draws, which advance torch's global RNG. All arguments are those of
        ``infer.encode``.
        """
        return encode(self, x, y=y)
