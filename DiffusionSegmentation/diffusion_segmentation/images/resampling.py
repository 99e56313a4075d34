"""Resampling between a volume's own grid and the model's working grid.

Physical space is LPS in mm, as in SimpleITK. The *input grid* is the volume's own: any size, spacing and oblique
directions; arrays are indexed [k, j, i]. The *working grid* is the model's: isotropic, axes along L, P and S, or for
models of pictures isotropic within the slices of the input; arrays are indexed [z, y, x].
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import SimpleITK as sitk

from ..errors import GeometryError

# Lower and upper corner in LPS, mm, including the full width of the outermost voxels.
Box = tuple[tuple[float, float, float], tuple[float, float, float]]
Block = tuple[slice, slice, slice]  # [k, j, i]
BLOCK_VALUES, BLOCK_VOXELS = 2**22, 2**17
"""Most interpolated values of all classes at a time, 16 MiB for each float32 array, and voxels of a block."""

_IDENTITY = sitk.Transform(3, sitk.sitkIdentity)


def bounding_box(image: sitk.Image) -> Box:
    """The LPS box around `image`, including the full width of its outermost voxels."""
    points = [image.TransformContinuousIndexToPhysicalPoint(corner) for corner in _corners(image)]
    return tuple(np.min(points, axis=0).tolist()), tuple(np.max(points, axis=0).tolist())


def _corners(image: sitk.Image) -> Iterator[tuple[float, ...]]:
    """Continuous indices ijk of the eight corners of `image`."""
    return itertools.product(*[(-0.5, n - 0.5) for n in image.GetSize()])


def working_image(
    image: sitk.Image, spacing_mm: float, box: Box | None = None, outside: float | None = None
) -> sitk.Image:
    """`image` (float32) on the working grid of `spacing_mm` that covers `box`, by default the whole image.

    The grid is centred on the box and exceeds it by less than one voxel in all. Outside the image it has the value
    `outside`, by default the image's minimum.
    """
    lower, upper = bounding_box(image) if box is None else box
    # The tolerance prevents an additional empty voxel from rounding in an oblique direction matrix.
    size = [max(1, math.ceil((b - a) / spacing_mm - 1e-4)) for a, b in zip(lower, upper, strict=True)]
    origin = [(a + b) / 2 - (n - 1) / 2 * spacing_mm for a, b, n in zip(lower, upper, size, strict=True)]
    if outside is None:
        outside = float(sitk.GetArrayViewFromImage(image).min())
    spacing, axes = [spacing_mm] * 3, np.eye(3).ravel().tolist()
    smoothed = _antialiased(image, spacing_mm)
    return sitk.Resample(smoothed, size, _IDENTITY, sitk.sitkLinear, origin, spacing, axes, outside, sitk.sitkFloat32)


def working_picture(image: sitk.Image, spacing_mm: float, outside: float | None = None) -> sitk.Image:
    """`image` (float32) with pixels of `spacing_mm` in its own slices, which stay as they are.

    The grid is centred on the image and exceeds it by less than one pixel in all.
    """
    extent = [n * mm for n, mm in zip(image.GetSize()[:2], image.GetSpacing()[:2], strict=True)]
    size = [max(1, math.ceil(mm / spacing_mm - 1e-4)) for mm in extent]
    size, spacing = [*size, image.GetSize()[2]], [spacing_mm, spacing_mm, image.GetSpacing()[2]]
    centre = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    axes = np.reshape(image.GetDirection(), (3, 3))
    origin = (np.array(centre) - axes @ [(n - 1) / 2 * mm for n, mm in zip(size, spacing, strict=True)]).tolist()
    if outside is None:
        outside = float(sitk.GetArrayViewFromImage(image).min())
    smoothed, linear = _antialiased(image, spacing_mm, axes=2), sitk.sitkLinear
    return sitk.Resample(
        smoothed, size, _IDENTITY, linear, origin, spacing, image.GetDirection(), outside, sitk.sitkFloat32
    )


def on_grid_of(image: sitk.Image, reference: sitk.Image) -> sitk.Image:
    """`image` (float32) on the grid of `reference`; outside the image it has the image's minimum."""
    outside = float(sitk.GetArrayViewFromImage(image).min())
    smoothed = _antialiased(image, min(reference.GetSpacing()))
    return sitk.Resample(smoothed, reference, _IDENTITY, sitk.sitkLinear, outside, sitk.sitkFloat32)


