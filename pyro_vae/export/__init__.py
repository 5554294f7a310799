"""Models and guides for where this library is not: graphs of torch."""

from .graphs import decoder, encoder

__all__ = ["decoder", "encoder"]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
