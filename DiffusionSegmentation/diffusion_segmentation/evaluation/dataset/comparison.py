"""One case with a reference: what the consensus, the direct head and the samples score, as numbers to be pooled.

With several raters a score of a label map is the mean over them, and every rater's voxels count for calibration.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ... import metrics
from ..known_answer.posterior import BITS, LEVELS, volumes
from ..pooling import binned, finite
from .reading import Drawn

NEAR_MM = 10.0
"""The region of interest: so far around prediction and reference together."""
PATCH_MM = 10.0
ENTROPY_EDGES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 8.0)
"""Bits."""
KEPT_VOXELS = 400
"""Voxels of a case whose probabilities are kept, for the floor of the calibration error."""


def score_map(
    drawn: Drawn,
    references: Sequence[np.ndarray],
    spacing: Sequence[float],
    tolerance_mm: float,
    counted: np.ndarray | None = None,
) -> dict[str, Any]:
    """A consensus with its entropy and probabilities against raters' maps; `spacing` in mm, order of the axes.

    Voxels outside `counted` (bool [k, j, i]) must be background in all maps; they do not count for calibration.
    """
    counted = np.ones(drawn.labels.shape, bool) if counted is None else counted
    classes = len(drawn.probabilities)
    with warnings.catch_warnings():
        # MONAI calls its own functions in a way that it warns of.
        warnings.filterwarnings("ignore", module=r"monai\.", category=FutureWarning)
        accuracy = [_accuracy(drawn.labels, reference, classes, spacing, tolerance_mm) for reference in references]
    found: dict[str, Any] = {name: np.mean([one[name] for one in accuracy], 0).tolist() for name in accuracy[0]}
    found["risk"] = float(np.mean([1 - one["dice"] for one in accuracy]))
    found["confidence"] = {
        "threshold_mean": -metrics.threshold_mean(drawn.entropy, BITS),
        "patch_max": -metrics.patch_max(drawn.entropy, spacing, PATCH_MM),
    }
    parts = [_calibration(drawn, reference, spacing, counted) for reference in references]
    for name in ("near", "everywhere", "levels"):
        found[name] = np.sum([part[name] for part in parts], 0).tolist()
    found["by_class"] = np.sum([part["by_class"] for part in parts], 0).tolist()
    for name in ("error_auroc", "error_aupr", "wrong"):
        found[name] = finite(np.mean([part[name] for part in parts]))
    found["some_probabilities"] = parts[0]["some_probabilities"]
    return found


def _accuracy(
    labels: np.ndarray, reference: np.ndarray, classes: int, spacing: Sequence[float], tolerance_mm: float
) -> dict[str, np.ndarray]:
    """Scores of each foreground class, all finite."""
    ml = float(np.prod(spacing)) / 1000
    there, drawn = (np.bincount(x.ravel(), minlength=classes)[1:] > 0 for x in (reference, labels))
    return {
        "dice": metrics.dice(labels, reference, classes)[1:],
        "hd95_mm": metrics.hd95(labels, reference, classes, spacing),
        "nsd": metrics.nsd(labels, reference, classes, spacing, tolerance_mm),
        "volume_error_ml": metrics.volume_error(labels, reference, classes, ml).ml,
        "reference_ml": np.bincount(reference.ravel(), minlength=classes)[1:] * ml,
        "lesion_f1": metrics.lesion_f1(labels, reference, classes),
        "missed": (there & ~drawn).astype(float),
        "false": (~there & drawn).astype(float),
    }


def _calibration(drawn: Drawn, reference: np.ndarray, spacing: Sequence[float], counted: np.ndarray) -> dict[str, Any]:
    right, confidence = drawn.labels == reference, drawn.confidence
    near = near_structures(drawn.labels, reference, spacing) & counted
    bits, wrong = drawn.entropy[near], ~right[near]
    levels = []
    for low, high in pairwise(ENTROPY_EDGES):
        here = (bits >= low) & (bits < high)
        levels.append([int(here.sum()), int(wrong[here].sum())])
    by_class = [
        binned(p[near].astype(np.float32) / 255, reference[near] == c) for c, p in enumerate(drawn.probabilities)
    ][1:]
    # By a fixed rule, so that the same case gives the same voxels.
    chosen = np.linspace(0, near.sum() - 1, min(KEPT_VOXELS, int(near.sum()))).astype(int)
    return {
        "near": binned(confidence[near], right[near]),
        "everywhere": binned(confidence[counted], right[counted]),
        "by_class": by_class,
        "levels": levels,
        "error_auroc": metrics.error_auroc(bits, wrong),
        "error_aupr": metrics.error_aupr(bits, wrong),
        "wrong": float(wrong.mean()) if wrong.size else 0.0,
        "some_probabilities": [p[near][chosen].tolist() for p in drawn.probabilities],
    }


def near_structures(labels: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Voxels (bool) at most NEAR_MM from a structure of either map; none where both are empty."""
    union = (labels > 0) | (reference > 0)
    near = np.zeros(union.shape, bool)
    if union.any():
        box = _box(union, [int(np.ceil(NEAR_MM / s)) for s in spacing])
        near[box] = metrics.within(union[box], NEAR_MM, spacing)
    return near


