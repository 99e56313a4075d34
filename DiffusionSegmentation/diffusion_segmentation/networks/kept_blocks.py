"""Keeps, while a mask is denoised, how much of each class its blocks hold."""

from __future__ import annotations

import torch
from torch.nn import functional

from .blocks import class_softmax, neighbours
from .pooled import INTERPOLATION, POOL

ROUNDS = 3
"""One takes 3 % of a denoiser's pass. Of what is missing, two leave about a fifth where three classes meet in a block,
three about an eighth."""
LARGEST_SHIFT = 3.0
"""Logits in a round."""
LEAST_VARIANCE = 2e-3
"""Mean p (1 - p) of a block, below which nothing is undecided there and nothing is moved."""


class KeptBlocks:
    """Shifts class probabilities until blocks hold as much of each class as those of given masks.

    A correlated start has the spread of volumes right at the scale of blocks and has no shapes; a denoiser knows the
    shapes, and the volumes that it makes of a state are off by more than the state leaves open. So each answer of the
    denoiser takes its low frequencies from the start's mask: Choi et al., "ILVR: Conditioning method for denoising
    diffusion probabilistic models", 2021, with logits in place of intensities, because what is moved are
    probabilities, and a step towards the shift of the logits, common to a block, in place of a difference.

    With D the diagonal of block means of p (1 - p), the contents move with the shift by the Jacobian J, the mean of
    diag(p) - p p'. Its rows add up to 0, so the eigenvalues of J / D lie in [0, 2], and with the step missing / (2 D)
    each part of what is missing is left with a share in [0, 1] of itself, to first order: no round overshoots. Of two
    classes the step is Newton's, because what one gains the other loses; missing / D would be twice that.
    """

    def __init__(self, labels: torch.Tensor, classes: int, edge: int) -> None:
        """`labels` uint8 [N, 2^dims, *cells] in space-to-depth form; `edge` of the blocks in cells."""
        hot = functional.one_hot(labels.long(), classes).float().mean(1)  # [N, *cells, C]
        self.classes, self.dims = classes, labels.ndim - 2
        self._cells = labels.shape[2:]
        self._block = tuple(min(edge, n) for n in self._cells)
        self._wanted = self._pool(hot.movedim(-1, 1))

    def __call__(self, p: torch.Tensor) -> torch.Tensor:
        """`p` [N, 2^dims * classes, *cells], shifted block by block."""
        for _ in range(ROUNDS):
            by_class = p.unflatten(1, (self.classes, neighbours(p)))
            missing = self._wanted - self._pool(by_class.mean(2))
            variance = self._pool((by_class * (1 - by_class)).mean(2))
            shift = (missing / (2 * variance + LEAST_VARIANCE)).clamp_(-LARGEST_SHIFT, LARGEST_SHIFT)
            shift = functional.interpolate(shift, scale_factor=self._block, mode=INTERPOLATION[self.dims])
            shift = shift[(..., *(slice(n) for n in self._cells))]
            p = class_softmax((by_class.clamp(min=1e-12).log() + shift.unsqueeze(2)).flatten(1, 2))
        return p

    def _pool(self, cells: torch.Tensor) -> torch.Tensor:
        """Means over the blocks of [N, C, *cells]."""
        return POOL[self.dims](cells, self._block, ceil_mode=True, count_include_pad=False)
