"""Generative programs."""

from ..programs import Model
from .pixel_decoder import Autoregressive, PixelDecoder
from .vae import VAE

__all__ = ["VAE", "Autoregressive", "Model", "PixelDecoder"]
