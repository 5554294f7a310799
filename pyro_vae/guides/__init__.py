"""Inference programs."""

from ..programs import Encoding, Guide
from .bottom_up import BottomUp
from .delta import Delta
from .ladder import Ladder
from .nearest_code import NearestCode

__all__ = ["BottomUp", "Delta", "Encoding", "Guide", "Ladder", "NearestCode"]
