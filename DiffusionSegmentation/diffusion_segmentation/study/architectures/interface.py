"""What a network has to offer to be trained directly and as a denoiser, so that the two can be compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import nn

from ...diffusion.process import LOG_SNR_MIN
from ...networks.blocks import space_to_depth, voxels_per_cell

Condition = tuple[torch.Tensor, ...]


class Architecture(nn.Module, ABC):
    """A way in which image and noisy mask meet, and nothing else: blocks, stem and form of the state are common to all.

    Images are [N, 1, z, y, x] or [N, 1, y, x], each axis a multiple of `multiple`; states, and the answers to them, are
    in space-to-depth form [N, 8 * classes, z/2, y/2, x/2] or [N, 4 * classes, y/2, x/2]. `width` is the number of
    channels of the finest level, a multiple of 8, and scales the whole network.

    The answer to a state is as good for logits of x0 as for x0 itself, v or epsilon: which of them it is, is up to the
    loss that it is trained with. Only `Pair` has a form of its own for logits (`closed_form`).
    """

    name: ClassVar[str]
    multiple: ClassVar[int] = 8

    def __init__(self, classes: int, dims: int, width: int, closed_form: bool = True) -> None:
        super().__init__()
        self.classes, self.dims, self.width, self.closed_form = classes, dims, width, closed_form

    @abstractmethod
    def encode(self, image: torch.Tensor) -> Condition:
        """What can be computed once for an image and kept for all its samples and steps; entries [N, ...]."""

    @abstractmethod
    def denoise(self, x: torch.Tensor, log_snr: torch.Tensor, condition: Condition) -> torch.Tensor:
        """The answer in float32, shaped as the state x [N, ...]; log_snr [N]; the condition's entries [N or 1, ...]."""

    def head(self, condition: Condition) -> torch.Tensor | None:
        """Logits of a direct head that `encode` has on the way, in space-to-depth form, or None where there is none."""
        return None

    def direct(self, image: torch.Tensor) -> torch.Tensor:
        """Logits from the image alone, in space-to-depth form: the network where the state says nothing."""
        cells = space_to_depth(image)
        empty = cells.new_zeros((len(cells), voxels_per_cell(cells) * self.classes, *cells.shape[2:]))
        return self.denoise(empty, cells.new_full((len(cells),), LOG_SNR_MIN), self.encode(image))
