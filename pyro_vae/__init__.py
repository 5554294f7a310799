"""Variational autoencoders as probabilistic programs: Pyro models and guides, parts to swap."""

from . import (
    callbacks,
    codebooks,
    data,
    diagnostics,
    guides,
    handlers,
    infer,
    likelihoods,
    models,
    notebook,
    plots,
    priors,
    ranks,
    regularizers,
    schedules,
)
from .training.saving import load, save
from .training.trainer import Trainer

__all__ = [
    "Trainer",
    "callbacks",
    "codebooks",
    "data",
    "diagnostics",
    "guides",
    "handlers",
    "infer",
    "likelihoods",
    "load",
    "models",
    "notebook",
    "plots",
    "priors",
    "ranks",
    "regularizers",
    "save",
    "schedules",
]
