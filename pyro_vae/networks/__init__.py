"""Multi-layer perceptrons and convolutional stacks, sized by the event shape.

Every network takes its inputs as positional tensors with any number of leading dimensions; the
inputs after the first are vectors (labels, latents) that broadcast against it.
"""

from ..ground.arguments import is_whole, sizes
from .activations import LeakyReLU
from .arguments import (
    Activation,
    Hidden,
    check_activation,
    hidden_of,
    hidden_per_layer,
    hidden_widths,
    output_shape,
)
from .causal import GRU, CausalTransformer
from .convolutional import ConvDecoder, ConvEncoder
from .defaults import convolutions, decoder, encoder, is_image
from .dense import MLP, MeanAndLogSigma, aligned, concatenate, of_rows
from .heads import head
from .maps import AsVectors, MapNetwork, Pyramid
from .normalization import GroupNorm, Norm, Normalized, check_norm
from .sequences import SequenceEncoder, SideBySide
from .shortcut import Shortcut
from .weights import WeightNorm, silence, weigh

__all__ = [
    "GRU",
    "MLP",
    "Activation",
    "AsVectors",
    "CausalTransformer",
    "ConvDecoder",
    "ConvEncoder",
    "GroupNorm",
    "Hidden",
    "LeakyReLU",
    "MapNetwork",
    "MeanAndLogSigma",
    "Norm",
    "Normalized",
    "Pyramid",
    "SequenceEncoder",
    "Shortcut",
    "SideBySide",
    "WeightNorm",
    "aligned",
    "check_activation",
    "check_norm",
    "concatenate",
    "convolutions",
    "decoder",
    "encoder",
    "head",
    "hidden_of",
    "hidden_per_layer",
    "hidden_widths",
    "is_image",
    "is_whole",
    "of_rows",
    "output_shape",
    "silence",
    "sizes",
    "weigh",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
