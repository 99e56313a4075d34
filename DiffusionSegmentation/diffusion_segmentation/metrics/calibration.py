"""Whether what is said to have probability p happens in a share p of cases, and what a perfect sampler would score.

Every score takes the probability [...] of an event, and whether it happened (bool [...]). For the label that was chosen
the event is that it is right, and its probability is the confidence; for one class it is that the voxel is of it.
Take all voxels of a region near the structures (`region.within`) and of all cases together: far background makes any
model look calibrated, and within one case errors go together, so that a perfect model scores more than the floors here.

A probability that is the mean of n samples is not the model's own but that with noise, so scores have floors that fall
with n. With hard samples and true probabilities that are uniform on 0 to 1 (15 bins):

    n samples     1     2     5     8     16    32    64    exact
    ECE         .333  .167  .086  .056  .029  .015  .008   .000
    Brier       .333  .250  .200  .187  .177  .172  .169   .167
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import stats


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """ECE: mean gap between confidence and accuracy over equal-width bins, weighted by their voxels (Guo et al. 2017).

    Not zero for a perfect model from few samples: a probability that is a mean of 8 hard masks has an ECE of about 0.06
    where all is ambiguous. `ece_floor` gives the value for given probabilities.
    """
    count, said, happened = _binned(confidence, correct, _equal_width(confidence, bins), bins)
    return float(np.abs(happened - said).sum() / count.sum())


def average_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over the equal-width bins that hold anything, each counting the same.

    It is what MONAI and ValUES call ACE; not the adaptive calibration error. Its floor for a perfect sampler falls with
    the number of samples as that of the ECE does, and with the voxels in the emptiest bin.
    """
    count, said, happened = _binned(confidence, correct, _equal_width(confidence, bins), bins)
    filled = count > 0
    return float((np.abs(happened - said)[filled] / count[filled]).mean())


def adaptive_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over bins of equal mass (Nixon et al. 2019).

    Equal probabilities, which few samples give many of, stay in one bin; bins are then weighted by their voxels. The
    floor for a perfect sampler falls with the number of samples as that of the ECE does.
    """
    share = (stats.rankdata(confidence, axis=None) - 0.5) / np.size(confidence)
    count, said, happened = _binned(confidence, correct, (share * bins).astype(int), bins)
    return float(np.abs(happened - said).sum() / count.sum())


def ece_floor(
    probabilities: np.ndarray, n_samples: int, rng: np.random.Generator, spread: float = 1.0, bins: int = 15
) -> float:
    """ECE that a perfect sampler would score where the true class probabilities are [C, ...], from so many samples.

    Draws its samples, means them, chooses the most probable class and draws the truth, each voxel by itself: use many
    voxels, because few leave noise of counting in it. `spread` tells the kind of sample: 1 for hard masks; for
    softmax probabilities their variance as a share of p (1 - p), see `sample_spread`, with the Dirichlet law that has
    it; 0 for exact probabilities, where no floor but that noise is left.

    A model's own mean may stand for the true probabilities. It is more extreme than they are, so its floor is too low,
    at 8 samples by an eighth.

    Raises ValueError when there is no sample, or `spread` is not from 0 to 1.
    """
    if n_samples < 1 or not 0 <= spread <= 1:
        raise ValueError("A floor needs a sample or more, and a spread from 0 to 1.")
    p = np.asarray(probabilities, np.float64).reshape(len(probabilities), -1).T
    p = p / p.sum(1, keepdims=True)
    if spread == 1:
        mean = rng.multinomial(n_samples, p) / n_samples
    elif spread == 0:
        mean = p
    else:
        # Gamma variates over their sum follow the Dirichlet law; its variance is p (1 - p) / (1 + concentration).
        concentration = (1 - spread) / spread
        mean = np.zeros_like(p)
        for _ in range(n_samples):
            gamma = rng.standard_gamma(concentration * p)
            empty = gamma.sum(1) == 0  # they underflow where the law is all but hard
            gamma[empty] = rng.multinomial(1, p[empty])
            mean += gamma / gamma.sum(1, keepdims=True) / n_samples
    truth = (rng.random((len(p), 1)) > np.cumsum(p, 1)[:, :-1]).sum(1)
    return expected_calibration_error(mean.max(1), mean.argmax(1) == truth, bins)


def sample_spread(probabilities: np.ndarray) -> float:
    """Variance between the samples' class probabilities [n, C, ...] as a share of p (1 - p): 1 for hard masks.

    Unbiased in both parts at any n. NaN where nothing is ambiguous. Raises ValueError for fewer than two samples.
    """
    n = len(probabilities)
    if n < 2:
        raise ValueError("A spread needs two samples or more.")
    variance = probabilities.var(0, ddof=1, dtype=np.float64).sum()
    mean = probabilities.mean(0, dtype=np.float64)
    most = (mean * (1 - mean)).sum() + variance / n
    return float(variance / most) if most > 0 else math.nan


def brier(probability: np.ndarray, happened: np.ndarray) -> float:
    """Brier score of an event: mean (p - y)^2, 0 to 1; half of Brier's own sum over two classes.

    A perfect model scores mean p (1 - p), and from n hard samples (1 + 1/n) times that: see `brier_debiased`.
    """
    return float(np.square(np.asarray(probability, np.float64) - happened).mean())


def brier_debiased(probability: np.ndarray, happened: np.ndarray, n_samples: int) -> float:
    """Brier score that infinitely many samples would have, from a probability that is the mean of n hard samples.

    B - mean[p (1 - p)] / (n - 1). A perfect sampler scores mean p (1 - p) of the true probabilities at any n.

    Raises ValueError for fewer than two samples.
    """
    return brier(probability, happened) - _mean_variance(probability, n_samples)


class Reliability(NamedTuple):
    """A reliability diagram as a table, one row a bin; NaN where a bin is empty.

    Attributes:
        edges: bounds of the bins [bins + 1].
        counts: voxels [bins].
        confidence: mean confidence [bins].
        accuracy: share [bins] that was right.
        low, high: 95 % Wilson interval [bins] of the accuracy if voxels were independent. They are not, so the true
            uncertainty is larger: bootstrap over cases.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> Reliability:
    """Confidence and accuracy over equal-width bins.

    On the diagonal for exact probabilities. From few samples a perfect sampler lies above it at low confidence and
    below at high, by the floor of the ECE.
    """
    count, said, happened = _binned(confidence, correct, _equal_width(confidence, bins), bins)
    n = np.where(count > 0, count, np.nan)
    share, z = happened / n, stats.norm.ppf(0.975)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Reliability(np.linspace(0, 1, bins + 1), count, said / n, share, middle - reach, middle + reach)


