"""Residual block, pooling and space-to-depth layout shared by the networks, in two or three dimensions.

A cell is 2 x 2 pixels or 2 x 2 x 2 voxels; its 2^dims values become channels in space-to-depth layout.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
AVERAGE_POOL = {2: functional.avg_pool2d, 3: functional.avg_pool3d}
INTERPOLATION = {2: "bilinear", 3: "trilinear"}


Layer = TypeVar("Layer", bound=nn.Module)


def zero_initialised(layer: Layer) -> Layer:
    """The layer, with all its parameters set to 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResidualBlock(nn.Module):
    """Pre-activation residual block: twice group norm, SiLU and a convolution of kernel size 3.

    The last convolution is zero-initialised, so a new block is the identity. With `embedding` > 0 channels of the time
    embedding, the second norm is scaled and shifted by it (FiLM, Perez et al. 2018).
    """

    def __init__(self, channels: int, embedding: int = 0, dims: int = 3) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = CONV[dims](channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = zero_initialised(CONV[dims](channels, channels, 3, padding=1))
        self.film = nn.Linear(embedding, 2 * channels) if embedding else None

    def forward(self, x: torch.Tensor, embedded: torch.Tensor | None = None) -> torch.Tensor:
        h = self.norm2(self.conv1(functional.silu(self.norm1(x))))
        if self.film is not None:
            scale, shift = self.film(embedded).view(len(x), -1, *(1,) * (x.ndim - 2)).chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return x + self.conv2(functional.silu(h))


def space_to_depth(x: torch.Tensor) -> torch.Tensor:
    """[N, C, 2z, 2y, 2x] -> [N, 8C, z, y, x], or [N, C, 2y, 2x] -> [N, 4C, y, x], in channels-last memory format.

    Channel 8c + s is class c at voxel s of the cell. torch's pixel_unshuffle supports two dimensions only.
    """
    n, c, *size = x.shape
    dims = len(size)
    x = x.view(n, c, *(m for s in size for m in (s // 2, 2)))
    x = x.permute(0, 1, *range(3, 3 + 2 * dims, 2), *range(2, 2 + 2 * dims, 2))
    return x.reshape(n, c * 2**dims, *(s // 2 for s in size)).contiguous(memory_format=CHANNELS_LAST[dims])


def depth_to_space(x: torch.Tensor) -> torch.Tensor:
    """Inverse of `space_to_depth`: [N, 8C, z, y, x] -> [N, C, 2z, 2y, 2x], or [N, 4C, y, x] -> [N, C, 2y, 2x]."""
    n, c, *size = x.shape
    dims = len(size)
    x = x.reshape(n, c // 2**dims, *(2,) * dims, *size)
    x = x.permute(0, 1, *(axis for d in range(dims) for axis in (2 + dims + d, 2 + d)))
    return x.reshape(n, c // 2**dims, *(2 * s for s in size))


def class_softmax(logits: torch.Tensor) -> torch.Tensor:
    """Softmax over the classes of a space-to-depth tensor [N, 8C, z, y, x] or [N, 4C, y, x]; same shape."""
    return logits.unflatten(1, (-1, voxels_per_cell(logits))).softmax(1).flatten(1, 2)


def class_softmax_(logits: torch.Tensor) -> torch.Tensor:
    """In-place `class_softmax` for sampling: overwrites and returns `logits`, which must be channels last in memory.

    Runs samples x steps times. torch's softmax with its change of memory format takes 34 ms, this half of that
    (C = 8, 96^3 voxels, 2 CPU cores). In place because each new tensor above 32 MB costs page faults.
    """
    v = logits.movedim(1, -1)
    v = v.view(*v.shape[:-1], -1, voxels_per_cell(logits))
    v.sub_(v.amax(-2, keepdim=True)).exp_()
    v.div_(v.sum(-2, keepdim=True))
    return logits


def voxels_per_cell(x: torch.Tensor) -> int:
    """Voxels in a cell of the space-to-depth tensor `x`: 4 in two dimensions, 8 in three."""
    return 2 ** (x.ndim - 2)
