"""Voxel grids as numpy arrays: matrices IJK to RAS (mm, without parent transforms), and blocks of one another."""

from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
import vtk.util.numpy_support


def ijkToRAS(volumeNode: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    """The 4 x 4 matrix of a volume."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def toWorld(node: slicer.vtkMRMLTransformableNode) -> np.ndarray:
    """The 4 x 4 matrix of the node's linear parent transforms; their linear part is taken where some are not."""
    matrix = vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(node.GetParentTransformNode(), None, matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def imageToRAS(image: slicer.vtkOrientedImageData) -> np.ndarray:
    """The 4 x 4 matrix of a segment's image; index 0 may lie outside its extent."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def offset(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The index ijk [3] in the grid of `whole` at which that of `part` begins; both are 4 x 4 IJK to RAS.

    Raises ValueError unless they have the same axes and spacing and lie a whole number of voxels apart, to 0.01 of one.
    """
    relation = np.linalg.solve(whole, part)
    start = np.rint(relation[:3, 3])
    if np.abs(relation[:3, :3] - np.eye(3)).max() > 1e-3 or np.abs(relation[:3, 3] - start).max() > 1e-2:
        raise ValueError("one grid is no block of the other")
    return start.astype(int)


def block(voxels: np.ndarray, start: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The view of `voxels` [k, j, i] that begins at index `start`, ijk, and has `shape` [k, j, i]."""
    return voxels[tuple(slice(a, a + n) for a, n in zip(start[::-1], shape, strict=True))]


def orientedImage(voxels: np.ndarray, matrix: np.ndarray, low: tuple[int, int, int] = (0, 0, 0)) -> Any:
    """A vtkOrientedImageData with a copy of `voxels` [k, j, i], the first at index `low`, ijk, of the grid `matrix`."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent(*(bound for a, n in zip(low, voxels.shape[::-1], strict=True) for bound in (a, a + n - 1)))
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    image.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(matrix))
    vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())[:] = voxels.ravel()
    return image


def boundingBox(mask: np.ndarray) -> tuple[slice, slice, slice] | None:
    """The slices [k, j, i] that hold all that is True; None if nothing is."""
    where = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not where[0].size:
        return None
    return tuple(slice(int(axis[0]), int(axis[-1]) + 1) for axis in where)


def first(box: tuple[slice, slice, slice]) -> tuple[int, int, int]:
    """The index, ijk, at which `box` [k, j, i] begins."""
    return tuple(part.start for part in box[::-1])
