"""Constrains the class volumes of blocks to those of given masks while a sample is denoised."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from .blocks import AVERAGE_POOL, INTERPOLATION, class_softmax, voxels_per_cell

ROUNDS = 3
"""Each round takes 3 % of the time of a denoiser's pass. Where three classes meet in a block, two rounds leave about a
fifth of the error in the volumes, three about an eighth."""
MAX_SHIFT = 3.0  # logits per round
MIN_VARIANCE = 2e-3
"""Mean p (1 - p) of a block, added to the step's denominator: a block with nothing uncertain is not shifted."""


class BlockVolumeConstraint:
    """Shifts class probabilities until each block has the class volumes of given masks.

    A correlated start has the right spread of volumes at the scale of blocks but no shapes; a denoiser models the
    shapes, and its volumes err by more than the state leaves open. So each output of the denoiser takes its low
    frequencies from the start's mask: Choi et al., "ILVR: Conditioning method for denoising diffusion probabilistic
    models", 2021, with a shift of the logits, common to a block, in place of a difference of intensities.

    With D the diagonal of block means of p (1 - p), the volumes change with the shift by the Jacobian J, the mean of
    diag(p) - p p'. Its rows sum to 0, so the eigenvalues of J / D lie in [0, 2], and the step error / (2 D) leaves each
    component of the error with a factor in [0, 1], to first order: no round overshoots. For two classes it is Newton's
    step, because one gains what the other loses; error / D would be twice that.
    """

    def __init__(self, labels: torch.Tensor, classes: int, edge: int) -> None:
        """`labels` uint8 [N, 2^dims, *cells] in space-to-depth layout; `edge` of the blocks in cells."""
        one_hot = functional.one_hot(labels.long(), classes).float().mean(1)  # [N, *cells, C]
        self.classes, self.dims = classes, labels.ndim - 2
        self._inside: tuple[Any, ...] = (..., *(slice(n) for n in labels.shape[2:]))
        self._block = tuple(min(edge, n) for n in labels.shape[2:])
        self._target = self._pool(one_hot.movedim(-1, 1))

    def __call__(self, p: torch.Tensor) -> torch.Tensor:
        """Shift probabilities `p` [N, 2^dims * classes, *cells]; returns a new tensor."""
        for _ in range(ROUNDS):
            by_class = p.unflatten(1, (self.classes, voxels_per_cell(p)))
            error = self._target - self._pool(by_class.mean(2))
            variance = self._pool((by_class * (1 - by_class)).mean(2))
            shift = (error / (2 * variance + MIN_VARIANCE)).clamp_(-MAX_SHIFT, MAX_SHIFT)
            shift = functional.interpolate(shift, scale_factor=self._block, mode=INTERPOLATION[self.dims])
            p = class_softmax((by_class.clamp(min=1e-12).log() + shift[self._inside].unsqueeze(2)).flatten(1, 2))
        return p

    def _pool(self, cells: torch.Tensor) -> torch.Tensor:
        """Means over the blocks of [N, C, *cells]."""
        return AVERAGE_POOL[self.dims](cells, self._block, ceil_mode=True, count_include_pad=False)
