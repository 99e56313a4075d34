"""What the networks see of an image: the body, on one intensity scale for all scanners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from ..errors import InputError

# Brighter than the 99th percentile is fat, vessels or an artefact; what they are does not matter beyond this.
CEILING = 1.5


class NoContrast(InputError, ValueError):
    """An image is constant, or so nearly that its intensities have no scale."""


def normalise(image: np.ndarray, intensity: Mapping[str, Any] | None = None) -> np.ndarray:
    """Image of any shape and unit as float32 in [0, CEILING]: air near 0, the bright tissues near 1.

    `intensity` is the model's section of that name. With {"window": [low, high]}, for CT, low becomes 0 and high 1.
    Without one, 0 is the half-percent quantile of the image, 1 the 99 % quantile of what is brighter than the image's
    mean. The mean separates head from air well enough, and a skull-stripped head (mostly zeros) from its zeros.

    Raises NoContrast when the image is constant, or all but a few of its voxels are.
    """
    image = np.asarray(image, dtype=np.float32)
    if intensity and "window" in intensity:
        low, high = intensity["window"]
        return np.clip((image - np.float32(low)) / np.float32(high - low), 0, CEILING)
    # Quantiles from at most about 500,000 voxels: within 0.2 % of the exact ones, 20 times faster.
    some = image.ravel()[:: max(1, image.size // 500_000)]
    low = np.quantile(some, 0.005)
    bright = some[some > some.mean()]
    high = np.quantile(bright, 0.99) if bright.size else low
    if not high > low:
        raise NoContrast("The image is constant but for a few voxels; give a volume with contrast.")
    return np.clip((image - low) / (high - low), 0, CEILING)


def body_box(image: np.ndarray, margin: int) -> tuple[slice, slice, slice]:
    """The smallest box around the body in an image [z, y, x], `margin` voxels wider where the image allows.

    The body is the largest connected piece above Otsu's threshold after a small blur; bright specks in the air around
    a head do not count. An image that has no such piece is taken whole.
    """
    smooth = ndimage.gaussian_filter(normalise(image), 1.0)
    # Half of Otsu's value: the scalp's rim and the neck are darker than the mean of head and air.
    pieces, count = ndimage.label(smooth > 0.5 * threshold_otsu(smooth))
    if not count:
        return tuple(slice(0, n) for n in image.shape)
    largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    box = ndimage.find_objects(pieces)[largest - 1]
    return tuple(
        slice(max(0, s.start - margin), min(n, s.stop + margin)) for s, n in zip(box, image.shape, strict=True)
    )
