"""What both networks are built of: the residual block, and the exchange of space for channels.

Everything works on grids of two or three axes; a cell is 2 x 2 pixels or 2 x 2 x 2 voxels.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


class ResidualBlock(nn.Module):
    """Two convolutions of three voxels an axis, each after group norm and SiLU, around an identity.

    The last convolution starts at zero, so a new block is the identity. With `embedding` > 0 the second norm is scaled
    and shifted by the time embedding (FiLM, Perez et al. 2018).
    """

    def __init__(self, channels: int, embedding: int = 0, dims: int = 3) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = CONV[dims](channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = CONV[dims](channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)
        self.film = nn.Linear(embedding, 2 * channels) if embedding else None

    def forward(self, x: torch.Tensor, embedded: torch.Tensor | None = None) -> torch.Tensor:
        h = self.norm2(self.conv1(functional.silu(self.norm1(x))))
        if self.film is not None:
            scale, shift = self.film(embedded).view(len(x), -1, *(1,) * (x.ndim - 2)).chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return x + self.conv2(functional.silu(h))


def space_to_depth(x: torch.Tensor) -> torch.Tensor:
    """[N, C, 2z, 2y, 2x] -> [N, 8C, z, y, x], or [N, C, 2y, 2x] -> [N, 4C, y, x]; channels last, nothing is lost.

    Channel 8c + s is class c at the s-th of the eight neighbours. (torch's own pixel_unshuffle is 2-D only.)
    """
    n, c, *size = x.shape
    dims = len(size)
    x = x.view(n, c, *(m for s in size for m in (s // 2, 2)))
    x = x.permute(0, 1, *range(3, 3 + 2 * dims, 2), *range(2, 2 + 2 * dims, 2))
    return x.reshape(n, c * 2**dims, *(s // 2 for s in size)).contiguous(memory_format=CHANNELS_LAST[dims])


def depth_to_space(x: torch.Tensor) -> torch.Tensor:
    """[N, 8C, z, y, x] -> [N, C, 2z, 2y, 2x], or [N, 4C, y, x] -> [N, C, 2y, 2x]; the inverse of `space_to_depth`."""
    n, c, *size = x.shape
    dims = len(size)
    x = x.reshape(n, c // 2**dims, *(2,) * dims, *size)
    x = x.permute(0, 1, *(axis for d in range(dims) for axis in (2 + dims + d, 2 + d)))
    return x.reshape(n, c // 2**dims, *(2 * s for s in size))


def class_softmax(logits: torch.Tensor) -> torch.Tensor:
    """Softmax over the classes of a space-to-depth tensor [N, 8C, z, y, x] or [N, 4C, y, x], of the same shape."""
    return logits.unflatten(1, (-1, neighbours(logits))).softmax(1).flatten(1, 2)


def class_softmax_(logits: torch.Tensor) -> torch.Tensor:
    """`class_softmax` in place, for sampling: `logits`, channels last in memory, are overwritten and returned.

    Written out because it runs samples x steps times: torch's softmax takes 34 ms with its change of memory format and
    these passes half of that (C = 8, 96^3 voxels, 2 CPU cores). In place because every new tensor above 32 MB costs
    page faults.
    """
    v = logits.movedim(1, -1)
    v = v.view(*v.shape[:-1], -1, neighbours(logits))
    v.sub_(v.amax(-2, keepdim=True)).exp_()
    v.div_(v.sum(-2, keepdim=True))
    return logits


def neighbours(x: torch.Tensor) -> int:
    """How many voxels a cell of the space-to-depth tensor `x` holds: 4 in two dimensions, 8 in three."""
    return 2 ** (x.ndim - 2)
