"""The encoder: sees the image once per window, and is a direct segmentation network by itself."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from .blocks import CONV, CONV_TRANSPOSE, ResidualBlock, space_to_depth


class Encoder(nn.Module):
    """A residual U-Net whose finest level works at half the image's resolution.

    Neighbouring voxels (2 x 2 x 2, in two dimensions 2 x 2) become channels and go back the same way, so that the
    answer has the image's resolution. A convolution there costs an eighth of one at full resolution, and many channels
    keep a CPU busy.

    Input: image [N, 1, z, y, x] or [N, 1, y, x], normalised; each axis a multiple of `Encoder.multiple(channels)`.
    Output: features [N, channels[0], z/2, y/2, x/2] for the denoiser, and the direct head's logits in space-to-depth
    form [N, 8 * classes, z/2, y/2, x/2], which is the form the sampler works in; alike in two dimensions, with 4.
    """

    def __init__(self, classes: int, channels: tuple[int, ...], blocks: tuple[int, ...], dims: int = 3) -> None:
        super().__init__()
        self.stem = CONV[dims](2**dims, channels[0], 3, padding=1)
        self.down = nn.ModuleList(_stage(c, b, dims) for c, b in zip(channels, blocks, strict=True))
        self.shrink = nn.ModuleList(CONV[dims](a, b, 2, stride=2) for a, b in pairwise(channels))
        self.grow = nn.ModuleList(CONV_TRANSPOSE[dims](b, a, 2, stride=2) for a, b in pairwise(channels))
        self.up = nn.ModuleList(_stage(c, b, dims) for c, b in zip(channels[:-1], blocks[:-1], strict=True))
        self.norm = nn.GroupNorm(8, channels[0])
        self.head = CONV[dims](channels[0], 2**dims * classes, 1)

    @staticmethod
    def multiple(channels: tuple[int, ...]) -> int:
        """Every axis of a window is a multiple of this many voxels."""
        return 2 ** len(channels)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.answer(self.seen(image))

    def seen(self, image: torch.Tensor) -> torch.Tensor:
        """The finest features before their last norm [N, channels[0], z/2, y/2, x/2], which still have a level."""
        x = self.stem(space_to_depth(image))
        skipped = []
        for stage, shrink in zip(self.down[:-1], self.shrink, strict=True):
            skipped.append(stage(x))
            x = shrink(skipped[-1])
        x = self.down[-1](x)
        for stage, grow, skip in zip(reversed(self.up), reversed(self.grow), reversed(skipped), strict=True):
            x = stage(grow(x) + skip)
        return x

    def answer(self, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What `forward` returns, from what `seen` does."""
        features = self.norm(seen)
        return features, self.head(nn.functional.silu(features)).float()


def _stage(channels: int, blocks: int, dims: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels, dims=dims) for _ in range(blocks)))
