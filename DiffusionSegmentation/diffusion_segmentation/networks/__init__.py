"""Encoder and denoiser, and the space-to-depth form in which they exchange states."""

from .blocks import CHANNELS_LAST, class_softmax, class_softmax_, depth_to_space, space_to_depth
from .denoiser import Denoiser
from .encoder import Encoder
from .input_statistics import InputDistance, InputStatistics, ScanSummary
from .kept_blocks import KeptBlocks

__all__ = [
    "CHANNELS_LAST",
    "Denoiser",
    "Encoder",
    "InputDistance",
    "InputStatistics",
    "KeptBlocks",
    "ScanSummary",
    "class_softmax",
    "class_softmax_",
    "depth_to_space",
    "space_to_depth",
]
