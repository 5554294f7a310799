"""Activations with settings, in a form that files can hold."""

from __future__ import annotations

from torch import nn

from ..ground.recorded import Recorded


class LeakyReLU(Recorded):
    """Makes ``torch.nn.LeakyReLU``, max(x, slope x), of another slope than torch's 0.01.

    Example:
        >>> LeakyReLU(0.1)()
        LeakyReLU(negative_slope=0.1)
    """

    def __init__(self, slope: float) -> None:
        """Keep the slope."""
        self.slope = slope

    def __call__(self) -> nn.Module:
        """A new module."""
        return nn.LeakyReLU(self.slope)
