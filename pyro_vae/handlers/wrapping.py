"""Programs under an effect, and the two effects that need nothing else."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ..ground.arguments import at_least, known
from ..ground.recorded import Recorded
from ..programs.methods import as_program
from ..programs.program import Guide, Model, Program
from ..programs.sites import is_auxiliary, is_latent

Beta = float | Tensor | Mapping[str, float | Tensor]
P = TypeVar("P", bound=Callable[..., Any])


class _Wrapped(Program):
    """A program under an effect; whatever it lacks is looked up on the inner one."""

    program: nn.Module

    def __init__(self, program: nn.Module, effect: Any) -> None:
        nn.Module.__init__(self)
        self.program = program
        object.__setattr__(self, "effect", effect)
        for name, module in getattr(effect, "modules", {}).items():
            setattr(self, name, module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # The inner program registers its own parameters; a second name would only repeat them.
        return nn.Module.__call__(self, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "program":
                raise
            found = getattr(self.program, name)
            # Methods that the effect changes
            around = getattr(vars(self).get("effect"), "around", {}).get(name)
            return found if around is None else functools.partial(around, found)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.effect.apply(self.program, *args, **kwargs)

    def __repr__(self) -> str:
        return f"{self.effect!r} on\n{self.program!r}"


class _WrappedModel(_Wrapped, Model):
    pass


class _WrappedGuide(_Wrapped, Guide):
    pass


def wrap(program: P, effect: Any) -> P:
    """``program`` run by ``effect.apply(program, *args, **kwargs)``; a program of its own kind.

    Where the program is a module, the effect's ``modules``, if any, become its children.
    """
    program = as_program(program)
    if isinstance(program, Guide):
        return _WrappedGuide(program, effect)
    if isinstance(program, Model):
        return _WrappedModel(program, effect)
    if isinstance(program, nn.Module):
        return _Wrapped(program, effect)

    @functools.wraps(program)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return effect.apply(program, *args, **kwargs)

    wrapped.program, wrapped.effect = program, effect
    return wrapped


class OnLatents(Recorded, Messenger):
    """Base of effects on latent sites, with a value for all or a mapping from site to one."""

    # The argument that holds it
    of: ClassVar[str]
    # What sites are is left alone
    only_weighs = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def apply(self, program: Callable, *args: Any, **kwargs: Any) -> Any:
        """Run the program; ``ValueError`` for a site that it does not have."""
        self.seen.clear()
        with self:
            result = program(*args, **kwargs)
        given = getattr(self, self.of)
        if isinstance(given, Mapping):
            for site in given:
                known(self.of, site, sorted(self.seen))
        return result


class _ScaleLatents(OnLatents):
    """``poutine.scale`` on latent sample sites only; zero is legal."""

    of = "beta"

    def __init__(self, beta: Beta) -> None:
        super().__init__()
        if not isinstance(beta, Mapping | int | float | Tensor):
            raise TypeError(
                f"beta: expected a number, a 0-d tensor or a mapping site -> one of them, "
                f"got {beta!r}"
            )
        self.beta = beta
        self._check()

    def _check(self) -> None:
        items = self.beta.items() if isinstance(self.beta, Mapping) else [("", self.beta)]
        for site, value in items:
            where = f"beta[{site!r}]" if site else "beta"
            if isinstance(value, Tensor) and value.dim() != 0:
                raise ValueError(f"{where}: expected a 0-d tensor, got {tuple(value.shape)}")
            if not isinstance(value, Tensor) or pyro.infer.util.is_validation_enabled():
                at_least(where, value)

    def apply(self, program: Callable, *args: Any, **kwargs: Any) -> Any:
        self._check()
        return super().apply(program, *args, **kwargs)

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not is_latent(msg):
            return
        beta = self.beta
        if isinstance(beta, Mapping):
            if is_auxiliary(msg):
                raise ValueError(
                    "beta: expected one number, since log q of the guide's auxiliary site "
                    f"{msg['name']!r} would keep scale 1, got a mapping: pass a number or schedule"
                )
            self.seen.add(msg["name"])
            beta = beta.get(msg["name"], 1.0)
        msg["scale"] = msg["scale"] * beta

    def __repr__(self) -> str:
        return f"scale_latents(beta={self.beta})"


def scale_latents(program: P, beta: Beta) -> P:
    """``poutine.scale`` restricted to latent sample sites, for a model or a guide alike.

    With both sides wrapped, the objective is E_q[log p(x|z)] - beta KL(q(z|x) || p(z)), or
    - sum_i beta_i KL_i for a mapping.

    Source: "beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework",
    Higgins et al. (2017).

    Args:
        program: a model or a guide: an ``nn.Module`` or a function.
        beta: a number >= 0, a 0-d tensor, or a mapping from site to one of them (sites that are
            not named keep scale 1). A tensor filled in place, or a mapping changed in place,
            takes effect at the next run. Zero is legal and exact.

    Returns:
        A program of the same kind with the same parameters.

    Raises:
        ValueError: a beta that is negative or not finite; when run, an unknown site.

    Example:
        >>> from pyro_vae import models, likelihoods
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> trace = pyro.poutine.trace(scale_latents(vae, 0.0)).get_trace(torch.zeros(3, 6))
        >>> trace.nodes["z1"]["scale"], trace.nodes["x"]["scale"]
        (0.0, 1.0)
    """
    return wrap(program, _ScaleLatents(beta))


class _Corrupt(Recorded):
    """Call a program with a corrupted input."""

    def __init__(self, noise: float | Callable[[Tensor], Tensor]) -> None:
        self.noise = noise if callable(noise) else at_least("noise", noise)

    def apply(self, program: Callable, x: Tensor, **kwargs: Any) -> Any:
        return program(corrupted(x, self.noise), **kwargs)

    def __repr__(self) -> str:
        return f"corrupt(noise={self.noise})"


def corrupted(x: Tensor, noise: float | Callable[[Tensor], Tensor]) -> Tensor:
    """``x`` plus Gaussian noise of standard deviation ``noise``, or ``noise(x)``; same shape."""
    return noise(x) if callable(noise) else x + noise * torch.randn_like(x)


def corrupt(guide: P, noise: float | Callable[[Tensor], Tensor]) -> P:
    """A guide that sees a corrupted input, for denoising: q(z|x~), x~ = noise(x).

    Trained against the clean x, the pair learns to remove the noise; the guide without this
    handler then encodes inputs that are noisy already.

    Source: "Denoising Criterion for Variational Auto-Encoding Framework", Im, Ahn, Memisevic,
    Bengio (2017).

    Args:
        guide: an inference program.
        noise: standard deviation of additive Gaussian noise, or a function from x
            (n, *event_shape) to the corrupted x of the same shape.

    Returns:
        A guide with the same parameters.

    Raises:
        ValueError: a negative or non-finite standard deviation.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> noisy = corrupt(guides.BottomUp(vae), lambda x: x * (torch.rand_like(x) < 0.5))
        >>> noisy.encode(torch.ones(3, 6)).mean["z1"].shape
        torch.Size([3, 2])
    """
    return wrap(guide, _Corrupt(noise))
