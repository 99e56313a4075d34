"""How near the law of the samples is to the law of the truth: distances between sets of masks, spread, ranks.

Sets of masks are uint8 [n, *shape] with labels, 0 is background; `classes` counts it. The distance of two masks is
d = 1 - IoU, meaned over the foreground classes; a class that is empty in both masks is at distance 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import gammaln

# Labels of a set that are one-hot at a time: 16 MiB of float32, and few enough that its sums of ones are exact.
BLOCK = 2**22
# Masks of a support that together weigh less than this are left out: they change an expectation of d by no more.
NEGLIGIBLE = 1e-12


class EnergyDistance(NamedTuple):
    """Squared generalised energy distance between n samples and m raters, and what it is made of.

    Attributes:
        v: GED_V, self-pairs included, as it is published. A perfect sampler scores `floor`, not 0.
        u: GED_U, without self-pairs: unbiased, 0 in the mean for a perfect sampler at any n and m, so it may be
            negative. NaN with one sample or one rater, which have no other to differ from.
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


def distance(a: np.ndarray, b: np.ndarray, classes: int) -> float:
    """1 - IoU of two masks [*shape], meaned over the foreground classes. Raises ValueError when the shapes differ."""
    return float(pairwise_distance(a[None], b[None], classes)[0, 0])


def pairwise_distance(a: np.ndarray, b: np.ndarray, classes: int) -> np.ndarray:
    """Distances [n, m] of every mask of `a` to every one of `b`. Raises ValueError when the shapes differ."""
    shared, total = _overlaps(a, b, classes)
    union = total - shared
    return (1 - np.divide(shared, union, out=np.ones_like(shared), where=union > 0)).mean(0)


def energy_distance(samples: np.ndarray, raters: np.ndarray, classes: int) -> EnergyDistance:
    """GED of samples [n, *shape] against raters [m, *shape] (Székely and Rizzo 2013; Kohl et al. 2018).

    GED_V = 2 E d(S, Y) - E d(S, S') - E d(Y, Y'). Its floor is what remains of it for a perfect sampler: compare GED_V
    at equal n and m only, and GED_U always.

    Raises ValueError when the shapes differ.
    """
    n, m = len(samples), len(raters)
    cross = float(pairwise_distance(samples, raters, classes).mean())
    return _energy(cross, _diversity(samples, classes), n, _diversity(raters, classes), m)


def energy_distance_exact(
    samples: np.ndarray, support: np.ndarray, weights: np.ndarray, classes: int, diversity: float | None = None
) -> EnergyDistance:
    """GED of samples [n, *shape] against a law that is known: masks [M, *shape] with probabilities [M].

    As against infinitely many raters: a perfect sampler scores 0 in the mean of `u` at any n, and D / n in `v`.
    `diversity` is `law_diversity` of the law, where it is known already: it takes most of the time.

    Raises ValueError when the shapes differ or the weights do not add up to 1.
    """
    support, weights = _possible(support, weights)
    cross = float(pairwise_distance(samples, support, classes).mean(0) @ weights)
    truth = law_diversity(support, weights, classes) if diversity is None else diversity
    return _energy(cross, _diversity(samples, classes), len(samples), truth, math.inf)


