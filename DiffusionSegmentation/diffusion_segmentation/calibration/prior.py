"""How many samples the direct head is worth in the map (n mean + k direct) / (n + k)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PRIORS = (0, 1, 2, 4, 8, 12, 16, 24, 32)
"""Values of k that are tried; the last one says that the samples add nothing to the map."""

LEAST = 1e-4
"""Least probability in a log score: a class that no sample chose was still not impossible."""


def log_scores(mean: np.ndarray, direct: np.ndarray, labels: np.ndarray, samples: int, near: np.ndarray) -> np.ndarray:
    """Mean -log p of the labels in nats a voxel for each k of PRIORS, over the voxels `near` (bool [*shape]); else NaN.

    mean, direct float [C, *shape], of `samples` samples; labels uint8 [*shape].
    """
    own_mean, own_direct = (np.take_along_axis(p, labels[None].astype(np.int64), 0)[0][near] for p in (mean, direct))
    if not near.any():
        return np.full(len(PRIORS), np.nan)
    mixed = ((samples * own_mean + k * own_direct) / (samples + k) for k in PRIORS)
    return np.array([-np.log(np.maximum(p, LEAST)).mean() for p in mixed])


def choose_prior(scores: Sequence[np.ndarray]) -> tuple[int, np.ndarray, np.ndarray]:
    """The smallest k whose log score is within a standard error of the best, over cases [N, len(PRIORS)].

    Returns k, the mean scores, and the standard errors of their differences to the best.
    """
    table = np.asarray(scores)
    table = table[np.isfinite(table).all(1)]
    if not len(table):
        return 0, np.full(len(PRIORS), np.nan), np.full(len(PRIORS), np.nan)
    mean = table.mean(0)
    best = int(mean.argmin())
    apart = table - table[:, [best]]
    error = apart.std(0, ddof=1) / np.sqrt(len(table)) if len(table) > 1 else np.zeros(len(PRIORS))
    near = np.flatnonzero(apart.mean(0) <= error)
    return PRIORS[int(near[0])], mean, error
