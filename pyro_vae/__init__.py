"""Variational autoencoders as probabilistic programs: Pyro models and guides, parts to swap."""

from . import guides, handlers, infer, likelihoods, models, schedules
