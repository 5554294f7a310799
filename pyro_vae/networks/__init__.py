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
    hidden_per_layer,
    hidden_widths,
    output_shape,
)
from .convolutional import ConvDecoder, ConvEncoder
from .defaults import convolutions, decoder, encoder, is_image
from .dense import MLP, MeanAndLogSigma, aligned, concatenate, of_rows
from .normalization import GroupNorm, Norm, Normalized, check_norm, head

__all__ = [
    "MLP",
    "Activation",
    "ConvDecoder",
    "ConvEncoder",
    "GroupNorm",
    "Hidden",
    "LeakyReLU",
    "MeanAndLogSigma",
    "Norm",
    "Normalized",
    "aligned",
    "check_activation",
    "check_norm",
    "concatenate",
    "convolutions",
    "decoder",
    "encoder",
    "head",
    "hidden_per_layer",
    "hidden_widths",
    "is_image",
    "is_whole",
    "of_rows",
    "output_shape",
    "sizes",
]
