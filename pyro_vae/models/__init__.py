"""Generative programs."""

from ..programs.program import Model
from .covariates import Covariates
from .pixel_decoder import Autoregressive, PixelDecoder
from .vae import VAE
from .vqvae import VQVAE

__all__ = ["VAE", "VQVAE", "Autoregressive", "Covariates", "Model", "PixelDecoder"]
