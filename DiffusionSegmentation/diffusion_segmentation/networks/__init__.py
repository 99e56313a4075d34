"""Encoder and denoiser, and the space-to-depth form in which they exchange states."""

from .architecture import Architecture
from .blocks import CHANNELS_LAST, class_softmax, class_softmax_, depth_to_space, space_to_depth
from .denoiser import Denoiser
from .encoder import Encoder
from .input_statistics import InputDistance, InputStatistics, ScanSummary
from .kept_blocks import KeptBlocks
from .pair import Pair
from .unet import UNet
from .zoo import ARCHITECTURES, flops, scaled

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "CHANNELS_LAST",
    "Denoiser",
    "Encoder",
    "InputStatistics",
    "Pair",
    "InputDistance",
    "KeptBlocks",
    "ScanSummary",
    "UNet",
    "class_softmax",
    "class_softmax_",
    "depth_to_space",
    "flops",
    "scaled",
    "space_to_depth",
]
