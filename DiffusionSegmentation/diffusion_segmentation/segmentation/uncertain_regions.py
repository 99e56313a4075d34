"""Which places deserve a look, in which order: uncertain regions, ranked by how much a look at them can put right.

Most of the expected error of a segmentation lies in seams along its borders, no wider than a voxel of the model to each
side, in which nobody can tell right from wrong. What is uncertain over a greater thickness can be reviewed. Worker and
Slicer call this with the same arrays, so that report and panel rank alike. numpy only: Slicer recomputes the ranking
here when the threshold moves, without torch or scikit-image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError

REVIEW_BITS = 0.8
"""Entropy from which a voxel counts as uncertain, unless somebody says otherwise: of two classes, 0.24 against 0.76."""

REPORTED = 50
"""So many regions are told: what a person may look at."""

IN_DISPUTE = 0.05
"""Least mean probability of a class in a region for it to be in dispute there."""


@dataclass(frozen=True)
class Region:
    """One uncertain region.

    Attributes:
        basin: its number in the label map of basins.
        expected_error_ml: sum of the chance that the consensus is wrong, over its voxels, times their volume.
        reviewable_ml: the part of it that is no seam along a border.
        share: reviewable_ml as a share of that of the whole volume.
        volume_ml: of its voxels.
        classes: (class, mean probability) of those in dispute, most probable first; background is class 0.
        mean_entropy, peak_entropy: bits.
        peak: index [3], along the axes of the arrays, of the voxel where the chance of an error is greatest.
    """

    basin: int
    expected_error_ml: float
    reviewable_ml: float
    share: float
    volume_ml: float
    classes: tuple[tuple[int, float], ...]
    mean_entropy: float
    peak_entropy: float
    peak: tuple[int, int, int]


@dataclass(frozen=True)
class Ranked:
    """`regions`, worst first, and of the whole volume the expected error and the part of it that can be reviewed."""

    regions: tuple[Region, ...]
    expected_error_ml: float
    reviewable_ml: float


def reviewable_voxels(working_mm: float, spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """How thick, in voxels of `spacing_mm`, is more than a voxel of the model, `working_mm`, to each side of a border.

    The grids' rounding, about 1e-7 mm, does not matter.
    """
    return tuple(int(2 * working_mm / spacing + 1e-3) + 1 for spacing in spacing_mm)


class Ranking:
    """Ranks the uncertain regions of one result for any threshold.

    What no threshold changes is computed once: of a head at 1 mm this is most of the time.
    """

    def __init__(
        self,
        basins: np.ndarray,
        probabilities: Sequence[np.ndarray],
        entropy: np.ndarray,
        voxel_ml: float,
        thickness: tuple[int, ...] = (1, 1, 1),
    ) -> None:
        """Take `basins`, labels [z, y, x] from 1, 0 where nothing is in doubt; `probabilities`, one array [z, y, x] a
        class, in shares or, as uint8, in 255ths; `entropy` [z, y, x] in bits; `voxel_ml`, the volume of a voxel;
        `thickness`, the voxels [z, y, x] over which something must be uncertain to be reviewed.

        Raises InputError when the arrays differ in shape.
        """
        if any(part.shape != basins.shape for part in (entropy, *probabilities)):
            raise InputError("Basins, probabilities and entropy do not lie on one grid.")
        self._entropy, self._voxel_ml, self._thickness = entropy, voxel_ml, thickness
        scale = 1 / 255 if probabilities[0].dtype == np.uint8 else 1.0
        best = probabilities[0].copy()
        for part in probabilities[1:]:
            np.maximum(best, part, out=best)
        self._whole = (best.size - scale * float(best.sum(dtype=np.float64))) * voxel_ml
        # Sorted by basin, each one's voxels are a run: sums and extremes are taken over runs.
        at = np.flatnonzero(basins)
        label = basins.ravel()[at]
        order = np.argsort(label, kind="stable")
        self._at, self._label = at[order], label[order]
        self._bits = entropy.ravel()[self._at].astype(np.float32)
        self._error = 1 - np.float32(scale) * best.ravel()[self._at].astype(np.float32)
        self._shares = [part.ravel()[self._at] for part in probabilities]
        self._scale = scale

    def at(self, threshold: float, smallest_ml: float = 0.05, most: int | None = None) -> Ranked:
        """The parts of the basins where the entropy reaches `threshold`, worst first, `most` of them.

        Those of which nothing can be reviewed come last, by their expected error. Parts smaller than `smallest_ml` are
        left out; what could be reviewed of them counts in the whole of which `share` is taken.
        """
        inside = np.flatnonzero(self._bits >= threshold)
        label = self._label[inside]
        if not label.size:
            return Ranked((), self._whole, 0.0)
        starts = np.concatenate([[0], np.flatnonzero(np.diff(label)) + 1])
        ends = np.append(starts[1:], label.size)
        thick = opened(self._entropy >= threshold, self._thickness).ravel()[self._at[inside]]
        error = self._error[inside]
        wrong, reviewable = (
            np.add.reduceat(part, starts, dtype=np.float64) * self._voxel_ml for part in (error, error * thick)
        )
        large = np.flatnonzero((ends - starts) * self._voxel_ml >= smallest_ml)
        worst = large[np.lexsort((label[starts[large]], -wrong[large], -reviewable[large]))][:most]
        whole = float(reviewable.sum())
        return Ranked(
            tuple(self._region(inside[starts[n] : ends[n]], wrong[n], reviewable[n], whole) for n in worst),
            self._whole,
            whole,
        )

    def _region(self, run: np.ndarray, wrong_ml: float, reviewable_ml: float, whole_ml: float) -> Region:
        """The region of the voxels `run`; `whole_ml` is what can be reviewed in the whole volume."""
        means = [(c, self._scale * float(part[run].mean(dtype=np.float64))) for c, part in enumerate(self._shares)]
        peak = np.unravel_index(self._at[run[np.argmax(self._error[run])]], self._entropy.shape)
        bits = self._bits[run]
        return Region(
            basin=int(self._label[run[0]]),
            expected_error_ml=float(wrong_ml),
            reviewable_ml=float(reviewable_ml),
            share=float(reviewable_ml) / whole_ml if whole_ml else 0.0,
            volume_ml=len(run) * self._voxel_ml,
            classes=tuple((c, p) for c, p in sorted(means, key=lambda pair: -pair[1]) if p >= IN_DISPUTE),
            mean_entropy=float(bits.mean(dtype=np.float64)),
            peak_entropy=float(bits.max()),
            peak=tuple(map(int, peak)),
        )


def opened(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Those voxels of `mask`, bool, that lie in a block of `size` voxels which is wholly in it: its opening."""
    for axis, width in enumerate(size):
        line = np.moveaxis(mask, axis, 0)
        count = max(len(line) - width + 1, 0)
        mask = np.moveaxis(_combined(np.logical_and, (line[k : k + count] for k in range(width))), 0, axis)
    for axis, width in enumerate(size):
        line = np.moveaxis(mask, axis, 0)
        grown = np.zeros((len(line) + width - 1, *line.shape[1:]), bool)
        for k in range(width):
            grown[k : k + len(line)] |= line
        mask = np.moveaxis(grown, 0, axis)
    return mask


