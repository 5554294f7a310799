"""An amortised guide whose distributions are refined for each datum."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ..ground.arguments import whole
from ..programs.labels import label_arguments, placeholders
from ..programs.means import FillWithMeans
from ..programs.modes import evaluating
from ..programs.placing import like
from ..programs.program import Guide
from ..programs.running import traced
from ..programs.sites import is_latent

Offsets = dict[str, tuple[Tensor, Tensor]]


class _Offset(Messenger):
    """Move each latent's normal: mu + shift, sigma exp(log_scale); keep the distributions.

    With ``noise``, draw z = mu + sigma noise, and score it with the offsets held constant.
    """

    def __init__(self, offsets: Offsets, noise: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        self.offsets, self.noise = offsets, noise
        self.normals: dict[str, Any] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not is_latent(msg):
            return
        site, q = msg["name"], msg["fn"]
        normal = self.normals[site] = _normal(site, q)
        if site not in self.offsets:
            return
        moved = _moved(normal, *self.offsets[site])
        msg["fn"] = moved
        if self.noise is not None:
            msg["value"] = moved.base_dist.loc + moved.base_dist.scale * self.noise[site]
            msg["done"] = True
            # The score term has zero mean, and leaving it out leaves no noise at the optimum
            msg["fn"] = _moved(normal, *(t.detach() for t in self.offsets[site]))


def _normal(site: str, q: Any) -> Any:
    normal = getattr(q, "base_dist", None)
    if not isinstance(normal, torch.distributions.Normal) or q.event_dim != 1:
        name = type(q).__name__ if normal is None else f"{type(q).__name__} of {normal}"
        raise TypeError(
            f"site {site!r}: expected a diagonal normal to refine, got a {name}: use a guide such "
            "as BottomUp or Ladder"
        )
    return normal


def _moved(normal: Any, shift: Tensor, log_scale: Tensor) -> dist.Distribution:
    return dist.Normal(normal.loc + shift, normal.scale * log_scale.exp()).to_event(1)


class SemiAmortized(Guide):
    """A guide of diagonal normals, refined for each datum by a few steps up its own ELBO.

    For each datum, the guide's q(z_i|.) = N(mu_i, diag sigma_i^2) become

        N(mu_i + a_i, diag (sigma_i exp(b_i))^2),    a_i = b_i = 0 at first.

    Each step adds to a_i and b_i ``lr`` times the natural gradient of the datum's ELBO with
    respect to them, sigma^2 dELBO/da and dELBO/db / 2, with every component of a / sigma and of b
    clipped to [-1, 1]. A step is therefore at most ``lr`` standard deviations long, and ``lr``
    has no unit. The ELBO's gradient is the path derivative at one z = mu + sigma e, which has no
    variance where q is the exact posterior. The e are the same for all data and come in pairs
    e, -e; they were drawn once and are saved, so that q(z|x) is a function of x, has a density,
    and refining leaves the RNG alone. In a hierarchy a_i and b_i do not depend on the other
    latents, mu_i and sigma_i still do.

    **What is trained.** a and b are constants to whatever differentiates the bound: nothing is
    differentiated twice. The model gets the gradient of the bound at the refined distributions.
    So does the amortised guide, straight through: the gradient with respect to the refined mean
    and log sigma is taken as that with respect to the initial ones (d(mu + a)/d mu = 1,
    d(log sigma + b)/d log sigma = 1). Kim et al. backpropagate through the refinement; this is
    the first-order version, which does not.

    Refinement runs in evaluation mode (running statistics of BatchNorm, which it does not
    move) on ``guide.model`` without any handler around it: on the bound itself, whatever beta
    training uses. It never touches a parameter or its gradient. Under ``infer.importance`` each
    datum is refined once, and all of its samples are drawn from the refined distributions.

    Sources: "Semi-Amortized Variational Autoencoders", Kim, Wiseman, Miller, Sontag, Rush (2018);
    "Sticking the Landing: Simple, Lower-Variance Gradient Estimators for Variational Inference",
    Roeder, Wu, Duvenaud (2017) for the path derivative.

    Args:
        guide: covers all latents of its model with diagonal normals: ``BottomUp``, ``Ladder``.
        steps: refinement steps, each about as costly as a training step; 0 is the guide itself.
        lr: length of a step. Where latents are strongly correlated given the data, long steps
            overshoot: smaller ones, and more of them, do not.

    Attributes:
        latents: as of the guide.

    Raises:
        TypeError: no guide, or one whose latents are no diagonal normals.
        ValueError: a guide that leaves out latents of the model, steps < 0, lr not in (0, 1].

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> guide = SemiAmortized(guides.BottomUp(vae), steps=3)
        >>> guide.encode(torch.zeros(5, 6)).mean["z1"].shape
        torch.Size([5, 2])
    """

    def __init__(self, guide: Guide, *, steps: int = 5, lr: float = 0.2) -> None:
        """Draw the noise of each step, which is a part of the guide from here on."""
        if not isinstance(guide, Guide):
            raise TypeError(
                f"guide: expected a guide such as BottomUp(vae), got {type(guide).__name__}"
            )
        whole("steps", steps, 0)
        if not 0 < lr <= 1:
            raise ValueError(
                f"lr: expected a number in (0, 1], the length of a step in standard deviations, "
                f"got {lr!r}"
            )
        super().__init__(guide.model)
        self.guide, self.steps, self.lr = guide, int(steps), float(lr)
        normals = self._normals_at_zero()
        self.latents = tuple(normals)
        missing = [site for site in self.model.latents if site not in normals]
        if missing:
            raise ValueError(
                f"guide: expected one that covers all of {self.model.latents}, this one leaves "
                f"out {missing}: join the parts with guides.Composed first"
            )
        generator = torch.Generator().manual_seed(0)
        pairs = math.ceil(self.steps / 2)
        for site, normal in normals.items():
            noise = torch.randn(pairs, *normal.loc.shape[1:], generator=generator)
            noise = torch.stack([noise, -noise], 1).flatten(0, 1)[: self.steps]
            self.register_buffer(f"noise_{site}", noise.to(normal.loc))

    def _normals_at_zero(self) -> dict[str, Any]:
        """The guide's distributions for one datum of zeros, found without a trace."""
        x = like(self.guide).new_zeros(1, *self.model.event_shape)
        labels = placeholders(self.guide, 1, x.device)
        probe = _Offset({})
        with evaluating(self.model, self.guide), poutine.block(), FillWithMeans(), probe:
            self.guide(x, **labels)
        return probe.normals

    @property
    def borrowed_modules(self) -> tuple[nn.Module, ...]:
        """The model, whose bound it climbs."""
        return (self.model,)

    def forward(self, x: Tensor, *, y: Tensor | None = None) -> dict[str, Tensor]:
        """Refine, then run the guide with the refined distributions."""
        with _Offset(self.refine(x, y=y)):
            return self.guide(x, **label_arguments(self.guide, y))

    def refine(self, x: Tensor, *, y: Tensor | None = None) -> Offsets:
        """What the steps add to the guide's means and log standard deviations.

        Returns:
            site -> (shift of mu, log factor of sigma), both (n, size), detached.
        """
        offsets: Offsets = {}
        for site in self.latents if self.steps else ():
            noise = self.get_buffer(f"noise_{site}")
            offsets[site] = tuple(noise.new_zeros(len(x), noise.shape[-1]) for _ in range(2))
        # Handlers outside see one run of the guide, not those that refine it
        with poutine.block(), evaluating(self.model, self.guide), torch.enable_grad():
            for step in range(self.steps):
                offsets = self._step(step, offsets, x, y)
        return offsets

    def _step(self, step: int, offsets: Offsets, x: Tensor, y: Tensor | None) -> Offsets:
        offsets = {s: tuple(t.detach().requires_grad_() for t in v) for s, v in offsets.items()}
        noise = {site: self.get_buffer(f"noise_{site}")[step] for site in offsets}
        moving = _Offset(offsets, noise)
        with moving:
            q = traced(self.guide, x, y)
        p = traced(poutine.replay(self.model, trace=q), x, y)
        elbo = p.log_prob_sum() - q.log_prob_sum()
        variables = [t for pair in offsets.values() for t in pair]
        gradients = iter(torch.autograd.grad(elbo, variables))
        refined: Offsets = {}
        for site, (shift, log_scale) in offsets.items():
            sigma = (moving.normals[site].scale * log_scale.exp()).detach()
            along_mean = (sigma * next(gradients)).clamp(-1, 1)
            along_scale = (next(gradients) / 2).clamp(-1, 1)
            refined[site] = (
                (shift + self.lr * sigma * along_mean).detach(),
                (log_scale + self.lr * along_scale).detach(),
            )
        return refined

    def __repr__(self) -> str:
        """The guide that is refined, and how."""
        return f"{type(self).__name__}(steps={self.steps}, lr={self.lr}) of\n{self.guide!r}"
