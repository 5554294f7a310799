"""Free variational parameters for each datum, from Pyro's autoguides."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.distributions import biject_to

from .. import networks
from ..infer.engine.recording import is_recording
from ..models import VAE
from ..programs.labels import lacks_labels, placeholders
from ..programs.means import FillWithMeans, stand_in_data
from ..programs.modes import evaluating
from ..programs.program import Guide
from ..programs.registration import unregistered
from ..programs.sites import is_latent
from ..programs.unwrapping import innermost
from ..programs.values import check_tensor

_WEYL, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685


def check_vae(vae: VAE) -> None:
    """Raise ``TypeError`` unless this is a model; one under a handler counts.

    ``ValueError`` for one with classes as latents.
    """
    if not isinstance(innermost(vae), VAE):
        raise TypeError(
            f"vae: expected a models.VAE, got {type(vae).__name__}: build one first, or use an "
            "amortised guide such as BottomUp(model, like=x), which any program can have"
        )
    if lacks_labels(vae):
        raise ValueError(
            "vae: expected latents with values of their own for each datum, got classes, "
            "labels='partial', which autoguides do not sum over: use guides.BottomUp(vae), or "
            "guides.Labelled(guides.BottomUp(vae))"
        )


class PerDatum(Guide):
    """q(z|x_j) = q_j(z) with parameters of its own for each datum x_j: nothing is amortised.

    The parameters are those of one of Pyro's autoguides for the whole data set, such as
    ``AutoNormal``: q_j(z) = prod_i N(mu_ij, diag sigma_ij^2). The guide finds each row of ``x``
    among the data that it was built for, so that it takes minibatches, in any order, and equal
    rows share one posterior. It has no posterior for other data, nor for data that are binarised
    afresh in each step. For small data: finding the rows reads all data at each step.

    Autoguides that draw the latents of all data as one vector (``AutoMultivariateNormal``,
    ``AutoDiagonalNormal``) are refused, as their density does not split into one term per datum.

    Source: "Stochastic Variational Inference", Hoffman, Blei, Wang, Paisley (2013) on local
    variational parameters.

    Args:
        vae: the model that it is built for, with real latents.
        data: the data (n, *event_shape), or their number n for a guide whose tensors, the data
            among them, ``load_state_dict`` is to fill.
        autoguide: makes the autoguide from the model: ``AutoNormal``, ``AutoDelta``, or a
            function such as ``lambda model: AutoNormal(model, init_scale=0.5)``. A file can hold
            the default only: for another use ``save(..., arguments=False)``.

    Attributes:
        latents: the sites that it covers, in sampling order.

    Raises:
        TypeError: a model of another type, data that are no tensor, an autoguide that draws all
            latents as one.
        ValueError: data of the wrong shape; when run, data that it was not built for.

    Example:
        >>> from pyro_vae import likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> x = torch.randn(20, 6)
        >>> PerDatum(vae, x)(x[5:8])["z1"].shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        vae: VAE,
        data: Tensor | int,
        *,
        autoguide: Callable[[Callable], nn.Module] = AutoNormal,
    ) -> None:
        """Run the autoguide once; every parameter exists from here on."""
        check_vae(vae)
        super().__init__(vae)
        if networks.is_whole(data) and data > 0:
            data = vae.one_hot.new_zeros(data, *vae.event_shape)
        check_tensor(data, "data")
        vae.check_shape(data)
        # What a file keeps of this argument: the data themselves are among the tensors
        self.arguments["data"] = len(data)
        self.register_buffer("data", data.detach().clone())
        labels = placeholders(vae, len(data), data.device)
        self.autoguide = autoguide(vae)
        # Its forward is run, since a call would put it under a fixed name in Pyro's store
        with evaluating(vae), poutine.block(), stand_in_data():
            self.autoguide.forward(self.data, **labels)
        prototype = self.autoguide.prototype_trace
        self.latents = tuple(name for name, site in prototype.nodes.items() if is_latent(site))
        for site in self.latents:
            support = prototype.nodes[site]["fn"].support
            # Pyro maps other supports to the reals, where the autoguide has its distribution
            one = torch.full((1,) * max(support.event_dim, 1), -2.0)
            if biject_to(support)(one).item() != -2:
                raise ValueError(
                    f"site {site!r}: expected a real latent, its support is {support}"
                )
        with evaluating(self):
            self._distributions()

    def forward(self, x: Tensor, *, y: Tensor | None = None) -> dict[str, Tensor]:
        """Run the inference program.

        Args:
            x: rows (n, *event_shape) of the data that it was built for.
            y: labels (n,), which have no influence.

        Raises:
            ValueError: rows that are not among the data.
        """
        self.model.check_shape(x)
        rows, found = self._rows(x)
        # A recorded graph cannot raise: there the bound becomes NaN
        if not is_recording() and not found.all():
            raise ValueError(
                f"x: {int((~found).sum())} of {len(x)} rows are not among the {len(self.data)} "
                "data that this guide has parameters for: pass those, binarised once if at all, "
                "or use an amortised guide such as BottomUp"
            )
        unknown = torch.where(found, 0.0, torch.nan).to(x.dtype)
        z: dict[str, Tensor] = {}
        distributions = self._distributions()
        with pyro.plate("data", len(x), dim=-1):
            for site, (make, parameters) in distributions.items():
                chosen = [p[rows] + unknown.view(-1, *(1,) * (p.dim() - 1)) for p in parameters]
                z[site] = pyro.sample(site, make(*chosen))
        return z

    def _rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """For each row of ``x`` its number among the data, and whether it is there at all."""
        # Sums of integers are the same in any order, so that equal rows have equal keys
        keys, order = _keys(self.data).sort(stable=True)
        place = torch.searchsorted(keys, _keys(x)).clamp(max=len(keys) - 1)
        rows = order[place]
        held = self.data[rows]
        return rows, ((held == x) | (held.isnan() & x.isnan())).flatten(1).all(1)

    def _distributions(self) -> dict[str, tuple[Callable, tuple[Tensor, ...]]]:
        """Site -> what makes its distribution of parameters, and these for all data."""
        with poutine.block(), FillWithMeans(), unregistered():
            trace = poutine.trace(self.autoguide.forward).get_trace(self.data)
        # Made at each run, and of no use afterwards
        self.autoguide.plates = {}
        return {site: self._split(site, trace) for site in self.latents}

    def _split(self, site: str, trace: poutine.Trace) -> tuple[Callable, tuple[Tensor, ...]]:
        q = trace.nodes[site]["fn"]
        drawn = [s for s in trace.nodes.values() if s["type"] == "sample"]
        if not any(s["infer"].get("is_auxiliary", False) for s in drawn):
            return functools.partial(dist.Delta, event_dim=q.event_dim), (q.v,)
        source = trace.nodes.get(f"{site}_unconstrained")
        normal = None if source is None else getattr(source["fn"], "base_dist", None)
        if not isinstance(normal, torch.distributions.Normal):
            raise TypeError(
                f"autoguide: {type(self.autoguide).__name__} draws the latents of all data as "
                "one, expected one with a distribution per site and datum: use AutoNormal or "
                "AutoDelta, or guides.FullCovariance for correlated latents"
            )
        event_dim = source["fn"].event_dim
        return lambda *p: dist.Normal(*p).to_event(event_dim), (normal.loc, normal.scale)

    def __repr__(self) -> str:
        """The factorisation and the number of parameters."""
        factors = " ".join(f"q_j({site})" for site in self.latents)
        return (
            f"{type(self).__name__}({type(self.autoguide).__name__})\n"
            f"  q({', '.join(self.latents)}|x_j) = {factors}, j = 1..{len(self.data)}\n"
            f"  {self._count()}"
        )


def _keys(x: Tensor) -> Tensor:
    """A number (n,) for each row, ``int64``, equal for equal rows and else practically never."""
    # Zero has two signs
    bits = (x.double() + 0.0).flatten(1).view(torch.int64)
    place = torch.arange(1, bits.shape[1] + 1, device=x.device)
    mixed = bits + place * _WEYL
    # The finaliser of SplitMix64, "Fast Splittable Pseudorandom Number Generators" (2014)
    mixed = (mixed ^ (mixed >> 30)) * _FIRST
    mixed = (mixed ^ (mixed >> 27)) * _SECOND
    return (mixed ^ (mixed >> 31)).sum(1)