def _combined(operation: np.ufunc, parts: Iterable[np.ndarray]) -> np.ndarray:
    first, *others = parts
    result = first.copy()
    for part in others:
        operation(result, part, out=result)
    return result


def as_json(
    ranked: Ranked, names: Sequence[str], ras: Callable[[tuple[int, int, int]], Sequence[float]]
) -> dict[str, Any]:
    """What a report tells of its regions. `names` of the classes from 0; `ras` gives the place of an index, mm."""
    regions = [
        {
            "basin": region.basin,
            "expected_error_ml": round(region.expected_error_ml, 4),
            "reviewable_ml": round(region.reviewable_ml, 4),
            "share": round(region.share, 5),
            "volume_ml": round(region.volume_ml, 4),
            "classes": [{"label": c, "name": names[c], "share": round(share, 4)} for c, share in region.classes],
            "mean_entropy_bits": round(region.mean_entropy, 4),
            "peak_entropy_bits": round(region.peak_entropy, 4),
            "peak_ras_mm": [round(mm, 2) for mm in ras(region.peak)],
        }
        for region in ranked.regions
    ]
    return {
        "regions": regions,
        "expected_error_ml": round(ranked.expected_error_ml, 4),
        "reviewable_ml": round(ranked.reviewable_ml, 4),
    }
