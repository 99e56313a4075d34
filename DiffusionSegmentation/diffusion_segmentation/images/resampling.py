"""The way from a volume's own grid to the model's working grid and back.

Physical space is LPS in mm, as in SimpleITK. The *input grid* is the volume's own: any size, spacing and oblique
directions; its arrays are indexed [k, j, i]. The *working grid* is the model's: isotropic, axes along L, P and S; its
arrays are indexed [z, y, x].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import SimpleITK as sitk

from ..errors import GeometryError

Box = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Lower and upper corner in LPS, mm; voxels are counted with their full width."""

SLAB_VOXELS = 2**22
"""Voxels of the input grid that are interpolated at a time: 16 MiB for each float32 array."""


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

    def consensus(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return labels (uint8) and entropy (float32, bits), both [k, j, i] on the whole input grid, and class sums.

        The sums float64 [C] are those of the class probabilities over the input voxels of `box`: expected voxel counts.
        """
        index, size = self.box
        labels = np.zeros(self._shape, np.uint8)
        entropy = np.zeros(self._shape, np.float32)
        inside = tuple(slice(a, a + n) for a, n in zip(index[::-1], size[::-1], strict=True))
        ceiling, sums = np.float32(math.log2(len(p))), np.zeros(len(p))
        for slab, classes in self._slabs(p):
            best, bits = _Argmax(), np.float32(0)
            for c, q in enumerate(classes):
                best.add(q)
                sums[c] += q.sum(dtype=np.float64)
                # 0 log 0 = 0: the smallest normal float32 in place of 0 keeps the logarithm finite.
                bits = bits - q * np.log2(np.maximum(q, np.finfo(np.float32).tiny))
            labels[inside][slab] = best.labels
            entropy[inside][slab] = np.clip(bits, 0, ceiling)
        return labels, entropy, sums

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
        """Return labels uint8 or uint16 [z, y, x] of the working grid on `box` [kb, jb, ib], from the nearest voxel."""
        if labels.shape != self._working_shape:
            raise ValueError(f"labels of shape {labels.shape} do not lie on the working grid {self._working_shape}")
        index, size = self.box
        image = sitk.GetImageFromArray(np.ascontiguousarray(labels))
        image.SetSpacing(self._working_spacing)
        image.SetOrigin(self._working_origin)
        resample = sitk.ResampleImageFilter()
        resample.SetSize(size)
        resample.SetOutputOrigin(self._point(index))
        resample.SetOutputSpacing(self._spacing)
        resample.SetOutputDirection(self._direction)
        resample.SetInterpolator(sitk.sitkNearestNeighbor)
        return sitk.GetArrayFromImage(resample.Execute(image))

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
