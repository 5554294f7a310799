"""Several partial guides as one program."""

from __future__ import annotations

import contextlib

from pyro import poutine
from torch import Tensor, nn

from ..programs.program import Guide


class Composed(Guide):
    """q(z|x) as the product of its parts, which run one after the other.

    Each part covers some of the model's latents and may condition on those that earlier parts
    have sampled: ``Composed(BottomUp(vae, sites=["z1"]), Flow(vae, sites=["z2"]))`` is
    q(z1|x) q(z2|z1), a normal and a flow.

    A part is any guide that declares ``latents``, the sites that it covers in sampling order, and
    ``parents``, the latents of other parts that it conditions on (none where it does not say);
    a part with parents is called with ``given={site: (n, size)}``.

    Args:
        parts: guides of one and the same model, in sampling order.

    Raises:
        TypeError: a part that is no guide, or does not declare its latents.
        ValueError: parts of different models; latents of the model that no part or that several
            parts cover; a part before those that it conditions on.

    Example:
        >>> import torch
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=(3, 2), likelihood=likelihoods.Gaussian())
        >>> lower = guides.BottomUp(vae, sites=["z1"])
        >>> guide = Composed(lower, guides.FullCovariance(vae, sites=["z2"]))
        >>> guide.latents
        ('z1', 'z2')
    """

    def __init__(self, *parts: Guide) -> None:
        """Check that the parts cover each latent once."""
        if not parts:
            raise ValueError("parts: expected at least one guide, got none")
        for i, part in enumerate(parts):
            if not isinstance(part, Guide) or not hasattr(part, "latents"):
                raise TypeError(
                    f"parts[{i}]: expected a guide that declares its latents, got "
                    f"{type(part).__name__}: pass guides such as BottomUp(vae, sites=['z1'])"
                )
        super().__init__(parts[0].model)
        self.parts = nn.ModuleList(parts)
        self._check()

    def _check(self) -> None:
        problems = [
            f"parts[{i}] ({type(part).__name__}) was built for another model than parts[0]"
            for i, part in enumerate(self.parts)
            if part.model is not self.model
        ]
        covered: list[str] = []
        for i, part in enumerate(self.parts):
            for site in self._parents(part):
                if site not in covered:
                    problems.append(
                        f"parts[{i}] ({type(part).__name__}) conditions on {site!r}, which no "
                        "part before it samples"
                    )
            for site in part.latents:
                if site in covered:
                    problems.append(f"site {site!r} is covered by more than one part")
                covered.append(site)
        problems += [
            f"site {site!r} is covered by no part"
            for site in self.model.latents
            if site not in covered
        ]
        if problems:
            raise ValueError(
                f"parts: expected each of {self.model.latents} once, in an order in which each "
                f"part finds what it conditions on, got: {'; '.join(problems)}"
            )

    @staticmethod
    def _parents(part: nn.Module) -> tuple[str, ...]:
        return getattr(part, "parents", ())

    @property
    def latents(self) -> tuple[str, ...]:
        """Latent sites in sampling order."""
        return tuple(site for part in self.parts for site in part.latents)

    def forward(self, x: Tensor, *, y: Tensor | None = None) -> dict[str, Tensor]:
        """Run the parts in their order."""
        z: dict[str, Tensor] = {}
        for part in self.parts:
            parents = self._parents(part)
            arguments = {"given": {site: z[site] for site in parents}} if parents else {}
            # A program has one data plate: those of the later parts are the same one
            plate = poutine.block(hide=["data"]) if z else contextlib.nullcontext()
            with plate:
                z.update(part(x, y=y, **arguments))
        return z

    def __repr__(self) -> str:
        """The parts and the number of parameters."""
        parts = "\n".join("  " + repr(part).replace("\n", "\n  ") for part in self.parts)
        return f"{type(self).__name__}\n{parts}\n  {self._count()}"
