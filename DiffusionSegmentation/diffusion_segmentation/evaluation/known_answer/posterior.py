"""Scores of one row on one phantom case against the exact posterior, as numbers that can be pooled over cases.

Voxels count where the exact posterior is ambiguous (`metrics.ambiguous`); selecting them by the samples would select
the noise of the samples too. Whether a voxel is correct is counted by its exact probability instead of one sample of
the truth: the same expectation with less noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ... import metrics
from ...phantoms import PhantomCase
from ...phantoms.lesions import LesionsCase
from ..pooling import binned
from .samplers import Prediction, votes

TRUTHS = 64  # exact samples per case that represent the truth
GROUP = 8  # samples of an interval: the default of the program
LEVELS = (50, 80, 90)  # levels of the volume intervals (%)
BITS = 0.1  # entropy (bits) above which a voxel counts for `threshold_mean`
PATCH_VOXELS = 5


class Truth:
    """A case and the parts of its exact posterior that all rows need."""

    def __init__(self, case: PhantomCase, rng: np.random.Generator) -> None:
        self.case = case
        self.draws = case.sample(rng, TRUTHS)
        self.volumes = volumes(self.draws, case.classes)
        self.law = case.volumes()
        self.support = case.support()
        self.open = metrics.ambiguous(case.marginals[1:])
        self.anywhere = self.open.any(0)
        self.entropy = entropy_bits(case.marginals)
        # A volume with few values, such as that of a lesion that may be absent, has no interval of 90 %.
        self.largest_atom = np.zeros(case.classes - 1)
        if self.support is not None:
            self.largest_atom = np.array([case.volume_law(c)[1].max() for c in range(1, case.classes)])

    def risk(self, probabilities: np.ndarray) -> float:
        """Expected distance (1 - IoU) of the most probable labels from the truth; probabilities [C, *shape]."""
        consensus = probabilities.argmax(0).astype(np.uint8)[None]
        if self.support is None:
            return float(metrics.pairwise_distance(consensus, self.draws, self.case.classes).mean())
        masks, weights = self.support
        return float(metrics.pairwise_distance(consensus, masks, self.case.classes)[0] @ weights)

    def energy(self, masks: np.ndarray) -> metrics.EnergyDistance:
        """GED of masks [n, *shape] against the posterior, or against its samples if it cannot be enumerated."""
        if self.support is None:
            return metrics.energy_distance(masks, self.draws, self.case.classes)
        return metrics.energy_distance_exact(masks, *self.support, self.case.classes, self._diversity)

    @cached_property
    def _diversity(self) -> float | None:
        """Mean distance of two true masks if they can be enumerated, computed once for all rows."""
        return None if self.support is None else metrics.law_diversity(*self.support, self.case.classes)

    def record(self) -> dict[str, Any]:
        """Numbers that are the same for all rows."""
        exact = self.case.marginals[1:][self.open]
        return {
            "variance": self.law.variance.tolist(),
            "mean": self.law.mean.tolist(),
            "enumerable": self.support is not None,
            "largest_atom": self.largest_atom.tolist(),
            "open": int(exact.size),
            "irreducible": float((exact * (1 - exact)).sum()),
            "risk": self.risk(self.case.marginals),
            "confidence": confidence(self.entropy),
        }


def score_case(truth: Truth, prediction: Prediction, rng: np.random.Generator) -> dict[str, Any]:
    """Numbers of one row on one case; those of joint samples only if the prediction has samples."""
    p = prediction.probabilities
    chosen, exact = p.argmax(0), truth.case.marginals
    correct = np.take_along_axis(exact, chosen[None], 0)[0]
    bits, true_bits = entropy_bits(p).ravel(), truth.entropy.ravel()
    record = {
        "calibration": binned(p.max(0)[truth.anywhere], correct[truth.anywhere]),
        "entropy": [bits.size, bits.sum(), true_bits.sum(), bits @ bits, true_bits @ true_bits, bits @ true_bits],
        "risk": truth.risk(p),
        "confidence": confidence(bits.reshape(chosen.shape)),
        **_error(truth, prediction),
        "seconds": prediction.seconds,
    }
    return record if prediction.masks is None else record | _joint(truth, prediction.masks, rng)


def _error(truth: Truth, prediction: Prediction) -> dict[str, float]:
    """Squared error of the probabilities, and the part of it that is sampling noise of the n masks."""
    p, noise = prediction.probabilities, 0.0
    if prediction.masks is not None:
        p = votes(prediction.masks, truth.case.classes)
        shares = p[1:][truth.open]
        noise = float((shares * (1 - shares)).sum() / (len(prediction.masks) - 1))
    error = np.square(p[1:][truth.open] - truth.case.marginals[1:][truth.open])
    return {"squared_error": float(error.sum()), "noise": noise}


def _joint(truth: Truth, masks: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    sampled = volumes(masks, truth.case.classes)
    record = {
        "volume_variance": sampled.var(0, ddof=1).tolist(),
        "volume_mean": sampled.mean(0).tolist(),
        **truth.energy(masks).as_json(),
        "intervals": _intervals(sampled, truth.volumes),
        **_ranks(sampled, truth.volumes, rng),
    }
    if isinstance(truth.case, LesionsCase):
        record |= {"chimeras": truth.case.chimeras(masks), "strays": truth.case.strays(masks)}
    return record


def _groups(sampled: np.ndarray) -> np.ndarray:
    """Sampled volumes [n, C - 1] in groups of GROUP, [C - 1, 1, groups, GROUP]."""
    groups = sampled[: len(sampled) // GROUP * GROUP].reshape(-1, GROUP, sampled.shape[1])
    return np.moveaxis(groups, -1, 0)[:, None]


def _intervals(sampled: np.ndarray, true: np.ndarray) -> dict[str, list[float]]:
    """Share of the true volumes [truths, C - 1] inside the predictive intervals of GROUP samples each, by class."""
    groups, truths = _groups(sampled), true.T[:, :, None]
    return {str(level): metrics.covered(groups, truths, level / 100).mean((1, 2)).tolist() for level in LEVELS}


def _ranks(sampled: np.ndarray, true: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """By class: shares of the ranks 0 to GROUP of a true volume in GROUP samples, and shares of PITs inside levels.

    "50" is the level 50 % of the PIT in all samples, "group50" that of the PIT in GROUP samples.
    """
    groups = _groups(sampled)
    truths = np.broadcast_to(true.T[:, :, None], (sampled.shape[1], len(true), groups.shape[2]))
    ranks = metrics.rank(np.broadcast_to(groups, (*truths.shape, GROUP)), truths, rng)
    pit_of_group = (ranks + rng.random(ranks.shape)) / (GROUP + 1)
    pit_of_all = metrics.randomised_pit(np.broadcast_to(sampled.T[:, None], (*true.T.shape, len(sampled))), true.T, rng)
    pit = {}
    for level in LEVELS:
        pit[str(level)] = [metrics.coverage(values, level / 100) for values in pit_of_all]
        pit[f"group{level}"] = [metrics.coverage(values, level / 100) for values in pit_of_group]
    return {"ranks": [(metrics.rank_histogram(row, GROUP) / row.size).tolist() for row in ranks], "pit": pit}


def volumes(masks: np.ndarray, classes: int) -> np.ndarray:
    """Voxels of each foreground class in each mask, float64 [n, C - 1]."""
    flat = masks.reshape(len(masks), -1)
    return np.stack([np.count_nonzero(flat == c, axis=1) for c in range(1, classes)], 1).astype(np.float64)


def entropy_bits(p: np.ndarray) -> np.ndarray:
    """Entropy [*shape] in bits of class probabilities [C, *shape]."""
    p = p.astype(np.float64)
    return -(p * np.log2(np.maximum(p, np.finfo(float).tiny))).sum(0)


def confidence(
    bits: np.ndarray, spacing: Sequence[float] | None = None, patch: float = PATCH_VOXELS
) -> dict[str, float]:
    """Minus the entropy [*shape] in bits of a case, aggregated in two ways; without `spacing`, `patch` is in voxels."""
    return {
        "threshold_mean": -metrics.threshold_mean(bits, BITS),
        "patch_max": -metrics.patch_max(bits, spacing or (1.0,) * bits.ndim, patch),
    }
