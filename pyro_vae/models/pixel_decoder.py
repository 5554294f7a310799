"""A decoder that also sees the pixels drawn before: p(x|z) = prod_p p(x_p | x_<p, z)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from .. import networks
from ..networks.masked import PixelCNN
from .autoregressive import AutoregressiveDecoder, Place


class PixelDecoder(AutoregressiveDecoder):
    """Decoder of images by gated masked convolutions: p(x|z) = prod_p p(x_p | x_<p, z).

    z becomes one map of the image's size by a linear layer; the map enters the first masked layer,
    with ``skip`` every one and the layer before the output. Being able to predict a pixel from its
    neighbours, such a decoder has little need of z: without ``skip`` the latents tend to collapse,
    which ``diagnostics.collapse`` shows.

    In a ``VAE`` p(x|z) is then one ``Autoregressive`` distribution: log p(x|z) is exact in one
    pass, a draw goes from pixel to pixel, and ``.mean``, as ``decode`` or a reconstruction shows
    it, is a random unbiased estimate of E[x|z]: each pixel's mean given a draw of the pixels
    before it. The channels of a pixel are independent given the pixels before it.

    Sources: "Avoiding Latent Variable Collapse with Generative Skip Models", Dieng, Kim, Rush,
    Blei (2019), whose decoder of images this is but for its 1x1 convolutions of the map in place
    of 3x3; "Conditional Image Generation with PixelCNN Decoders", van den Oord et al. (2016).

    Args:
        event_shape: (h, w) or (c, h, w).
        latents: total size of all that it is called with: z1, with ``VAE(skip=True)`` also z2 ..
            zL, and the number of classes of a conditional model.
        outputs: features per element: 1, or as many as the likelihood takes (the levels of
            ``likelihoods.Categorical``).
        skip: let every layer see z.
        width: channels of the masked layers.
        layers: number of masked layers.
        kernel: width of their convolutions, an odd number.

    Shapes:
        context (..., latents) in one tensor or several; x (n, *event_shape); result
        (n, *event_shape), with a last dimension of ``outputs`` where there are several.

    Raises:
        ValueError: an event shape that is no image, sizes that are not positive integers.

    Example:
        >>> from pyro_vae import likelihoods, models
        >>> decoder = PixelDecoder((1, 8, 8), 4, layers=2, width=8)
        >>> vae = models.VAE((1, 8, 8), 4, likelihood=likelihoods.Bernoulli(), decoder=decoder)
        >>> vae.sample(3).shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latents: int,
        *,
        outputs: int = 1,
        skip: bool = False,
        width: int = 32,
        layers: int = 8,
        kernel: int = 3,
    ) -> None:
        """Build the map of z and the masked layers."""
        super().__init__()
        self.event_shape = networks.sizes("event_shape", event_shape)
        if len(self.event_shape) not in (2, 3):
            raise ValueError(
                f"event_shape: expected an image, (h, w) or (c, h, w), got {self.event_shape}: "
                "leave decoder= out for other data"
            )
        (latents,) = networks.sizes("latents", latents)
        (self.outputs,) = networks.sizes("outputs", outputs)
        channels = math.prod(self.event_shape[:-2])
        self.to_map = nn.Linear(latents, math.prod(self.event_shape[-2:]))
        self.pixels = PixelCNN(
            channels,
            channels * self.outputs,
            width=width,
            layers=layers,
            kernel=kernel,
            context=1,
            skip_context=bool(skip),
        )

    def forward(self, *context: Tensor, x: Tensor | None = None) -> Tensor:
        """Features of every pixel from the pixels before it.

        Args:
            context: z and whatever else is known, (n, k) each, k adding up to ``latents``.
            x: (n, *event_shape); default zeros.

        Returns:
            (n, *event_shape), or (n, *event_shape, outputs).
        """
        joined = networks.concatenate(context)
        if x is None:
            x = joined.new_zeros(len(joined), *self.event_shape)
        return self.run(x, self.maps(joined))

    def maps(self, context: Tensor) -> Tensor:
        """The context as an image of one channel, (n, 1, h, w)."""
        return self.to_map(context).reshape(-1, 1, *self.event_shape[-2:])

    def walk(self, x: Tensor, context: Tensor) -> Iterator[tuple[Place, Tensor]]:
        """The pixels in their order, each with its features given those in ``x`` before it.

        Args:
            x: (n, *event_shape), filled in while walking.
            context: z and whatever else is known, (n, latents).

        Returns:
            Iterator over places, ``x[place]`` being a pixel of all images, and their features
            (n, *event_shape[:-2]), with a last dimension of ``outputs`` where there are several.
        """
        images = x.view(len(x), -1, *x.shape[-2:])
        for row, column, features in self.pixels.walk(images, self.maps(context)):
            trailing = (self.outputs,) if self.outputs > 1 else ()
            place = (*(slice(None),) * (x.dim() - 2), row, column)
            yield place, features.reshape(*x.shape[:-2], *trailing)

    def run(self, x: Tensor, maps: Tensor) -> Tensor:
        """Features of all pixels of images, given their maps."""
        features = self.pixels(x.reshape(len(x), -1, *x.shape[-2:]), maps)
        if self.outputs == 1:
            return features.reshape(x.shape)
        return features.reshape(*x.shape[:-2], self.outputs, *x.shape[-2:]).movedim(-3, -1)
