"""Effects on programs: each takes a model or a guide and returns one of the same kind.

A wrapped ``nn.Module`` is again an ``nn.Module`` with the same parameters, and keeps the methods
of what it wraps (``sample``, ``decode``, ``encode``); a wrapped function is a function.
"""

from .free_bits import free_bits
from .missing import missing
from .prior import replace_prior
from .regularize import regularize
from .wrapping import Beta, corrupt, corrupted, scale_latents

__all__ = [
    "Beta",
    "corrupt",
    "corrupted",
    "free_bits",
    "missing",
    "regularize",
    "replace_prior",
    "scale_latents",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