def _box(mask: np.ndarray, margin: Sequence[int]) -> tuple[slice, ...]:
    """The smallest box around what is set, wider by `margin` voxels."""
    box = []
    for axis in range(mask.ndim):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(max(0, used[0] - margin[axis]), used[-1] + 1 + margin[axis]))
    return tuple(box)


def score_samples(
    drawn: Drawn, references: Sequence[np.ndarray], spacing: Sequence[float], rng: np.random.Generator
) -> dict[str, Any]:
    """Joint samples against raters: whether their volumes hold the raters', and with several raters the GED."""
    classes, ml = len(drawn.probabilities), float(np.prod(spacing)) / 1000
    drawn_ml = np.array([volumes(mask[None], classes)[0] for mask in drawn.samples]) * ml  # [n, C - 1]
    true_ml = np.array([volumes(mask[None], classes)[0] for mask in references]) * ml
    found: dict[str, Any] = {
        "samples_ml": drawn_ml.tolist(),
        "references_ml": true_ml.tolist(),
        "ranks": [
            metrics.rank(np.broadcast_to(v, (len(t), len(v))), t, rng).tolist()
            for v, t in zip(drawn_ml.T, true_ml.T, strict=True)
        ],
        "inside": {str(level): _inside(drawn_ml, true_ml, level) for level in LEVELS} if len(drawn_ml) > 1 else {},
    }
    if len(references) > 1 and len(drawn.samples) > 1:
        found["raters"] = _raters(np.stack(drawn.samples), np.stack(references), classes)
    return found


def _inside(drawn_ml: np.ndarray, true_ml: np.ndarray, level: int) -> list[float]:
    """Share of the raters' volumes that the predictive interval holds, by class."""
    n = len(true_ml)
    return [
        metrics.interval_coverage(np.broadcast_to(v, (n, len(v))), t, level / 100)
        for v, t in zip(drawn_ml.T, true_ml.T, strict=True)
    ]


def _raters(samples: np.ndarray, references: np.ndarray, classes: int) -> dict[str, Any]:
    """Scores between sets of masks, on the box that holds them all: the rest is background for everyone."""
    used = (samples > 0).any(0) | (references > 0).any(0)
    if used.any():
        box = (slice(None), *_box(used, [0] * used.ndim))
        samples, references = samples[box], references[box]
    ged = metrics.energy_distance(samples, references, classes)
    n, m = len(samples), len(references)
    return {
        "n": n,
        "m": m,
        "ged_u": ged.u,
        "ged_v": ged.v,
        "ged_floor": ged.floor,
        "hungarian_iou": metrics.hungarian_iou(samples, references, classes),
        "d_max": metrics.d_max(samples, references, classes),
    }
