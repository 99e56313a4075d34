"""An encoder of its own for the image, whose features are added to the noisy mask's."""

from __future__ import annotations

import torch
from torch import nn

from ...networks.blocks import CONV, ResidualBlock, space_to_depth
from .interface import Architecture, Condition
from .unet import UNet

BLOCKS = 4


class Summed(Architecture):
    """F(x) + G(image) enters the U-Net: F a convolution of the state, G a deep encoder that runs once for an image.

    As in SegDiff (Amit et al., "SegDiff: Image Segmentation with Diffusion Probabilistic Models", 2021, Method),
    whose G is a chain of residual-in-residual dense blocks; here it is four of the residual blocks that all
    architectures share, inside one more residual connection.
    """

    name = "summed"

    def __init__(self, classes: int, dims: int, width: int, closed_form: bool = True) -> None:
        super().__init__(classes, dims, width, closed_form)
        cells = 2**dims
        self.enter = CONV[dims](cells, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width, dims=dims) for _ in range(BLOCKS)))
        self.leave = CONV[dims](width, width, 3, padding=1)
        self.unet = UNet(cells * classes, cells * classes, width, dims)

    def encode(self, image: torch.Tensor) -> Condition:
        h = self.enter(space_to_depth(image))
        return (h + self.leave(self.blocks(h)),)

    def denoise(self, x: torch.Tensor, log_snr: torch.Tensor, condition: Condition) -> torch.Tensor:
        return self.unet(x, log_snr, lambda level, h: h + condition[0] if level == 0 else h)
