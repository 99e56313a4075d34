"""Hand-over of volumes to the worker: they are checked on the GUI thread and written as NRRD on another thread.

The voxels are not copied: a copy of a 512 x 512 x 1000 CT would block the GUI for 0.2 s. `changed` detects
modifications in the meantime.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import slicer.util

from diffusion_segmentation import errors
from diffusion_segmentation.images.input_names import name_key

from ..i18n import tr as _
from ..scene import nrrd_files, voxel_grids
from .temporary_files import removeInBackground

INPUT_NAME, MASK_NAME = "input.nrrd", "mask-{number}.seg.nrrd"
FURTHER_NAME = "input-{number}-{key}.nrrd"
"""Name of the file of a further input, with the start of the input's name: messages of the worker mention files."""
KEY_CHARACTERS = 20
Inputs = Mapping[str, Any] | None
"""All volume nodes of a model of several inputs by the names of its inputs; None for a model of one."""


class HandoverError(Exception):
    """A volume, a mask or a setting cannot be used; the text is one plain sentence."""


class _Volume:
    """A volume as it was at construction.

    `voxels` is a view [k, j, i], or [k, j, i, value] for colours, of the array of `node`; `ijkToRAS` is 4 x 4 in mm,
    relative to the parent transform of the node `first`.
    """

    def __init__(self, node: Any, first: Any) -> None:
        """`node` is a vtkMRMLScalarVolumeNode or None. Raises HandoverError."""
        problem = problemOf(node)
        if problem is not None:
            raise HandoverError(problem)
        self.node = node
        self.voxels = slicer.util.arrayFromVolume(node)
        self._first = first
        self.ijkToRAS = self._currentIJKToRAS()
        self._image = node.GetImageData()
        self._modifiedTime = self._image.GetMTime()

    def changed(self) -> bool:
        """Whether voxels or geometry were modified since construction."""
        return (
            self.node.GetImageData() is not self._image
            or self._image.GetMTime() != self._modifiedTime
            or not np.array_equal(self._currentIJKToRAS(), self.ijkToRAS)
        )

    def _currentIJKToRAS(self) -> np.ndarray:
        matrix = voxel_grids.ijkToRAS(self.node)
        if self.node.GetParentTransformNode() is self._first.GetParentTransformNode():
            return matrix
        # A registration: the volume lies where the scene shows it beside the first one.
        return np.linalg.solve(voxel_grids.toWorld(self._first), voxel_grids.toWorld(self.node) @ matrix)


class Handover:
    """The volumes of a run, as they were at construction, and the thread that writes them.

    `volumeNode` is the first, on whose grid the result lies. `source`, set while writing, is the file that it was
    loaded from, or None; its header may lack geometry that the scene has.
    """

    def __init__(self, volumeNode: Any, masks: Sequence[Any] = (), inputs: Inputs = None) -> None:
        """`volumeNode` is a vtkMRMLScalarVolumeNode or None. Raises HandoverError.

        `masks`, each a MaskNode (see mask_nodes.py) or Facts (see scene/facts.py), are written to the same folder.
        `volumeNode` is one of the `inputs`, if there are any.
        """
        self.volumeNode = volumeNode
        self._volumes = {INPUT_NAME: _Volume(volumeNode, volumeNode)}
        self._inputs: dict[str, str] = {}
        """Names of files by the names of the model's inputs."""
        for name, node in (inputs or {}).items():
            file = INPUT_NAME
            if node is not volumeNode:
                file = FURTHER_NAME.format(number=len(self._volumes), key=name_key(name)[:KEY_CHARACTERS])
                self._volumes[file] = _Volume(node, volumeNode)
            self._inputs[name] = file
        self.source: str | None = None
        self._masks = masks
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._problem: str | None = None
        storage = volumeNode.GetStorageNode()
        self._loadedFrom = storage.GetFileName() if storage is not None else None

    def changed(self) -> bool:
        """Whether voxels or geometry of a volume were modified since construction."""
        return any(volume.changed() for volume in self._volumes.values())

    def inputFiles(self, folder: Path) -> dict[str, str]:
        """The files by the names of the model's inputs, empty for a model of one, when they are in `folder`."""
        return {name: str(folder / file) for name, file in self._inputs.items()}

    def startWriting(self, folder: Path) -> None:
        """Start writing uncompressed NRRDs (LPS) to `folder` on a thread; INPUT_NAME is the first volume."""
        self._thread = threading.Thread(target=self._write, args=(folder,), name="handover", daemon=True)
        self._thread.start()

    @property
    def writing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def problem(self) -> str | None:
        """After writing: why the files cannot be used, one sentence, or None."""
        if self._problem is None and self.changed():
            return _("The volume was modified while it was sent to the background process; start again.")
        modified = next((mask.name for mask in self._masks if mask.changed()), None)
        if self._problem is None and modified is not None:
            sentence = _("The mask '{name}' was modified while it was sent to the background process; start again.")
            return sentence.format(name=modified)
        return self._problem

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def discard(self, folder: Path, keepResults: bool = False) -> threading.Thread:
        """Stop writing and remove `folder`, or only the volumes in it, on the returned thread."""
        self._stop.set()
        volumes = [folder / file for file in self._volumes]
        return removeInBackground(*(volumes if keepResults else [folder]), after=self.join)

    def _write(self, folder: Path) -> None:
        try:
            # On this thread, because a disconnected network drive takes seconds to respond.
            if self._loadedFrom and Path(self._loadedFrom).is_file():
                self.source = self._loadedFrom
            for file, volume in self._volumes.items():
                nrrd_files.write(folder / file, volume.voxels, volume.ijkToRAS, self._stop)
            for number, mask in enumerate(self._masks):
                mask.write(folder / MASK_NAME.format(number=number), self._stop)
        except OSError as error:
            self._problem = errors.explain(error)[1]


def problemOf(volumeNode: Any) -> str | None:
    """Why `volumeNode`, or None, cannot be segmented by any model, as one sentence; None if it can. Reads no voxels."""
    if volumeNode is None:
        return _("Select the volume to segment.")
    image = volumeNode.GetImageData()
    transform = volumeNode.GetParentTransformNode()
    sentence = None
    if image is None or image.GetPointData().GetScalars() is None or 0 in image.GetDimensions():
        sentence = _("The volume '{name}' is empty; load its voxels or select another one.")
    elif min(image.GetDimensions()[:2]) < 2:
        sentence = _("The volume '{name}' is less than two voxels wide or high; select another one.")
    elif transform is not None and not transform.IsTransformToWorldLinear():
        sentence = _("The volume '{name}' is under the non-linear transform '{transform}'; harden the transform first.")
    names = {"name": volumeNode.GetName(), "transform": transform.GetName() if transform else ""}
    return sentence and sentence.format(**names)