def overlap(image: sitk.Image, reference: sitk.Image) -> float:
    """Share of the voxels of `reference` that lie in `image`."""
    ones = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
    ones.CopyInformation(image)
    inside = sitk.Resample(ones, reference, _IDENTITY, sitk.sitkNearestNeighbor, 0)
    return float(sitk.GetArrayViewFromImage(inside).mean())


def _antialiased(image: sitk.Image, spacing_mm: float, axes: int = 3) -> sitk.Image:
    """Blur along the first `axes` input axes where they are finer than `spacing_mm`, to prevent aliasing.

    A voxel of width w is modelled as a Gaussian of FWHM w; the blur has the variance
    (spacing_mm^2 - w^2) / (8 ln 2) in mm^2. Coarser axes are not blurred.
    """
    variance = [max(0.0, spacing_mm**2 - w**2) / (8 * math.log(2)) for w in image.GetSpacing()[:axes]]
    variance += [0.0] * (3 - axes)
    if not any(variance):
        return image
    return sitk.DiscreteGaussian(image, variance, maximumKernelWidth=64, maximumError=0.001, useImageSpacing=True)


@dataclass
class InputMaps:
    """Maps of class probabilities on the input grid, and the digests of what each block of them was made of.

    Attributes:
        labels: most probable classes, uint8 [k, j, i]; outside the working grid 0, as the entropy.
        entropy: bits, float32 [k, j, i].
        quantised: probabilities as uint8 [C, kb, jb, ib] on `Projection.box`, 255 is 1; none unless asked for.
        inside: the part of the input grid that the working grid covers, as slices.
    """

    labels: np.ndarray
    entropy: np.ndarray
    quantised: np.ndarray
    inside: tuple[slice, ...]
    made: dict[tuple[int, ...], tuple[bytes, np.ndarray]] = field(default_factory=dict)

    @property
    def sums(self) -> np.ndarray:
        """Sums of the probabilities over the voxels of the box, float64 [C]: expected voxel counts."""
        return np.sum([sums for _, sums in self.made.values()], 0)


