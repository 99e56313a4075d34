"""What both networks are built of: the residual block, and the exchange of space for channels."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions, each after group norm and SiLU, around an identity.

    The last convolution starts at zero, so a new block is the identity. With `embedding` > 0 the second norm is scaled
    and shifted by the time embedding (FiLM, Perez et al. 2018).
    """

    def __init__(self, channels: int, embedding: int = 0) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)
        self.film = nn.Linear(embedding, 2 * channels) if embedding else None

    def forward(self, x: torch.Tensor, embedded: torch.Tensor | None = None) -> torch.Tensor:
        h = self.norm2(self.conv1(functional.silu(self.norm1(x))))
        if self.film is not None:
            scale, shift = self.film(embedded)[:, :, None, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return x + self.conv2(functional.silu(h))


def space_to_depth(x: torch.Tensor) -> torch.Tensor:
    """[N, C, 2z, 2y, 2x] -> [N, 8C, z, y, x], channels last in memory; nothing is lost.

    Channel 8c + s is class c at the s-th of the eight neighbours. (torch's own pixel_unshuffle is 2-D only.)
    """
    n, c, z, y, w = x.shape
    x = x.view(n, c, z // 2, 2, y // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(n, c * 8, z // 2, y // 2, w // 2).contiguous(memory_format=torch.channels_last_3d)


def depth_to_space(x: torch.Tensor) -> torch.Tensor:
    """[N, 8C, z, y, x] -> [N, C, 2z, 2y, 2x]; the inverse of `space_to_depth`."""
    n, c, z, y, w = x.shape
    x = x.reshape(n, c // 8, 2, 2, 2, z, y, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(n, c // 8, 2 * z, 2 * y, 2 * w)


def class_softmax(logits: torch.Tensor) -> torch.Tensor:
    """Softmax over the classes of a space-to-depth tensor [N, 8C, z, y, x], of the same shape."""
    return logits.unflatten(1, (-1, 8)).softmax(1).flatten(1, 2)


def class_softmax_(logits: torch.Tensor) -> torch.Tensor:
    """`class_softmax` in place, for sampling: `logits`, channels last in memory, are overwritten and returned.

    Written out because it runs samples x steps times: torch's softmax takes 34 ms with its change of memory format and
    these passes half of that (C = 8, 96^3 voxels, 2 CPU cores). In place because every new tensor above 32 MB costs
    page faults.
    """
    n, channels, z, y, x = logits.shape
    v = logits.permute(0, 2, 3, 4, 1).view(n, z, y, x, channels // 8, 8)
    v.sub_(v.amax(-2, keepdim=True)).exp_()
    v.div_(v.sum(-2, keepdim=True))
    return logits
