"""Agreement of the distribution of samples with that of the truth: distances between sets of masks, spread, ranks.

Sets of masks are uint8 [n, *shape] with labels; 0 is background, and `classes` includes it. The distance of two masks
is d = 1 - IoU, averaged over the foreground classes; a class that is empty in both masks has distance 0. Functions of
two sets raise ValueError when the shapes of their masks differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

BLOCK = 2**22  # labels converted to one-hot at a time: 16 MiB of float32, few enough that sums of ones are exact
NEGLIGIBLE = 1e-12
"""Masks of a known distribution with less total weight than this are dropped; E[d] changes by no more."""


class EnergyDistance(NamedTuple):
    """Squared generalised energy distance (GED) between n samples and m raters, and its terms.

    Attributes:
        v: GED_V, self-pairs included, as it is published. A perfect sampler scores `floor`, not 0.
        u: GED_U, without self-pairs: unbiased, mean 0 for a perfect sampler at any n and m, so it can be negative. NaN
            with one sample or one rater.
        floor: what a perfect sampler scores in `v`: D (1/n + 1/m), where D is the raters' mean distance. NaN with one
            rater.
        diversity: mean distance of two different samples, for a perfect sampler `rater_diversity`; NaN with one sample.
        rater_diversity: mean distance of two different raters; NaN with one rater.
        cross: mean distance of a sample and a rater, for a perfect sampler `rater_diversity`.
    """

    v: float
    u: float
    floor: float
    diversity: float
    rater_diversity: float
    cross: float

    def as_json(self) -> dict[str, float]:
        """The distances in the records of cases."""
        return {"ged_u": self.u, "ged_v": self.v, "ged_floor": self.floor}


def pairwise_distance(a: np.ndarray, b: np.ndarray, classes: int) -> np.ndarray:
    """Distances [n, m] of every mask in `a` to every mask in `b`."""
    shared, total = _overlaps(a, b, classes)
    union = total - shared
    return (1 - np.divide(shared, union, out=np.ones_like(shared), where=union > 0)).mean(0)


def pairwise_dice(a: np.ndarray, b: np.ndarray, classes: int) -> np.ndarray:
    """Dice [C - 1, n, m] of each foreground class, 1 if empty in both."""
    shared, total = _overlaps(a, b, classes)
    return np.divide(2 * shared, total, out=np.ones_like(shared), where=total > 0)


def expected_dice(parts: Iterable[np.ndarray], classes: int) -> np.ndarray:
    """Expected Dice [C - 1] of each foreground class: mean Dice of two different masks, 1 if empty in both.

    `parts` are those of the same n masks, such as their slices, uint8 [n, *shape of the part]; NaN for n < 2. If the
    masks are draws from the law of the true mask, it is the Dice that one of them has on average with the truth.
    """
    shared = np.zeros((classes - 1, 0, 0))  # sizes of the intersections in voxels, of a mask with itself its size
    for part in parts:
        n, flat = len(part), part.reshape(len(part), -1)
        disputed = flat[:, (flat != flat[0]).any(0)]  # few voxels: all others are the same in every pair
        agreed = np.bincount(flat[0], minlength=classes) - np.bincount(disputed[0], minlength=classes)
        shared = (shared if shared.size else np.zeros((classes - 1, n, n))) + agreed[1:, None, None]
        for c in range(1, classes):
            inside = (disputed == c).astype(np.float32)
            shared[c - 1] += inside @ inside.T
    one, other = np.triu_indices(shared.shape[1], 1)
    if not one.size:
        return np.full(classes - 1, np.nan)
    sizes = shared.diagonal(axis1=1, axis2=2)
    total = sizes[:, one] + sizes[:, other]
    pairs = shared[:, one, other]
    return np.divide(2 * pairs, total, out=np.ones_like(pairs), where=total > 0).mean(1)


def energy_distance(samples: np.ndarray, raters: np.ndarray, classes: int) -> EnergyDistance:
    """GED of samples [n, *shape] against raters [m, *shape] (Székely and Rizzo 2013; Kohl et al. 2018).

    GED_V = 2 E d(S, Y) - E d(S, S') - E d(Y, Y'). Compare GED_V at equal n and m only; GED_U needs no such care.
    """
    n, m = len(samples), len(raters)
    cross = float(pairwise_distance(samples, raters, classes).mean())
    return _energy(cross, _diversity(samples, classes), n, _diversity(raters, classes), m)


def energy_distance_exact(
    samples: np.ndarray, support: np.ndarray, weights: np.ndarray, classes: int, diversity: float | None = None
) -> EnergyDistance:
    """GED of samples [n, *shape] against a known distribution: masks [M, *shape] with probabilities [M].

    Equals the GED against infinitely many raters: a perfect sampler has mean `u` 0 at any n, and D / n in `v`.
    `diversity` is the precomputed `law_diversity`, which takes most of the time. Raises ValueError when the weights do
    not add up to 1.
    """
    support, weights = _possible(support, weights)
    cross = float(pairwise_distance(samples, support, classes).mean(0) @ weights)
    truth = law_diversity(support, weights, classes) if diversity is None else diversity
    return _energy(cross, _diversity(samples, classes), len(samples), truth, math.inf)


def law_diversity(support: np.ndarray, weights: np.ndarray, classes: int) -> float:
    """Mean distance of two independent masks of a distribution: masks [M, *shape] with probabilities [M].

    Raises ValueError when the weights do not add up to 1.
    """
    support, weights = _possible(support, weights)
    # Row blocks of the distance matrix: for 10 000 masks of two classes the whole matrix takes 1.6 GB.
    rows = max(1, BLOCK // len(support))
    blocks = (slice(start, start + rows) for start in range(0, len(support), rows))
    return sum(float(weights[b] @ pairwise_distance(support[b], support, classes) @ weights) for b in blocks)


def _possible(support: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distribution without masks of negligible weight. Raises ValueError when the weights do not add up to 1."""
    if not np.isclose(weights.sum(), 1.0, atol=1e-6):
        raise ValueError("The weights of the masks do not add up to 1.")
    rising = np.argsort(weights)
    possible = np.sort(rising[np.cumsum(weights[rising]) > NEGLIGIBLE])
    return support[possible], weights[possible] / weights[possible].sum()


