"""The guide of a model of partial labels that tells the classes itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .. import networks
from ..data.arguments import LabelData
from ..ground.arguments import at_least
from ..ground.kinds import KINDS
from ..likelihoods.base import input_shape, network_inputs
from ..models.classes import given_or, number_of_classes
from ..models.partial import labels_in
from ..models.parts import reader_of
from ..programs.labels import MISSING
from ..programs.missing import takes_missing
from ..programs.modes import evaluating
from ..programs.program import Guide
from ..programs.unwrapping import innermost, name_of
from .classes import check_partial, classified
from .inputs import masked_shape, with_mask


class _Classifier(nn.Sequential):
    """Logits of data, and of what else is known of them."""

    def forward(self, *inputs: Tensor) -> Tensor:
        network, last = self
        return last(network(*inputs))


class Labelled(Guide):
    """q(y|x) q(z|x, y) for a ``models.VAE`` of partial labels: the model M2.

    A network tells the classes of a datum, and ``guide``, which is given the label, the other
    latents. Train it with ``elbo="enumerate"``, which sums over the classes exactly. A label that
    is given is the class for sure. As q(y|x) has no part in the bound of such data, it learns from
    them by

        weight * log q(y|x),

    which the objective has for each datum with a label. As any penalty it is no part of the bound:
    ``infer.elbo_terms``, the "elbo" of the history and log p(x) are without it.

    Source: "Semi-supervised Learning with Deep Generative Models", Kingma, Rezende, Mohamed,
    Welling (2014), whose weight is 0.1 times the number of all data per one with a label.

    Args:
        guide: the guide q(z|x, y), such as ``guides.BottomUp(vae)``.
        hidden: hidden widths of the network of q(y|x); default those of the model's lowest layer.
        classifier: your own network in its place, from the data (n, *event) to (n, K) logits;
            where there are covariates, from these and their numbers (n, m).
        weight: of the term above, in nats per datum with a label.

    Attributes:
        latents: "y" and those of ``guide``.
        classifier: the network from data, as the likelihood prepares them, to logits.

    Raises:
        TypeError: a guide of another type.
        ValueError: one of a model without ``labels="partial"``, or that draws y itself; widths or
            a weight that are none, a classifier of another shape.

    Example:
        >>> from pyro_vae import Trainer, guides, likelihoods, models
        >>> options = {"condition": 3, "labels": "partial"}
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian(), **options)
        >>> guide = Labelled(guides.BottomUp(vae), weight=5.0)
        >>> x, y = torch.randn(8, 6), torch.tensor([0, 1, 2, 0, -1, -1, -1, -1])
        >>> trainer = Trainer(vae, guide, elbo="enumerate")
        >>> _ = trainer.fit((x, y), epochs=1, progress=False)
        >>> guide.classify(x).shape
        torch.Size([8, 3])
    """

    def __init__(
        self,
        guide: Guide,
        *,
        hidden: int | Sequence[int] | None = None,
        classifier: nn.Module | None = None,
        weight: float = 1.0,
    ) -> None:
        """Build the network of q(y|x); every parameter exists from here on."""
        if not isinstance(guide, Guide):
            raise TypeError(
                f"guide: expected one of this library, got {guide!r}: pass guides.BottomUp(vae)"
            )
        super().__init__(guide.model)
        vae = check_partial(guide.model)
        if "y" in guide.latents:
            raise ValueError(
                f"guide: expected one of {vae.latents}, got a {name_of(guide)} that draws 'y' "
                "itself: pass the guide inside it"
            )
        self.guide, self.latents = guide, ("y", *guide.latents)
        self.weight = at_least("weight", weight)
        seen = input_shape(vae.likelihood, vae.event_shape)
        self._masked = takes_missing(guide.model)
        if self._masked:
            seen = masked_shape(seen, KINDS[vae.kind])
        classes = number_of_classes(vae.condition)
        width = vae.condition.width if vae.covariates else 0
        shapes = {"x": seen, "y": (width,)} if width else {"x": seen}
        if classifier is None:
            widths = vae.hidden[0] if hidden is None else networks.sizes("hidden", hidden)
            options = {"activation": vae.activation, "norm": vae.norm}
            if own := reader_of(vae):
                network = own(shapes)
            else:
                network = networks.encoder(seen, widths, vae.maps, extra=width, **options)
            classifier = _Classifier(network, nn.Linear(network.out_features, classes))
        self.classifier, logits = classifier, (classes,)
        got = networks.output_shape(classifier, *shapes.values(), argument="classifier")
        if got != logits:
            raise ValueError(
                f"classifier: expected logits of shape {('n', *logits)}, got {('n', *got)}: end "
                f"it with torch.nn.Linear(..., {classes})"
            )

    @property
    def called_like(self) -> Callable:
        """The program whose arguments it takes."""
        return self.model

    @property
    def borrowed_modules(self) -> tuple[nn.Module, ...]:
        """Those of ``guide``."""
        return self.guide.borrowed_modules

    def forward(self, x: Tensor, *, y: LabelData = None) -> dict[str, Tensor]:
        """Run the inference program on data (n, *event) and labels (n,), -1 where missing."""
        vae = innermost(self.model)
        told, one_hot = labels_in(vae.condition, y, len(x), vae.one_hot)
        logits = self._logits(x, y)
        with pyro.plate("data", len(x), dim=-1):
            q = given_or(told, logits, one_hot)
            k = pyro.sample("y", q, infer={"enumerate": "parallel"})
            missed = cross_entropy(logits, told, ignore_index=MISSING, reduction="none")
            penalty = dist.Unit(self.weight * missed, has_rsample=True)
            marks = {"is_auxiliary": True, "is_penalty": True}
            pyro.sample("classification", penalty, obs=penalty.sample(), infer=marks)
        # The plate of the data is there already
        with poutine.block(hide=["data"]):
            all_told = torch.where(told < 0, k, told)
            if vae.covariates:
                all_told = vae.condition.columns(y, len(x)).told(vae.condition.latent, all_told)
            z = self.guide(x, y=all_told)
        return {"y": k, **z}

    def _logits(self, x: Tensor, y: LabelData) -> Tensor:
        vae = innermost(self.model)
        vae.check_shape(x)
        seen = network_inputs(vae.likelihood, x)
        seen = with_mask(seen, KINDS[vae.kind]) if self._masked else seen
        if not vae.covariates:
            return self.classifier(seen)
        return self.classifier(seen, *vae.condition.besides(vae.condition.columns(y, len(x))))

    def classify(self, x: Any, *, y: Any = None) -> Tensor:
        """Class probabilities q(y|x), (n, K), in evaluation mode without gradients.

        Of covariates ``y`` has the numbers, as a ``Dataset`` does; classes in ``y`` are so for
        sure.
        """
        x, y = classified(self, x, y)
        vae = innermost(self.model)
        with evaluating(self):
            told, one_hot = labels_in(vae.condition, y, len(x), vae.one_hot)
            return given_or(told, self._logits(x, y), one_hot).probs

    def __repr__(self) -> str:
        """The factorisation and the number of parameters."""
        return (
            f"{type(self).__name__}(weight={self.weight:g})\n  q(y|x) and q(z|x,y), a\n"
            f"{self.guide!r}\n  {self._count()}"
        )
