"""The fill value that some scanners and programs write outside the field of view (DICOM: Pixel Padding Value)."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from .intensity import subsample

MIN_FILL_SHARE = 0.001  # minimum share of all voxels that have the fill value; single damaged voxels are fewer
# Maximum share of the other voxels below 0: interpolation across the border of the fill creates some.
MAX_NEGATIVE_SHARE = 0.005
# Minimum distance of the fill value below the other values, in multiples of their spread. The air of a CT, or the
# background of a standardised image, is nearer.
MIN_DISTANCE = 3.0
# An image includes air at 0 if at least AIR_SHARE of the other voxels lie between 0 and AIR_LEVEL times their 99 %
# quantile.
AIR_SHARE, AIR_LEVEL = 0.2, 0.05


def fill_value(values: np.ndarray) -> float | None:
    """The fill value of an array of any shape, or None.

    It is the lowest value, negative and frequent. Either it is the only negative value and the image has air at 0, or
    its distance from the first quartile of the others is more than MIN_DISTANCE times the distance of that quartile
    from their 99 % quantile.
    """
    lowest = values.min()
    some = subsample(values)
    others = some[some > lowest]
    fewest = MIN_FILL_SHARE * some.size
    if not lowest < 0 or some.size - others.size < fewest or others.size < fewest:
        return None
    low, high = np.quantile(others, (0.25, 0.99))
    air = np.mean((others >= 0) & (others < AIR_LEVEL * high))
    only_negative = np.mean(others < 0) < MAX_NEGATIVE_SHARE and air > AIR_SHARE
    return float(lowest) if only_negative or low - lowest > MIN_DISTANCE * (high - low) else None


def replace_fill_value(image: sitk.Image) -> tuple[sitk.Image, float | None]:
    """The image with its fill value replaced by air, and the fill value; the image itself and None if it has none.

    Air is 0, or the lowest other value where the first quartile of the others is negative. Voxels between fill value
    and image, from interpolation, are replaced too: their values are nearer to the fill value than to that quartile.
    """
    values = sitk.GetArrayViewFromImage(image)
    fill = fill_value(values)
    if fill is None:
        return image, None
    others = values[values > fill]
    low = float(np.quantile(subsample(others), 0.25))
    middle = fill + (low - fill) / 2
    air = 0.0 if low >= 0 else float(others[others > middle].min())
    replaced = np.where(values <= (min(middle, 0.0) if low >= 0 else middle), np.float32(air), values)
    result = sitk.GetImageFromArray(replaced)
    result.CopyInformation(image)
    return result, fill
