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
SMALL = 0.05  # f below which p and q of a cell's voxels are not shifted
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
    much evidence and for rare classes, if there are two; where more meet, it is up to twice too large. h w is taken at
    mean w^2 / mean w of the voxels of a cell, and f at their mean w.

    If S is Gaussian, the posterior mean of the shift of a block without smaller ones is t S / (1 + t I). For a larger
    block, S and I are the sums of S / (1 + t I) and I / (1 + t I) of the blocks in it: what their own shifts leave of
    the evidence. The largest is estimated first, and its shift times I is taken from the scores of the blocks in it.
    This is exact for two classes, apart from the interpolation between blocks. Where two classes exchange voxels, both
    have about the same estimate with opposite signs, and each takes a part in proportion to its t; `exchange` says
    which classes those are.

    Far from 0 the score is not linear in d. So there are `STEPS` steps of Fisher scoring (McCullagh and Nelder,
    "Generalized Linear Models", 1989). Each further step shifts p and q of every voxel by the estimates so far, takes
    w from the shifted p, and adds I times the estimates to S. Where f is small, S and I stay as in the first step, and
    cell means replace w there.

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
        self,
        x: torch.Tensor,
        log_snr: torch.Tensor,
        expected: torch.Tensor,
        posterior: torch.Tensor,
        direct: torch.Tensor,
    ) -> torch.Tensor:
        """See `PooledEvidence`. `expected` has the precision of `posterior`, for differences q - p of 0.001."""
        with torch.autocast(x.device.type, enabled=False):
            w, state = expected.chunk(2, 1)
            alpha, sigma = alpha_sigma(log_snr)
            evidence = (8 * (alpha / sigma) ** 2).view(-1, 1, 1)
            f, cells = openness(w), x.shape[2:]
            w_rows, f_rows = _rows(w), _rows(f)
            score = torch.add(self._cell_means(posterior), state, alpha=-0.5).sub_(0.5).mul_(f)
            score, information = _rows(score), seen(w_rows, evidence) * (f_rows**2 * w_rows)
            information = information.repeat(len(score) // len(information), 1, 1)
            chosen = (f_rows > SMALL).any(2).any(0).nonzero()[:, 0]
            f_rows = f_rows[:, chosen]
            logits, q = (_rows(a)[:, chosen].unflatten(2, (self.classes, -1)) for a in (direct.float(), posterior))
            p_now = p = logits.softmax(2)
            q_now = q
            reached = relative = torch.zeros_like(q[..., 0])
            for left in range(STEPS - 1, -1, -1):
                w_now = p_now - p_now.square()
                mean = w_now.mean(3)
                now = seen(w_now.square().mean(3) / (mean + TINY), evidence) * (f_rows**2 * mean)
                information[:, chosen] = now
                score[:, chosen] = torch.addcmul((q_now - p_now).mean(3) * f_rows, now, relative)
                found, sums = self._posterior_means(score, information, cells)
                if left:
                    estimate, total = _rows(self._spread(sums, self.edges[-1], cells))[:, chosen].chunk(2, 2)
                    change = estimate - reached
                    part = (MAX_CHANGE / (change.abs() + TINY)).clamp_(max=1)
                    reached, relative = torch.addcmul(reached, part, change), torch.lerp(relative, total, part)
                    odds = (f_rows * reached).exp_().unsqueeze(3)
                    p_now, q_now = shifted(p, odds), shifted(q, odds)
            return torch.cat([f * self._spread(d, edge, cells) for d, edge in zip(found, self.edges, strict=True)], 1)

    def _posterior_means(
        self, score: torch.Tensor, information: torch.Tensor, cells: Sequence[int]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Each class's shift in blocks of each size, [N, classes, *blocks], from terms of S and I, [N, cells, classes].

        And on the smallest blocks their sums, and those of t S / (1 + t I), in one tensor [N, 2 * classes, *blocks].
        """
        edges = self.edges
        exchange = self.exchange / (self.exchange.sum(1, keepdim=True) + TINY)
        part = self.variances / (self.variances + self.variances @ exchange.T + TINY)
        t, part = (each.view(*each.shape, *(1,) * self.dims) for each in (self.variances, part))
        terms = (each.unflatten(1, tuple(cells)).movedim(-1, 1) for each in (score, information))
        evidence = [tuple(self._block_sums(each, edges[-1]) for each in terms)]
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
        if blocks[0, 0].numel() == 1:  # constant, so interpolation is not needed
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


def shifted(p: torch.Tensor, odds: torch.Tensor) -> torch.Tensor:
    """Class probabilities [N, cells, classes, voxels] after the odds of each class are multiplied by `odds`."""
    p = p * odds
    return p.div_(p.sum(2, keepdim=True).clamp_(min=TINY))


def _rows(a: torch.Tensor) -> torch.Tensor:
    """[N, channels, *cells] as [N, cells, channels]."""
    return a.movedim(1, -1).flatten(1, -2)
