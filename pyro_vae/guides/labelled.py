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
from ..ground.arguments import at_least
from ..ground.kinds import KINDS
from ..likelihoods.base import input_shape, network_inputs
from ..models.classes import given_classes, given_or
from ..programs.given import matched
from ..programs.labels import MISSING
from ..programs.missing import takes_missing
from ..programs.modes import evaluating
from ..programs.program import Guide
from ..programs.unwrapping import innermost, name_of
from .classes import check_partial
from .inputs import masked_shape, with_mask


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
        classifier: your own network in its place, from the data (n, *event) to (n, K) logits.
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
        if classifier is None:
            widths = vae.hidden[0] if hidden is None else networks.sizes("hidden", hidden)
            options = {"activation": vae.activation, "norm": vae.norm}
            if own := getattr(vae.likelihood, "encoder", None):
                network = own({"x": seen})
            else:
                network = networks.encoder(seen, widths, vae.maps, **options)
            classifier = nn.Sequential(network, nn.Linear(network.out_features, vae.condition))
        self.classifier, logits = classifier, (vae.condition,)
        got = networks.output_shape(classifier, seen, argument="classifier")
        if got != logits:
            raise ValueError(
                f"classifier: expected logits of shape {('n', *logits)}, got {('n', *got)}: end "
                f"it with torch.nn.Linear(..., {vae.condition})"
            )

    @property
    def called_like(self) -> Callable:
        """The program whose arguments it takes."""
        return self.model

    @property
    def borrowed_modules(self) -> tuple[nn.Module, ...]:
        """Those of ``guide``."""
        return self.guide.borrowed_modules

    def forward(self, x: Tensor, *, y: Tensor | None = None) -> dict[str, Tensor]:
        """Run the inference program on data (n, *event) and labels (n,), -1 where missing."""
        vae = innermost(self.model)
        y, logits = given_classes(y, len(x), vae.one_hot), self._logits(x)
        with pyro.plate("data", len(x), dim=-1):
            q = given_or(y, logits, vae.one_hot)
            k = pyro.sample("y", q, infer={"enumerate": "parallel"})
            missed = cross_entropy(logits, y, ignore_index=MISSING, reduction="none")
            penalty = dist.Unit(self.weight * missed, has_rsample=True)
            marks = {"is_auxiliary": True, "is_penalty": True}
            pyro.sample("classification", penalty, obs=penalty.sample(), infer=marks)
        # The plate of the data is there already
        with poutine.block(hide=["data"]):
            z = self.guide(x, y=torch.where(y < 0, k, y))
        return {"y": k, **z}

    def _logits(self, x: Tensor) -> Tensor:
        vae = innermost(self.model)
        vae.check_shape(x)
        seen = network_inputs(vae.likelihood, x)
        return self.classifier(with_mask(seen, KINDS[vae.kind]) if self._masked else seen)

    def classify(self, x: Any) -> Tensor:
        """Class probabilities q(y|x), (n, K), in evaluation mode without gradients."""
        x = matched(x, self.model, name="x").x
        with evaluating(self):
            return self._logits(x).softmax(-1)

    def __repr__(self) -> str:
        """The factorisation and the number of parameters."""
        return (
            f"{type(self).__name__}(weight={self.weight:g})\n  q(y|x) and q(z|x,y), a\n"
            f"{self.guide!r}\n  {self._count()}"
        )
