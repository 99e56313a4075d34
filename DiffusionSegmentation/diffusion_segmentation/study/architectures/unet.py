"""The U-Net of all architectures but `Pair`; without a condition it denoises masks or images alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from ...networks.blocks import CONV, CONV_TRANSPOSE, ResidualBlock
from ...networks.denoiser import sinusoids

EMBEDDING = 64

At = Callable[[int, torch.Tensor], torch.Tensor]


def level_channels(width: int) -> tuple[int, ...]:
    """Channels of the levels, finest first."""
    return (width, 2 * width, 2 * width)


class UNet(nn.Module):
    """From a state in space-to-depth form and its log-SNR to an output in the same form, in float32.

    Three levels of two residual blocks each, on the way down and up, conditioned on the log-SNR (FiLM).
    `width`, a multiple of 8, is the number of channels of the finest level.
    """

    def __init__(self, inputs: int, outputs: int, width: int, dims: int) -> None:
        super().__init__()
        channels, conv, grow = level_channels(width), CONV[dims], CONV_TRANSPOSE[dims]
        self.embedding = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, EMBEDDING), nn.SiLU())
        self.enter = conv(inputs, width, 3, padding=1)
        self.down = nn.ModuleList(_Blocks(c, dims) for c in channels)
        self.shrink = nn.ModuleList(conv(a, b, 2, stride=2) for a, b in pairwise(channels))
        self.grow = nn.ModuleList(grow(b, a, 2, stride=2) for a, b in pairwise(channels))
        self.up = nn.ModuleList(_Blocks(c, dims) for c in channels[:-1])
        self.norm = nn.GroupNorm(8, width)
        self.head = conv(width, outputs, 1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor, log_snr: torch.Tensor, at: At | None = None) -> torch.Tensor:
        """x [N, inputs, ...], log_snr [N] to [N, outputs, ...].

        `at(level, h)`, if given, changes the features that enter each level on the way down.
        """
        embedded = self.embedding(sinusoids(log_snr))
        h, skipped = self.enter(x), []
        for level, blocks in enumerate(self.down):
            if at is not None:
                h = at(level, h)
            h = blocks(h, embedded)
            if level < len(self.shrink):
                skipped.append(h)
                h = self.shrink[level](h)
        for level in reversed(range(len(self.up))):
            h = self.up[level](self.grow[level](h) + skipped[level], embedded)
        return self.head(functional.silu(self.norm(h))).float()


class ImageLevels(nn.Module):
    """Image encoder: features for each level of a `UNet` of the same width, finest first."""

    def __init__(self, width: int, dims: int, inputs: int = 1) -> None:
        super().__init__()
        channels = level_channels(width)
        self.enter = CONV[dims](inputs * 2**dims, width, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(c, dims=dims) for c in channels)
        self.shrink = nn.ModuleList(CONV[dims](a, b, 2, stride=2) for a, b in pairwise(channels))

    def forward(self, cells: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """cells [N, inputs * 2^dims, ...] to the features of each level [N, channels, ...]."""
        h, features = self.enter(cells), []
        for level, block in enumerate(self.blocks):
            h = block(h)
            features.append(h)
            if level < len(self.shrink):
                h = self.shrink[level](h)
        return tuple(features)


class _Blocks(nn.ModuleList):
    """Two residual blocks of a level."""

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__(ResidualBlock(channels, EMBEDDING, dims) for _ in range(2))

    def forward(self, h: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        for block in self:
            h = block(h, embedded)
        return h
