"""Private names of torch and Pyro that several rooms need; all others: ``infer.engine.internals``.

A release may change them without a word: ``tests/infer/engine/test_internals.py`` tries each.
"""

from __future__ import annotations

import operator

from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.modules import batchnorm
from torch.utils import _python_dispatch

# The base of batch normalisation of any dimension
BatchNorm = batchnorm._BatchNorm
# How often a tensor was changed in place; those made in inference mode cannot tell
version = operator.attrgetter("_version")
# Where an autoguide has its model, in a tuple, until it is copied
AUTOGUIDE_MODEL = "_model"
# Of an autoguide: the plates of the model's first run, by name
prototype_frames = operator.attrgetter("_prototype_frames")
# Of a masked distribution: what counts, a tensor or one bool for all
mask_of = operator.attrgetter("_mask")

# Of a packed tensor: a symbol for each dimension
packed_dims = operator.attrgetter("_pyro_dims")
# In ``infer`` of sites of packed traces: the symbol of the values of an enumerated one, and those
# of all dimensions
ENUMERATED, DIM_SYMBOLS = "_enumerate_symbol", "_dim_to_symbol"


class DispatchMode(_python_dispatch.TorchDispatchMode):
    """A mode that sees every operation, and that leaves torch's compiler unimported."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def packed_as(value: Tensor, dims: str) -> Tensor:
    """A tensor of other values, packed in these dimensions."""
    value._pyro_dims = dims
    return value


def unchecked(distribution: Distribution) -> bool:
    """Whether a distribution was made with ``validate_args=False``."""
    return vars(distribution).get("_validate_args") is False


def constrained_parameters(module: nn.Module) -> dict[str, Tensor]:
    """What Pyro keeps of a ``PyroModule``: name in its store -> the module's tensor."""
    if not isinstance(module, PyroModule):
        return {}
    prefix = f"{module._pyro_name}." if module._pyro_name else ""
    names = module._pyro_params
    return {prefix + name: getattr(module, f"{name}_unconstrained") for name in names}
