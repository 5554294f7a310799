"""Private names of torch and Pyro that several rooms need; all others: ``infer.engine.internals``.

A release may change them without a word: ``tests/infer/engine/test_internals.py`` tries each.
"""

from __future__ import annotations

import operator

from torch.distributions import Distribution
from torch.nn.modules import batchnorm
from torch.utils import _python_dispatch

# The base of batch normalisation of any dimension
BatchNorm = batchnorm._BatchNorm
# A mode that sees every operation
DispatchMode = _python_dispatch.TorchDispatchMode
# How often a tensor was changed in place; those made in inference mode cannot tell
version = operator.attrgetter("_version")
# Of an autoguide: the plates of the model's first run, by name
prototype_frames = operator.attrgetter("_prototype_frames")
# Of a masked distribution: what counts, a tensor or one bool for all
mask_of = operator.attrgetter("_mask")


def unchecked(distribution: Distribution) -> bool:
    """Whether a distribution was made with ``validate_args=False``."""
    return vars(distribution).get("_validate_args") is False
