"""Encoder and denoiser, and the space-to-depth form in which they exchange states."""

from .blocks import class_softmax, class_softmax_, depth_to_space, space_to_depth
from .denoiser import Denoiser
from .encoder import Encoder

__all__ = ["Denoiser", "Encoder", "class_softmax", "class_softmax_", "depth_to_space", "space_to_depth"]
