"""Image and noisy mask side by side at the network's entrance."""

from __future__ import annotations

import torch

from ...networks.blocks import space_to_depth
from .interface import Architecture, Condition
from .unet import UNet


class Concatenated(Architecture):
    """The image is one more channel of the state, and the whole network runs at every step.

    As in EnsDiff (Wolleb et al., "Diffusion Models for Implicit Image Segmentation Ensembles", MIDL 2022, Method),
    on the U-Net that all architectures share.
    """

    name = "concatenated"

    def __init__(self, classes: int, dims: int, width: int, closed_form: bool = True) -> None:
        super().__init__(classes, dims, width, closed_form)
        cells = 2**dims
        self.unet = UNet(cells * (classes + 1), cells * classes, width, dims)

    def encode(self, image: torch.Tensor) -> Condition:
        return (space_to_depth(image),)

    def denoise(self, x: torch.Tensor, log_snr: torch.Tensor, condition: Condition) -> torch.Tensor:
        image = condition[0].expand(len(x), *condition[0].shape[1:])
        return self.unet(torch.cat([x, image], 1), log_snr)
