"""The interface of a network that can be trained directly and as a denoiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import nn

from ...diffusion.process import LOG_SNR_MIN
from ...networks.blocks import space_to_depth, voxels_per_cell

Condition = tuple[torch.Tensor, ...]


class Architecture(nn.Module, ABC):
    """A way to combine image and noisy mask; blocks, stem and form of the state are common to all architectures.

    Images are [N, inputs, z, y, x] or [N, inputs, y, x], each axis a multiple of `multiple`; states and outputs are in
    space-to-depth form [N, 8 * classes, z/2, y/2, x/2] or [N, 4 * classes, y/2, x/2]. `width`, a multiple of 8, is the
    number of channels of the finest level and scales the whole network.

    The loss decides whether the output is logits of x0, x0 itself, v or the noise. Only `Pair` has a special form for
    logits (`closed_form`).
    """

    name: ClassVar[str]
    multiple: ClassVar[int] = 8

    def __init__(self, classes: int, dims: int, width: int, closed_form: bool = True, inputs: int = 1) -> None:
        super().__init__()
        self.classes, self.dims, self.width, self.closed_form, self.inputs = classes, dims, width, closed_form, inputs

    @abstractmethod
    def encode(self, image: torch.Tensor) -> Condition:
        """What is computed once per image for all samples and steps; entries [N, ...]."""

    @abstractmethod
    def denoise(self, x: torch.Tensor, log_snr: torch.Tensor, condition: Condition) -> torch.Tensor:
        """The output in float32, shaped as the state x [N, ...]; log_snr [N]; the condition's entries [N or 1, ...]."""

    def observe(self, condition: Condition, x0: torch.Tensor) -> None:
        """Called in each training step with the masks x0 [N * R, ...] of `condition`, for what gradients do not learn.

        Does nothing here.
        """

    def head(self, condition: Condition) -> torch.Tensor | None:
        """Logits of the direct head in space-to-depth form, or None if there is no head."""
        return None

    def direct(self, image: torch.Tensor) -> torch.Tensor:
        """Logits from the image alone, in space-to-depth form: the output for an empty state."""
        cells = space_to_depth(image)
        empty = cells.new_zeros((len(cells), voxels_per_cell(cells) * self.classes, *cells.shape[2:]))
        return self.denoise(empty, cells.new_full((len(cells),), LOG_SNR_MIN), self.encode(image))