def ambiguous(exact: np.ndarray, margin: float = 0.02) -> np.ndarray:
    """Where (bool) an exact probability is neither near 0 nor near 1.

    Chosen by the truth alone: choosing by the samples would choose their noise too.
    """
    return (exact > margin) & (exact < 1 - margin)


def probability_rmse(samples_mean: np.ndarray, exact: np.ndarray, n_samples: int) -> float:
    """Root mean square error of probabilities [...] without the noise of the n hard samples that they are a mean of.

    sqrt(mean[(p - exact)^2] - mean[p (1 - p)] / (n - 1)), 0 where that is negative. 0 for a perfect sampler at any n,
    up to noise. Take the ambiguous voxels of all cases together: others dilute it, and the clipping at 0 would bias a
    mean over cases. Softmax probabilities have less noise than is subtracted here.

    Raises ValueError for fewer than two samples.
    """
    error = np.square(np.asarray(samples_mean, np.float64) - exact).mean()
    return math.sqrt(max(0.0, float(error) - _mean_variance(samples_mean, n_samples)))


def _mean_variance(probability: np.ndarray, n_samples: int) -> float:
    """Variance of a mean of n hard samples, meaned over voxels: unbiased, because E[p (1 - p)] is (n - 1) times it."""
    if n_samples < 2:
        raise ValueError("The noise of one sample cannot be told from what it shows.")
    p = np.asarray(probability, np.float64)
    return float((p * (1 - p)).mean()) / (n_samples - 1)


def _equal_width(confidence: np.ndarray, bins: int) -> np.ndarray:
    return np.clip((np.asarray(confidence) * bins).astype(int), 0, bins - 1)


def _binned(confidence: np.ndarray, correct: np.ndarray, where: np.ndarray, bins: int) -> tuple[np.ndarray, ...]:
    """Voxels, summed confidence and number right of each bin [bins]."""
    where = np.ravel(where)
    weights = None, np.ravel(confidence), np.ravel(correct)
    return tuple(np.bincount(where, w, minlength=bins) for w in weights)
