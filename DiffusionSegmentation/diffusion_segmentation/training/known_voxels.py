"""Random facts for training: which voxels of a label map are known.

Strokes, blobs, slices and half of the image, as a reviewer's corrections and finished regions are. Where the voxels
lie must not depend on the labels elsewhere, or the network learns the law of another question. Most random places lie
in sure background and say nothing, though, so several are drawn for each label map, one of them is chosen with a
probability that rises with its surprise (nats of its labels under the direct head), and the loss is multiplied by the
mean of these weights: importance sampling, whose expectation is that of a choice by the facts' own labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ..networks import UNKNOWN, class_softmax, space_to_depth

FACTS_SHARE = 0.5  # of the draws that are given facts
CANDIDATES = 4
LEAST_WEIGHT, MOST_WEIGHT, HALF_SURPRISE = 0.2, 2.2, 5.0
"""Weights of facts without and with much surprise, and the surprise (nats) half way between them."""
MOST_SHAPES = 3
STROKE = (0.6, 1.5)  # half thickness in voxels
SLICE_SHARE = 0.3


class RandomFacts:
    """Draws of a training step that are given facts, and the facts."""

    def __init__(self, rng: np.random.Generator, share: float = FACTS_SHARE) -> None:
        self.rng, self.share = rng, share

    def drawn(self, draws: int) -> torch.Tensor:
        """Which of the draws are given facts, bool [draws]; at least one."""
        return torch.from_numpy(self.rng.permutation(draws) < max(1, round(self.share * draws)))

    def choose(self, target: torch.Tensor, direct: torch.Tensor, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Facts uint8 [N, 2^dims, *cells] for the labels `target` of this shape, and the weights [N] of their losses.

        `direct` [N, 2^dims * C, *cells] are the direct head's logits. Labels from `classes` on stay unknown.
        """
        shape = [2 * n for n in target.shape[2:]]
        drawn = np.stack([random_voxels(shape, self.rng) for _ in range(CANDIDATES * len(target))])
        known = space_to_depth(torch.from_numpy(drawn)[:, None]).to(target.device).bool()
        known = known.contiguous().view(len(target), CANDIDATES, *target.shape[1:])
        valid = target < classes
        with torch.no_grad():
            p = class_softmax(direct.float()).unflatten(1, (classes, -1))
            nats = -p.gather(1, (target * valid)[:, None].long())[:, 0].clamp(min=1e-6).log()
            surprise = (known * (nats * valid)[:, None]).flatten(2).sum(2)
            weights = LEAST_WEIGHT + (MOST_WEIGHT - LEAST_WEIGHT) * surprise / (surprise + HALF_SURPRISE)
        shares = (weights / weights.sum(1, keepdim=True)).double().cpu().numpy()
        chosen = [self.rng.choice(CANDIDATES, p=row / row.sum()) for row in shares]
        known = known[torch.arange(len(target)), chosen] & valid
        return torch.where(known, target, UNKNOWN).to(torch.uint8), weights.mean(1)


def random_voxels(shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Voxels of one to three strokes, blobs or slices, or one side of a plane, bool [*shape]."""
    grid = np.indices(shape, sparse=True)
    known = np.zeros(shape, bool)
    for _ in range(rng.integers(1, MOST_SHAPES + 1)):
        kind = rng.random()
        known |= _slice(grid, shape, rng) if kind < SLICE_SHARE else _stroke_or_blob(grid, shape, rng, kind > 0.65)
    return known


def _slice(grid: Sequence[np.ndarray], shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """One or two slices along an axis, or in a third of the draws one side of an oblique plane."""
    if rng.random() < 1 / 3:
        normal = rng.normal(size=len(shape))
        normal /= np.linalg.norm(normal)
        point = [rng.uniform(0, n) for n in shape]
        return sum(a * (g - c) for a, g, c in zip(normal, grid, point, strict=True)) > 0
    axis = int(rng.integers(len(shape)))
    first = int(rng.integers(shape[axis]))
    inside = (grid[axis] >= first) & (grid[axis] < first + rng.integers(1, 3))
    return np.broadcast_to(inside, tuple(shape))


def _stroke_or_blob(
    grid: Sequence[np.ndarray], shape: Sequence[int], rng: np.random.Generator, stroke: bool
) -> np.ndarray:
    """Voxels near a segment: thin for a stroke, round and up to a third of the grid for a blob."""
    start = np.array([rng.uniform(0, n) for n in shape])
    if stroke:
        radius, length = rng.uniform(*STROKE), rng.uniform(0, 0.5) * min(shape)
    else:
        radius = math.exp(rng.uniform(math.log(0.6), math.log(min(shape) / 3)))
        length = rng.uniform(0, radius)
    along = rng.normal(size=len(shape))
    along *= length / np.linalg.norm(along)
    offsets = [g - c for g, c in zip(grid, start, strict=True)]
    share = np.clip(sum(o * a for o, a in zip(offsets, along, strict=True)) / max(along @ along, 1e-9), 0, 1)
    return sum((o - share * a) ** 2 for o, a in zip(offsets, along, strict=True)) <= radius**2
