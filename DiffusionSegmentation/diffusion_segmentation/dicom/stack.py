"""The grid of the images of a DICOM series, and what does not fit into one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..errors import GeometryError, InputError
from .slices import Slice

SAME_PLACE = 0.01  # images closer than this share of the usual distance lie at one place
UNEVEN, GAP = 0.1, 1.5  # deviation from an even grid that is tolerated, and distance of a gap, in usual distances
EXACT_MM = 0.01  # deviation that is worth no warning; scanners round positions
TILTED = 0.1  # drift of the images over the whole series, in pixels, that needs resampling


@dataclass(frozen=True)
class Stack:
    """Images of a series in their order along `normal`, with their grid (LPS, mm).

    Attributes:
        slices: the images from the first to the last.
        origin: centre of the first voxel.
        axes: unit vectors along i, j and from image to image, as columns [3, 3]; sheared if the gantry was tilted.
        spacing: mm along i, j and k.
        warnings: sentences about what was assumed.
        is_tilted: whether the images must be resampled onto a rectangular grid.
    """

    slices: list[Slice]
    origin: np.ndarray
    axes: np.ndarray
    spacing: tuple[float, float, float]
    warnings: list[str]
    is_tilted: bool

    @property
    def normal(self) -> np.ndarray:
        """Unit vector across the images."""
        return np.cross(self.axes[:, 0], self.axes[:, 1])

    def placed(self, values: np.ndarray) -> sitk.Image:
        """The image of `values` [k, j, i]; resampled onto a rectangular grid if the gantry was tilted."""
        image = sitk.GetImageFromArray(values)
        image.SetOrigin(self.origin.tolist())
        image.SetSpacing(self.spacing)
        image.SetDirection(self.axes.ravel().tolist())
        if not self.is_tilted:
            return image
        # All images lie in planes of the new grid, so that only pixels of one image are interpolated.
        size, *grid = self.rectangle()
        return sitk.Resample(image, size, sitk.Transform(), sitk.sitkLinear, *grid, float(values.min()))

    def rectangle(self) -> tuple[list[int], list[float], list[float], list[float]]:
        """Size, origin, spacing and direction of the smallest rectangular grid, as SimpleITK takes them."""
        count = len(self.slices)
        (columns, rows), step = self.slices[0].size, self.axes[:, 2] * self.spacing[2]
        size, origin = [columns, rows, count], self.origin.copy()
        if self.is_tilted:
            for axis in (0, 1):
                drift = float(step @ self.axes[:, axis]) * (count - 1)
                origin += min(drift, 0.0) * self.axes[:, axis]
                size[axis] += math.ceil(abs(drift) / self.spacing[axis])
        axes = np.column_stack([self.axes[:, :2], self.normal if self.is_tilted else self.axes[:, 2]])
        spacing = [*self.spacing[:2], float(step @ axes[:, 2])]
        return size, origin.tolist(), spacing, axes.ravel().tolist()


def stack(slices: Sequence[Slice], name: str) -> Stack:
    """The stack of the images of one series. Messages call the series `name`.

    Raises InputError for images that cannot be used and GeometryError for positions that are missing or give no grid.
    """
    warnings: list[str] = []
    slices = _without_copies(slices, name, warnings)
    for one in slices:
        if one.problem:
            raise InputError(f"{name} {one.problem}.")
    axes, pixel_mm, positions = _common_plane(slices, name)
    normal = np.cross(axes[:, 0], axes[:, 1])
    depths = positions @ normal
    order = np.argsort(depths, kind="stable")
    slices, positions, depths = [slices[n] for n in order], positions[order], depths[order]
    if len(slices) == 1:
        return Stack(slices, positions[0], np.column_stack([axes, normal]), (*pixel_mm, 1.0), warnings, False)
    _require_one_at_a_place(depths, name)
    _require_even(depths, name, warnings)
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    apart = positions - positions[0] - np.outer(np.arange(len(slices)), step)
    if np.abs(apart @ axes).max() > min(pixel_mm) / 2:
        raise GeometryError(f"{name} has images that are shifted against each other; resample it first.")
    drift = np.abs(step @ axes) * (len(slices) - 1)
    is_tilted = bool((drift / pixel_mm).max() > TILTED)
    if is_tilted:
        angle = math.degrees(math.acos(float(np.clip(step @ normal / np.linalg.norm(step), -1, 1))))
        warnings.append(
            f"{name} was scanned with a gantry tilted by {angle:.1f} degrees, and it was resampled onto a rectangular "
            "grid."
        )
    else:
        step = (step @ normal) * normal
    length = float(np.linalg.norm(step))
    return Stack(slices, positions[0], np.column_stack([axes, step / length]), (*pixel_mm, length), warnings, is_tilted)


def _without_copies(slices: Sequence[Slice], name: str, warnings: list[str]) -> list[Slice]:
    """The images without further files of the same image, and without localizers among others."""
    unique = {(one.uid, one.frame): one for one in reversed(slices)}
    if len(unique) < len(slices):
        copies = len(slices) - len(unique)
        what = "1 file that is a copy of another and was" if copies == 1 else f"{copies} files that are copies and were"
        warnings.append(f"{name} has {what} left out.")
    scans = [one for one in unique.values() if not one.is_localizer]
    if scans and len(scans) < len(unique):
        warnings.append(f"{name} has {len(unique) - len(scans)} localizer images, which were left out.")
    return scans or list(unique.values())


def _common_plane(slices: Sequence[Slice], name: str) -> tuple[np.ndarray, tuple[float, float], np.ndarray]:
    """Axes [3, 2] and pixel size (i, j) of all images, and their positions [n, 3]. Raises GeometryError."""
    if any(one.position is None or one.axes is None or one.pixel_mm is None for one in slices):
        raise GeometryError(
            f"{name} does not state where its images lie and how large their pixels are; export it again."
        )
    pixels = np.array([one.pixel_mm or (0.0, 0.0) for one in slices])
    if len({one.size for one in slices}) > 1 or np.ptp(pixels, axis=0).max() > 1e-4:
        raise GeometryError(f"{name} has images of different sizes; export those of one size as a series of their own.")
    axes = np.array([one.axes for one in slices]).reshape(-1, 2, 3)
    if np.abs(axes - axes[0]).max() > 1e-3:
        turned = len({tuple(np.round(one, 2).ravel()) for one in axes})
        raise GeometryError(
            f"{name} has images in {max(turned, 2)} orientations, as localizers have; give a series of parallel images."
        )
    row, column = axes.mean(0)
    if max(abs(np.linalg.norm(row) - 1), abs(np.linalg.norm(column) - 1), abs(row @ column)) > 1e-3:
        raise GeometryError(f"{name} has axes that are not at right angles; export it again.")
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    i, j = map(float, pixels[0])
    return np.column_stack([row, column / np.linalg.norm(column)]), (i, j), np.array([one.position for one in slices])


def _require_one_at_a_place(depths: np.ndarray, name: str) -> None:
    """Raise GeometryError if several images lie at one place. `depths` ascend."""
    steps = np.diff(depths)
    apart = steps[steps > 1e-3]
    starts = steps > max(1e-3, SAME_PLACE * float(np.median(apart)) if apart.size else 0.0)
    counts = np.bincount(np.concatenate([[0], np.cumsum(starts)]))
    if counts.max() == 1:
        return
    if len(counts) > 1 and counts.min() == counts.max():
        raise GeometryError(
            f"{name} has {counts[0]} images at each position, such as echoes or time points; export one of them as a "
            "series of its own."
        )
    raise GeometryError(f"{name} has several images at one position; export one volume as a series of its own.")


def _require_even(depths: np.ndarray, name: str, warnings: list[str]) -> None:
    """Raise GeometryError for a gap or uneven distances; small differences become a warning."""
    steps = np.diff(depths)
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])  # the lower median: of three images two can be neighbours
    apart = np.abs(depths - np.linspace(depths[0], depths[-1], len(depths))).max()
    if apart > UNEVEN * usual:
        widest = int(steps.argmax())
        if steps[widest] >= GAP * usual:
            missing = max(1, round(float((steps / usual).round().clip(1).sum() - len(steps))))
            raise GeometryError(
                f"{name} has a gap after image {widest + 1} of {len(depths)}: about {missing} "
                f"{'image is' if missing == 1 else 'images are'} missing; export it again."
            )
        raise GeometryError(
            f"{name} has images {steps.min():.4g} to {steps.max():.4g} mm apart; resample it to even distances first."
        )
    if apart > EXACT_MM:
        warnings.append(
            f"{name} has images {steps.min():.4g} to {steps.max():.4g} mm apart, and their mean distance was used."
        )
