"""A pair that begins as a linear model with its exact posterior."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import networks
from ..likelihoods import LearnedSigma
from ..models import VAE
from ..models.parts import beginning, gaussian_of
from ..networks import Shortcut
from .bottom_up import BottomUp

# More than these say little more of means and covariances
_ROWS = 100_000
# Of factor analysis, as scikit-learn has them
_ITERATIONS, _GAIN, _LEAST = 1000, 0.01, 1e-12


@torch.no_grad()
def linear_start(vae: VAE, x: Tensor, *, hidden: networks.Hidden | None = None) -> BottomUp:
    """Have a model begin as the linear one of its data; the guide that is its posterior, exactly.

    p(x|z) = N(W z + b, Psi) with the W, b and Psi of maximum likelihood: probabilistic PCA, by its
    closed form, where Psi = sigma^2 I has one learned sigma, factor analysis with one per element.
    W is turned so that the posterior's covariance (I + W^T Psi^-1 W)^-1 is diagonal, as that of
    the guide is: the bound is log p(x). From there networks, which are 0 at first, bend model and
    guide; ``fit(patience=)`` keeps them where that helps on validation data, and comes back to the
    start where no epoch does.

    A pair for a table needs no such call: where a model has the columns of its data, or the
    likelihood ``Mixed``, default networks have linear paths, and the first ``Trainer.fit`` of an
    untouched pair, with a ``BottomUp`` and ``for_columns`` of numeric columns alone, begins so, as
    ``print(vae)`` tells. Give a decoder of your own for another start.

    Sources: "Probabilistic Principal Component Analysis", Tipping, Bishop (1999); "EM Algorithms
    for ML Factor Analysis", Rubin, Thayer (1982).

    Args:
        vae: a model of one latent layer, without labels, with the decoder ``networks.Shortcut``
            and a ``Gaussian`` with sigma "learned" or "per_pixel"; changed in place.
        x: training data (n, *event_shape), more than latents.
        hidden: hidden widths of the guide. Default: (256, 256).

    Returns:
        A ``BottomUp`` whose network sees the data in its last layer as well.

    Raises:
        TypeError: another model.
        ValueError: another decoder or likelihood, several layers, labels, a normalisation, or
            too few data.

    Example:
        >>> from pyro_vae import likelihoods, models
        >>> x = torch.randn(100, 3) @ torch.randn(3, 6) + 0.1 * torch.randn(100, 6)
        >>> likelihood = likelihoods.Gaussian.standardized(x, "per_pixel")
        >>> decoder = Shortcut(3, (6,))
        >>> vae = models.VAE((6,), latents=3, likelihood=likelihood, decoder=decoder)
        >>> linear_start(vae, x)
        BottomUp
          q(z1|x) = q(z1|x)
          70,698 parameters
    """
    _check(vae, x)
    like = vae.decoder.linear.weight
    widths = networks.hidden_widths(hidden)
    encoder = networks.MLP(vae.event_shape, widths, skip=True, activation=vae.activation)
    guide = BottomUp(vae, encoder=encoder.to(like))
    guide.conditionals.to(like)
    _begin(vae, guide, x)
    return guide


def begins(vae: nn.Module, guide: nn.Module, x: Tensor) -> str:
    """The linear model as which a pair is to begin by default, with data of a table; else ""."""
    if not isinstance(vae, VAE) or type(guide) is not BottomUp or guide.model is not vae:
        return ""
    own = any(guide.arguments.get(name) for name in ("encoder", "conditionals", "start"))
    free = all(p.requires_grad for p in guide.parameters())
    return "" if own or not free or not _enough(vae, x) else beginning(vae)


@torch.no_grad()
def begin(vae: VAE, guide: BottomUp, x: Tensor) -> None:
    """Have such a pair begin so, as ``linear_start`` does, by 100,000 of the data at most."""
    _begin(vae, guide, x[:: 1 + (len(x) - 1) // _ROWS])


def _begin(vae: VAE, guide: BottomUp, x: Tensor) -> None:
    noise, linear = gaussian_of(vae.likelihood).noise, vae.decoder.linear
    rows = vae.likelihood.inputs(x).flatten(1).double()
    one = isinstance(noise, LearnedSigma)
    weight, variance = (_pca if one else _factors)(rows, linear.in_features)
    variance = variance.clamp(min=(10 * noise.floor) ** 2)
    # The axes of the posterior's covariance
    gains, axes = torch.linalg.eigh(weight.T @ (weight / variance[:, None]))
    weight, posterior = weight @ axes, 1 / (1 + gains)
    read = (weight / variance[:, None] * posterior).T
    linear.weight.copy_(weight)
    linear.bias.copy_(rows.mean(0))
    noise.set_to((variance[0] if one else variance.unflatten(0, vae.event_shape)).sqrt())
    networks.silence(vae.decoder.network.output_layer)
    head = guide.conditionals["z1"]
    for layer in (head.loc, head.raw_scale):
        nn.init.zeros_(layer.weight)
    head.loc.weight[:, -rows.shape[1] :] = read.to(head.loc.weight)
    head.loc.bias.copy_(-read @ rows.mean(0))
    head.raw_scale.bias.copy_((posterior.sqrt() - head.min_scale).clamp(min=1e-6).expm1().log())


def _enough(vae: VAE, x: Tensor) -> bool:
    return vae.latent_sizes["z1"] < min(len(x) - 1, vae.event_size)


def _check(vae: VAE, x: Tensor) -> None:
    if not isinstance(vae, VAE):
        raise TypeError(f"vae: expected a models.VAE, got {type(vae).__name__}: build one")
    wrong = {
        "latents": f"{len(vae.latents)} layers of them" if len(vae.latents) > 1 else "",
        "top_down": "a prior of your own" if vae.arguments.get("top_down") else "",
        "condition": "labels" if vae.condition else "",
        "norm": "one" if vae.norm is not None else "",
        "decoder": "" if isinstance(vae.decoder, Shortcut) else type(vae.decoder).__name__,
        "likelihood": "" if gaussian_of(vae.likelihood) else repr(vae.likelihood),
    }
    for argument, got in wrong.items():
        if got:
            raise ValueError(
                f"{argument}: expected one layer of latents, N(0, I) a priori, no labels, no "
                'norm, decoder networks.Shortcut and likelihoods.Gaussian with sigma "learned" or '
                f'"per_pixel", got {got}: build such a model, or use guides.BottomUp'
            )
    vae.check_data(x)
    if not _enough(vae, x):
        raise ValueError(
            "x: expected more data, and elements of each, than the "
            f"{vae.latent_sizes['z1']} latents, got {tuple(x.shape)}: pass more data, or build a "
            "model of fewer latents"
        )


def _pca(rows: Tensor, latents: int) -> tuple[Tensor, Tensor]:
    """W (d, latents) and the variances (d,) of probabilistic PCA."""
    _, values, axes = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    values = values.square() / len(rows)
    rest = (values.sum() - values[:latents].sum()) / (rows.shape[1] - latents)
    weight = axes[:latents].T * (values[:latents] - rest).clamp(min=0).sqrt()
    return weight, rest.expand(rows.shape[1])


def _factors(rows: Tensor, latents: int) -> tuple[Tensor, Tensor]:
    """W (d, latents) and the variances (d,) of factor analysis."""
    covariance = rows.T.cov(correction=0)
    total = covariance.diagonal()
    variance, before = torch.ones_like(total), -math.inf
    for _ in range(_ITERATIONS):
        spread = variance.sqrt()
        values, axes = torch.linalg.eigh(covariance / spread / spread[:, None])
        most, rest = values[-latents:], values[:-latents]
        weight = axes[:, -latents:] * (most - 1).clamp(min=0).sqrt() * spread[:, None]
        found = -float(most.clamp(min=_LEAST).log().sum() + rest.sum() + variance.log().sum())
        if (found - before) * len(rows) / 2 < _GAIN:
            break
        before, variance = found, (total - weight.square().sum(1)).clamp(min=_LEAST)
    return weight, variance
