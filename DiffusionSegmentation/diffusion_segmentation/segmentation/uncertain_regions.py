"""Ranking of uncertain regions by the error that a review can correct.

Most of the expected error of a segmentation lies in thin layers along borders, at most one voxel of the model to each
side, where a reviewer cannot decide. Thicker uncertain parts are reviewable. Worker and Slicer rank the same arrays, so
that report and panel agree. Needs numpy only: Slicer's process ranks again when the threshold changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError

REVIEW_BITS = 0.8  # default threshold of the entropy (bits) of an uncertain voxel: for two classes, p = 0.24 and 0.76

REPORTED = 50  # largest number of regions in a report

IN_DISPUTE = 0.05  # minimum mean probability of a class in a region that is listed as in dispute there


@dataclass(frozen=True)
class UncertainRegion:
    """One uncertain region."""

    basin: int  # its label in the label map of watershed regions
    expected_error: float  # sum over its voxels of the probability that the consensus is wrong, times their volume
    reviewable: float  # the part of it outside thin layers along borders
    share: float  # reviewable relative to that of the whole volume
    volume: float
    classes: tuple[tuple[int, float], ...]  # (class, mean probability) in dispute, most probable first; background is 0
    mean_entropy: float  # bits
    peak_entropy: float
    peak: tuple[int, ...]  # array index [3] of the voxel with the largest probability of an error


@dataclass(frozen=True)
class RankedRegions:
    """Regions, worst first; expected error and reviewable part of it in the whole volume."""

    regions: tuple[UncertainRegion, ...]
    expected_error: float
    reviewable: float


def reviewable_voxels(working_mm: float, spacing_mm: Sequence[float], shape: Sequence[int]) -> tuple[int, ...]:
    """Minimum thickness (voxels of `spacing_mm`) of a reviewable part: more than two voxels of the model, `working_mm`.

    One voxel along the axes of `shape` that have no more, as in pictures. A tolerance of 1e-3 voxels absorbs rounding
    of the spacing.
    """
    voxels = (int(2 * working_mm / spacing + 1e-3) + 1 for spacing in spacing_mm)
    return tuple(1 if n == 1 else count for count, n in zip(voxels, shape, strict=True))


def voxel_size(spacing_mm: Sequence[float], shape: Sequence[int]) -> tuple[float, str]:
    """Size of a voxel of a grid [z, y, x] and its unit: "ml"; for a single slice "mm2", or "px" for pixels of 1.

    Pictures that state no size have pixels of 1.
    """
    if shape[0] > 1:
        return math.prod(spacing_mm) / 1000, "ml"
    area = math.prod(spacing_mm[1:])
    return area, "px" if tuple(spacing_mm[1:]) == (1.0, 1.0) else "mm2"


SMALLEST_ML, SMALLEST_PIXELS = 0.05, 10
"""Smallest reported region: its volume, and in a single slice its pixels."""


class Ranking:
    """Ranks the uncertain regions of one result for any threshold.

    The constructor does what does not depend on the threshold, which for a head at 1 mm takes most of the time.
    """

    def __init__(
        self,
        regions: np.ndarray,
        probabilities: Sequence[np.ndarray],
        entropy: np.ndarray,
        voxel_size: float,
        thickness: tuple[int, ...] = (1, 1, 1),
    ) -> None:
        """Prepare the ranking; raises InputError if the arrays differ in shape.

        Args:
            regions: label map [z, y, x] of watershed regions from 1, 0 elsewhere.
            probabilities: one array [z, y, x] for each class, float in [0, 1] or uint8 in units of 1 / 255.
            entropy: bits [z, y, x].
            voxel_size: volume or area of a voxel; results are in its unit.
            thickness: minimum size [z, y, x] in voxels of a reviewable part.
        """
        if any(part.shape != regions.shape for part in (entropy, *probabilities)):
            raise InputError("Regions, probabilities and entropy do not lie on one grid.")
        self._entropy, self._voxel_size, self._thickness = entropy, voxel_size, thickness
        scale = 1 / 255 if probabilities[0].dtype == np.uint8 else 1.0
        best = probabilities[0].copy()
        for part in probabilities[1:]:
            np.maximum(best, part, out=best)
        self._expected_error = (best.size - scale * float(best.sum(dtype=np.float64))) * voxel_size
        # Voxels are sorted by region, so that each region is a contiguous slice.
        at = np.flatnonzero(regions)
        label = regions.ravel()[at]
        order = np.argsort(label, kind="stable")
        self._at, self._label = at[order], label[order]
        self._bits = entropy.ravel()[self._at].astype(np.float32)
        self._error = 1 - np.float32(scale) * best.ravel()[self._at].astype(np.float32)
        self._shares = [part.ravel()[self._at] for part in probabilities]
        self._scale = scale

    def at(self, threshold: float, smallest: float | None = None, most: int | None = None) -> RankedRegions:
        """Rank the parts of the regions with entropy >= `threshold` by reviewable, then by expected error.

        Returns at most `most` regions. Regions smaller than `smallest`, by default SMALLEST_ML or SMALLEST_PIXELS, are
        omitted, but count in the whole volume.
        """
        if smallest is None:
            smallest = SMALLEST_PIXELS * self._voxel_size if self._entropy.shape[0] == 1 else SMALLEST_ML
        inside = np.flatnonzero(self._bits >= threshold)
        label = self._label[inside]
        if not label.size:
            return RankedRegions((), self._expected_error, 0.0)
        starts = np.concatenate([[0], np.flatnonzero(np.diff(label)) + 1])
        ends = np.append(starts[1:], label.size)
        thick = opened(self._entropy >= threshold, self._thickness).ravel()[self._at[inside]]
        error = self._error[inside]
        wrong, reviewable = (
            np.add.reduceat(part, starts, dtype=np.float64) * self._voxel_size for part in (error, error * thick)
        )
        large = np.flatnonzero((ends - starts) * self._voxel_size >= smallest)
        worst = large[np.lexsort((label[starts[large]], -wrong[large], -reviewable[large]))][:most]
        whole = float(reviewable.sum())
        regions = tuple(self._region(inside[starts[n] : ends[n]], wrong[n], reviewable[n], whole) for n in worst)
        return RankedRegions(regions, self._expected_error, whole)

    def _region(self, voxels: np.ndarray, wrong: float, reviewable: float, whole: float) -> UncertainRegion:
        """The region of the sorted `voxels`; `whole` is the reviewable error of the whole volume."""
        means = [(c, self._scale * float(part[voxels].mean(dtype=np.float64))) for c, part in enumerate(self._shares)]
        peak = np.unravel_index(self._at[voxels[np.argmax(self._error[voxels])]], self._entropy.shape)
        bits = self._bits[voxels]
        return UncertainRegion(
            basin=int(self._label[voxels[0]]),
            expected_error=float(wrong),
            reviewable=float(reviewable),
            share=float(reviewable) / whole if whole else 0.0,
            volume=len(voxels) * self._voxel_size,
            classes=tuple((c, p) for c, p in sorted(means, key=lambda pair: -pair[1]) if p >= IN_DISPUTE),
            mean_entropy=float(bits.mean(dtype=np.float64)),
            peak_entropy=float(bits.max()),
            peak=tuple(map(int, peak)),
        )


def opened(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Morphological opening of a bool `mask` with a block of `size` voxels."""
    eroded = _eroded(mask, size)
    # Dilation is erosion of the complement, outside of which everything is background.
    return ~_eroded(np.pad(~eroded, [(width - 1, width - 1) for width in size], constant_values=True), size)


