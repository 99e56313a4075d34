"""The outputs of a case's run against its references, as numbers that can be pooled over cases.

With several raters the score of a label map is the mean over them; calibration counts the voxels of every rater.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ... import metrics
from ...images.sequence_file import read_sequence
from ...runtime.units import VOLUMES, Units
from ..known_answer.posterior import LEVELS, confidence, volumes
from ..pooling import binned, finite

NEAR = PATCH = 10.0
"""Radius of the region of interest around segmentation and reference, and edge of the most uncertain cube or square:
mm, in pictures pixels of the working grid."""
ENTROPY_EDGES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 8.0)  # Bits
STORED_VOXELS = 400  # voxels of a case whose probabilities are stored, for the floor of the calibration error


@dataclass(frozen=True)
class RunOutputs:
    """Outputs of `segment` for one image; all arrays [k, j, i] on the image's grid, or of a picture [j, i].

    Outside the body, where nothing was computed, all is background with probability 1.
    """

    labels: np.ndarray  # most probable class, uint8
    entropy: np.ndarray  # Bits, float32
    probabilities: list[np.ndarray]  # by class, background first, uint8; 255 is 1
    samples: list[np.ndarray]  # joint samples, uint8

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the most probable class, float32."""
        return reduce(np.maximum, self.probabilities).astype(np.float32) / np.float32(255)

    def of_slice(self, k: int) -> RunOutputs:
        """Those of one slice, [j, i]."""
        probabilities, samples = ([array[k] for array in several] for several in (self.probabilities, self.samples))
        return RunOutputs(self.labels[k], self.entropy[k], probabilities, samples)

    def without(self, ignored: np.ndarray) -> RunOutputs:
        """A copy whose voxels in `ignored` (bool, as the arrays) are background, with probability 1 and in samples."""
        if not ignored.any():
            return self

        def cleared(array: np.ndarray, value: int = 0) -> np.ndarray:
            return np.where(ignored, array.dtype.type(value), array)

        first, *others = self.probabilities
        return RunOutputs(
            cleared(self.labels),
            cleared(self.entropy),
            [cleared(first, 255), *map(cleared, others)],
            list(map(cleared, self.samples)),
        )


def score_map(
    outputs: RunOutputs,
    references: Sequence[np.ndarray],
    spacing: Sequence[float],
    tolerance: float,
    counted: np.ndarray | None = None,
    units: Units = VOLUMES,
) -> dict[str, Any]:
    """Scores of a map with its entropy and probabilities against raters' maps [k, j, i], or [j, i] of a picture.

    `spacing`, in the same order, and `tolerance`, the voxel size of the working grid, are in mm or pixels. Voxels
    outside `counted` (bool) must be background in all maps; they do not count for calibration.
    """
    counted = np.ones(outputs.labels.shape, bool) if counted is None else counted
    classes, unit = len(outputs.probabilities), tolerance if units.is_area else 1.0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"monai\.", category=FutureWarning)  # from MONAI's own calls
        accuracy = [
            _accuracy(outputs.labels, reference, classes, spacing, tolerance, units) for reference in references
        ]
    parts = [_calibration(outputs, reference, spacing, counted, NEAR * unit) for reference in references]
    return {
        **{name: np.mean([one[name] for one in accuracy], 0).tolist() for name in accuracy[0]},
        "risk": float(np.mean([1 - one["dice"] for one in accuracy])),
        "confidence": confidence(outputs.entropy, spacing, PATCH * unit),
        **{name: np.sum([p[name] for p in parts], 0).tolist() for name in ("near", "everywhere", "levels", "by_class")},
        **{name: finite(np.mean([p[name] for p in parts])) for name in ("error_auroc", "error_aupr", "wrong")},
        "some_probabilities": parts[0]["some_probabilities"],
    }


def _accuracy(
    labels: np.ndarray, reference: np.ndarray, classes: int, spacing: Sequence[float], tolerance: float, units: Units
) -> dict[str, np.ndarray]:
    """Scores of each foreground class, all finite."""
    voxel = voxel_size(spacing, units)
    true, segmented = (np.bincount(x.ravel(), minlength=classes)[1:] for x in (reference, labels))
    return {
        "dice": metrics.dice(labels, reference, classes)[1:],
        f"hd95_{units.length}": metrics.hd95(labels, reference, classes, spacing),
        "nsd": metrics.nsd(labels, reference, classes, spacing, tolerance),
        units.key("volume_error"): (segmented - true) * voxel,
        units.key("reference"): true * voxel,
        "lesion_f1": metrics.lesion_f1(labels, reference, classes),
        "missed": ((true > 0) & (segmented == 0)).astype(float),
        "false": ((true == 0) & (segmented > 0)).astype(float),
    }


