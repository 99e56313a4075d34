"""What some scanners and programs write outside the field of view: one value far below all others."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

LEAST_SHARE = 0.001
"""Of the voxels: a fill takes more, a single damaged voxel less."""

STRAY_SHARE = 0.005
"""Of the other voxels: so many may lie below 0 beside a fill, where an image was interpolated across its border."""

FAR = 3.0
"""A fill lies so many times the spread of the others below them; what is less far may be air of a CT, or the ground of
an image that was standardised."""

AIR_SHARE, AIR_LEVEL = 0.2, 0.05
"""Of the other voxels at least so many lie between 0 and this share of their 99 % quantile, where they include air."""


def fill_value(values: np.ndarray) -> float | None:
    """The constant of any array that fills where nothing was measured, or None.

    It is the lowest value, negative, that of many voxels, and either the only negative one beside an image with air at
    0, or FAR times as far from the others' first quartile as that is from their 99 % quantile.
    """
    lowest = values.min()
    some = values.ravel()[:: max(1, values.size // 500_000)]
    others = some[some > lowest]
    if not lowest < 0 or some.size - others.size < LEAST_SHARE * some.size or others.size < LEAST_SHARE * some.size:
        return None
    low, high = np.quantile(others, (0.25, 0.99))
    air = np.mean((others >= 0) & (others < AIR_LEVEL * high))
    only = np.mean(others < 0) < STRAY_SHARE and air > AIR_SHARE
    return float(lowest) if only or low - lowest > FAR * (high - low) else None


def without_fill(image: sitk.Image) -> tuple[sitk.Image, float | None]:
    """The image with air in place of its fill, and the fill; the image itself and None where it has none.

    Air is 0, or the lowest of the other values where these are negative too. Voxels that interpolation has put between
    fill and image count as fill: their values are nearer to the fill than to the first quartile of the others.
    """
    values = sitk.GetArrayViewFromImage(image)
    fill = fill_value(values)
    if fill is None:
        return image, None
    others = values[values > fill]
    low = float(np.quantile(others[:: max(1, others.size // 500_000)], 0.25))
    middle = fill + (low - fill) / 2
    air = 0.0 if low >= 0 else float(others[others > middle].min())
    replaced = np.where(values <= (min(middle, 0.0) if low >= 0 else middle), np.float32(air), values)
    result = sitk.GetImageFromArray(replaced)
    result.CopyInformation(image)
    return result, fill


def told(fill: float) -> str:
    """The sentence of the report."""
    return f"Voxels of {fill:g}, far below all others, were taken for air outside the field of view."
