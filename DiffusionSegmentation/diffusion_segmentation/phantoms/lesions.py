"""Lesions that are there or not: whole candidates appear or stay away, some of them together."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .case import Phantom
from .enumerable import CellsCase
from .shapes import checkerboard, coordinates, ellipsoid, orientation

MOST_CANDIDATES = 8
# On a grid with a longer shortest edge than this, radii grow with it.
RADIUS_EDGE = 32
PROBABILITIES = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9)
# Of a group of which exactly one is there: what the chances can be, each one of PROBABILITIES.
EXACTLY_ONE = ((0.5, 0.5), (0.3, 0.7), (0.2, 0.8), (0.2, 0.3, 0.5), (0.1, 0.2, 0.7))
ORGAN, NOISE, TEXTURE = 0.6, 0.02, 0.06
# A candidate of which this share is filled is neither there nor away.
HALF_THERE = (0.1, 0.9)


@dataclass(frozen=True, eq=False)
class LesionsCase(CellsCase):
    """`candidates` bool [k, *shape], disjoint; their labels `labels` [k], chances `chances` [k] and `groups`.

    A group is (kind, indices of its candidates): "free" (one candidate), "equal" (all or none), "exactly one".
    """

    candidates: np.ndarray
    labels: np.ndarray
    chances: np.ndarray
    groups: tuple[tuple[str, tuple[int, ...]], ...]

    def chimeras(self, masks: np.ndarray) -> float:
        """Share of (mask, candidate) with 10 to 90 % of the candidate filled with its label; masks [n, *shape]."""
        # float32 counts exactly up to 2**24 voxels, and lets the product run in BLAS.
        flat = self.candidates.reshape(len(self.candidates), -1).astype(np.float32)
        masks = masks.reshape(len(masks), -1)
        filled = np.empty((len(masks), len(flat)))
        for label in np.unique(self.labels):
            own = self.labels == label
            filled[:, own] = (masks == label).astype(np.float32) @ flat[own].T / flat[own].sum(1)
        return float(((filled > HALF_THERE[0]) & (filled < HALF_THERE[1])).mean())

    def strays(self, masks: np.ndarray) -> float:
        """Mean number of voxels in a mask that are labelled where that label cannot be; masks [n, *shape]."""
        allowed = np.tensordot(self.labels, self.candidates, 1)
        return float(((masks != 0) & (masks != allowed)).reshape(len(masks), -1).sum(1).mean())


@dataclass(frozen=True)
class Lesions(Phantom):
    """Up to 8 disjoint ellipsoids in a noisy organ; each is wholly there or not, and at most 256 label maps exist.

    Class 1 is brighter than the organ and class 2 darker, by 0.1 + 0.5 * (chance of being there). A checkerboard marks
    the two that are there together or not at all, stripes the two or three of which exactly one is there; a case has
    at most one group of each kind, so the marks tell who belongs together. The noise, 0.02, is far below the steps
    between the chances, 0.05 as a mean over a whole candidate. `radius` is the range of half axes in voxels up to a
    shortest edge of 32; on a larger grid it grows with that edge, so that a candidate's share of the grid is kept.
    """

    radius: tuple[float, float] = (2.0, 3.8)

    name: ClassVar[str] = "lesions"

    @property
    def label_names(self) -> tuple[str, ...]:
        return ("bright lesion", "dark lesion")

    def draw(self, rng: np.random.Generator) -> LesionsCase:
        candidates = self._place(rng, int(rng.integers(3, MOST_CANDIDATES + 1)))
        labels = rng.integers(1, 3, len(candidates))
        groups, chances = couple(rng, len(candidates))
        present, weights = joint(groups, chances)
        # Each candidate is a cell, and what lies outside of all is the first one.
        masks = np.pad((present * labels).astype(np.uint8), ((0, 0), (1, 0)))
        cells = np.tensordot(np.arange(1, len(candidates) + 1), candidates, 1)

        marks = {"free": np.zeros(self.shape), "equal": checkerboard(self.shape), "exactly one": stripes(self.shape)}
        image = np.full(self.shape, ORGAN)
        for kind, members in groups:
            for k in members:
                contrast = (0.1 + 0.5 * chances[k]) * (1 if labels[k] == 1 else -1)
                image += candidates[k] * (contrast + TEXTURE * marks[kind])
        image += NOISE * rng.standard_normal(self.shape)
        return LesionsCase(
            image=image.astype(np.float32),
            classes=self.classes,
            masks=masks,
            weights=weights,
            cells=cells,
            candidates=candidates,
            labels=labels,
            chances=chances,
            groups=groups,
        )

    def _place(self, rng: np.random.Generator, wanted: int) -> np.ndarray:
        """At most `wanted` ellipsoids bool [k, *shape], whole and at least a voxel apart; at least one."""
        axes = len(self.shape)
        low, high = np.array(self.radius) * max(1, min(self.shape) / RADIUS_EDGE)
        radii, centres = rng.uniform(low, high, (wanted, axes)), np.empty((wanted, axes))
        reach = radii.max(1)
        found = 0
        # Where the grid is too small for all, fewer are found; elsewhere fifty tries each are enough.
        for _ in range(50 * wanted):
            margin = reach[found] + 1
            centre = rng.uniform(margin, np.array(self.shape) - 1 - margin)
            away = np.linalg.norm(centres[:found] - centre, axis=1)
            if (away > reach[:found] + reach[found] + 1).all():
                centres[found] = centre
                found += 1
                if found == wanted:
                    break
        grid = coordinates(self.shape)
        places = zip(centres[:found].reshape(found, axes, *[1] * axes), radii, strict=False)
        return np.stack([ellipsoid(grid - centre, r, orientation(rng, axes)) < 0 for centre, r in places])


def stripes(shape: tuple[int, ...]) -> np.ndarray:
    """+1 and -1 in turn along the first axis, int [*shape]."""
    return np.broadcast_to((1 - 2 * (np.arange(shape[0]) % 2)).reshape(-1, *[1] * (len(shape) - 1)), shape)


def couple(rng: np.random.Generator, k: int) -> tuple[tuple[tuple[str, tuple[int, ...]], ...], np.ndarray]:
    """Random groups of k candidates and each candidate's chance [k]."""
    order, chances, groups = rng.permutation(k).tolist(), np.empty(k), []
    if len(order) >= 2 and rng.random() < 0.6:
        pair = (order.pop(), order.pop())
        chances[list(pair)] = rng.choice(PROBABILITIES)
        groups.append(("equal", pair))
    fitting = [one for one in EXACTLY_ONE if len(one) <= len(order)]
    if fitting and rng.random() < 0.6:
        split = fitting[rng.integers(len(fitting))]
        members = tuple(order.pop() for _ in split)
        chances[list(members)] = split
        groups.append(("exactly one", members))
    for candidate in order:
        chances[candidate] = rng.choice(PROBABILITIES)
        groups.append(("free", (candidate,)))
    return tuple(groups), chances


def joint(groups: tuple[tuple[str, tuple[int, ...]], ...], chances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All combinations of candidates that can be there, 0 and 1 [combinations, k], and their probabilities."""
    outcomes = []
    for kind, members in groups:
        if kind == "exactly one":
            outcomes.append([((k,), chances[k]) for k in members])
        else:
            chance = chances[members[0]]
            outcomes.append([(members, chance), ((), 1 - chance)])
    present, weights = [], []
    for combination in itertools.product(*outcomes):
        row = np.zeros(len(chances), int)
        row[[k for there, _ in combination for k in there]] = 1
        present.append(row)
        weights.append(np.prod([weight for _, weight in combination]))
    return np.stack(present), np.array(weights)
