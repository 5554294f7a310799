"""Generative programs."""

from ..programs import Model
from .vae import VAE

__all__ = ["VAE", "Model"]
