"""The bound's terms for each datum, of a few data or of a whole data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.infer.util import validation_enabled
from torch import Tensor

from ..data import Dataset
from ..data.arguments import Arguments, Data, holding, tensors_of
from ..ground.arguments import whole
from ..programs.autoguides import takes_all
from ..programs.checks import check_data
from ..programs.given import given
from ..programs.running import measuring
from .engine.repeated import Checked
from .objectives.elbo import ELBOTerms, Estimator, Whole, joined
from .objectives.enumerated import default_estimator
from .objectives.pyro_elbo import as_estimator
from .objectives.units import PerUnit


def elbo_terms(
    model: Callable,
    guide: Callable,
    x: Any,
    *,
    y: Tensor | None = None,
    samples: int = 1,
    estimator: Estimator | ELBO | None = None,
    arguments: Mapping[str, Any] | None = None,
    plate: str | None = None,
    per_unit: bool = False,
) -> ELBOTerms:
    """The terms of the evidence lower bound for each datum, without changing any state.

    elbo = E_q[log p(x|z)] - sum_i KL_i, each expectation estimated with ``samples`` draws. Any
    beta of the pair is left out: this is the bound itself. Evaluation mode is used and the RNG is
    restored afterwards, so that a second call gives the same numbers; for other draws change the
    seed or ``samples``. Many draws cost little of Pyro: those after the first run without its
    checks, and after a hundred as recorded tensors, bit for bit the same.

    Sites that a guide marks ``is_auxiliary`` count in the KL of the latent that is drawn from
    them; where an autoguide draws the latents of all data as one, each datum gets an equal part,
    as it does of the KL of a latent that is outside the data plate, see ``ELBOTerms``.

    ``per_unit`` adds the KL of each unit u of a latent site, whose sum over units is the site's:

        KL_iu = E_q[log q(z_iu|x) - log p(z_iu|parents)],    KL_i = sum_u KL_iu.

    It is 0 for a unit that is its prior, whatever the unit's mean does over the data. A site has
    it where both densities are products over units: elementwise distributions, also under plates
    inside a datum, masks and elementwise transforms, or codes of a grid. A full covariance, a
    flow, a mixture, a point mass or an autoguide's auxiliary site ties units together: asking for
    such a site is an error that tells why, and ``repr`` names it.

    Source: "Ladder Variational Autoencoders", Sonderby et al. (2016), for the KL of units.

    Args:
        model: generative program.
        guide: inference program.
        x: (n, *event_shape), or the programs' own arguments, a tuple or a mapping of tensors
            with n rows each.
        y: (n,) labels for a conditional pair.
        samples: draws per datum.
        estimator: ``TraceELBO()`` (default; ``TraceEnumELBO()`` where latents are marked for
            enumeration), ``AnalyticELBO()``, or an objective of ``pyro.infer`` that sums no sites
            out, whose draws are then the objective's own.
        arguments: constants among the programs' own arguments, by name.
        plate: name of the plate over the data, where several could be it.
        per_unit: whether to tell the KL of each unit, too.

    Returns:
        ``ELBOTerms``: elbo (n,), reconstruction (n,), kl {site: (n,)}, in nats per datum, and
        kl_global {site: ()}, in nats per data set; where asked for,
        per_unit {site: (n, *plates inside a datum, *units)}, in nats per datum.

    Raises:
        ValueError: data of the wrong shape or range, a guide that does not fit the model, an
            estimator without a KL per unit where it is asked for.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=(3, 2), likelihood=likelihoods.Gaussian())
        >>> terms = elbo_terms(vae, guides.BottomUp(vae), torch.zeros(5, 6), samples=10)
        >>> terms.elbo.shape, sorted(terms.kl)
        (torch.Size([5]), ['z1', 'z2'])
        >>> units = elbo_terms(vae, guides.BottomUp(vae), torch.zeros(5, 6), per_unit=True)
        >>> units.per_unit["z1"].shape
        torch.Size([5, 3])
    """
    whole("samples", samples)
    x, y = given(x, y, model, guide, arguments=arguments, plate=plate)
    check_data(model, x, y)
    # Whatever Pyro's own switch: what follows the first draw relies on its checks
    with measuring(model, guide, device=x.device), validation_enabled(True):
        return Drawing(model, guide, estimator, per_unit=per_unit)(x, y, samples)


class Drawing:
    """Draws the terms of a pair for batch after batch, in the current mode, advancing the RNG.

    The first draw for a batch runs with all of Pyro's checks, the others replay the recorded
    tensors where there are many. Its arguments are those of ``elbo_terms``.
    """

    def __init__(
        self,
        model: Callable,
        guide: Callable,
        estimator: Estimator | ELBO | None = None,
        *,
        per_unit: bool = False,
    ) -> None:
        self.model, self.guide = model, guide
        self.estimator = None if estimator is None else as_estimator(estimator)
        self._options = {"per_unit": True} if per_unit else {}
        self._sites: list[str] = []
        self._shared: dict[str, int] = {}
        self._units = PerUnit()
        recordable = self.estimator is None or self.estimator.recordable
        self._again = Checked(self._once, model, guide) if recordable else self._once

    def __call__(
        self, x: Data, y: Tensor | None, samples: int = 1, *, checked: bool = False
    ) -> ELBOTerms:
        """Means over ``samples`` draws; ``checked`` tells that the model can produce the data."""
        if self.estimator is None:
            self.estimator = default_estimator(self.model, self.guide, x, y)
        if self._options and self.estimator.of_units is None:
            raise ValueError(
                f"estimator: {self.estimator!r} has no KL per unit: use TraceELBO(), whose terms "
                "are of the same bound, or AnalyticELBO()"
            )
        self._given, data = (x, y), tensors_of(x, y)
        again = self._again if data else self._once
        first, *units = self._split((again if checked else self._once)(*data))
        draws = [first]
        for _ in range(samples - 1):
            each, *others = self._split(again(*data))
            draws.append(each)
            # Not kept for each draw, as there may be many units
            units = [total + other for total, other in zip(units, others, strict=True)]
        if samples == 1:
            reconstruction, *kl = first
        else:
            reconstruction, *kl = (torch.stack(d).mean(0) for d in zip(*draws, strict=True))
            units = [total / samples for total in units]
        per_unit = PerUnit.of(dict(zip(self._units, units, strict=True)), self._units.without)
        kl_of = dict(zip(self._sites, kl, strict=True))
        return ELBOTerms(reconstruction, kl_of, self._shared, per_unit)

    def _split(self, found: tuple[Tensor, ...]) -> tuple[Any, ...]:
        """Reconstruction and KL of the sites, and the KL of their units."""
        count = 1 + len(self._sites)
        return found[:count], *found[count:]

    def _once(self, *data: Tensor) -> tuple[Tensor, ...]:
        given = holding(*self._given, data)
        terms = self.estimator(self.model, self.guide, *given, **self._options)[1]
        if isinstance(terms, Whole):
            raise ValueError(
                f"estimator: {self.estimator!r} sums sites out, so that no datum has terms of its "
                "own: use TraceELBO(), or infer.SVI(model, guide, loss=...).evaluate_loss(x)"
            )
        self._sites[:], self._shared, self._units = terms.kl, terms.shared, terms.per_unit
        return terms.reconstruction, *terms.kl.values(), *terms.per_unit.values()


def dataset_terms(
    model: Callable,
    guide: Callable,
    data: Dataset | Arguments,
    *,
    batch_size: int = 1000,
    samples: int = 1,
    estimator: Estimator | None = None,
    per_unit: bool = False,
) -> ELBOTerms:
    """``elbo_terms`` of every datum, in batches, without changing any state.

    The data have passed ``check_data``; dynamic binarisation is drawn once. Other arguments, and
    what is returned, are those of ``elbo_terms``.
    """
    batch_size = max(1, len(data)) if takes_all(guide) else batch_size
    draw = Drawing(model, guide, estimator, per_unit=per_unit)
    # A model that tells what data it can produce has been shown these: Pyro need not look again
    checks = hasattr(model, "check_data")
    with measuring(model, guide, device=data.device):
        parts = [
            draw(x, y, samples, checked=checks and i > 0)
            for i, (x, y) in enumerate(data.batches(batch_size))
        ]
    return joined(parts)
