"""Lesions that are present or absent as a whole, some of them jointly."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .case import Phantom
from .enumerable import CellsCase
from .shapes import checkerboard, coordinates, ellipsoid, orientation

Group = tuple[str, tuple[int, ...]]  # kind and candidates, see `LesionsCase`

MOST_CANDIDATES = 8
RADIUS_EDGE = 32  # shortest edge (voxels) above which radii scale with the grid
PROBABILITIES = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9)
EXACTLY_ONE = ((0.5, 0.5), (0.3, 0.7), (0.2, 0.8), (0.2, 0.3, 0.5), (0.1, 0.2, 0.7))
"""Possible probabilities of a group in which exactly one candidate is present, each of them in PROBABILITIES."""
ORGAN, NOISE, TEXTURE = 0.6, 0.02, 0.06
PARTIAL = (0.1, 0.9)  # a candidate filled to a share between these is a chimera


@dataclass(frozen=True, eq=False)
class LesionsCase(CellsCase):
    """`candidates` bool [k, *shape], disjoint, with `labels` [k], probabilities `chances` [k] and `groups`.

    A group is (kind, indices of its candidates): "free" (one candidate), "equal" (all or none), "exactly one".
    """

    candidates: np.ndarray
    labels: np.ndarray
    chances: np.ndarray
    groups: tuple[Group, ...]

    def chimeras(self, masks: np.ndarray) -> float:
        """Share of (mask, candidate) with 10 to 90 % of the candidate filled with its label; masks [n, *shape]."""
        # float32 counts exactly up to 2**24 voxels and uses BLAS.
        flat = self.candidates.reshape(len(self.candidates), -1).astype(np.float32)
        masks = masks.reshape(len(masks), -1)
        filled = np.empty((len(masks), len(flat)))
        for label in np.unique(self.labels):
            same = self.labels == label
            filled[:, same] = (masks == label).astype(np.float32) @ flat[same].T / flat[same].sum(1)
        return float(((filled > PARTIAL[0]) & (filled < PARTIAL[1])).mean())

    def strays(self, masks: np.ndarray) -> float:
        """Mean number of voxels per mask with a label that is impossible there; masks [n, *shape]."""
        allowed = np.tensordot(self.labels, self.candidates, 1)
        return float(((masks != 0) & (masks != allowed)).reshape(len(masks), -1).sum(1).mean())


@dataclass(frozen=True)
class Lesions(Phantom):
    """Up to 8 disjoint ellipsoids in a noisy organ, each present or absent as a whole: at most 256 label maps.

    Class 1 is brighter than the organ and class 2 darker, by 0.1 + 0.5 * (probability of being present). A checkerboard
    marks two candidates that are present together or not at all, stripes two or three of which exactly one is present;
    a case has at most one group of each kind, so the texture identifies its members. The noise, 0.02, is well below the
    contrast steps between probabilities, 0.05 as a mean over a candidate. `radius` is the range of half axes in voxels
    up to a shortest edge of 32; on larger grids it scales with that edge.
    """

    radius: tuple[float, float] = (2.0, 3.8)

    name: ClassVar[str] = "lesions"

    label_names = ("bright lesion", "dark lesion")

    def draw(self, rng: np.random.Generator) -> LesionsCase:
        candidates = self._place(rng, int(rng.integers(3, MOST_CANDIDATES + 1)))
        labels = rng.integers(1, 3, len(candidates))
        groups, chances = random_groups(rng, len(candidates))
        present, weights = combinations(groups, chances)
        # Each candidate is a cell; the first cell is the background.
        masks = np.pad((present * labels).astype(np.uint8), ((0, 0), (1, 0)))
        cells = np.tensordot(np.arange(1, len(candidates) + 1), candidates, 1)

        marks = {"free": np.zeros(self.shape), "equal": checkerboard(self.shape), "exactly one": stripes(self.shape)}
        image = np.full(self.shape, ORGAN)
        for kind, members in groups:
            for k in members:
                contrast = (0.1 + 0.5 * chances[k]) * (1 if labels[k] == 1 else -1)
                image += candidates[k] * (contrast + TEXTURE * marks[kind])
        image += NOISE * rng.standard_normal(self.shape)
        image = image.astype(np.float32)
        return LesionsCase(image, self.classes, masks, weights, cells, candidates, labels, chances, groups)

    def _place(self, rng: np.random.Generator, most: int) -> np.ndarray:
        """1 to `most` ellipsoids bool [k, *shape], inside the grid and at least one voxel apart."""
        axes = len(self.shape)
        low, high = np.array(self.radius) * max(1, min(self.shape) / RADIUS_EDGE)
        radii, centres = rng.uniform(low, high, (most, axes)), np.empty((most, axes))
        reach = radii.max(1)
        placed = 0
        # Fifty tries each suffice unless the grid is too small for all.
        for _ in range(50 * most):
            margin = reach[placed] + 1
            centre = rng.uniform(margin, np.array(self.shape) - 1 - margin)
            away = np.linalg.norm(centres[:placed] - centre, axis=1)
            if (away > reach[:placed] + reach[placed] + 1).all():
                centres[placed] = centre
                placed += 1
            if placed == most:
                break
        grid = coordinates(self.shape)
        places = zip(centres[:placed].reshape(placed, axes, *[1] * axes), radii, strict=False)
        return np.stack([ellipsoid(grid - centre, r, orientation(rng, axes)) < 0 for centre, r in places])


def stripes(shape: tuple[int, ...]) -> np.ndarray:
    """Alternating +1 and -1 along the first axis, int [*shape]."""
    return np.broadcast_to((1 - 2 * (np.arange(shape[0]) % 2)).reshape(-1, *[1] * (len(shape) - 1)), shape)


def random_groups(rng: np.random.Generator, k: int) -> tuple[tuple[Group, ...], np.ndarray]:
    """Random groups of k candidates, and the probabilities [k] of the candidates."""
    order, chances = rng.permutation(k).tolist(), np.empty(k)
    groups: list[Group] = []
    if len(order) >= 2 and rng.random() < 0.6:
        pair = (order.pop(), order.pop())
        chances[list(pair)] = rng.choice(PROBABILITIES)
        groups.append(("equal", pair))
    splits = [split for split in EXACTLY_ONE if len(split) <= len(order)]
    if splits and rng.random() < 0.6:
        split = splits[rng.integers(len(splits))]
        members = tuple(order.pop() for _ in split)
        chances[list(members)] = split
        groups.append(("exactly one", members))
    for candidate in order:
        chances[candidate] = rng.choice(PROBABILITIES)
        groups.append(("free", (candidate,)))
    return tuple(groups), chances


def combinations(groups: tuple[Group, ...], chances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All possible combinations of present candidates, 0 and 1 [combinations, k], and their probabilities."""
    outcomes: list[list[tuple[tuple[int, ...], float]]] = []
    for kind, members in groups:
        if kind == "exactly one":
            outcomes.append([((k,), chances[k]) for k in members])
        else:
            chance = chances[members[0]]
            outcomes.append([(members, chance), ((), 1 - chance)])
    combined = list(itertools.product(*outcomes))
    present = np.zeros((len(combined), len(chances)), int)
    for row, combination in zip(present, combined, strict=True):
        row[[k for members, _ in combination for k in members]] = 1
    return present, np.array([np.prod([weight for _, weight in combination]) for combination in combined])
