"""Distinct alternatives of the joint samples inside an uncertain region.

Worker and Slicer compute them from the same masks. Needs numpy only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MOST = 3  # alternatives of one region
BLOCK = 2**22  # labels compared at a time, to save memory
LOWERS = 0.1
"""Share of the mean distance that a further alternative must remove. Of n samples that all differ equally one more
removes 1 / (n - 1), no more than this from 11 samples on: then only a group, or a sample that stands out, is another.
Up to MOST different masks are all alternatives, because of three the second removes at least half and the third all."""


@dataclass(frozen=True)
class Alternative:
    """A sample, by its number from 0, and the samples that it stands for: those that are nearest to it.

    `count` is their number, itself included, and `likeness` their mean IoU with it, 1 if they are identical.
    """

    sample: int
    count: int
    likeness: float

    def as_json(self) -> dict[str, float]:
        return {"sample": self.sample, "count": self.count, "likeness": round(self.likeness, 4)}


def alternatives(masks: np.ndarray) -> list[Alternative]:
    """The distinct alternatives among label maps uint8 [n, voxels], most frequent first, at most MOST; [] without any.

    The medoids (Kaufman and Rousseeuw, 1987) are the samples with the smallest mean distance of all samples to the
    nearest of them, of all possible choices the best, among equals the first samples. Their number grows as long as one
    more lowers that distance by more than LOWERS of it, so that identical masks are one alternative.
    """
    if not len(masks):
        return []
    whole = distances(masks)
    # Identical masks once, by the first of them, with their share of the samples.
    distinct, counts = np.unique((whole == 0).argmax(1), return_counts=True)
    distance, shares = whole[np.ix_(distinct, distinct)], counts / len(masks)
    mean, medoids = _best(distance, shares, 1)
    for number in range(2, min(MOST, len(distinct)) + 1):
        lower, more = _best(distance, shares, number)
        if mean - lower <= LOWERS * mean:
            break
        mean, medoids = lower, more
    chosen = list(distinct[list(medoids)])
    nearest = whole[:, chosen].argmin(1)
    groups = [(int(sample), whole[nearest == n, sample]) for n, sample in enumerate(chosen)]
    found = [Alternative(sample, len(group), 1 - float(group.mean())) for sample, group in groups]
    return sorted(found, key=lambda one: (-one.count, one.sample))


def distances(masks: np.ndarray) -> np.ndarray:
    """1 - IoU [n, n] of label maps uint8 [n, voxels], each seen as the set of its pairs of voxel and label above 0.

    0 if both are empty. A voxel with two different labels counts twice in the union. This is a metric (Jaccard's).
    """
    shared, sizes = np.zeros((len(masks), len(masks))), np.count_nonzero(masks, axis=1)
    for block in np.array_split(masks, max(1, masks.size // BLOCK), axis=1):
        for label in np.unique(block[block > 0]):
            inside = (block == label).astype(np.float32)  # BLAS counts them exactly: there are fewer than 2**24
            shared += inside @ inside.T
    union = sizes[:, None] + sizes - shared
    return 1 - np.divide(shared, union, out=np.ones_like(shared), where=union > 0)


def _best(
    distance: np.ndarray, shares: np.ndarray, number: int, nearest: np.ndarray | float = math.inf, first: int = 0
) -> tuple[float, tuple[int, ...]]:
    """Smallest mean distance to the nearest of `number` masks from the number `first` on, and these masks.

    `shares` [n] are the weights of the mean, `nearest` [n] distances to masks that are chosen already.
    """
    if number == 1:
        means = np.minimum(distance[first:], nearest) @ shares
        return float(means.min()), (first + int(means.argmin()),)
    choices = []
    for n in range(first, len(distance) - number + 1):
        mean, others = _best(distance, shares, number - 1, np.minimum(nearest, distance[n]), n + 1)
        choices.append((mean, (n, *others)))
    return min(choices)