def _calibration(
    outputs: RunOutputs, reference: np.ndarray, spacing: Sequence[float], counted: np.ndarray, reach: float
) -> dict[str, Any]:
    correct, probability = outputs.labels == reference, outputs.confidence
    near = near_structures(outputs.labels, reference, spacing, reach) & counted
    bits, wrong = outputs.entropy[near], ~correct[near]
    levels = np.stack([np.histogram(part, ENTROPY_EDGES)[0] for part in (bits, bits[wrong])], 1)
    by_class = [
        binned(p[near].astype(np.float32) / 255, reference[near] == c) for c, p in enumerate(outputs.probabilities)
    ][1:]
    # Evenly spaced, so that the same case gives the same voxels.
    stored = np.linspace(0, near.sum() - 1, min(STORED_VOXELS, int(near.sum()))).astype(int)
    return {
        "near": binned(probability[near], correct[near]),
        "everywhere": binned(probability[counted], correct[counted]),
        "by_class": by_class,
        "levels": levels.tolist(),
        "error_auroc": metrics.error_auroc(bits, wrong),
        "error_aupr": metrics.error_aupr(bits, wrong),
        "wrong": float(wrong.mean()) if wrong.size else 0.0,
        "some_probabilities": [p[near][stored].tolist() for p in outputs.probabilities],
    }


def voxel_size(spacing: Sequence[float], units: Units) -> float:
    """Size of a voxel of `spacing` (mm), or of a pixel of spacing in mm or pixels."""
    return float(np.prod(spacing)) / (1 if units.is_area else 1000)


def near_structures(
    labels: np.ndarray, reference: np.ndarray, spacing: Sequence[float], reach: float = NEAR
) -> np.ndarray:
    """Voxels (bool) at most `reach`, in the unit of the spacing, from a structure of either map; none without any."""
    union = (labels > 0) | (reference > 0)
    near = np.zeros(union.shape, bool)
    if union.any():
        box = _box(union, [int(np.ceil(reach / s)) for s in spacing])
        near[box] = metrics.within(union[box], reach, spacing)
    return near


def _box(mask: np.ndarray, margin: Sequence[int]) -> tuple[slice, ...]:
    """Bounding box of a mask (bool, not empty), extended by `margin` voxels along each axis."""
    (box,) = ndimage.find_objects(mask.view(np.uint8))
    return tuple(slice(max(0, s.start - m), s.stop + m) for s, m in zip(box, margin, strict=True))


def score_samples(
    outputs: RunOutputs,
    references: Sequence[np.ndarray],
    spacing: Sequence[float],
    rng: np.random.Generator,
    units: Units = VOLUMES,
) -> dict[str, Any]:
    """Joint samples against raters: ranks and intervals of their volumes, and with several raters the GED."""
    classes, voxel = len(outputs.probabilities), voxel_size(spacing, units)
    sampled, true = (  # [n, C - 1], [m, C - 1]
        voxel * np.concatenate([volumes(mask[None], classes) for mask in masks])
        for masks in (outputs.samples, references)
    )
    scores: dict[str, Any] = {
        units.key("samples"): sampled.tolist(),
        units.key("references"): true.tolist(),
        "ranks": [
            metrics.rank(np.broadcast_to(v, (len(t), len(v))), t, rng).tolist()
            for v, t in zip(sampled.T, true.T, strict=True)
        ],
        "inside": {},
    }
    if len(sampled) > 1:
        for level in LEVELS:
            scores["inside"][str(level)] = metrics.covered(sampled.T, true, level / 100).mean(0).tolist()
        if len(references) > 1:
            scores["raters"] = _raters(np.stack(outputs.samples), np.stack(references), classes)
    return scores


def _raters(samples: np.ndarray, references: np.ndarray, classes: int) -> dict[str, Any]:
    """Scores between sets of masks, computed in their common bounding box."""
    used = np.concatenate([samples, references]).max(0) > 0
    if used.any():
        box = (slice(None), *_box(used, [0] * used.ndim))
        samples, references = samples[box], references[box]
    return {
        "n": len(samples),
        "m": len(references),
        **metrics.energy_distance(samples, references, classes).as_json(),
        "hungarian_iou": metrics.hungarian_iou(samples, references, classes),
        "d_max": metrics.d_max(samples, references, classes),
    }


def read_outputs(folder: Path, image: sitk.Image) -> RunOutputs:
    """The files that `segment` with `keep_samples` wrote into `folder` for this image."""
    return RunOutputs(
        labels=sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "segmentation.seg.nrrd"))),
        entropy=sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "entropy.nrrd"))),
        probabilities=_sequence(folder / "probabilities.seq.nrrd", image, first=255),
        samples=_sequence(folder / "samples.seq.nrrd", image, first=0),
    )


def _sequence(path: Path, image: sitk.Image, first: int) -> list[np.ndarray]:
    """The volumes of a sequence on the image's grid; outside their box the first volume is `first`, the others 0."""
    volumes, block = read_sequence(path, image)
    whole = np.zeros((len(volumes), *image.GetSize()[::-1]), np.uint8)
    whole[0] = first
    whole[:, *block] = volumes
    return list(whole)
