"""How the gradient of what a decoder sees goes past the choice of a code, to the encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ground.recorded import Recorded


class StraightThrough(Recorded):
    """The gradient of a code's vector e is that of the encoder's output z: de/dz = I.

    Source: "Neural Discrete Representation Learning", van den Oord, Vinyals, Kavukcuoglu (2017).

    Example:
        >>> z, e = torch.randn(5, 2, requires_grad=True), torch.randn(5, 2)
        >>> StraightThrough()(z, e).sum().backward()
        >>> bool((z.grad == 1).all())
        True
    """

    def __call__(self, z: Tensor, e: Tensor) -> Tensor:
        """The vectors e (..., code_dim), with a gradient to the outputs z of the same shape."""
        return e + (z - z.detach())

    def __repr__(self) -> str:
        """As it was built."""
        return f"{type(self).__name__}()"


class Rotation(StraightThrough):
    """The gradient goes through the rotation and scaling that take z to the vector e of its code.

        e = s R z,    R = I - 2 r r^T + 2 e^ z^^T,    r = (e^ + z^) / |e^ + z^|,    s = |e| / |z|,

    with e^ = e / |e|, z^ = z / |z|, and R and s without gradient: de/dz = s R. The angle between
    the gradient and e is that between what the encoder receives and z, where ``StraightThrough``
    moves all outputs of one code alike. An output or a vector at the origin has no direction, and
    two that are opposite no one rotation: there it is straight-through.

    Source: "Restructuring Vector Quantization with the Rotation Trick", Fifty, Junkins, Duan,
    Iyengar, Liu, Amid, Thrun, Re (2024).

    Example:
        >>> z = torch.tensor([1.0, 0.0], requires_grad=True)
        >>> Rotation()(z, torch.tensor([0.0, 2.0]))[1].backward()
        >>> z.grad.round(decimals=3)
        tensor([2., 0.])
    """

    def __call__(self, z: Tensor, e: Tensor) -> Tensor:
        """The vectors e (..., code_dim), with a gradient to the outputs z of the same shape."""
        with torch.no_grad():
            tiny = torch.finfo(z.dtype).eps
            z_norm, e_norm = (v.norm(dim=-1, keepdim=True) for v in (z, e))
            z_unit, e_unit = z / z_norm.clamp(min=tiny), e / e_norm.clamp(min=tiny)
            middle = z_unit + e_unit
            length = middle.norm(dim=-1, keepdim=True)
            middle = middle / length.clamp(min=tiny)
            scale = e_norm / z_norm.clamp(min=tiny)
            turned = torch.minimum(torch.minimum(z_norm, e_norm), length) > tiny
        inside = (middle * z).sum(-1, keepdim=True), (z_unit * z).sum(-1, keepdim=True)
        moved = scale * (z - 2 * middle * inside[0] + 2 * e_unit * inside[1])
        moved = torch.where(turned, moved, z)
        return e + (moved - moved.detach())
