"""Generative programs."""

from ..programs.program import Model
from .autoregressive import Autoregressive
from .covariates import Covariates
from .pixel_decoder import PixelDecoder
from .sequence_decoder import SequenceDecoder
from .translation import Translation, TranslationDecoder
from .vae import VAE
from .vqvae import VQVAE

__all__ = [
    "VAE",
    "VQVAE",
    "Autoregressive",
    "Covariates",
    "Model",
    "PixelDecoder",
    "SequenceDecoder",
    "Translation",
    "TranslationDecoder",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
