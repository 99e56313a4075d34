"""Published ways to condition a U-Net on the image: concatenation, a summed encoder, features at every level."""

from __future__ import annotations

import torch
from torch import nn

from ...networks.blocks import CONV, ResidualBlock, space_to_depth
from .interface import Architecture, Condition
from .unet import ImageLevels, UNet

SUMMED_BLOCKS = 4


class Concatenated(Architecture):
    """The image is a further channel of the state, and the whole network runs at every step.

    As in EnsDiff (Wolleb et al., "Diffusion Models for Implicit Image Segmentation Ensembles", MIDL 2022, Method).
    """

    name = "concatenated"

    def __init__(self, classes: int, dims: int, width: int, closed_form: bool = True, inputs: int = 1) -> None:
        super().__init__(classes, dims, width, closed_form, inputs)
        self.unet = UNet(2**dims * (classes + inputs), 2**dims * classes, width, dims)

    def encode(self, image: torch.Tensor) -> Condition:
        return (space_to_depth(image),)

    def denoise(self, x: torch.Tensor, log_snr: torch.Tensor, condition: Condition) -> torch.Tensor:
        return self.unet(beside_image(x, condition[0]), log_snr)


class Injected(Architecture):
    """The image is encoded once; its features are added to the U-Net's at each level on the way down.

    As in Diff-UNet (Xing et al., "Diff-UNet: A Diffusion Embedded Network for Volumetric Segmentation", 2023,
    Method), whose denoiser also gets the image as a channel beside the state.
    """

    name = "injected"

    def __init__(self, classes: int, dims: int, width: int, closed_form: bool = True, inputs: int = 1) -> None:
        super().__init__(classes, dims, width, closed_form, inputs)
        self.encoder = ImageLevels(width, dims, inputs)
        self.unet = UNet(2**dims * (classes + inputs), 2**dims * classes, width, dims)

    def encode(self, image: torch.Tensor) -> Condition:
        cells = space_to_depth(image)
        return (cells, *self.encoder(cells))

    def denoise(self, x: torch.Tensor, log_snr: torch.Tensor, condition: Condition) -> torch.Tensor:
        cells, *features = condition
        return self.unet(beside_image(x, cells), log_snr, lambda level, h: self.inject(level, h, features[level]))

    def inject(self, level: int, h: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Features of the U-Net at a level, combined with those of the image."""
        return h + features


class Summed(Architecture):
    """F(x) + G(image) enters the U-Net: F a convolution of the state, G a deep encoder that runs once per image.

    As in SegDiff (Amit et al., "SegDiff: Image Segmentation with Diffusion Probabilistic Models", 2021, Method),
    whose G is a chain of residual-in-residual dense blocks; here it is four residual blocks inside one more residual
    connection.
    """

    name = "summed"

    def __init__(self, classes: int, dims: int, width: int, closed_form: bool = True, inputs: int = 1) -> None:
        super().__init__(classes, dims, width, closed_form, inputs)
        self.enter = CONV[dims](inputs * 2**dims, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width, dims=dims) for _ in range(SUMMED_BLOCKS)))
        self.leave = CONV[dims](width, width, 3, padding=1)
        self.unet = UNet(2**dims * classes, 2**dims * classes, width, dims)

    def encode(self, image: torch.Tensor) -> Condition:
        h = self.enter(space_to_depth(image))
        return (h + self.leave(self.blocks(h)),)

    def denoise(self, x: torch.Tensor, log_snr: torch.Tensor, condition: Condition) -> torch.Tensor:
        return self.unet(x, log_snr, lambda level, h: h + condition[0] if level == 0 else h)


def beside_image(x: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """States [N, ...] with the image's cells [N or 1, ...] as further channels."""
    return torch.cat([x, cells.expand(len(x), *cells.shape[1:])], 1)
