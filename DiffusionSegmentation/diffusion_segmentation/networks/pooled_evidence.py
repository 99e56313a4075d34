"""Estimates from the noisy state how the class contents of whole blocks differ from the direct head's expectation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from ..diffusion.process import alpha_sigma
from .blocks import AVERAGE_POOL, CONV, INTERPOLATION, class_softmax, voxels_per_cell, zero_initialised

MAX_SHIFT = 5.0  # logits; a shift estimated from few uncertain voxels has no finite bound of its own
TINY = 1e-9


class PooledEvidence(nn.Module):
    """Posterior mean shift of each class's logit over blocks of several sizes, given the noisy state.

    A voxel of a noisy state carries little information on its label, but a block carries much on how many of its
    voxels have a class: the evidence of N voxels grows with N, the noise with its root. Given a shift d of a class's
    logit common to a block, the state's expectation moves by 2 alpha w d at a voxel, w = p (1 - p) of the direct head.
    So the score statistic of d (Cox and Hinkley, "Theoretical Statistics", 1974) is, to first order in d,

        S = sum w (x - alpha (2 p - 1)),    E[S] = 2 alpha d A,    Var[S] = 4 alpha^2 sum w^3 + sigma^2 A = V,

    with A = sum w^2, and the posterior mean of d under d ~ N(0, 1) is 2 alpha A S / (4 alpha^2 A^2 + V). Within a cell
    the means of x, p and w replace those of its voxels. The shifts enter the denoiser's first layer, and with weights
    that depend on the noise level they are added to its logits. A sample thus keeps the volumes that its state already
    has, which convolutions with their small receptive field have to learn block by block.

    `weigh` is zero-initialised: a new module adds nothing to the logits.
    """

    def __init__(self, classes: int, channels: int, edges: Sequence[int], embedding: int, dims: int) -> None:
        """`edges` of the blocks in cells, 0 for the whole window; `channels` of the denoiser's first layer."""
        super().__init__()
        self.classes, self.edges, self.dims = classes, tuple(edges), dims
        self.enter = CONV[dims](classes * len(edges), channels, 1)
        self.weigh = zero_initialised(nn.Linear(embedding, classes * len(edges)))

    def observe(self, direct: torch.Tensor, x0: torch.Tensor) -> None:
        """Called in each training step with logits of the direct head and masks; does nothing here."""

    @torch.no_grad()
    def expected(self, direct: torch.Tensor) -> torch.Tensor:
        """Cell means of w and of 2 p - 1, float32 [N, 2 * classes, *cells], from the direct head's logits."""
        with torch.autocast(direct.device.type, enabled=False):
            p = class_softmax(direct.float())
            return torch.cat([self._cell_means(p * (1 - p)), self._cell_means(p).mul_(2).sub_(1)], 1)

    @torch.no_grad()
    def shifts(
        self,
        x: torch.Tensor,
        log_snr: torch.Tensor,
        expected: torch.Tensor,
        posterior: torch.Tensor,
        direct: torch.Tensor,
    ) -> torch.Tensor:
        """Shifts in logits, float32 [N, edges * classes, *cells], interpolated between the centres of the blocks.

        x [N, 2^dims * classes, *cells] in space-to-depth layout, log_snr [N], `expected` of the window [1 or N, ...].
        For subclasses: `posterior`, shaped as x, are the class probabilities of independent voxels, and `direct` the
        logits of the direct head, [1 or N, ...].
        """
        with torch.autocast(x.device.type, enabled=False):
            alpha, sigma = (a.view(-1, *(1,) * (x.ndim - 1)) for a in alpha_sigma(log_snr))
            w, state = expected.float().chunk(2, 1)
            score = torch.addcmul(self._cell_means(x.float()), state, alpha, value=-1).mul_(w)
            squares = w * w
            terms = score, squares, squares * w
            return torch.cat([self._block_shifts(edge, *terms, alpha, sigma) for edge in self.edges], 1)

    def add(self, logits: torch.Tensor, shifts: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Add the weighted shifts to `logits` [N, 2^dims * classes, *cells] in place; `embedded` [N, embedding]."""
        weights = self.weigh(embedded).view(len(embedded), len(self.edges), self.classes, *(1,) * self.dims)
        added = (weights * shifts.unflatten(1, (len(self.edges), self.classes))).sum(1)
        logits.unflatten(1, (self.classes, -1)).add_(added.unsqueeze(2))
        return logits

    def _cell_means(self, voxels: torch.Tensor) -> torch.Tensor:
        """Means over the voxels of each cell, [N, classes, *cells]."""
        return voxels.unflatten(1, (self.classes, voxels_per_cell(voxels))).mean(2)

    def _block_shifts(self, edge: int, *terms: torch.Tensor) -> torch.Tensor:
        """Shifts over blocks of `edge` cells, [N, classes, *cells], from cell means of the sums, alpha and sigma."""
        *means, alpha, sigma = terms
        cells = means[0].shape[2:]
        block = block_size(cells, edge)
        pool = AVERAGE_POOL[self.dims]
        score, squares, cubes = (pool(m, block, ceil_mode=True, count_include_pad=False) for m in means)
        count = pool(means[0].new_ones(1, 1, *cells), block, ceil_mode=True, divisor_override=1)
        voxels = 2**self.dims * count  # fewer in blocks that end beyond the window
        slope = 2 * alpha * squares
        variance = (4 * alpha**2 * cubes + sigma**2 * squares) / voxels
        shift = (slope * score / (slope**2 + variance + TINY)).clamp_(-MAX_SHIFT, MAX_SHIFT)
        if edge != 1:
            shift = functional.interpolate(shift, scale_factor=block, mode=INTERPOLATION[self.dims])
        return shift[(..., *(slice(n) for n in cells))]


def block_size(cells: Sequence[int], edge: int) -> tuple[int, ...]:
    """Size of a block of `edge` cells, or of the window for 0, in a window of `cells`."""
    return tuple(min(edge or n, n) for n in cells)
