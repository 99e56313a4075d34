"""Volumes: reading them, whether they suit a model, and the way to the model's working grid and back.

Physical space is LPS in mm, as in SimpleITK. The *input grid* is the volume's own: any size, spacing and oblique
directions; its arrays are indexed [k, j, i]. The *working grid* is the model's: isotropic, axes along L, P and S; its
arrays are indexed [z, y, x].
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from .errors import GeometryError, InputError

Box = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Lower and upper corner in LPS, mm; voxels are counted with their full width."""

TOLERATED_FACTOR = 1.5
"""So far beyond the model's range of spacing or extent an answer is still given, with a warning; beyond that, none."""

SLAB_VOXELS = 2**22
"""Voxels of the input grid that are interpolated at a time: 16 MiB for each float32 array."""

HOUNSFIELD_AIR_BELOW = -500.0
"""MR intensities are not this negative, air in CT is."""


def read_volume(path: str | Path) -> sitk.Image:
    """Return the 3-D scalar volume in `path` as float32, all values finite, at least two voxels along each axis.

    Raises InputError (missing, unreadable, colour, complex, 2-D, 4-D, NaN or infinite, constant) and GeometryError
    (a single slice), each with one sentence that names the file but not its folder.
    """
    path = Path(path)
    name = f"The volume '{path.name}'"
    if not path.exists():
        raise InputError(f"{name} does not exist; check its name and folder.")
    if path.is_dir():
        raise InputError(f"{name} is a folder; give one file, for DICOM a volume that was saved as NRRD or NIfTI.")
    reader = sitk.ImageFileReader()
    reader.SetFileName(itk_name(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{name} cannot be read; give an NRRD, NIfTI or MetaImage file.") from error
    _require_scalar_3d(reader, name)
    reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{name} is damaged or incomplete; export it again.") from error
    _require_contrast(image, name)
    return image


def read_labels(path: Path, image: sitk.Image, count: int) -> np.ndarray:
    """The numbers of a label file, int64 [k, j, i] in 0 to count - 1, on the grid of `image`.

    Raises InputError, one sentence: unreadable, not on the image's grid, or a number that is not listed.
    """
    try:
        labels = sitk.ReadImage(itk_name(path))
        numbers = np.rint(sitk.GetArrayFromImage(labels)).astype(np.int64)
    except RuntimeError:
        raise InputError(f"The label file '{path.name}' cannot be read; replace it.") from None
    if (
        labels.GetSize() != image.GetSize()
        or not np.allclose(labels.GetOrigin(), image.GetOrigin(), atol=0.01)
        or not np.allclose(labels.GetSpacing(), image.GetSpacing(), rtol=1e-3)
        or not np.allclose(labels.GetDirection(), image.GetDirection(), atol=1e-3)
    ):
        raise InputError(f"The label file '{path.name}' does not lie on its image's grid; resample it to the image.")
    if numbers.min() < 0 or numbers.max() >= count:
        raise InputError(f"The label file '{path.name}' has labels that dataset.json does not list; mend one of them.")
    return numbers


def itk_name(path: Path) -> str:
    """The name by which ITK can open a file: on Windows it reads names in the ANSI code page.

    There the short name (PROGRA~1), which is ASCII where the volume makes such names, stands for others.
    """
    if sys.platform != "win32" or str(path).isascii():
        return str(path)
    import ctypes

    short = ctypes.create_unicode_buffer(32_768)
    return short.value if ctypes.windll.kernel32.GetShortPathNameW(str(path), short, len(short)) else str(path)


def _require_scalar_3d(reader: sitk.ImageFileReader, name: str) -> None:
    size = reader.GetSize()
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelIDValue()):
        raise InputError(f"{name} has complex values; give its magnitude.")
    if reader.GetNumberOfComponents() != 1:
        raise InputError(f"{name} has {reader.GetNumberOfComponents()} values a voxel; give a grey-value volume.")
    if len(size) == 2:
        raise InputError(f"{name} is a 2-D image; give a 3-D volume.")
    if len(size) > 3:
        if math.prod(size[3:]) != 1:
            raise InputError(f"{name} is a series of {math.prod(size[3:])} volumes; give one of them.")
        reader.SetExtractSize([*size[:3], *[0] * (len(size) - 3)])
    if min(size[:3]) < 2:
        raise GeometryError(f"{name} has {' x '.join(map(str, size[:3]))} voxels; give a volume of several slices.")


def _require_contrast(image: sitk.Image, name: str) -> None:
    values = sitk.GetArrayViewFromImage(image)
    # One pass without a mask: a sum of float32 values in double precision cannot overflow, so only NaN or Inf spoil it.
    if not np.isfinite(values.sum(dtype=np.float64)):
        raise InputError(f"{name} has voxels that are not a number or infinite; replace them and try again.")
    if values.min() == values.max():
        raise InputError(f"{name} has the same value everywhere; give a volume with contrast.")


def check_fits(image: sitk.Image, input_range: Mapping[str, Any]) -> list[str]:
    """Return warnings, one sentence each, about what is unusual for the model in `image`.

    `input_range` is the model's: {"spacing_mm": [low, high], "extent_mm": [low, high], "modality": "MR"}. Raises
    GeometryError where spacing or field of view is more than TOLERATED_FACTOR beyond the range.
    """
    spacing = image.GetSpacing()
    extent = [n * s for n, s in zip(image.GetSize(), spacing, strict=True)]
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
    if input_range.get("modality") == "MR" and sitk.GetArrayViewFromImage(image).min() < HOUNSFIELD_AIR_BELOW:
        warnings.append("The values look like CT, the model was made for MR; do not trust the result.")
    return warnings


def bounding_box(image: sitk.Image) -> Box:
    """Return the LPS box around `image`, its outermost voxels included with their full width."""
    return _box_around(image, [(-0.5, n - 0.5) for n in image.GetSize()])


def _box_around(image: sitk.Image, ranges: list[tuple[float, float]]) -> Box:
    corners = [image.TransformContinuousIndexToPhysicalPoint(corner) for corner in itertools.product(*ranges)]
    return tuple(np.min(corners, axis=0).tolist()), tuple(np.max(corners, axis=0).tolist())


def working_image(
    image: sitk.Image, spacing_mm: float, box: Box | None = None, outside: float | None = None
) -> sitk.Image:
    """Return `image` (float32) on the working grid of `spacing_mm` that covers `box`, by default the whole image.

    The grid is centred on the box and reaches beyond it by less than one voxel in all. Outside the image the
    value `outside` is assumed, by default the image's minimum.
    """
    lower, upper = bounding_box(image) if box is None else box
    # Without the small allowance, rounding in an oblique direction matrix would add a voxel of nothing.
    size = [max(1, math.ceil((b - a) / spacing_mm - 1e-4)) for a, b in zip(lower, upper, strict=True)]
    origin = [(a + b) / 2 - (n - 1) / 2 * spacing_mm for a, b, n in zip(lower, upper, size, strict=True)]
    if outside is None:
        outside = float(sitk.GetArrayViewFromImage(image).min())
    resample = sitk.ResampleImageFilter()
    resample.SetSize(size)
    resample.SetOutputOrigin(origin)
    resample.SetOutputSpacing([spacing_mm] * 3)
    resample.SetOutputDirection(np.eye(3).ravel().tolist())
    resample.SetInterpolator(sitk.sitkLinear)
    resample.SetDefaultPixelValue(outside)
    resample.SetOutputPixelType(sitk.sitkFloat32)
    return resample.Execute(_smoothed_for(image, spacing_mm))


def _smoothed_for(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """Blur along the input axes that are finer than `spacing_mm`, so that coarser sampling does not alias.

    A voxel of width w is taken as a Gaussian of FWHM w; the blur that turns one width into the other has the variance
    (spacing_mm^2 - w^2) / (8 ln 2) in mm^2. Axes that are coarser already keep all they have.
    """
    variance = [max(0.0, spacing_mm**2 - w**2) / (8 * math.log(2)) for w in image.GetSpacing()]
    if not any(variance):
        return image
    gaussian = sitk.DiscreteGaussianImageFilter()
    gaussian.SetVariance(variance)
    gaussian.SetUseImageSpacing(True)
    gaussian.SetMaximumError(0.001)
    gaussian.SetMaximumKernelWidth(64)
    return gaussian.Execute(image)


class Projection:
    """The way back: class probabilities on the working grid become labels on the input grid.

    Probabilities are interpolated linearly, one class at a time and in slabs, so that beyond result and input a few
    float32 arrays of SLAB_VOXELS are all that is held. Outside the working grid everything is background (class 0).
    `p` is float32 [C, z, y, x] on the working grid and sums to 1 over the classes.
    """

    def __init__(self, working: sitk.Image, reference: sitk.Image) -> None:
        """Use the geometry, not the values, of the two images. Raises GeometryError if they have no voxel in common."""
        # Numbers only: keeping an image here would keep its voxels in memory.
        self._working_shape = working.GetSize()[::-1]
        self._working_spacing = working.GetSpacing()
        self._working_origin = working.GetOrigin()
        self._shape = reference.GetSize()[::-1]
        self._spacing = reference.GetSpacing()
        self._origin = reference.GetOrigin()
        self._direction = reference.GetDirection()
        self.box = _covering(working, reference)

    def consensus(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return labels (uint8) and entropy (float32, bits), both [k, j, i] on the whole input grid."""
        index, size = self.box
        labels = np.zeros(self._shape, np.uint8)
        entropy = np.zeros(self._shape, np.float32)
        inside = tuple(slice(a, a + n) for a, n in zip(index[::-1], size[::-1], strict=True))
        ceiling = np.float32(math.log2(len(p)))
        for slab, classes in self._slabs(p):
            best, bits = _Argmax(), np.float32(0)
            for q in classes:
                best.add(q)
                # 0 log 0 = 0: the smallest normal float32 in place of 0 keeps the logarithm finite.
                bits = bits - q * np.log2(np.maximum(q, np.finfo(np.float32).tiny))
            labels[inside][slab] = best.labels
            entropy[inside][slab] = np.clip(bits, 0, ceiling)
        return labels, entropy

    def labels(self, p: np.ndarray) -> np.ndarray:
        """Return the most probable label, uint8 [kb, jb, ib] on `box`; of equals the lower."""
        labels = np.empty(self.box[1][::-1], np.uint8)
        for slab, classes in self._slabs(p):
            best = _Argmax()
            for q in classes:
                best.add(q)
            labels[slab] = best.labels
        return labels

    def quantised(self, p: np.ndarray) -> np.ndarray:
        """Return the probabilities as uint8 [C, kb, jb, ib] on `box`; 255 is 1.

        Their most probable class is that of `consensus`: where rounding makes two equal, the right one gains a 255th.
        """
        quantised = np.empty((len(p), *self.box[1][::-1]), np.uint8)
        for slab, classes in self._slabs(p):
            best, rounded = _Argmax(), _Argmax()
            for c, q in enumerate(classes):
                best.add(q)
                quantised[c][slab] = np.rint(q * np.float32(255))
                rounded.add(quantised[c][slab])
            wrong = np.nonzero(rounded.labels != best.labels)
            quantised[(best.labels[wrong], wrong[0] + slab.start, *wrong[1:])] += 1
        return quantised

    def nearest(self, labels: np.ndarray) -> np.ndarray:
        """Return labels uint16 [z, y, x] of the working grid on `box` [kb, jb, ib], each from the nearest voxel."""
        if labels.shape != self._working_shape:
            raise ValueError(f"labels of shape {labels.shape} do not lie on the working grid {self._working_shape}")
        index, size = self.box
        image = sitk.GetImageFromArray(np.ascontiguousarray(labels, np.uint16))
        image.SetSpacing(self._working_spacing)
        image.SetOrigin(self._working_origin)
        resample = sitk.ResampleImageFilter()
        resample.SetSize(size)
        resample.SetOutputOrigin(self._point(index))
        resample.SetOutputSpacing(self._spacing)
        resample.SetOutputDirection(self._direction)
        resample.SetInterpolator(sitk.sitkNearestNeighbor)
        return sitk.GetArrayFromImage(resample.Execute(image))

    def ras(self, zyx: tuple[int, int, int]) -> tuple[float, float, float]:
        """The centre of a voxel of the working grid in RAS, mm."""
        left, posterior, superior = (
            o + s * n for o, s, n in zip(self._working_origin, self._working_spacing, zyx[::-1], strict=True)
        )
        return -left, -posterior, superior

    def _slabs(self, p: np.ndarray) -> Iterator[tuple[slice, Iterator[np.ndarray]]]:
        """Yield slices along k of `box` and, for each, an iterator over the classes' interpolated probabilities."""
        if p.shape[1:] != self._working_shape:
            raise ValueError(f"probabilities of shape {p.shape} do not lie on the working grid {self._working_shape}")
        index, (ni, nj, nk) = self.box
        images = [self._on_working_grid(channel) for channel in p]
        thickness = max(1, SLAB_VOXELS // (ni * nj))
        for k in range(0, nk, thickness):
            depth = min(thickness, nk - k)
            resample = sitk.ResampleImageFilter()
            resample.SetSize((ni, nj, depth))
            resample.SetOutputOrigin(self._point((index[0], index[1], index[2] + k)))
            resample.SetOutputSpacing(self._spacing)
            resample.SetOutputDirection(self._direction)
            resample.SetInterpolator(sitk.sitkLinear)
            yield slice(k, k + depth), _interpolated(resample, images)

    def _on_working_grid(self, channel: np.ndarray) -> sitk.Image:
        image = sitk.GetImageFromArray(np.ascontiguousarray(channel, np.float32))
        image.SetSpacing(self._working_spacing)
        image.SetOrigin(self._working_origin)
        return image

    def _point(self, ijk: tuple[int, int, int]) -> list[float]:
        """Return the centre of an input voxel in LPS, mm."""
        step = np.reshape(self._direction, (3, 3)) * self._spacing
        return (np.array(self._origin) + step @ ijk).tolist()


def _interpolated(resample: sitk.ResampleImageFilter, images: list[sitk.Image]) -> Iterator[np.ndarray]:
    for c, image in enumerate(images):
        resample.SetDefaultPixelValue(1.0 if c == 0 else 0.0)
        result = resample.Execute(image)  # named, because the view below does not keep it alive
        yield sitk.GetArrayViewFromImage(result)


class _Argmax:
    """Running argmax over arrays that are seen one after another; of equals the first stays."""

    def __init__(self) -> None:
        self.labels: np.ndarray | None = None
        self._count = 0

    def add(self, q: np.ndarray) -> None:
        if self.labels is None:
            self.labels, self._best = np.zeros(q.shape, np.uint8), q.copy()
        else:
            np.copyto(self.labels, self._count, where=q > self._best)
            np.maximum(self._best, q, out=self._best)
        self._count += 1


def _covering(working: sitk.Image, reference: sitk.Image) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return (index, size) in ijk of the smallest block of `reference` with every voxel centre inside `working`."""
    ranges = [(-0.5, n - 0.5) for n in working.GetSize()]
    corners = [
        reference.TransformPhysicalPointToContinuousIndex(working.TransformContinuousIndexToPhysicalPoint(corner))
        for corner in itertools.product(*ranges)
    ]
    first = np.maximum(np.ceil(np.min(corners, axis=0) - 1e-6), 0).astype(int)
    last = np.minimum(np.floor(np.max(corners, axis=0) + 1e-6), np.array(reference.GetSize()) - 1).astype(int)
    if (last < first).any():
        raise GeometryError("The region to segment lies outside the volume; choose another region.")
    return tuple(first.tolist()), tuple((last - first + 1).tolist())
