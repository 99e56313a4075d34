"""One case of a phantom: what a row says of it against the exact law, as numbers that can be pooled over cases.

Voxels count where the exact law leaves them open (`metrics.ambiguous`); choosing them by the samples would choose the
samples' noise too. Whether a voxel's answer is right is counted with its exact probability instead of one draw of the
truth: the same expectation without that draw's noise.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from ... import metrics
from ...phantoms import Case
from ..pooling import binned
from .samplers import Answer, votes

TRUTHS = 64
"""Exact draws a case that stand for the truth."""
GROUP = 8
"""Samples behind an interval: as many as the program draws by default."""
LEVELS = (50, 80, 90)
"""Levels of volume intervals, %."""
BITS = 0.1
"""Entropy in bits above which a voxel counts for `threshold_mean`."""
PATCH_VOXELS = 5


class Truth:
    """A case and what is needed of its exact law, for all rows once."""

    def __init__(self, case: Case, rng: np.random.Generator) -> None:
        self.case = case
        self.draws = case.sample(rng, TRUTHS)
        self.volumes = volumes(self.draws, case.classes)
        self.law = case.volumes()
        self.support = case.support()
        self.open = metrics.ambiguous(case.marginals[1:])
        self.anywhere = self.open.any(0)
        self.entropy = entropy_bits(case.marginals)
        # With a few values only, such as a lesion that is there or not, a volume has no interval of 90 %.
        self.largest_atom = np.zeros(case.classes - 1)
        if self.support is not None:
            self.largest_atom = np.array([case.volume_law(c)[1].max() for c in range(1, case.classes)])

    def risk(self, probabilities: np.ndarray) -> float:
        """Expected distance (1 - IoU) of the most probable labels to the truth."""
        consensus = probabilities.argmax(0).astype(np.uint8)[None]
        if self.support is None:
            return float(metrics.pairwise_distance(consensus, self.draws, self.case.classes).mean())
        masks, weights = self.support
        return float(metrics.pairwise_distance(consensus, masks, self.case.classes)[0] @ weights)

    def energy(self, masks: np.ndarray) -> metrics.EnergyDistance:
        if self.support is None:
            return metrics.energy_distance(masks, self.draws, self.case.classes)
        return metrics.energy_distance_exact(masks, *self.support, self.case.classes, self._diversity)

    @cached_property
    def _diversity(self) -> float:
        """Mean distance of two true masks, taken once for all rows."""
        return metrics.law_diversity(*self.support, self.case.classes)

    def record(self) -> dict[str, Any]:
        """What is the same for all rows."""
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


def score_case(truth: Truth, answer: Answer, rng: np.random.Generator) -> dict[str, Any]:
    """Numbers of one row for one case. What needs joint samples is left out where there are none."""
    p = answer.probabilities
    chosen, exact = p.argmax(0), truth.case.marginals
    right = np.take_along_axis(exact, chosen[None], 0)[0]
    bits, true_bits = entropy_bits(p).ravel(), truth.entropy.ravel()
    found = {
        "calibration": binned(p.max(0)[truth.anywhere], right[truth.anywhere]),
        "entropy": [bits.size, bits.sum(), true_bits.sum(), bits @ bits, true_bits @ true_bits, bits @ true_bits],
        "risk": truth.risk(p),
        "confidence": confidence(bits.reshape(chosen.shape)),
        **_error(truth, answer),
        "seconds": answer.seconds,
    }
    return found if answer.masks is None else found | _joint(truth, answer.masks, rng)


def _error(truth: Truth, answer: Answer) -> dict[str, float]:
    """Squared error of the probabilities, and how much of it is noise of the n samples they were counted from."""
    p, noise = answer.probabilities, 0.0
    if answer.masks is not None:
        p = votes(answer.masks, truth.case.classes)
        here = p[1:][truth.open]
        noise = float((here * (1 - here)).sum() / (len(answer.masks) - 1))
    error = np.square(p[1:][truth.open] - truth.case.marginals[1:][truth.open])
    return {"squared_error": float(error.sum()), "noise": noise}


def _joint(truth: Truth, masks: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    drawn = volumes(masks, truth.case.classes)
    ged = truth.energy(masks)
    found = {
        "volume_variance": drawn.var(0, ddof=1).tolist(),
        "volume_mean": drawn.mean(0).tolist(),
        "ged_u": ged.u,
        "ged_v": ged.v,
        "ged_floor": ged.floor,
        "intervals": _intervals(drawn, truth.volumes),
        **_ranks(drawn, truth.volumes, rng),
    }
    if hasattr(truth.case, "chimeras"):
        found |= {"chimeras": truth.case.chimeras(masks), "strays": truth.case.strays(masks)}
    return found


def _intervals(drawn: np.ndarray, true: np.ndarray) -> dict[str, list[float]]:
    """Share of the true volumes [truths, C - 1] that predictive intervals from GROUP samples each hold, by class."""
    groups = drawn[: len(drawn) // GROUP * GROUP].reshape(-1, GROUP, drawn.shape[1])
    shares = {}
    for level in LEVELS:
        bounds = [[metrics.predictive_interval(v, level / 100) for v in group.T] for group in groups]
        low, high = np.moveaxis(np.array(bounds), -1, 0)[:, :, None]
        # Samples that are all equal give a point, which rounding must not move off the truth.
        slack = 1e-9 * np.abs(true)
        shares[str(level)] = ((low - slack <= true) & (true <= high + slack)).mean((0, 1)).tolist()
    return shares


def _ranks(drawn: np.ndarray, true: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """By class: shares of the ranks 0 to GROUP of a true volume among GROUP samples, and shares of PITs inside levels.

    Inside "50" of a PIT among all samples, and "group50" of one among GROUP of them.
    """
    groups = drawn[: len(drawn) // GROUP * GROUP].reshape(-1, GROUP, drawn.shape[1])
    every = np.moveaxis(groups, -1, 0)[:, None]  # [C - 1, 1, groups, GROUP]
    against = np.broadcast_to(true.T[:, :, None], (drawn.shape[1], len(true), len(groups)))
    ranks = metrics.rank(np.broadcast_to(every, (*against.shape, GROUP)), against, rng)
    few = (ranks + rng.random(ranks.shape)) / (GROUP + 1)
    all_of_them = metrics.randomised_pit(np.broadcast_to(drawn.T[:, None], (*true.T.shape, len(drawn))), true.T, rng)
    pit = {}
    for level in LEVELS:
        pit[str(level)] = [metrics.coverage(values, level / 100) for values in all_of_them]
        pit[f"group{level}"] = [metrics.coverage(values, level / 100) for values in few]
    shares = [metrics.rank_histogram(row, GROUP) / row.size for row in ranks]
    return {"ranks": [row.tolist() for row in shares], "pit": pit}


def volumes(masks: np.ndarray, classes: int) -> np.ndarray:
    """Voxels of each foreground class in each mask, float64 [n, C - 1]."""
    flat = masks.reshape(len(masks), -1)
    return np.stack([np.count_nonzero(flat == c, axis=1) for c in range(1, classes)], 1).astype(np.float64)


def entropy_bits(p: np.ndarray) -> np.ndarray:
    """Entropy of class probabilities [C, *shape] in bits, [*shape]."""
    p = p.astype(np.float64)
    return -(p * np.log2(np.maximum(p, np.finfo(float).tiny))).sum(0)


def confidence(bits: np.ndarray) -> dict[str, float]:
    """How sure a case looks: minus its entropy [*shape] in bits, aggregated in two ways."""
    return {
        "threshold_mean": -metrics.threshold_mean(bits, BITS),
        "patch_max": -metrics.patch_max(bits, (1.0,) * bits.ndim, PATCH_VOXELS),
    }
