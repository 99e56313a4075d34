"""Encoder: a residual U-Net that runs once per window and is a direct segmentation network by itself."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from .blocks import CONV, CONV_TRANSPOSE, ResidualBlock, space_to_depth


class Encoder(nn.Module):
    """Residual U-Net whose finest level has half the image's resolution.

    Input and output are in space-to-depth layout (cells of 2^dims voxels as channels), so the logits have the image's
    resolution. A convolution on cells costs an eighth of one on voxels, and many channels use a CPU well.

    Input: normalised images [N, inputs, z, y, x] or [N, inputs, y, x]; each axis a multiple of
    `Encoder.multiple(channels)`.
    Output: features [N, channels[0], z/2, y/2, x/2] for the denoiser, and the direct head's logits float32
    [N, 8 * classes, z/2, y/2, x/2]; in two dimensions without z and with 4 * classes.
    """

    def __init__(
        self, classes: int, channels: tuple[int, ...], blocks: tuple[int, ...], dims: int = 3, inputs: int = 1
    ) -> None:
        """`channels` and residual `blocks` of each level, finest first."""
        super().__init__()
        self.inputs = inputs
        self.stem = CONV[dims](inputs * 2**dims, channels[0], 3, padding=1)
        self.down = nn.ModuleList(_stage(c, b, dims) for c, b in zip(channels, blocks, strict=True))
        self.shrink = nn.ModuleList(CONV[dims](a, b, 2, stride=2) for a, b in pairwise(channels))
        self.grow = nn.ModuleList(CONV_TRANSPOSE[dims](b, a, 2, stride=2) for a, b in pairwise(channels))
        self.up = nn.ModuleList(_stage(c, b, dims) for c, b in zip(channels[:-1], blocks[:-1], strict=True))
        self.norm = nn.GroupNorm(8, channels[0])
        self.head = CONV[dims](channels[0], 2**dims * classes, 1)

    @property
    def trained(self) -> Encoder:
        """The network whose weights a training changes and a model folder holds: this one."""
        return self

    @property
    def levels(self) -> int:
        """Number of times that the resolution is halved; windows are multiples of 2^levels voxels."""
        return len(self.down)

    @property
    def width(self) -> int:
        """Number of channels of the finest features."""
        return self.stem.out_channels

    @staticmethod
    def multiple(channels: tuple[int, ...]) -> int:
        """Number of voxels of which every axis of a window must be a multiple."""
        return 2 ** len(channels)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.outputs(self.raw_features(image))

    def raw_features(self, image: torch.Tensor) -> torch.Tensor:
        """Finest features before the last norm, which removes their level: [N, channels[0], z/2, y/2, x/2]."""
        return self.levels_of(self.stem(space_to_depth(image)))

    def levels_of(self, x: torch.Tensor) -> torch.Tensor:
        """The U-Net's levels on the first layer's response `x`, [N, channels[0], z/2, y/2, x/2]; same shape."""
        skipped = []
        for stage, shrink in zip(self.down[:-1], self.shrink, strict=True):
            skipped.append(stage(x))
            x = shrink(skipped[-1])
        x = self.down[-1](x)
        for stage, grow, skip in zip(reversed(self.up), reversed(self.grow), reversed(skipped), strict=True):
            x = stage(grow(x) + skip)
        return x

    def outputs(self, raw_features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised features and logits, as `forward` returns them, from `raw_features`."""
        features = self.norm(raw_features)
        return features, self.head(nn.functional.silu(features)).float()


def _stage(channels: int, blocks: int, dims: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels, dims=dims) for _ in range(blocks)))
