"""Intensity normalisation and the bounding box of the body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from ..errors import InputError

CEILING = 1.5  # upper limit of normalised intensities; brighter voxels are fat, vessels or artefacts


def normalise(image: np.ndarray, intensity: Mapping[str, Any] | None = None) -> np.ndarray:
    """Image of any shape and unit as float32 in [0, CEILING]: air near 0, bright tissue near 1.

    `intensity` is the section of that name in the model's metadata. {"window": [low, high]}, for CT, maps low to 0 and
    high to 1. Without it, the 0.5 % quantile of the image maps to 0, and the 99 % quantile of the voxels above the mean
    to 1. The mean separates head from air, and a skull-stripped head from its zeros.

    Raises InputError if the image is constant except for a few voxels.
    """
    image = np.asarray(image, dtype=np.float32)
    if intensity and "window" in intensity:
        low, high = intensity["window"]
        return np.clip((image - np.float32(low)) / np.float32(high - low), 0, CEILING)
    some = subsample(image)
    low = np.quantile(some, 0.005)
    bright = some[some > some.mean()]
    high = np.quantile(bright, 0.99) if bright.size else low
    if not high > low:
        raise InputError("The image is constant except for a few voxels; give a volume with contrast.")
    return np.clip((image - low) / (high - low), 0, CEILING)


def subsample(values: np.ndarray) -> np.ndarray:
    """At most about 500,000 of the voxels, flattened: quantiles within 0.2 % of the exact ones, 20 times faster."""
    return values.ravel()[:: max(1, values.size // 500_000)]


def body_box(image: np.ndarray, margin: int) -> tuple[slice, ...]:
    """Bounding box of the body in an image [z, y, x], extended by `margin` voxels within the image.

    The body is the largest connected component above half of Otsu's threshold after a Gaussian blur (sigma 1 voxel),
    which excludes bright specks in the air. Without a component the box is the whole image.
    """
    smooth = ndimage.gaussian_filter(normalise(image), 1.0)
    # Half of Otsu's threshold, because scalp and neck are darker than the mean of head and air.
    components, count = ndimage.label(smooth > 0.5 * threshold_otsu(smooth))
    if not count:
        return tuple(slice(0, n) for n in image.shape)
    largest = int(np.argmax(np.bincount(components.ravel())[1:]))
    box = ndimage.find_objects(components)[largest]
    return tuple(
        slice(max(0, s.start - margin), min(n, s.stop + margin)) for s, n in zip(box, image.shape, strict=True)
    )
