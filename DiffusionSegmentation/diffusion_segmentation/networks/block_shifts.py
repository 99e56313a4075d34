"""Shifts of logits over nested blocks, whose variances are measured in training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ..diffusion.process import alpha_sigma
from .blocks import AVERAGE_POOL, INTERPOLATION, class_softmax
from .pooled_evidence import MAX_SHIFT, PooledEvidence, block_size

OPEN = 0.01  # p (1 - p) at which a voxel takes half of its block's shift; p = 0.01
DECAY = 0.99  # of the moments at a step of much uncertainty; the residuals of an untrained head must be forgotten
TINY = 1e-9
MAX_EXPONENT = 30.0  # exp(30) times a w of 1e-9 is still much evidence
STEPS = 3
MAX_CHANGE = 1.5  # logits by which the shift of a class changes from one step to the next


class BlockShifts(PooledEvidence):
    """As `PooledEvidence`, but the shifts are those of one model of the label map, and a new module adds them at once.

    In this model a class's logit at a voxel, relative to the other classes there, is that of the direct head plus f d:
    d is the sum of independent N(0, t) shifts, one for each of the nested blocks around the voxel, and
    f = w^2 / (w^2 + OPEN^2), w = p (1 - p), leaves alone what is certain in the image. Given the shifts, voxels are
    independent. With q the class probabilities of independent voxels given the state, the score of d at 0 and its
    expected information are

        S = sum f (q - p),    I = sum f^2 w h w / (1 + h w),    h = (exp(g c) - 1) / c,    c = 1 - 4 w,

    with g = 8 alpha^2 / sigma^2 the variance of a voxel's log-likelihood ratio. I has the right limits for little and
    much evidence and for rare classes, if there are two; where more meet, it is up to twice too large.

    If S is Gaussian, the posterior mean of the shift of a block without smaller ones is t S / (1 + t I). For a larger
    block, S and I are the sums of S / (1 + t I) and I / (1 + t I) of the blocks in it: what their own shifts leave of
    the evidence. The largest is estimated first, and its shift times I is taken from the scores of the blocks in it.
    This is exact for two classes, apart from the interpolation between blocks. Where two classes exchange voxels, both
    have about the same estimate with opposite signs, and each takes a part in proportion to its t; `exchange` says
    which classes those are.

    Far from 0 the score is not linear in d. `STEPS` steps of Fisher scoring (McCullagh and Nelder, "Generalized Linear
    Models", 1989) take p, q and w at the shifts of the step before, and add I times these shifts to S. Within a cell
    the means of p and q replace those of its voxels. A shift changes them as if all voxels were alike, times the share
    of the variance of the labels that is within voxels, mean p (1 - p) / (mean p (1 - mean p)).

    `observe` measures the variances t in training; they begin at 1. They are those of the training cases, and too small
    where the direct head fits these better than others. With several GPUs the first one's cases count.
    """

    variances: torch.Tensor
    exchange: torch.Tensor
    moments: torch.Tensor

    def __init__(self, classes: int, channels: int, edges: Sequence[int], embedding: int, dims: int) -> None:
        """As for `PooledEvidence`; each of the `edges` divides the next larger one."""
        super().__init__(classes, channels, sorted(edges, key=lambda edge: -(edge or math.inf)), embedding, dims)
        nn.init.ones_(self.weigh.bias)
        self.register_buffer("variances", torch.ones(len(edges), classes))
        self.register_buffer("exchange", (1 - torch.eye(classes)) / (classes - 1))
        self.register_buffer("moments", torch.zeros(2, len(edges), classes))

    @torch.no_grad()
    def observe(self, direct: torch.Tensor, x0: torch.Tensor) -> None:
        """Measure `variances` (logits^2) from the direct head's logits and masks x0, [N, 2^dims * classes, *cells].

        And `exchange` [classes, classes], the shares of the other classes in each one's uncertainty.

        By the method of moments (Searle, Casella and McCulloch, "Variance Components", 1992). For a state of much noise
        the score of a block is proportional to S = sum f w (y - p), y the mask. With A = sum f^2 w^2, the expectation
        of S^2 - sum f^2 w^3 is the sum over the sizes of blocks of t A^2, A of the smaller of the two blocks. The
        equations of all sizes are solved by least squares for t >= 0. Steps have equal weights, except that those with
        little uncertainty count less. A step with logits that are not finite is left out.
        """
        from scipy.optimize import nnls  # not needed to sample, and its import takes long

        with torch.autocast(direct.device.type, enabled=False):
            p = class_softmax(direct.float())
            w = p * (1 - p) * x0.abs()  # x0 of an unknown voxel is 0
            f = openness(w)
            fw = f * w
            voxels = [each.unflatten(1, (self.classes, -1)).transpose(0, 1).flatten(1) for each in (f * p, p)]
            shares = (voxels[0] @ voxels[1].T).fill_diagonal_(0)
            shares = shares / (shares.sum(1, keepdim=True) + 1)
            terms = [self._cell_means(term) for term in (fw * ((x0 + 1) / 2 - p), fw**2, fw**2 * w)]
        excess, squares = [], []
        for edge in self.edges:
            score, a, independent = (self._block_sums(term, edge).double() for term in terms)
            excess.append((score**2 - independent).transpose(0, 1).flatten(1).sum(1))
            squares.append((a**2).transpose(0, 1).flatten(1).sum(1))
        now = torch.stack([torch.stack(excess), torch.stack(squares)]) / len(x0)
        now = (now / (now[1, 0] + 1)).float()  # comparable between steps: an untrained head is uncertain everywhere
        if not now.isfinite().all():
            return
        now[0] = torch.minimum(now[0], MAX_SHIFT**2 * now[1])
        # A step forgets as much of a class as it says on it, so that rare classes are remembered.
        self.moments.mul_(1 - (1 - DECAY) * now[1, 0]).add_(now, alpha=1 - DECAY)
        self.exchange.mul_(1 - (1 - DECAY) * shares.sum(1, keepdim=True)).add_(shares, alpha=1 - DECAY)
        left, right = self.moments.double().cpu().numpy()
        for k in np.flatnonzero(right[0] > TINY):
            scale = right[:, k] + TINY  # equations of equal weight
            smaller = np.minimum.outer(right[:, k], right[:, k]) / scale[:, None]
            self.variances[:, k] = torch.from_numpy(nnls(smaller, left[:, k] / scale)[0].clip(max=MAX_SHIFT**2))

    @torch.no_grad()
    def shifts(
        self, x: torch.Tensor, log_snr: torch.Tensor, expected: torch.Tensor, posterior: torch.Tensor
    ) -> torch.Tensor:
        """See `PooledEvidence`. `expected` has the precision of `posterior`, for differences q - p of 0.001."""
        with torch.autocast(x.device.type, enabled=False):
            w, state = expected.chunk(2, 1)
            alpha, sigma = (a.view(-1, *(1,) * (x.ndim - 1)) for a in alpha_sigma(log_snr))
            f, evidence = openness(w), 8 * (alpha / sigma) ** 2
            p, q = (state + 1) / 2, self._cell_means(posterior)
            within_p, within_q = share_within(w, p), share_within(q - self._cell_means(posterior.square()), q)
            p_now, q_now, w_now = p, q, w
            reached = relative = torch.zeros_like(q)
            for step in range(STEPS):
                if step:
                    odds = (f * reached).exp_()
                    p_now, q_now = shifted(p, within_p, odds), shifted(q, within_q, odds)
                    w_now = w * (p_now * (1 - p_now) + TINY) / (p * (1 - p) + TINY)
                information = seen(w_now, evidence).mul_(f * f * w_now)
                score = torch.addcmul((q_now - p_now).mul_(f), information, relative)
                found, sums = self._posterior_means(score, information)
                if step < STEPS - 1:
                    sums, total = self._spread(sums, self.edges[-1], q.shape[2:]).chunk(2, 1)
                    change = sums - reached
                    part = (MAX_CHANGE / (change.abs() + TINY)).clamp_(max=1)
                    reached, relative = torch.addcmul(reached, part, change), torch.lerp(relative, total, part)
            return torch.cat(
                [f * self._spread(d, edge, q.shape[2:]) for d, edge in zip(found, self.edges, strict=True)], 1
            )

    def _posterior_means(
        self, score: torch.Tensor, information: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """From the cells' terms of S and I: each class's shift in blocks of each size, [N, classes, *blocks].

        And on the smallest blocks their sums, and those of t S / (1 + t I), in one tensor [N, 2 * classes, *blocks].
        """
        edges = self.edges
        exchange = self.exchange / (self.exchange.sum(1, keepdim=True) + TINY)
        part = self.variances / (self.variances + self.variances @ exchange.T + TINY)
        t, part = (each.view(*each.shape, *(1,) * self.dims) for each in (self.variances, part))
        evidence = [(self._block_sums(score, edges[-1]), self._block_sums(information, edges[-1]))]
        for level in range(len(edges) - 1, 0, -1):  # to the larger blocks
            score, information = evidence[0]
            left = 1 / (1 + t[level] * information)
            blocks = edges[level - 1] // edges[level]
            evidence.insert(0, (self._sums(score * left, blocks), self._sums(information * left, blocks)))
        found: list[torch.Tensor] = []
        sums = torch.zeros_like(evidence[0][0]).repeat(1, 2, *(1,) * self.dims)
        for level, (score, information) in enumerate(evidence):
            if level:
                sums = self._spread(sums, edges[level - 1] // edges[level], score.shape[2:])
                score = score - information * sums[:, self.classes :]
            d = (t[level] * score / (1 + t[level] * information)).clamp_(-2 * MAX_SHIFT, 2 * MAX_SHIFT)
            found.append(part[level] * d)
            sums = sums + torch.cat([found[-1], d], 1)
        return found, sums

    def _spread(self, blocks: torch.Tensor, edge: int, cells: Sequence[int]) -> torch.Tensor:
        """Values of blocks [N, classes, *blocks], interpolated between their centres: [N, classes, *cells]."""
        if blocks[0, 0].numel() == 1:  # the window, which interpolation takes as long for
            return blocks.expand(*blocks.shape[:2], *cells)
        if edge != 1:
            size = block_size(cells, edge)
            blocks = functional.interpolate(blocks, scale_factor=size, mode=INTERPOLATION[self.dims])
        return blocks[(slice(None), slice(None), *[slice(n) for n in cells])]  # blocks can end beyond the window

    def _sums(self, parts: torch.Tensor, edge: int) -> torch.Tensor:
        """Sums of `parts` [N, classes, *parts] over `edge` of them along each axis, 0 for all."""
        size = block_size(parts.shape[2:], edge)
        return AVERAGE_POOL[self.dims](parts, size, ceil_mode=True, divisor_override=1)

    def _block_sums(self, cell_means: torch.Tensor, edge: int) -> torch.Tensor:
        """Sums over the voxels of each block, [N, classes, *blocks]."""
        return self._sums(cell_means, edge).mul_(2**self.dims)


def openness(w: torch.Tensor) -> torch.Tensor:
    """Share of its block's shift that a voxel takes, from w = p (1 - p)."""
    return w**2 / (w**2 + OPEN**2)


def seen(w: torch.Tensor, evidence: torch.Tensor) -> torch.Tensor:
    """Share of w = p (1 - p) that a state explains, h w / (1 + h w); `evidence` is 8 alpha^2 / sigma^2."""
    rare = (1 - 4 * w).clamp_(min=0.01)
    known = (evidence * rare).clamp_(max=MAX_EXPONENT).expm1_().mul_(w / rare)
    return known / (1 + known)


def share_within(within: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Share within voxels of the variance of a cell's labels, from the cell means of p (1 - p) and of p."""
    return ((within + TINY) / (mean * (1 - mean) + TINY)).clamp_(0, 1)


def shifted(mean: torch.Tensor, share: torch.Tensor, odds: torch.Tensor) -> torch.Tensor:
    """Cell means of class probabilities, [N, classes, *cells], after those of each class are multiplied by `odds`."""
    alike = mean * odds
    alike /= alike.sum(1, keepdim=True) + TINY
    return torch.lerp(mean, alike, share)
