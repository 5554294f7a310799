"""Models and guides for where this library is not: graphs of torch.

Tensors with their constructor, for the Hugging Face hub, are written by the programs themselves,
``vae.to_safetensors(folder)`` and ``guide.push_to_hub("name/model")``.
"""

from .graphs import decoder, encoder

__all__ = ["decoder", "encoder"]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
