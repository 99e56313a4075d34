"""Which places deserve a look, in which order: uncertain regions, ranked by how much of them is expected to be wrong.

numpy only: Slicer recomputes the ranking here when the threshold moves, without torch or scikit-image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import InputError

IN_DISPUTE = 0.05
"""Least mean probability of a class in a region for it to be in dispute there."""


@dataclass(frozen=True)
class Region:
    """One uncertain region.

    Attributes:
        basin: its number in the label map of basins.
        expected_error_ml: sum of the chance that the consensus is wrong, over its voxels, times their volume.
        share: of the expected error of the whole volume.
        volume_ml: of its voxels.
        classes: (class, mean probability) of those in dispute, most probable first; background is class 0.
        mean_entropy, peak_entropy: bits.
        peak: index [3], along the axes of the arrays, of the voxel where the chance of an error is greatest.
        low, high: its bounding box, first and last index [3].
    """

    basin: int
    expected_error_ml: float
    share: float
    volume_ml: float
    classes: tuple[tuple[int, float], ...]
    mean_entropy: float
    peak_entropy: float
    peak: tuple[int, int, int]
    low: tuple[int, int, int]
    high: tuple[int, int, int]


def rank(
    basins: np.ndarray,
    probabilities: Sequence[np.ndarray],
    entropy: np.ndarray,
    threshold: float,
    voxel_ml: float,
    smallest_ml: float = 0.05,
) -> list[Region]:
    """The parts of the basins where the entropy reaches `threshold`, worst first.

    `basins` are labels [z, y, x] from 1, 0 where nothing is in doubt; `probabilities` one array [z, y, x] a class, in
    shares or, as uint8, in 255ths; `entropy` [z, y, x] in bits; `voxel_ml` the volume of a voxel. Parts smaller than
    `smallest_ml` are left out; their expected error counts in the whole of which `share` is taken.

    Raises InputError when the arrays differ in shape.
    """
    if any(part.shape != basins.shape for part in (entropy, *probabilities)):
        raise InputError("Basins, probabilities and entropy do not lie on one grid.")
    scale = 1 / 255 if probabilities[0].dtype == np.uint8 else 1.0
    everywhere = np.zeros(basins.shape, probabilities[0].dtype)
    for part in probabilities:
        np.maximum(everywhere, part, out=everywhere)
    whole = (everywhere.size - scale * float(everywhere.sum(dtype=np.float64))) * voxel_ml

    at = np.flatnonzero((basins.ravel() > 0) & (entropy.ravel() >= threshold))
    label = basins.ravel()[at].astype(np.intp)
    bits = entropy.ravel()[at].astype(np.float64)
    error = 1 - scale * everywhere.ravel()[at].astype(np.float64)
    count = np.bincount(label)
    kept = np.flatnonzero(count * voxel_ml >= smallest_ml)
    kept = kept[kept > 0]
    if not kept.size:
        return []
    wrong = np.bincount(label, error)
    size = np.maximum(count, 1)
    mean = np.stack([np.bincount(label, part.ravel()[at]) for part in probabilities]) * scale / size
    # Sorted by region, each one's voxels are a run: extremes are taken over runs.
    order = np.argsort(label, kind="stable")
    present = np.flatnonzero(count)
    starts = np.concatenate([[0], np.cumsum(count[present])[:-1]])
    row = {int(b): n for n, b in enumerate(present)}
    ends = [*starts[1:], len(order)]
    highest = np.maximum.reduceat(bits[order], starts)
    where = np.stack(np.unravel_index(at[order], basins.shape), 1)
    low, high = np.minimum.reduceat(where, starts), np.maximum.reduceat(where, starts)

    found = []
    for basin in sorted(kept.tolist(), key=lambda b: (-wrong[b], b)):
        n = row[basin]
        run = order[starts[n] : ends[n]]
        peak = np.unravel_index(at[run[np.argmax(error[run])]], basins.shape)
        shares = sorted(((c, float(mean[c, basin])) for c in range(len(mean))), key=lambda pair: -pair[1])
        found.append(
            Region(
                basin=basin,
                expected_error_ml=float(wrong[basin] * voxel_ml),
                share=float(wrong[basin] * voxel_ml / whole) if whole else 0.0,
                volume_ml=float(count[basin] * voxel_ml),
                classes=tuple((c, p) for c, p in shares if p >= IN_DISPUTE),
                mean_entropy=float(bits[run].mean()),
                peak_entropy=float(highest[n]),
                peak=tuple(map(int, peak)),
                low=tuple(map(int, low[n])),
                high=tuple(map(int, high[n])),
            )
        )
    return found


def as_json(
    found: Sequence[Region], names: Sequence[str], ras: Callable[[tuple[int, int, int]], Sequence[float]]
) -> list[dict[str, Any]]:
    """The regions as a report tells them. `names` of the classes from 0; `ras` gives the place of an index, mm."""
    return [
        {
            "basin": region.basin,
            "expected_error_ml": round(region.expected_error_ml, 4),
            "share": round(region.share, 5),
            "volume_ml": round(region.volume_ml, 4),
            "classes": [{"label": c, "name": names[c], "share": round(share, 4)} for c, share in region.classes],
            "mean_entropy_bits": round(region.mean_entropy, 4),
            "peak_entropy_bits": round(region.peak_entropy, 4),
            "peak_ras_mm": [round(mm, 2) for mm in ras(region.peak)],
        }
        for region in found
    ]
