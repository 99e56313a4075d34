"""Checks whether a volume suits a model: voxel size, field of view, modality, distance from training scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import GeometryError

if TYPE_CHECKING:
    from ..networks import InputDistance

TOLERATED_FACTOR = 1.5
"""Factor by which spacing or field of view may exceed the model's range with a warning; beyond it the run fails."""

AIR, SOFT_TISSUE = (-1100.0, -900.0), (-200.0, 200.0)
"""Ranges in Hounsfield units; air is -1000, water 0."""

PLACES = {"features": "{}", "volume": "the volume of {}", "entropy": "the entropy of {}"}
"""Words for the largest part of the distance, by `networks.input_statistics.KINDS`."""

MIN_CT_SHARE = 0.02
"""Least share of air, and of soft tissue, among the voxels of a CT."""


def check_grid(size: Sequence[int], spacing: Sequence[float], input_range: Mapping[str, Any]) -> list[str]:
    """Return warnings about a voxel spacing (mm) or field of view outside the model's range.

    `input_range` is {"spacing_mm": [low, high], "extent_mm": [low, high]}. Raises GeometryError if either is outside by
    more than TOLERATED_FACTOR.
    """
    extent = [n * s for n, s in zip(size, spacing, strict=True)]
    warnings = []
    for values, key, what in ((spacing, "spacing_mm", "voxel spacing"), (extent, "extent_mm", "field of view")):
        low, high = input_range[key]
        if all(low <= value <= high for value in values):
            continue
        shown = " x ".join(f"{value:.4g}" for value in values)
        sentence = f"The {what} is {shown} mm, the model was made for {low:g} to {high:g} mm"
        if min(values) * TOLERATED_FACTOR < low or max(values) > high * TOLERATED_FACTOR:
            raise GeometryError(f"{sentence}; choose another volume or model.")
        warnings.append(f"{sentence}; look at the result with care.")
    return warnings


def check_modality(values: np.ndarray, modality: str | None) -> list[str]:
    """Return a warning if the values look like CT and the model is for MR."""
    if modality != "MR" or values.min() > AIR[1]:
        return []
    subset = values.ravel()[:: max(1, values.size // 500_000)]
    shares = [np.mean((low <= subset) & (subset <= high)) for low, high in (AIR, SOFT_TISSUE)]
    if min(shares) < MIN_CT_SHARE:
        return []
    return ["The values look like CT, the model was made for MR; do not trust the result."]


def check_input_distance(input_distance: InputDistance | None, names: Sequence[str]) -> list[str]:
    """Return a warning if a scan is unlike those that the model, with classes `names`, was made for."""
    if input_distance is None or not input_distance.unlike:
        return []
    name = names[input_distance.structure]
    name = name[0].lower() + name[1:] if name[1:].islower() else name
    return [
        f"The scan is unlike those that the model was made for (distance {input_distance.distance:.1f}, "
        f"limit {input_distance.limit:.1f}, most in {PLACES[input_distance.kind].format(name)}); "
        "do not trust the segmentation without checking it."
    ]
