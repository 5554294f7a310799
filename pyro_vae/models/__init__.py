"""Generative programs."""

from ..programs import Model
from .vae import VAE
from .vqvae import VQVAE

__all__ = ["VAE", "VQVAE", "Model"]
