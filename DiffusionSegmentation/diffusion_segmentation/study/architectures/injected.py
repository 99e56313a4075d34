"""The image's features join the denoiser's at every level."""

from __future__ import annotations

import torch

from ...networks.blocks import space_to_depth
from .interface import Architecture, Condition
from .unet import ImageLevels, UNet


class Injected(Architecture):
    """An encoder sees the image once; its features are added to the denoiser's at each level on the way down.

    As in Diff-UNet (Xing et al., "Diff-UNet: A Diffusion Embedded Network for Volumetric Segmentation", 2023,
    Method), where the denoiser's input is the state beside the image as well.
    """

    name = "injected"

    def __init__(self, classes: int, dims: int, width: int, closed_form: bool = True) -> None:
        super().__init__(classes, dims, width, closed_form)
        cells = 2**dims
        self.encoder = ImageLevels(width, dims)
        self.unet = UNet(cells * (classes + 1), cells * classes, width, dims)

    def encode(self, image: torch.Tensor) -> Condition:
        cells = space_to_depth(image)
        return (cells, *self.encoder(cells))

    def denoise(self, x: torch.Tensor, log_snr: torch.Tensor, condition: Condition) -> torch.Tensor:
        cells, *features = condition
        entering = torch.cat([x, cells.expand(len(x), *cells.shape[1:])], 1)
        return self.unet(entering, log_snr, lambda level, h: h + features[level])
