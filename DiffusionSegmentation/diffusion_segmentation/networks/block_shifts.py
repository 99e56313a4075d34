"""Shifts of logits over nested blocks, whose variances are measured in training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ..diffusion.process import alpha_sigma
from .blocks import AVERAGE_POOL, class_softmax
from .pooled_evidence import PooledEvidence, block_size

OPEN = 0.01  # p (1 - p) at which a voxel takes half of its block's shift; p = 0.01
DECAY = 0.995  # of the moments of earlier training steps, at each step
TINY = 1e-9


class BlockShifts(PooledEvidence):
    """As `PooledEvidence`, but the shifts are those of one model of the label map, and act before any training.

    In this model a class's logit at a voxel is that of the direct head plus f d, with d the sum of independent
    N(0, t) shifts, one for each of the nested blocks around the voxel, and f = w^2 / (w^2 + OPEN^2), w = p (1 - p):
    what is certain in the image stays so. Given the shifts, voxels are independent. With q the class probabilities of
    independent voxels given the state, the score of d and its expected information are

        S = sum f (q - p),    I = sum f^2 w g w / (1 + g w),    g = 8 alpha^2 / sigma^2,

    S exactly, and I between its limits for little and much evidence. The posterior mean of d, in Laplace's
    approximation at 0, is t S / (1 + t I). Where two classes exchange voxels, each has half of it. Blocks are estimated
    from the largest to the smallest, each from what the larger ones have left of the scores. Within a cell the means of
    p, q and w replace those of its voxels.

    The variances t are measured in training by `observe`. The weights of a new module are 1.
    """

    expectations = 0
    variances: torch.Tensor
    moments: torch.Tensor

    def __init__(self, classes: int, channels: int, edges: Sequence[int], embedding: int, dims: int) -> None:
        """As for `PooledEvidence`; each of the `edges` divides the next larger one."""
        super().__init__(classes, channels, sorted(edges, key=lambda edge: -(edge or math.inf)), embedding, dims)
        nn.init.ones_(self.weigh.bias)
        self.register_buffer("variances", torch.ones(len(edges), classes))
        self.register_buffer("moments", torch.zeros(2, len(edges), classes))

    @torch.no_grad()
    def observe(self, direct: torch.Tensor, x0: torch.Tensor) -> None:
        """Measure `variances` (logits^2) from the direct head's logits and masks x0, [N, 2^dims * classes, *cells].

        By the method of moments (Searle, Casella and McCulloch, "Variance Components", 1992). For a state of much noise
        the score of a block is proportional to S = sum f w (y - p), y the mask. With A = sum f^2 w^2, the expectation
        of S^2 - sum f^2 w^3 is the sum over the sizes of blocks of t A^2, A of the smaller of the two blocks. The
        equations of all sizes are solved by least squares for t >= 0.
        """
        from scipy.optimize import nnls  # not needed to sample, and its import takes longer than a small run's start

        with torch.autocast(direct.device.type, enabled=False):
            p = class_softmax(direct.float())
            w = p * (1 - p) * x0.abs()  # x0 of an unknown voxel is 0
            fw = openness(w) * w
            terms = [self._cell_means(term) for term in (fw * ((x0 + 1) / 2 - p), fw**2, fw**2 * w)]
        excess, squares = [], []
        for edge in self.edges:
            score, a, independent = (self._block_sums(term, edge).double() for term in terms)
            excess.append((score**2 - independent).transpose(0, 1).flatten(1).sum(1))
            squares.append((a**2).transpose(0, 1).flatten(1).sum(1))
        now = torch.stack([torch.stack(excess), torch.stack(squares)]) / len(x0)
        self.moments.mul_(DECAY).add_(now.float(), alpha=1 - DECAY)
        left, right = self.moments.double().cpu().numpy()
        for k in range(self.classes):
            scale = right[:, k] + TINY  # equations of equal weight
            smaller = np.minimum.outer(right[:, k], right[:, k]) / scale[:, None]
            self.variances[:, k] = torch.from_numpy(nnls(smaller, left[:, k] / scale)[0])

    @torch.no_grad()
    def expected(self, direct: torch.Tensor) -> torch.Tensor:
        """Nothing, [N, 0, *cells]: a difference q - p of 0.001 needs p in the precision of q."""
        return direct[:, :0]

    @torch.no_grad()
    def shifts(
        self,
        x: torch.Tensor,
        log_snr: torch.Tensor,
        expected: torch.Tensor,
        posterior: torch.Tensor,
        direct: torch.Tensor,
    ) -> torch.Tensor:
        """See `PooledEvidence`."""
        with torch.autocast(x.device.type, enabled=False):
            p = class_softmax(direct.float())
            w, p = self._cell_means(p * (1 - p)), self._cell_means(p)
            alpha, sigma = (a.view(-1, *(1,) * (x.ndim - 1)) for a in alpha_sigma(log_snr))
            f, seen = openness(w), 8 * (alpha / sigma) ** 2 * w
            seen = seen / (1 + seen)
            score, information, found = self._cell_means(posterior) - p, f * f * w * seen, []
            for edge, t in zip(self.edges, self.variances, strict=True):
                t = t.view(-1, *(1,) * self.dims)
                d = t * self._block_sums(f * score, edge) / (1 + t * self._block_sums(information, edge))
                shift = f * self._on_cells(d / 2, edge, x.shape[2:])
                found.append(shift)
                score = score - seen * p * (shift - (p * shift).sum(1, keepdim=True))
            return torch.cat(found, 1)

    def _block_sums(self, cell_means: torch.Tensor, edge: int) -> torch.Tensor:
        """Sums over the voxels of each block, [N, classes, *blocks]."""
        size = block_size(cell_means.shape[2:], edge)
        return AVERAGE_POOL[self.dims](cell_means, size, ceil_mode=True, divisor_override=1).mul_(2**self.dims)


def openness(w: torch.Tensor) -> torch.Tensor:
    """Share of its block's shift that a voxel takes, from w = p (1 - p)."""
    return w**2 / (w**2 + OPEN**2)
