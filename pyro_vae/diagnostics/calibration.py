"""Whether sigma is as large as the errors are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import Normal
from torch import Tensor

from ..data import Dataset
from ..distributions import base_of
from ..ground.tables import Cell, Table, Tabular, or_none, standard_error
from ..infer.predictive import predicted
from ..programs.examining import examined

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTHS = tuple(i / 10 for i in range(1, 31))


@dataclass(frozen=True, repr=False)
class Calibration(Tabular):
    """Fractions of elements within w sigma(z) of the mean; ``print`` it, or ``plot()``.

    Attributes:
        widths: w, from 0.1 to 3.
        inside: fraction of all elements of all data with |x_k - m_k(z)| <= w sigma_k(z), per w.
        standard_error: of these over the data, NaN for one datum.
        data: number of data.
        elements: elements of a datum.
    """

    widths: tuple[float, ...]
    inside: tuple[float, ...]
    standard_error: tuple[float, ...]
    data: int
    elements: int

    @property
    def expected(self) -> tuple[float, ...]:
        """The fractions of a normal distribution, 0.683 for 1 and 0.954 for 2 sigma."""
        return tuple(math.erf(w / math.sqrt(2)) for w in self.widths)

    def rows(self) -> list[tuple[str, float, float, float]]:
        """For 1 and 2 sigma: name, fraction inside, standard error, fraction of a normal."""
        columns = zip(self.widths, self.inside, self.standard_error, self.expected, strict=True)
        return [(f"within {w:g} sigma", *row) for w, *row in columns if w in (1.0, 2.0)]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: quantity -> fraction, standard error, expected fraction."""
        return {
            name: {"fraction": inside, "standard_error": or_none(se), "expected": expected}
            for name, inside, se, expected in self.rows()
        }

    def plot(self, ax: Axes | None = None) -> Axes:
        """Fractions inside against those of a normal distribution."""
        from ..plots.deviations import calibration as picture  # with matplotlib, slow to import

        return picture(self, ax=ax)

    def table(self) -> Table:
        """For 1 and 2 sigma the fraction inside and that of a normal distribution."""
        rows = [
            (
                name,
                Cell(f"{100 * inside:.1f}", {"": inside}),
                Cell("" if math.isnan(se) else f"+- {100 * se:.2g}", {"": se}),
                Cell(f"normal: {100 * expected:.1f} %", {"": expected}),
            )
            for name, inside, se, expected in self.rows()
        ]
        return Table(
            f"{self.data} data of {self.elements} elements; standard errors are over the data",
            ("width", "inside", "standard error", "expected"),
            rows,
            units=("", "%", "", ""),
            line="  {:<16} {:>6} {:<8} %   ({})",
            left=(0,),
        )


def calibration(
    model: Callable,
    guide: Callable,
    data: Dataset | Tensor | tuple[Tensor, Tensor | None],
    *,
    batch_size: int = 1000,
) -> Calibration:
    """How often the data lie within 1 and 2 sigma of what a Gaussian likelihood predicts.

    For each datum one z ~ q(z|x) is drawn; an element counts as inside if
    |x_k - m_k(z)| <= w sigma_k(z), where p(x|z) = prod_k N(x_k; m_k(z), sigma_k(z)^2). The spread
    of z belongs to the errors, then, not to sigma. Normal errors of the right size give 68.3 % for
    w = 1 and 95.4 % for w = 2; more say that sigma is too large, fewer that it is too small, and
    more at 1 than at 2 sigma that the errors have heavier tails than a normal distribution.
    Evaluation mode; no state changes, and the RNG is restored.

    Args:
        model: generative program whose observed site is normal.
        guide: inference program.
        data: a ``Dataset``, a tensor (n, *event_shape), or a pair (x, y).
        batch_size: data at once.

    Returns:
        ``Calibration``: fractions over all elements and data, with standard errors; where masks
        hide elements, over those that a datum has.

    Raises:
        ValueError: a likelihood that is not Gaussian, data that the model cannot have produced.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian(sigma=9.0))
        >>> calibration(vae, guides.BottomUp(vae), torch.zeros(50, 6))
        50 data of 6 elements; standard errors are over the data
          within 1 sigma    100.0 +- 0     %   (normal: 68.3 %)
          within 2 sigma    100.0 +- 0     %   (normal: 95.4 %)
    """
    per_datum = []
    with examined(data, model, guide) as (data, _):
        for x, y in data.batches(batch_size):
            p, value, shown = predicted(model, guide, x, y)
            if not isinstance(base := base_of(p), Normal):
                raise ValueError(
                    f"model: expected a Gaussian likelihood, got a {type(base).__name__}: use "
                    'likelihoods.Gaussian(sigma="learned")'
                )
            score = ((value - p.mean).abs() / base.scale).flatten(1)
            widths = torch.tensor(_WIDTHS, dtype=score.dtype, device=score.device)
            inside = torch.stack([(score <= w).double() for w in widths], 2)
            if shown is None:
                per_datum.append(inside.mean(1))
                continue
            # A datum without any element tells nothing
            inside = inside.where(shown.flatten(1)[:, :, None], math.nan).nanmean(1)
            per_datum.append(inside[inside[:, 0].isfinite()])
    inside = torch.cat(per_datum)
    return Calibration(
        widths=_WIDTHS,
        inside=tuple(inside.mean(0).tolist()),
        standard_error=tuple(standard_error(inside).tolist()),
        data=len(inside),
        elements=score.shape[1],
    )
