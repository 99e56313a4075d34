"""Picture of the most uncertain region of a case: the slice through its peak with entropy and outlines."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import DiffusionSegmentationError
from ..images import writing
from ..images.case_files import CaseFiles
from ..runtime.entropy_colors import COLORS

PIXELS, FIELD_MM = 200, 110.0  # width of a picture, and of the part of a volume that it shows
FULL_BITS = 1.0  # entropy of the last colour, and of the full opacity: two classes that are equally probable
OPACITY = 0.7
GREY = 0.5, 99.5  # percentiles of the image that are black and white


def write_picture(
    path: Path, folder: Path, image: Path, series: str | None = None, peak_ras_mm: list[float] | None = None
) -> bool:
    """Write the PNG `path` of the result in `folder`; returns whether `image`, its first input, could be read.

    The slice is axial through the peak, the patient's right at the left; without a peak through the voxel with the
    largest entropy, and without entropy through the centre. Pictures of one slice are shown whole. Without the image
    entropy and outlines are drawn on black.
    `series` is the UID of a DICOM series. Raises RuntimeError and OSError if the result cannot be read or `path` cannot
    be written.
    """
    entropy = sitk.ReadImage(str(folder / "entropy.nrrd"))
    labels = sitk.ReadImage(str(folder / "segmentation.seg.nrrd"), sitk.sitkUInt8)
    grid = _slice(entropy, peak_ras_mm)
    grey = _read(image, series, entropy)
    background = np.zeros((grid.GetSize()[1], grid.GetSize()[0]))
    if grey is not None:
        low, high = np.percentile(sitk.GetArrayViewFromImage(grey), GREY)
        shown = _resampled(grey, grid, sitk.sitkLinear, float(low))
        background = np.clip((shown - low) / max(high - low, 1e-9), 0, 1)
    bits = np.clip(_resampled(entropy, grid, sitk.sitkLinear) / FULL_BITS, 0, 1)
    steps = np.linspace(0, 1, len(COLORS))
    colour = np.stack([np.interp(bits, steps, channel) for channel in zip(*COLORS, strict=True)], -1)
    opacity = (OPACITY * bits)[..., None]
    rgb = background[..., None] * (1 - opacity) + colour * opacity
    shown_labels = _resampled(labels, grid, sitk.sitkNearestNeighbor)
    table = np.zeros((256, 3))
    for label, name in _label_colours(labels).items():
        table[label] = name
    edge = _inner_edge(shown_labels)
    rgb[edge] = table[shown_labels[edge].astype(np.uint8)]
    picture = sitk.GetImageFromArray((255 * rgb + 0.5).astype(np.uint8), isVector=True)
    partial = path.with_name(f"{path.stem}.part.png")
    sitk.WriteImage(picture, str(partial))
    writing.replace(partial, path)
    return grey is not None


def _read(path: Path, series: str | None, grid: sitk.Image) -> sitk.Image | None:
    """First channel of a file or series on `grid`, that of the result; None if it cannot be read any more."""
    try:
        file = CaseFiles(path, series=series if path.is_dir() else None).first
        image = file.read_all()[0]
    except (OSError, RuntimeError, DiffusionSegmentationError):
        return None
    if image.GetSize() != grid.GetSize():
        return None
    image.CopyInformation(grid)  # what the file does not state, such as the size of its pixels, was given to the run
    return image


def _slice(image: sitk.Image, peak_ras_mm: list[float] | None) -> sitk.Image:
    """Empty image of one slice with PIXELS pixels along its longer side."""
    size, spacing = np.array(image.GetSize()), np.array(image.GetSpacing())
    if size[2] == 1:
        step = max(size[:2] * spacing[:2]) / PIXELS
        pixels = np.maximum(1, np.round(size[:2] * spacing[:2] / step)).astype(int)
        direction, origin = image.GetDirection(), image.GetOrigin()
    else:
        if peak_ras_mm is None:
            array = sitk.GetArrayViewFromImage(image)
            index = np.unravel_index(int(array.argmax()), array.shape)[::-1] if array.any() else size // 2
            centre = np.array(image.TransformIndexToPhysicalPoint([int(n) for n in index]))
        else:
            centre = np.array(peak_ras_mm) * (-1, -1, 1)
        width = min(FIELD_MM, float((size * spacing).max()))
        step, pixels = width / PIXELS, np.array([PIXELS, PIXELS])
        direction, origin = np.eye(3).ravel().tolist(), (centre - (width / 2, width / 2, 0)).tolist()
    grid = sitk.Image([*pixels.tolist(), 1], sitk.sitkUInt8)
    grid.SetSpacing([step, step, 1.0])
    grid.SetDirection(direction)
    grid.SetOrigin(origin)
    return grid


def _resampled(image: sitk.Image, grid: sitk.Image, interpolator: int, outside: float = 0.0) -> np.ndarray:
    """Values [row, column] in a slice, and `outside` the image."""
    return sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), interpolator, outside))[0]


def _inner_edge(labels: np.ndarray) -> np.ndarray:
    """Pixels of structures with a neighbour of another label, bool as `labels`."""
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        differs = np.diff(labels.astype(np.int16), axis=axis) != 0
        before, after = [slice(None)] * 2, [slice(None)] * 2
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        edge[tuple(before)] |= differs
        edge[tuple(after)] |= differs
    return edge & (labels > 0)


def _label_colours(segmentation: sitk.Image) -> dict[int, list[float]]:
    """Red, green and blue of each label as the file of a segmentation states them."""
    colours = {}
    for key in segmentation.GetMetaDataKeys():
        if match := re.fullmatch(r"(Segment\d+)_LabelValue", key):
            colour = segmentation.GetMetaData(f"{match[1]}_Color")
            colours[int(segmentation.GetMetaData(key))] = [float(part) for part in colour.split()]
    return colours
