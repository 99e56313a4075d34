"""Weight k of the direct head in the probability map (n mean + k direct) / (n + k) of n samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PRIORS = (0, 1, 2, 4, 8, 12, 16, 24, 32)
"""Candidate values of k; choosing the last means that the samples add nothing to the map."""

MIN_PROBABILITY = 1e-4  # lower bound in a log score, because a class that no sample chose is still possible


def log_scores(mean: np.ndarray, direct: np.ndarray, labels: np.ndarray, samples: int, near: np.ndarray) -> np.ndarray:
    """Mean -log p of the labels in nats per voxel of `near` (bool [*shape]) for each of PRIORS; NaN without voxels.

    mean float [C, *shape] of `samples` samples; direct float [C, *shape]; labels uint8 [*shape].
    """
    if not near.any():
        return np.full(len(PRIORS), np.nan)
    index = labels[None].astype(np.int64)
    label_mean, label_direct = (np.take_along_axis(p, index, 0)[0][near] for p in (mean, direct))
    mixed = ((samples * label_mean + k * label_direct) / (samples + k) for k in PRIORS)
    return np.array([-np.log(np.maximum(p, MIN_PROBABILITY)).mean() for p in mixed])


def choose_prior(scores: Sequence[np.ndarray]) -> tuple[int, np.ndarray, np.ndarray]:
    """Smallest k whose mean log score is within one standard error of the best; `scores` [N cases, len(PRIORS)].

    Returns k, the mean scores, and the standard errors of their differences to the best.
    """
    table = np.asarray(scores)
    table = table[np.isfinite(table).all(1)]
    if not len(table):
        return 0, np.full(len(PRIORS), np.nan), np.full(len(PRIORS), np.nan)
    mean = table.mean(0)
    differences = table - table[:, [int(mean.argmin())]]
    error = differences.std(0, ddof=1) / np.sqrt(len(table)) if len(table) > 1 else np.zeros(len(PRIORS))
    within = np.flatnonzero(differences.mean(0) <= error)
    return PRIORS[int(within[0])], mean, error
