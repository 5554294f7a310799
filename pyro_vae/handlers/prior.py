"""Another prior for the top latent of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..ground.recorded import Recorded
from ..programs.labels import placeholders
from ..programs.placing import device_of
from ..programs.program import Model
from ..programs.registration import register
from ..programs.replacement import ReplacedPrior, check_prior
from ..programs.running import undisturbed
from ..programs.unwrapping import name_of
from .wrapping import P, wrap


class _ReplacePrior(Recorded):
    """Run a program with another distribution at one latent site."""

    def __init__(self, prior: nn.Module, site: str | None) -> None:
        self.prior, self.site = prior, site

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"prior": self.prior} if isinstance(self.prior, nn.Module) else {}

    def apply(self, program: Callable, *args: Any, **kwargs: Any) -> Any:
        for module in self.modules.values():
            # The parameters of functions are always in the store: nothing else knows them
            register(module, always=not isinstance(program, nn.Module))
        with ReplacedPrior(self.prior, self.site):
            return program(*args, **kwargs)

    def __repr__(self) -> str:
        site = "" if self.site is None else f", site={self.site!r}"
        return f"replace_prior({self.prior!r}{site})"


def _without(program: Any, site: str | None) -> Any:
    """The program without earlier replacements at the site, whose parameters would be idle."""
    if not hasattr(program, "program") or not hasattr(program, "effect"):
        return program
    inner = _without(program.program, site)
    if isinstance(program.effect, _ReplacePrior) and program.effect.site == site:
        return inner
    return program if inner is program.program else wrap(inner, program.effect)


def replace_prior(model: P, prior: nn.Module, *, site: str | None = None) -> P:
    """The same model with another prior at its top latent site: p(x|z1) p(z1|z2) ... prior(zL).

    The result is a generative program like any other: sampling, the bound, importance sampling,
    training, beta and files see the new prior. It has the parameters of the model and those of
    the prior; a prior that was put there before by this function goes. Where the model was built
    with a learned prior of its own, freeze that one (``requires_grad_(False)``) to train on.

    Source: "Diagnosing and Enhancing VAE Models", Dai, Wipf (2019), for a prior that is exchanged
    after training.

    Args:
        model: a generative program: an ``nn.Module`` or a function.
        prior: a module whose ``forward()`` returns a distribution of the site's event shape and
            batch shape (), see ``priors``. Its parameters are trained with the model's.
        site: the latent site; default: the top one, which the program samples first. Another
            site makes sense only in programs of your own with several sites without parents.

    Returns:
        A program of the same kind.

    Raises:
        TypeError: ``prior`` is nothing that returns a distribution.
        ValueError: a prior that is not fitted yet or has another event shape, dtype or device, a
            site that is not the top one.

    Example:
        >>> from pyro_vae import conditionals, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> wide = conditionals.StandardNormal(2)
        >>> _ = wide.scale.fill_(3.0)
        >>> again = replace_prior(vae, wide)
        >>> again.sample(5).shape
        torch.Size([5, 6])
    """
    check_prior(prior)
    if not isinstance(model, Model):
        return wrap(_without(model, site), _ReplacePrior(prior, site))
    top = model.latents[0]
    if site not in (None, top):
        raise ValueError(
            f"site: expected {top!r}, the top latent of {name_of(model)}, got {site!r}: a prior "
            "without context cannot stand for the conditional of a lower latent"
        )
    _check_tensors(model, prior)
    replaced = wrap(_without(model, top), _ReplacePrior(prior, top))
    _try(replaced)
    return replaced


def _check_tensors(model: nn.Module, prior: Any) -> None:
    """Raise ``ValueError`` for a prior of another dtype or on another device than the model."""
    if not isinstance(prior, nn.Module):
        return
    here, there = (
        next((t for t in (*m.parameters(), *m.buffers()) if t.is_floating_point()), None)
        for m in (model, prior)
    )
    if None in (here, there) or (here.dtype, here.device) == (there.dtype, there.device):
        return
    raise ValueError(
        f"prior: expected {here.dtype} on {here.device} like the model, got {there.dtype} on "
        f"{there.device}: use prior.to({str(here.device)!r}, {here.dtype})"
    )


def _try(model: Any) -> None:
    """Draw one datum, so that a prior that does not fit is refused now."""
    device = device_of(model)
    with undisturbed(model, device=device):
        model(size=1, **placeholders(model, 1, device))
