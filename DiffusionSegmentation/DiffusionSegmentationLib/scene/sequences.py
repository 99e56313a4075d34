"""The worker's sequences (samples, class probabilities) as sequences of volumes.

Slicer's own sequence reader takes a file at once, 0.3 s for 8 samples of a head at 1 mm and 1.2 s for 32, in which its
windows stand still. Here a thread reads, and the GUI thread only wraps what was read.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import slicer
import slicer.util
import vtk
import vtk.util.numpy_support

from . import nrrd_files as nrrd


def readInto(sequenceNode: slicer.vtkMRMLSequenceNode, path: Path, indexName: str, nodeClass: type) -> Iterator[None]:
    """Append the volumes in `path` to `sequenceNode`, yielding until all are there.

    `path` is a sequence as the worker writes it: uint8, list axis first, in LPS. Each volume becomes a node of
    `nodeClass`, a class of volume nodes. Raises nrrd.NrrdError.
    """
    header = nrrd.readHeader(path)
    volumeNode = nodeClass()
    volumeNode.SetIJKToRASMatrix(_ijkToRAS(header))
    sequenceNode.SetIndexName(indexName)
    sequenceNode.SetIndexType(slicer.vtkMRMLSequenceNode.NumericIndex)
    reading = _Reading(path, header)
    try:
        for index in range(header.sizes[0]):
            while not reading.has(index):
                yield
            # The sequence copies the node deeply: without voxels that costs nothing.
            sequenceNode.SetDataNodeAtValue(volumeNode, str(index))
            sequenceNode.GetDataNodeAtValue(str(index)).SetAndObserveImageData(_image(header, reading.take(index)))
    finally:
        reading.stop()  # the file is about to be removed


def wrap(sequenceNode: slicer.vtkMRMLSequenceNode, volumeNode: slicer.vtkMRMLVolumeNode) -> None:
    """Make `volumeNode` the only volume of `sequenceNode`."""
    image = volumeNode.GetImageData()
    volumeNode.SetAndObserveImageData(None)
    sequenceNode.SetDataNodeAtValue(volumeNode, "0")
    sequenceNode.GetDataNodeAtValue("0").SetAndObserveImageData(image)


class _Reading:
    """A thread that reads one volume after another, each as scalars of VTK, first i, then j, then k."""

    def __init__(self, path: Path, header: nrrd.Header) -> None:
        self._volumes: list[vtk.vtkUnsignedCharArray | None] = []
        self._error: OSError | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._read, args=(path, header), daemon=True)
        self._thread.start()

    def _read(self, path: Path, header: nrrd.Header) -> None:
        try:
            voxels = np.memmap(path, np.uint8, "r", header.offset, header.sizes[::-1])  # [k, j, i, list]
            for index in range(voxels.shape[-1]):
                if self._stopped:
                    break
                scalars = vtk.vtkUnsignedCharArray()
                scalars.SetNumberOfValues(voxels[..., index].size)
                vtk.util.numpy_support.vtk_to_numpy(scalars).reshape(voxels.shape[:-1])[:] = voxels[..., index]
                self._volumes.append(scalars)
        except OSError as error:
            self._error = error

    def has(self, index: int) -> bool:
        """Whether volume `index` was read; waits a little for it. Raises nrrd.NrrdError if it never will."""
        if index >= len(self._volumes):
            self._thread.join(0.005)
        if index < len(self._volumes):
            return True
        if self._error is not None:
            raise nrrd.NrrdError(str(self._error)) from self._error
        return False

    def stop(self) -> None:
        """Let go of the file, after the volume that is being read."""
        self._stopped = True
        self._thread.join()

    def take(self, index: int) -> vtk.vtkUnsignedCharArray:
        """Volume `index`, which is not held any longer."""
        volume, self._volumes[index] = self._volumes[index], None
        return volume


def _image(header: nrrd.Header, scalars: vtk.vtkUnsignedCharArray) -> vtk.vtkImageData:
    image = vtk.vtkImageData()
    image.SetDimensions(header.sizes[1:])
    image.GetPointData().SetScalars(scalars)
    return image


def _ijkToRAS(header: nrrd.Header) -> vtk.vtkMatrix4x4:
    directions = header.fields["space directions"].split()[1:]  # the list axis has none
    columns = [*directions, header.fields["space origin"]]
    matrix = np.eye(4)
    matrix[:3] = np.transpose([[float(value) for value in column.strip("()").split(",")] for column in columns])
    return slicer.util.vtkMatrixFromArray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix)
