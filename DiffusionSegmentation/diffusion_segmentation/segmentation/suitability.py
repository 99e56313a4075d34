"""Whether a volume suits a model: voxel size, field of view and modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import GeometryError

if TYPE_CHECKING:
    from ..networks import InputDistance

TOLERATED_FACTOR = 1.5
"""So far beyond the model's range of spacing or extent an answer is still given, with a warning; beyond that, none."""

AIR, SOFT_TISSUE = (-1100.0, -900.0), (-200.0, 200.0)
"""Hounsfield units; air is -1000, water 0."""

WHERE = {"features": "{}", "volume": "the volume of {}", "entropy": "the entropy of {}"}
"""What of a structure is farthest from usual, by `networks.input_statistics.KINDS`."""

LEAST_SHARE = 0.02
"""Of the voxels of a CT, at least so many are air, and as many soft tissue."""


def check_grid(size: Sequence[int], spacing: Sequence[float], input_range: Mapping[str, Any]) -> list[str]:
    """Return warnings, one sentence each, about an unusual voxel spacing (mm) or field of view.

    `input_range` is the model's: {"spacing_mm": [low, high], "extent_mm": [low, high]}. Raises GeometryError where
    either is more than TOLERATED_FACTOR beyond the range.
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
    """Return a warning, one sentence, where a model for MR is given the values of a CT."""
    if modality != "MR" or values.min() > AIR[1]:
        return []
    some = values.ravel()[:: max(1, values.size // 500_000)]
    shares = [np.mean((low <= some) & (some <= high)) for low, high in (AIR, SOFT_TISSUE)]
    if min(shares) < LEAST_SHARE:
        return []
    return ["The values look like CT, the model was made for MR; do not trust the result."]


def check_input_distance(input_distance: InputDistance | None, names: Sequence[str]) -> list[str]:
    """Return a warning, one sentence, where a scan is unlike those that a model with classes `names` was made for."""
    if input_distance is None or not input_distance.unlike:
        return []
    name = names[input_distance.structure]
    name = name[0].lower() + name[1:] if name[1:].islower() else name
    return [
        f"The scan is unlike those that the model was made for (distance {input_distance.distance:.1f}, "
        f"limit {input_distance.limit:.1f}, most in {WHERE[input_distance.kind].format(name)}); "
        "do not trust the segmentation without checking it."
    ]