def law_diversity(support: np.ndarray, weights: np.ndarray, classes: int) -> float:
    """Mean distance of two masks drawn from a law: masks [M, *shape] with probabilities [M].

    Raises ValueError when the weights do not add up to 1.
    """
    support, weights = _possible(support, weights)
    # A few rows of the support's own matrix at a time: with 10 000 masks the whole would be 1.6 GB for two classes.
    rows = max(1, BLOCK // len(support))
    return sum(
        float(
            weights[start : start + rows] @ pairwise_distance(support[start : start + rows], support, classes) @ weights
        )
        for start in range(0, len(support), rows)
    )


def _possible(support: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A law without masks of next to no weight. Raises ValueError when the weights do not add up to 1."""
    if not np.isclose(weights.sum(), 1.0, atol=1e-6):
        raise ValueError("The weights of the masks do not add up to 1.")
    rising = np.argsort(weights)
    kept = np.sort(rising[np.cumsum(weights[rising]) > NEGLIGIBLE])
    return support[kept], weights[kept] / weights[kept].sum()


def hungarian_iou(samples: np.ndarray, raters: np.ndarray, classes: int) -> float:
    """HM-IoU: mean IoU of the best one-to-one matching, both sets repeated to lcm(n, m) (Kohl et al. 2019).

    A perfect sampler scores less than 1, and more the larger n and m are: compare at equal n and m only.

    Raises ValueError when the shapes differ.
    """
    n, m = len(samples), len(raters)
    size = math.lcm(n, m)
    distances = np.tile(pairwise_distance(samples, raters, classes), (size // n, size // m))
    return float(1 - distances[linear_sum_assignment(distances)].mean())


def d_max(samples: np.ndarray, raters: np.ndarray, classes: int, best_of: int | None = None) -> float:
    """Dice of the best sample, meaned over the raters (also called maximum Dice matching); foreground classes meaned.

    It grows with the number of samples whatever they are, so it tells coverage, not accuracy, and only at equal
    numbers: `best_of` k gives the mean over all subsets of k of the n samples; None takes all. A class that is empty
    in both masks has Dice 1.

    Raises ValueError when the shapes differ, or `best_of` is not from 1 to n.
    """
    n, k = len(samples), len(samples) if best_of is None else best_of
    if not 1 <= k <= n:
        raise ValueError(f"The best of {k} cannot be taken from {n} samples.")
    shared, total = _overlaps(samples, raters, classes)
    dice = np.divide(2 * shared, total, out=np.ones_like(shared), where=total > 0).mean(0)
    # The i-th smallest of n is the largest of a subset of k in C(i - 1, k - 1) of the C(n, k) subsets.
    i = np.arange(k, n + 1)
    share = np.exp(_log_choose(i - 1, k - 1) - _log_choose(n, k))
    return float((np.sort(dice, axis=0)[k - 1 :] * share[:, None]).sum(0).mean())


def volume_variance_ratio(sample_variances: np.ndarray, true_variances: np.ndarray) -> float | np.ndarray:
    """Summed variance of the samples' volumes over that of the truth: [cases] to a number, [cases, C] to [C].

    Variances in one unit; those of samples over n - 1 (ddof=1), so that a perfect sampler scores 1 at any n, up to
    noise. Sums, not a mean of ratios, which cases without ambiguity would make infinite. NaN where no case is
    ambiguous in either, infinite where only the truth is not.

    Raises ValueError when the shapes differ.
    """
    if np.shape(sample_variances) != np.shape(true_variances):
        raise ValueError("Samples and truth have variances of different shapes.")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.sum(sample_variances, axis=0) / np.sum(true_variances, axis=0)
    return float(ratio) if ratio.ndim == 0 else ratio


def rank(samples: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How many of the samples [..., n] lie below the truth [...]: 0 to n, equals drawn above or below at random.

    Each of the n + 1 ranks is as likely as another for a perfect sampler.
    """
    truth = np.asarray(truth)[..., None]
    below, equal = (samples < truth).sum(-1), (samples == truth).sum(-1)
    return below + rng.integers(0, equal + 1)


def randomised_pit(samples: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Probability integral transform [...] of the truth [...] under the samples [..., n]: (rank + U(0, 1)) / (n + 1).

    Exactly uniform on 0 to 1 for a perfect sampler, at any n and for a law with ties too (Czado et al. 2009).
    """
    ranks = rank(samples, truth, rng)
    return (ranks + rng.random(ranks.shape)) / (np.shape(samples)[-1] + 1)


def coverage(pits: np.ndarray, level: float) -> float:
    """Share of the PIT values [cases] in the middle `level` of 0 to 1: `level` for a perfect sampler at any n."""
    return float((np.abs(np.asarray(pits) - 0.5) <= level / 2).mean())


def rank_histogram(ranks: np.ndarray, samples: int) -> np.ndarray:
    """Cases [n + 1] at each rank among n samples.

    Flat for a perfect sampler, within the noise of counting: cases / (n + 1) +- its square root. A hollow shows samples
    that spread too little, a hump too much, a slope a bias.
    """
    return np.bincount(np.ravel(ranks), minlength=samples + 1)


def _overlaps(a: np.ndarray, b: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Voxels [C - 1, n, m] that two masks share in each foreground class, and that they have together, both counted."""
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
    """Mean distance of two different masks of a set; NaN when there is one only."""
    n = len(masks)
    return float(pairwise_distance(masks, masks, classes).sum()) / (n * (n - 1)) if n > 1 else math.nan


def _energy(cross: float, diversity: float, n: float, truth: float, m: float) -> EnergyDistance:
    """With self-pairs, which are at distance 0, a mean over pairs of n is (1 - 1/n) of that without."""
    u = 2 * cross - diversity - truth
    v = 2 * cross - sum(d * (1 - 1 / size) if size > 1 else 0.0 for d, size in ((diversity, n), (truth, m)))
    return EnergyDistance(v, u, truth * (1 / n + 1 / m), diversity, truth, cross)


def _log_choose(n: np.ndarray | int, k: int) -> np.ndarray:
    return gammaln(np.asarray(n) + 1.0) - gammaln(k + 1.0) - gammaln(np.asarray(n) - k + 1.0)