class Projection:
    """Projects class probabilities from the working grid to labels on the input grid.

    Probabilities are interpolated linearly and in blocks, which needs a few float32 arrays of BLOCK_VALUES besides
    input and result. Outside the working grid everything is background (class 0). `p` is float32 [C, z, y, x] on the
    working grid and sums to 1. `box` is the (index, size), in ijk, of the part of the input grid that the working grid
    covers, and `inside` its slices [k, j, i]; `working_spacing` is that of the working grid along x, y, z.
    """

    def __init__(self, working: sitk.Image, reference: sitk.Image) -> None:
        """Use the geometry of the two images. Raises GeometryError if they have no voxel in common."""
        # Only the numbers: a reference to an image would keep its voxels in memory.
        self._working_shape, self._shape = working.GetSize()[::-1], reference.GetSize()[::-1]
        self.working_spacing, self._working_origin = working.GetSpacing(), working.GetOrigin()
        self._working_direction = working.GetDirection()
        self._spacing, self._origin = reference.GetSpacing(), np.array(reference.GetOrigin())
        self._direction = reference.GetDirection()
        self.box = index, size = _covered_box(working, reference)
        self.inside = tuple(slice(a, a + n) for a, n in zip(index[::-1], size[::-1], strict=True))

    def maps(
        self,
        p: np.ndarray,
        levels: Sequence[float] | None = None,
        kept: dict[str, InputMaps] | None = None,
        name: str = "map",
    ) -> InputMaps:
        """Maps of the probabilities `p`, with the quantised ones if `levels` are given.

        Their argmax is `labels`: where rounding creates a tie, the most probable class gains 1/255. They are at least
        255 x level where the probability is at least one of the `levels`, and only there.

        In `kept` the maps stay by `name`. Blocks of the maps that are there already, made of the same probabilities,
        facts and geometry, are not computed again; the arrays are the same and change in place.
        """
        shape = (0 if levels is None else len(p), *self.box[1][::-1])
        maps = None if kept is None else kept.get(name)
        if maps is None or (maps.labels.shape, maps.quantised.shape, maps.inside) != (self._shape, shape, self.inside):
            arrays = np.zeros(self._shape, np.uint8), np.zeros(self._shape, np.float32), np.empty(shape, np.uint8)
            maps = InputMaps(*arrays, self.inside)
            if kept is not None:
                kept[name] = maps
        labels, entropy, max_entropy = maps.labels[self.inside], maps.entropy[self.inside], math.log2(len(p))
        images = self._images(p)
        for block in self._blocks(len(p)):
            digest = b"" if kept is None else self._digest(p, block, (name, levels))
            key = tuple(part.start for part in block)
            if digest and maps.made.get(key, (b"",))[0] == digest:
                continue
            maps.made.pop(key, None)  # until the block is complete
            q = self._interpolated(images, block)
            labels[block] = _argmax(q)
            sums = q.sum((1, 2, 3), dtype=np.float64)
            # 0 log 0 = 0: the smallest normal float32 in place of 0 keeps the logarithm finite.
            bits = -(q * np.log2(np.maximum(q, np.finfo(np.float32).tiny))).sum(0)
            entropy[block] = np.clip(bits, 0, np.float32(max_entropy))
            if levels is not None:
                maps.quantised[:, *block] = _quantised(q, labels[block], levels)
            maps.made[key] = digest, sums
        return maps

    def labels(self, p: np.ndarray) -> np.ndarray:
        """The most probable label, uint8 [kb, jb, ib] on `box`; ties go to the lower label."""
        labels = np.empty(self.box[1][::-1], np.uint8)
        images = self._images(p)
        for block in self._blocks(len(p)):
            labels[block] = _argmax(self._interpolated(images, block))
        return labels

    def mask(self, labels: np.ndarray) -> np.ndarray:
        """The mask uint8 [kb, jb, ib] on `box` of a sample that consists of labels uint8 [z, y, x]: `nearest`."""
        flat = np.append(labels, np.uint8(0))
        return np.stack([flat[index] for index in self._nearest_index])

    @cached_property
    def _nearest_index(self) -> np.ndarray:
        """Flat index in the working grid of the voxel nearest to each of `box`, int32; outside, the grid's size."""
        count, (index, size) = math.prod(self._working_shape), self.box
        image = self._image(np.arange(count, dtype=np.int32).reshape(self._working_shape))
        return sitk.GetArrayFromImage(self._resampled(image, index, size, sitk.sitkNearestNeighbor, count))

    def nearest(self, labels: np.ndarray) -> np.ndarray:
        """Labels uint8 or uint16 [z, y, x] of the working grid on `box` [kb, jb, ib], by nearest neighbour."""
        index, size = self.box
        return sitk.GetArrayFromImage(self._resampled(self._image(labels), index, size, sitk.sitkNearestNeighbor))

    def _blocks(self, classes: int) -> Iterator[Block]:
        """Blocks of `box`, always the same for a number of classes: rounding depends on where a block begins."""
        size, voxels = self.box[1][::-1], max(1, min(BLOCK_VOXELS, BLOCK_VALUES // classes))
        width = min(size[2], voxels)  # whole lines: ITK begins each line with two transforms
        depth = min(size[0], max(1, math.isqrt(voxels // width)))
        edges = depth, min(size[1], max(1, voxels // width // depth)), width
        starts = (range(0, n, edge) for n, edge in zip(size, edges, strict=True))
        for start in itertools.product(*starts):
            yield tuple(slice(a, min(a + edge, n)) for a, edge, n in zip(start, edges, size, strict=True))  # type: ignore[misc]

    def _interpolated(self, images: Sequence[sitk.Image], block: Block) -> np.ndarray:
        """The probabilities, as images of the classes, in a block of `box`: float32 [C, k, j, i]."""
        (i, j, k), shape = self.box[0], [part.stop - part.start for part in block]
        index = i + block[2].start, j + block[1].start, k + block[0].start
        q = np.empty((len(images), *shape), np.float32)
        for c, image in enumerate(images):
            outside = float(c == 0)
            part = self._resampled(image, index, (shape[2], shape[1], shape[0]), sitk.sitkLinear, outside)
            q[c] = sitk.GetArrayViewFromImage(part)
        return q

    def _images(self, p: np.ndarray) -> list[sitk.Image]:
        return [self._image(channel.astype(np.float32, copy=False)) for channel in p]

    def _digest(self, p: np.ndarray, block: Block, kind: object) -> bytes:
        """SHA-256 of all that the maps in a block depend on."""
        corners = np.array(list(itertools.product(*[(part.start, part.stop - 1) for part in block])))[:, ::-1]
        step = np.reshape(self._direction, (3, 3)) * self._spacing
        places = self._origin + (corners + self.box[0]) @ step.T - self._working_origin
        working = np.reshape(self._working_direction, (3, 3)) * self.working_spacing
        index = np.linalg.solve(working, places.T)[::-1]  # continuous, zyx
        low = np.maximum(np.floor(index.min(1)).astype(int) - 1, 0)
        source = tuple(slice(a, max(a, b)) for a, b in zip(low, np.ceil(index.max(1)).astype(int) + 2, strict=True))
        geometry = self._origin.tolist(), self._spacing, self._direction, self.box, self._working_shape
        further = self.working_spacing, self._working_origin, self._working_direction
        digest = hashlib.sha256(repr((kind, p.dtype.str, block, *geometry, *further)).encode())
        digest.update(np.ascontiguousarray(p[:, *source]).data)
        digest.update(self._known(block))
        return digest.digest()

    def _known(self, block: Block) -> bytes:
        """What the maps in a block depend on besides the probabilities."""
        return b""

    def _resampled(
        self, image: sitk.Image, index: tuple[int, int, int], size: tuple[int, int, int], how: int, outside: float = 0.0
    ) -> sitk.Image:
        """`image` on the block of the input grid with this index and size, both ijk."""
        step = np.reshape(self._direction, (3, 3)) * self._spacing
        origin = (self._origin + step @ index).tolist()
        return sitk.Resample(image, size, _IDENTITY, how, origin, self._spacing, self._direction, outside)

    def _image(self, array: np.ndarray) -> sitk.Image:
        """An array on the working grid as an image."""
        if array.shape != self._working_shape:
            raise ValueError(f"an array of shape {array.shape} does not lie on the working grid {self._working_shape}")
        image = sitk.GetImageFromArray(np.ascontiguousarray(array))
        image.SetSpacing(self.working_spacing)
        image.SetOrigin(self._working_origin)
        image.SetDirection(self._working_direction)
        return image


def _argmax(q: np.ndarray) -> np.ndarray:
    """The class, uint8, with the largest of the values [C, ...]; faster than NumPy's argmax over the first axis."""
    labels, best = np.zeros(q.shape[1:], np.uint8), q[0].copy()
    for label in range(1, len(q)):
        np.copyto(labels, np.uint8(label), where=q[label] > best)
        np.maximum(best, q[label], out=best)
    return labels


def _quantised(q: np.ndarray, labels: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Probabilities `q` [C, k, j, i], of which `labels` are the most probable, as uint8; see `Projection.maps`."""
    q *= 255
    rounded = np.rint(q).astype(np.uint8)
    for level in levels:
        least = math.ceil(255 * level)
        near = np.nonzero((rounded == least) | (rounded == least - 1))
        rounded[near] = np.where(q[near] >= 255 * level, least, least - 1)
    wrong = np.nonzero(_argmax(rounded) != labels)
    rounded[(labels[wrong], *wrong)] += 1
    return rounded


def _covered_box(working: sitk.Image, reference: sitk.Image) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """(index, size) in ijk of the smallest block of `reference` with every voxel centre inside `working`."""
    corners = [
        reference.TransformPhysicalPointToContinuousIndex(working.TransformContinuousIndexToPhysicalPoint(corner))
        for corner in _corners(working)
    ]
    first = np.maximum(np.ceil(np.min(corners, axis=0) - 1e-6), 0).astype(int)
    last = np.minimum(np.floor(np.max(corners, axis=0) + 1e-6), np.array(reference.GetSize()) - 1).astype(int)
    if (last < first).any():
        raise GeometryError("The region to segment lies outside the volume; choose another region.")
    return tuple(first.tolist()), tuple((last - first + 1).tolist())
