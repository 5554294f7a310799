"""The KL of each latent unit while a run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro.infer import ELBO

from ..ground.arguments import whole
from ..infer.objectives.elbo import ELBOTerms, Estimator
from ..infer.terms import dataset_terms
from ..programs.examining import examined
from .base import Callback, Training


class UnitKL(Callback):
    """Keep the KL of each latent unit in the history, as ``row["unit_kl"]``.

    It maps a latent site to the KL of its units in nats, means over the data, flat in the order of
    ``infer.elbo_terms(..., per_unit=True)``; sites without are left out. ``plots.unit_kl`` draws
    it, and ``plots.active_units`` counts by it. A measurement costs ``samples``
    evaluations of the bound on the data and changes no state: training goes on bit for bit as
    without.

    Source: "Ladder Variational Autoencoders", Sonderby et al. (2016), for the KL of units over
    epochs.

    Args:
        data: what it is measured on, in any form that ``Trainer.fit`` takes but for a loader, such
            as a thousand of the validation data.
        every: epochs between two measurements.
        samples: draws per datum; those of one leave a KL of 0.01 nats an error of 0.005 over a
            thousand data.
        estimator: ``TraceELBO()`` (default), or ``AnalyticELBO()`` where its closed form is right,
            which has no such error.
        batch_size: data at once.

    Raises:
        ValueError: fewer than 1 of what is counted; when training begins, data that the model
            cannot have produced, an estimator that is wrong here or has no KL per unit, a pair of
            which no site has one.

    Example:
        >>> import torch
        >>> from pyro_vae import Trainer, guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=(3, 2), likelihood=likelihoods.Gaussian())
        >>> trainer, x = Trainer(vae, guides.BottomUp(vae)), torch.randn(20, 6)
        >>> trainer = trainer.fit(x, epochs=1, callbacks=[UnitKL(x)], progress=False)
        >>> len(trainer.history[-1]["unit_kl"]["z1"])
        3
    """

    def __init__(
        self,
        data: Any,
        every: int = 1,
        *,
        samples: int = 10,
        estimator: Estimator | ELBO | None = None,
        batch_size: int = 500,
    ) -> None:
        self.data, self.estimator = data, estimator
        self.every, self.samples = whole("every", every), whole("samples", samples)
        self.batch_size = whole("batch_size", batch_size)

    def on_fit_begin(self, trainer: Training, **kwargs: Any) -> None:
        """Measure once, to tell what does not fit before there is training."""
        units = self._measured(trainer).per_unit
        if units.without and not units:
            site, why = next(iter(units.without.items()))
            raise ValueError(
                f"UnitKL: no latent site has a KL per unit, {site!r} because {why}: leave the "
                "callback out, and see the KL of sites in plots.history"
            )

    def state_dict(self) -> dict[str, Any]:
        """Nothing: what was measured is in the history."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to do."""

    def on_epoch_end(self, trainer: Training, row: dict[str, Any], **kwargs: Any) -> None:
        """Measure in every ``every``-th epoch."""
        if row["epoch"] % self.every == 0:
            units = self._measured(trainer).per_unit
            row["unit_kl"] = {
                site: tuple(kl.reshape(len(kl), -1).cpu().double().mean(0).tolist())
                for site, kl in units.items()
            }

    def _measured(self, trainer: Training) -> ELBOTerms:
        pair = trainer.model, trainer.guide
        with examined(self.data, *pair, labelled=True) as (data, _):
            return dataset_terms(
                *pair,
                data,
                batch_size=self.batch_size,
                samples=self.samples,
                estimator=self.estimator,
                per_unit=True,
            )
