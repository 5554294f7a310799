"""An amortised guide whose distributions are refined for each datum."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ..data.arguments import Arguments, Data
from ..distributions import base_of
from ..ground.arguments import whole
from ..programs.calling import arguments_of, call
from ..programs.labels import placeholders
from ..programs.means import stand_in_data
from ..programs.methods import as_program
from ..programs.modes import evaluating
from ..programs.placing import like as like_of
from ..programs.plates import data_plate
from ..programs.program import Guide, Model
from ..programs.reading import Contributions
from ..programs.running import traced, undisturbed
from ..programs.sites import is_latent, kinds
from ..programs.unwrapping import innermost, name_of
from .few import few_data
from .leading import Leading
from .normals import image, moved, normal_below
from .subjects import keys_of

Offsets = dict[str, tuple[Tensor, Tensor]]


class _Offset(Messenger):
    """Move the normals of latents: mu + shift, sigma exp(log_scale)."""

    def __init__(self, offsets: Offsets) -> None:
        super().__init__()
        self.offsets = offsets

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.offsets and is_latent(msg):
            msg["fn"] = moved(msg["fn"], *self.offsets[msg["name"]])


class _Step(Messenger):
    """Draw z = mu + sigma noise from moved normals, and score it with the offsets held constant.

    Latents without noise are at the image of their mean. Where there are no ``offsets`` yet they
    are zeros; ``sigmas`` are those that the normals have been moved to.
    """

    def __init__(self, noise: Mapping[str, Tensor], offsets: Offsets) -> None:
        super().__init__()
        self.noise, self.offsets = noise, offsets
        self.sigmas: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not is_latent(msg):
            return
        site, q = msg["name"], msg["fn"]
        normal = normal_below(q)
        msg["done"] = True
        if site not in self.noise:
            msg["value"] = q.mean if normal is None else image(q, 0.0)
            return
        if site not in self.offsets:
            a, b = torch.zeros_like(normal.loc), torch.zeros_like(normal.loc)
            self.offsets[site] = a.requires_grad_(), b.requires_grad_()
        drawn = moved(q, *self.offsets[site])
        self.sigmas[site] = normal_below(drawn).scale.detach()
        msg["value"] = image(drawn, self.noise[site])
        # The score term has zero mean, and leaving it out leaves no noise at the optimum
        msg["fn"] = moved(q, *(t.detach() for t in self.offsets[site]))


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

    The guide may be of any program. A latent whose support is not all real numbers has its normal
    in coordinates, as the guides of this library lay it, of any shape and in any plates inside the
    datum; a_i and b_i have the shape of mu_i. What all data share, outside of their plate, stays
    as it is: the steps see its mean.

    **What is trained.** a and b are constants to whatever differentiates the bound: nothing is
    differentiated twice. The model gets the gradient of the bound at the refined distributions.
    So does the amortised guide, straight through: the gradient with respect to the refined mean
    and log sigma is taken as that with respect to the initial ones (d(mu + a)/d mu = 1,
    d(log sigma + b)/d log sigma = 1). Kim et al. backpropagate through the refinement; this is
    the first-order version, which does not.

    Refinement runs in evaluation mode (running statistics of BatchNorm, which it does not
    move) on ``guide.model`` without any handler around it: on the bound itself, whatever beta
    training uses, and whatever part of all data these are. It never touches a parameter or its
    gradient. Under ``infer.importance`` each datum is refined once, and all of its samples are
    drawn from the refined distributions.

    Sources: "Semi-Amortized Variational Autoencoders", Kim, Wiseman, Miller, Sontag, Rush (2018);
    "Sticking the Landing: Simple, Lower-Variance Gradient Estimators for Variational Inference",
    Roeder, Wu, Duvenaud (2017) for the path derivative.

    Args:
        guide: covers all latents of its model with diagonal normals: ``BottomUp``, ``Ladder``, or
            a module of your own.
        steps: refinement steps, each about as costly as a training step; 0 is the guide itself.
        lr: length of a step. Where latents are strongly correlated given the data, long steps
            overshoot: smaller ones, and more of them, do not.
        model: the generative program; default: that of the guide.
        like: data that both are run on, to see where the latents are; default: a few that guides
            of this library keep of theirs. Not needed for a ``models.VAE``.

    Attributes:
        latents: as of the guide.

    Raises:
        TypeError: no guide, or one whose latents are no diagonal normals; no model or no data,
            where it takes them.
        ValueError: a guide that leaves out latents of the model, or has none for each datum;
            latents that are summed out; steps < 0, lr not in (0, 1].

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> guide = SemiAmortized(guides.BottomUp(vae), steps=3)
        >>> guide.encode(torch.zeros(5, 6)).mean["z1"].shape
        torch.Size([5, 2])
    """

    # What is refined already, while that is of use
    _remembered: list[tuple[list[Tensor], Offsets]] | None = None

    def __init__(
        self,
        guide: nn.Module,
        *,
        steps: int = 5,
        lr: float = 0.2,
        model: Callable | None = None,
        like: Any = None,
    ) -> None:
        """Draw the noise of each step, which is a part of the guide from here on."""
        guide = as_program(guide)
        if model is None and isinstance(guide, Guide):
            model = guide.model
        model = as_program(model)
        if not isinstance(guide, nn.Module) or isinstance(guide, Model) or model is None:
            raise TypeError(
                "guide: expected a guide such as BottomUp(model), or a module of your own with "
                f"model=, got {type(guide).__name__}"
            )
        whole("steps", steps, 0)
        if not 0 < lr <= 1:
            raise ValueError(
                f"lr: expected a number in (0, 1], the length of a step in standard deviations, "
                f"got {lr!r}"
            )
        super().__init__(model)
        self.arguments.pop("like", None)
        self.guide, self.steps, self.lr = guide, int(steps), float(lr)
        self._led = False
        self.few = few_data(model, (guide,), like)
        self.runs_model = not isinstance(innermost(model), Model)
        q, at = self._tried()
        self.latents = tuple(kinds(q).latent)
        self._keys = keys_of(self.latents)
        self._refined = tuple(at)
        generator = torch.Generator().manual_seed(0)
        pairs = math.ceil(self.steps / 2)
        for site, dim in at.items():
            loc = normal_below(q.nodes[site]["fn"]).loc
            shape = [*loc.shape]
            shape[dim] = 1
            # Without a dimension for the data where this is the first
            shape = shape[1:] if dim == -loc.dim() else shape
            noise = torch.randn(pairs, *shape, generator=generator)
            noise = torch.stack([noise, -noise], 1).flatten(0, 1)[: self.steps]
            self.register_buffer(f"noise_{self._keys[site]}", noise.to(loc))

    def _tried(self) -> tuple[Trace, dict[str, int]]:
        """A trace of the guide at its means; site -> the data's dimension of what is refined."""
        x, y = self.few or self._zeros()
        around = undisturbed(self.model, self.guide, device=x.device)
        with around, poutine.block(), stand_in_data():
            p = traced(self.model, x, y)
            with _Step({}, {}):
                q = traced(self.guide, x, y)
        self._plate = data_plate((p, q), len(x), plate=getattr(x, "plate", None))
        latents = kinds(q).latent
        if missing := [site for site in kinds(p).latent if site not in latents]:
            if summed := [site for site in missing if site in kinds(p).enumerated]:
                raise ValueError(
                    f"site {summed[0]!r}: expected no latents that are summed out, whose bound "
                    "it does not climb: use the guide itself"
                )
            raise ValueError(
                f"guide: expected one that covers all of {tuple(kinds(p).latent)}, this one "
                f"leaves out {missing}: join the parts with guides.Composed first"
            )
        at = {}
        for site in latents:
            node = q.nodes[site]
            if (frame := self._plate.frame(node)) is None:
                continue
            if (normal := normal_below(node["fn"])) is None:
                # Several elements of plates may have one distribution
                name = type(base_of(getattr(node["fn"], "base", node["fn"]))).__name__
                raise TypeError(
                    f"site {site!r}: expected a diagonal normal to refine, in the coordinates of "
                    f"its support, got a {name}: use a guide such as BottomUp or Ladder"
                )
            at[site] = frame.dim - (normal.loc.dim() - len(node["fn"].batch_shape))
        if not at:
            raise ValueError(
                f"guide: expected latents inside the plate of the data, got {latents} outside: "
                "use the guide itself, which has nothing to refine for each datum"
            )
        return q, at

    def _zeros(self) -> tuple[Data, Tensor | None]:
        """What stands for data of a model of this library."""
        if not hasattr(self.model, "event_shape"):
            raise TypeError(
                f"like: expected data for {name_of(self.guide)}, which has to be run on a few, "
                "got none: pass like=x, or all arguments with a row per datum, like=(x, ...)"
            )
        x = like_of(self.guide, self.model).new_zeros(2, *self.model.event_shape)
        return x, placeholders(self.model, len(x), x.device).get("y")

    @property
    def called_like(self) -> Callable:
        """The program whose arguments it takes."""
        return self.model

    @property
    def borrowed_modules(self) -> tuple[nn.Module, ...]:
        """The model, whose bound it climbs."""
        return (self.model,) if isinstance(self.model, nn.Module) else ()

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Refine, then run the guide with the refined distributions, on the model's arguments."""
        offsets = {} if self._led else self.refine(*args, **kwargs)
        with _Offset(offsets):
            return call(self.guide, Arguments(args, kwargs, ()))

    @property
    def leads(self) -> bool:
        """Whether a run of its model can be led by it: as of a ``Ladder``."""
        return getattr(self.guide, "leads", False)

    @contextlib.contextmanager
    def leading(self, x: Data, y: Tensor | None = None) -> Iterator[Leading]:
        """As of the ``Ladder`` that it refines."""
        args, kwargs = arguments_of(self.model, x, y)
        offsets = self.refine(*args, **kwargs)
        with self.guide.leading(x, y) as leading:
            initial = leading.posterior

            def refined(site: str, *seen: Any) -> Any:
                q = initial(site, *seen)
                return moved(q, *offsets[site]) if site in offsets else q

            leading.posterior, self._led = refined, True
            try:
                yield leading
            finally:
                self._led = False

    def refine(self, *args: Any, **kwargs: Any) -> Offsets:
        """What the steps add to the guide's means and log standard deviations.

        It takes the arguments of the model.

        Returns:
            site -> (shift of mu, log factor of sigma), both of the shape of mu, detached:
            (n, size) for a vector, (n, plates, coordinates) for any latent.
        """
        x, offsets = Arguments(args, kwargs, ()), {}
        given = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
        for seen, found in self._remembered or ():
            if len(seen) == len(given) and all(map(operator.is_, seen, given)):
                return found
        # Handlers outside see one run of the guide, not those that refine it
        with poutine.block(), evaluating(self.model, self.guide), torch.enable_grad():
            for step in range(self.steps):
                offsets = self._step(step, offsets, x)
        if self._remembered is not None:
            self._remembered.append((given, offsets))
        return offsets

    @contextlib.contextmanager
    def remembering(self) -> Iterator[None]:
        """Refine what is given again, the same tensors, once; all parameters are to stay."""
        self._remembered = []
        try:
            yield
        finally:
            self._remembered = None

    def _step(self, step: int, offsets: Offsets, x: Arguments) -> Offsets:
        offsets = {s: tuple(t.detach().requires_grad_() for t in v) for s, v in offsets.items()}
        noise = {s: self.get_buffer(f"noise_{self._keys[s]}")[step] for s in self._refined}
        moving = _Step(noise, offsets)
        with moving:
            q = traced(self.guide, x)
        p = traced(poutine.replay(self.model, trace=q), x)
        variables = [t for site in self._refined for t in offsets[site]]
        # A masked latent has no influence
        gradients = torch.autograd.grad(self._bound(p, q), variables, materialize_grads=True)
        refined: Offsets = {}
        for site, along_mean, along_scale in zip(
            self._refined, gradients[::2], gradients[1::2], strict=True
        ):
            sigma, (shift, log_scale) = moving.sigmas[site], offsets[site]
            refined[site] = (
                (shift + self.lr * sigma * (sigma * along_mean).clamp(-1, 1)).detach(),
                (log_scale + self.lr * (along_scale / 2).clamp(-1, 1)).detach(),
            )
        return refined

    def _bound(self, p: Trace, q: Trace) -> Tensor:
        """The sum of the data's ELBOs, without weights of the programs or of parts of the data."""
        node = q.nodes[self._refined[0]]
        around = {f.name: f.dim for f in node["cond_indep_stack"] if f.vectorized}
        n = node["fn"].batch_shape[next(around[name] for name in self._plate.names & {*around})]
        plate = dataclasses.replace(self._plate, size=n, total=n, objective=n)
        p, q = (Contributions(trace, (n,), plate) for trace in (p, q))
        return sum(p(site).sum() for site in p.sites) - sum(q(site).sum() for site in q.sites)

    def __repr__(self) -> str:
        """The guide that is refined, and how."""
        return f"{type(self).__name__}(steps={self.steps}, lr={self.lr}) of\n{self.guide!r}"
