"""Voxel grids as 4 x 4 IJK-to-RAS matrices (mm, without parent transforms), and blocks of voxel arrays."""

from typing import Any

import numpy as np
import slicer.util
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

BINARY_LABELMAP = "Binary labelmap"
"""Name of the segment representation that holds voxels."""


def ijkToRAS(volumeNode: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def toWorld(node: slicer.vtkMRMLTransformableNode) -> np.ndarray:
    """Matrix of the node's parent transforms to world RAS; only the linear part of non-linear transforms."""
    matrix = vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(node.GetParentTransformNode(), None, matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def imageToRAS(image: slicer.vtkOrientedImageData) -> np.ndarray:
    """IJK-to-RAS matrix of a segment's image; index 0 may lie outside the extent."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def offset(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Index ijk [3] in the grid `whole` of the first voxel of the grid `part`; both are 4 x 4 IJK to RAS.

    Raises ValueError if axes or spacing differ (1e-3) or the shift is not a whole number of voxels (to 0.01).
    """
    relation = np.linalg.solve(whole, part)
    start = np.rint(relation[:3, 3])
    if np.abs(relation[:3, :3] - np.eye(3)).max() > 1e-3 or np.abs(relation[:3, 3] - start).max() > 1e-2:
        raise ValueError("the grids are not aligned")
    return start.astype(int)


def block(voxels: np.ndarray, start: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """View of `voxels` [k, j, i] from index `start` (ijk) with `shape` [k, j, i]."""
    return voxels[tuple(slice(a, a + n) for a, n in zip(start[::-1], shape, strict=True))]


def orientedImage(voxels: np.ndarray, matrix: np.ndarray, low: tuple[int, int, int] = (0, 0, 0)) -> Any:
    """vtkOrientedImageData (uint8) with a copy of `voxels` [k, j, i], from index `low` (ijk) of grid `matrix`."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent(*(bound for a, n in zip(low, voxels.shape[::-1], strict=True) for bound in (a, a + n - 1)))
    image.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(matrix))
    image.GetPointData().SetScalars(scalars(voxels.astype(np.uint8, copy=False)))
    return image


def scalars(voxels: np.ndarray) -> vtk.vtkDataArray:
    """A copy of `voxels` [k, j, i] for the point data of an image."""
    return numpy_to_vtk(voxels.ravel(), deep=True)


def imageArray(image: slicer.vtkOrientedImageData) -> np.ndarray:
    """The voxels of `image`, [k, j, i] from the first of its extent, no copy."""
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def segment(name: str, color: tuple[float, ...], image: slicer.vtkOrientedImageData) -> slicer.vtkSegment:
    """A segment with the voxels of `image`."""
    made = slicer.vtkSegment()
    made.SetName(name)
    made.SetColor(*color)
    made.AddRepresentation(BINARY_LABELMAP, image)
    return made


def croppedImage(mask: np.ndarray, matrix: np.ndarray) -> Any:
    """`orientedImage` of `mask` [k, j, i] cropped to its bounding box; None if the mask is empty."""
    box = boundingBox(mask)
    return None if box is None else orientedImage(mask[box], matrix, first(box))


def segmentVoxels(segment: slicer.vtkSegment) -> tuple[np.ndarray, np.ndarray] | None:
    """The voxels of a segment in their bounding box, bool [k, j, i], and the IJK-to-RAS matrix of that box.

    None if the segment is empty. A copy; other segments in the same image do not count.
    """
    image = segment.GetRepresentation(BINARY_LABELMAP)
    if image is None or image.GetPointData().GetScalars() is None:
        return None
    mask = imageArray(image) == segment.GetLabelValue()
    box = boundingBox(mask)
    if box is None:
        return None
    matrix, low = imageToRAS(image), np.add(first(box), image.GetExtent()[::2])
    matrix[:3, 3] = (matrix @ [*low, 1.0])[:3]
    return mask[box], matrix


def boundingBox(mask: np.ndarray) -> tuple[slice, slice, slice] | None:
    """Slices [k, j, i] that enclose all True voxels; None if there is none."""
    indices = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not indices[0].size:
        return None
    return tuple(slice(int(axis[0]), int(axis[-1]) + 1) for axis in indices)


def first(box: tuple[slice, slice, slice]) -> tuple[int, int, int]:
    """Index (ijk) of the first voxel of `box` [k, j, i]."""
    return tuple(part.start for part in box[::-1])
