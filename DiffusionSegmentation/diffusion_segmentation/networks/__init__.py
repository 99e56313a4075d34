"""Encoder and denoiser, and the space-to-depth form in which they exchange states."""

from .blocks import CHANNELS_LAST, class_softmax, class_softmax_, depth_to_space, space_to_depth
from .denoiser import Denoiser
from .encoder import Encoder

__all__ = [
    "CHANNELS_LAST",
    "Denoiser",
    "Encoder",
    "class_softmax",
    "class_softmax_",
    "depth_to_space",
    "space_to_depth",
]
