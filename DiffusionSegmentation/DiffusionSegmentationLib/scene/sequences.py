"""The worker's sequence files (samples, class probabilities) as sequences of volumes.

Slicer's own reader blocks the GUI for the whole file: 0.3 s for 8 samples of a head at 1 mm, 1.2 s for 32. Here a
thread reads, and the GUI thread only wraps the voxels in nodes.
"""

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import slicer.util
import vtk

from . import nrrd_files, voxel_grids

WAIT_SECONDS = 0.005
"""Longest wait for the reading thread in one step."""


def readInto(sequenceNode: slicer.vtkMRMLSequenceNode, path: Path, indexName: str, nodeClass: type) -> Iterator[None]:
    """Append the volumes in `path` to `sequenceNode`, yielding until all are read.

    `path` is a sequence as the worker writes it: uint8, list axis first, LPS. Each volume becomes a node of the volume
    class `nodeClass`. Raises ResultFileError.
    """
    header = nrrd_files.readHeader(path)
    volumeNode = nodeClass()
    volumeNode.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(header.ijkToRAS()))
    sequenceNode.SetIndexName(indexName)
    sequenceNode.SetIndexType(slicer.vtkMRMLSequenceNode.NumericIndex)
    reader = concurrent.futures.ThreadPoolExecutor(1)
    try:
        voxels = np.memmap(path, np.uint8, "r", header.offset, header.sizes[::-1])  # [k, j, i, list]
        reads = [reader.submit(voxel_grids.scalars, voxels[..., index]) for index in range(header.sizes[0])]
        for index in range(len(reads)):
            while not concurrent.futures.wait(reads[:1], WAIT_SECONDS).done:
                yield
            image = vtk.vtkImageData()
            image.SetDimensions(header.sizes[1:])
            image.GetPointData().SetScalars(reads.pop(0).result())
            # The sequence copies the node deeply, which is quick while it has no voxels.
            sequenceNode.SetDataNodeAtValue(volumeNode, str(index))
            sequenceNode.GetDataNodeAtValue(str(index)).SetAndObserveImageData(image)
    except OSError as error:
        raise nrrd_files.ResultFileError(str(error)) from error
    finally:
        reader.shutdown(cancel_futures=True)  # waits for the current volume: the file is removed next


def wrap(sequenceNode: slicer.vtkMRMLSequenceNode, volumeNode: slicer.vtkMRMLVolumeNode) -> None:
    """Make `volumeNode` the only volume of `sequenceNode`, without copying its voxels."""
    image = volumeNode.GetImageData()
    volumeNode.SetAndObserveImageData(None)
    sequenceNode.SetDataNodeAtValue(volumeNode, "0")
    sequenceNode.GetDataNodeAtValue("0").SetAndObserveImageData(image)


def arrays(sequenceNode: slicer.vtkMRMLSequenceNode | None) -> list[np.ndarray]:
    """The voxels [k, j, i] of each volume, no copies; empty if there is no sequence."""
    count = sequenceNode.GetNumberOfDataNodes() if sequenceNode is not None else 0
    return [slicer.util.arrayFromVolume(sequenceNode.GetNthDataNode(index)) for index in range(count)]