def _eroded(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Erosion by a block of `size` voxels; the result is smaller by size - 1."""
    for axis, width in enumerate(size):
        lines = np.moveaxis(mask, axis, 0)
        count = max(len(lines) - width + 1, 0)
        eroded = lines[:count].copy()
        for k in range(1, width):
            eroded &= lines[k : k + count]
        mask = np.moveaxis(eroded, 0, axis)
    return mask


def as_json(
    ranked: RankedRegions, names: Sequence[str], ras: Callable[[tuple[int, ...]], Sequence[float]], unit: str = "ml"
) -> dict[str, Any]:
    """Entries of a report, of which those with a size end in `unit`.

    `names` are those of the classes from 0; `ras` maps an array index to mm.
    """

    def sizes(of: UncertainRegion | RankedRegions, *keys: str) -> dict[str, float]:
        return {f"{key}_{unit}": round(getattr(of, key), 4) for key in keys}

    regions = [
        {
            "basin": region.basin,
            **sizes(region, "expected_error", "reviewable"),
            "share": round(region.share, 5),
            **sizes(region, "volume"),
            "classes": [{"label": c, "name": names[c], "share": round(share, 4)} for c, share in region.classes],
            "mean_entropy_bits": round(region.mean_entropy, 4),
            "peak_entropy_bits": round(region.peak_entropy, 4),
            "peak_ras_mm": [round(mm, 2) for mm in ras(region.peak)],
        }
        for region in ranked.regions
    ]
    return {"regions": regions, **sizes(ranked, "expected_error", "reviewable")}
