"""Data of which some values are missing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

from ..ground.recorded import Recorded
from ..programs.missing import Absent, Hiding, absent, filled
from ..programs.program import Guide
from .wrapping import P, wrap


class _Without(Recorded):
    """Run a program without some sites that observe nothing."""

    def __init__(self, names: Collection[str]) -> None:
        self.names = tuple(names)

    def apply(self, program: Callable, *args: Any, **kwargs: Any) -> Any:
        with Absent(self.names):
            return program(*args, **kwargs)

    def __repr__(self) -> str:
        return f"without_absent({', '.join(self.names)})"


def without_absent(model: Callable, names: Collection[str]) -> Any:
    """The same model, of which these sites are left out where they observe nothing."""
    return wrap(model, _Without(names))


def _check(check: Callable[[Tensor], object], x: Tensor) -> None:
    """Check what is seen."""
    try:
        check(filled(x))
    except ValueError:
        lost = x.isnan().all(0)
        if not lost.any():
            raise
        # Of another kind than all others, a category among numbers; each kind has a 1
        check(filled(x).where(~lost, 1.0))


class _Missing(Recorded):
    """Run a program to which NaN and None mean missing."""

    takes_missing = True
    around: ClassVar[Mapping[str, Callable]] = MappingProxyType({"check_data": _check})

    def apply(self, program: Callable, *args: Any, **kwargs: Any) -> Any:
        with Hiding(), Absent(absent(program, args, kwargs)):
            return program(*args, **kwargs)

    def __repr__(self) -> str:
        return "missing()"


def missing(model: P) -> P:
    """The same model of data of which some values are missing: NaN, of tensors, tables and files.

    What it observes contributes its seen elements alone, log p(x_seen|z) = sum_k log p(x_k|z) over
    the k that are not NaN; their gradients are those of the seen, and a datum without NaN has
    exactly the log-probability that it has without this handler. Training maximises the bound of
    what is seen, E_q[log p(x_seen|z)] - KL <= log p(x_seen), in any of the objectives;
    ``infer.ImportanceWeightedELBO`` makes it the "MIWAE". Values count as missing at random: that
    one is missing must not depend on what it would have been.

    A guide that is built for the handled model, ``guides.BottomUp(handlers.missing(vae))``, sees
    zeros in the place of missing values, after data have been standardised, and besides, as
    further elements or channels, a mask that is 1 where a value is seen. An ``encoder`` or
    ``conditionals`` of your own get both in one tensor: (n, 2 d) for vectors, (n, 2 c, h, w) for
    images, (n, 2, h, w) for those without channels, (n, 2) for single numbers. A guide that you
    write gets the NaN.

    Whole programs are served as ``models.VAE``: what is NaN is decided at each observed site,
    whose distribution has to be one of single numbers, in plates or declared by ``.to_event``, or
    a ``MultivariateNormal``, also of low rank, of which the marginal over what is seen is exact.
    Missing numbers of another joint distribution, such as ``Dirichlet``, are refused unless
    all of a value are, and so are those of arguments that a site depends on; a distribution of
    your own over several numbers that are independent is served where its method
    ``under_missing()`` returns the same with NaN left out. An argument that is None, by default
    or as it is passed, is data that are missing as a whole: the site of its name, which observes
    nothing then, counts as little as one of NaN. Training data in which a row, or an element of
    all rows, is missing as a whole are refused. ``infer.impute`` draws what is missing.

    Sources: "MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets", Mattei,
    Frellsen (2019); "Handling Incomplete Heterogeneous Data using VAEs", Nazabal, Olmos,
    Ghahramani, Valera (2020) for zeros as inputs.

    Args:
        model: a generative program: an ``nn.Module`` or a function.

    Returns:
        A program of the same kind with the same parameters.

    Raises:
        TypeError: a guide.
        ValueError: when run, missing numbers of a joint distribution.

    Example:
        >>> import torch
        >>> from pyro_vae import guides, infer, likelihoods, models
        >>> model = missing(models.VAE((3,), latents=2, likelihood=likelihoods.Gaussian()))
        >>> guide = guides.BottomUp(model)
        >>> x = torch.tensor([[1.0, torch.nan, 0.5], [torch.nan, 2.0, 1.0]])
        >>> infer.elbo_terms(model, guide, x).elbo.isfinite()
        tensor([True, True])
    """
    if isinstance(model, Guide):
        raise TypeError(
            f"model: expected a generative program, got the guide {type(model).__name__}: pass "
            "its model, and build the guide for handlers.missing(model)"
        )
    return wrap(model, _Missing())