def hungarian_iou(samples: np.ndarray, raters: np.ndarray, classes: int) -> float:
    """HM-IoU: mean IoU of the best one-to-one matching, both sets repeated to lcm(n, m) (Kohl et al. 2019).

    A perfect sampler scores less than 1, and more with larger n and m: compare at equal n and m only.
    """
    size = math.lcm(len(samples), len(raters))
    repeats = size // len(samples), size // len(raters)
    distances = np.tile(pairwise_distance(samples, raters, classes), repeats)
    return float(1 - distances[linear_sum_assignment(distances)].mean())


def d_max(samples: np.ndarray, raters: np.ndarray, classes: int) -> float:
    """Dice of the best sample for each rater, averaged over raters and foreground classes (maximum Dice matching).

    It increases with the number of samples whatever they are: it measures coverage, not accuracy, and is comparable at
    equal numbers only. A class that is empty in both masks has Dice 1.
    """
    return float(pairwise_dice(samples, raters, classes).mean(0).max(0).mean())


def rank(samples: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Number of samples [..., n] below the truth [...], 0 to n, ties broken at random.

    All n + 1 ranks are equally likely for a perfect sampler.
    """
    truth = np.asarray(truth)[..., None]
    below, equal = (samples < truth).sum(-1), (samples == truth).sum(-1)
    return below + rng.integers(0, equal + 1)


def randomised_pit(samples: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Probability integral transform (PIT) [...] of the truth [...] under the samples [..., n].

    (rank + U(0, 1)) / (n + 1): exactly uniform on 0 to 1 for a perfect sampler at any n, for discrete distributions too
    (Czado et al. 2009).
    """
    ranks = rank(samples, truth, rng)
    return (ranks + rng.random(ranks.shape)) / (np.shape(samples)[-1] + 1)


def coverage(pits: np.ndarray, level: float) -> float:
    """Share of the PIT values [cases] in the middle `level` of 0 to 1: `level` for a perfect sampler at any n."""
    return float((np.abs(np.asarray(pits) - 0.5) <= level / 2).mean())


def rank_histogram(ranks: np.ndarray, samples: int) -> np.ndarray:
    """Cases [n + 1] at each rank among n samples.

    Flat for a perfect sampler, within counting noise: cases / (n + 1) +- its square root. A U shape means that the
    samples vary too little, a hump too much, a slope a bias.
    """
    return np.bincount(np.ravel(ranks), minlength=samples + 1)


def _overlaps(a: np.ndarray, b: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Intersections and sums of sizes [C - 1, n, m], in voxels, of each foreground class in masks of `a` and `b`."""
    if a.shape[1:] != b.shape[1:]:
        raise ValueError("The two sets of masks lie on different grids.")
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    shared, total = np.zeros((2, classes - 1, len(a), len(b)))
    width = max(1, BLOCK // max(len(a), len(b)))
    for start in range(0, a.shape[1], width):
        block = slice(start, start + width)
        for c in range(1, classes):
            in_a, in_b = ((x[:, block] == c).astype(np.float32) for x in (a, b))
            shared[c - 1] += in_a @ in_b.T
            total[c - 1] += in_a.sum(1)[:, None] + in_b.sum(1)
    return shared, total


def _diversity(masks: np.ndarray, classes: int) -> float:
    """Mean distance of two different masks of a set; NaN for a single mask."""
    n = len(masks)
    return float(pairwise_distance(masks, masks, classes).sum()) / (n * (n - 1)) if n > 1 else math.nan


def _energy(cross: float, diversity: float, n: float, truth: float, m: float) -> EnergyDistance:
    """Self-pairs have distance 0, so a mean over all pairs of n is (1 - 1/n) times the mean without them."""
    u = 2 * cross - diversity - truth
    v = 2 * cross - sum(d * (1 - 1 / size) if size > 1 else 0.0 for d, size in ((diversity, n), (truth, m)))
    return EnergyDistance(v, u, truth * (1 / n + 1 / m), diversity, truth, cross)
