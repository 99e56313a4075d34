"""Hand-over of a volume to the worker: it is checked on the GUI thread and written as NRRD on another thread.

The voxels are not copied: a copy of a 512 x 512 x 1000 CT would block the GUI for 0.2 s. `changed` detects
modifications in the meantime.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import slicer.util

from diffusion_segmentation import errors

from ..i18n import tr as _
from ..scene import nrrd_files, voxel_grids
from .temporary_files import removeInBackground

MASK_NAME = "mask-{number}.seg.nrrd"


class HandoverError(Exception):
    """A volume, a mask or a setting cannot be used; the text is one plain sentence."""


class Handover:
    """One volume, as it was at construction, and the thread that writes it.

    `voxels` is a view [k, j, i] of the array of `volumeNode`, `ijkToRAS` 4 x 4 in mm without the parent transform.
    `source`, set while writing, is the file the volume was loaded from, or None; its header may lack geometry that the
    scene has.
    """

    def __init__(self, volumeNode: Any, masks: Sequence[Any] = ()) -> None:
        """`volumeNode` is a vtkMRMLScalarVolumeNode or None. Raises HandoverError.

        `masks`, each a MaskNode (see mask_nodes.py), are written to the same folder.
        """
        problem = problemOf(volumeNode)
        if problem is not None:
            raise HandoverError(problem)
        self.volumeNode = volumeNode
        self.voxels = slicer.util.arrayFromVolume(volumeNode)
        self.ijkToRAS = voxel_grids.ijkToRAS(volumeNode)
        self.source: str | None = None
        self._masks = masks
        self._image = volumeNode.GetImageData()
        self._modifiedTime = self._image.GetMTime()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._problem: str | None = None
        storage = volumeNode.GetStorageNode()
        self._loadedFrom = storage.GetFileName() if storage is not None else None

    def changed(self) -> bool:
        """Whether voxels or geometry of the volume were modified since construction."""
        return (
            self.volumeNode.GetImageData() is not self._image
            or self._image.GetMTime() != self._modifiedTime
            or not np.array_equal(voxel_grids.ijkToRAS(self.volumeNode), self.ijkToRAS)
        )

    def startWriting(self, path: Path) -> None:
        """Start writing an uncompressed NRRD (LPS) to `path` on a thread."""
        self._thread = threading.Thread(target=self._write, args=(path,), name="handover", daemon=True)
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

    def discard(self, path: Path) -> threading.Thread:
        """Stop writing and remove the file or folder `path` on the returned thread."""
        self._stop.set()
        return removeInBackground(path, after=self.join)

    def _write(self, path: Path) -> None:
        try:
            # On this thread, because a disconnected network drive takes seconds to respond.
            if self._loadedFrom and Path(self._loadedFrom).is_file():
                self.source = self._loadedFrom
            nrrd_files.write(path, self.voxels, self.ijkToRAS, self._stop)
            for number, mask in enumerate(self._masks):
                mask.write(path.with_name(MASK_NAME.format(number=number)), self._stop)
        except OSError as error:
            self._problem = errors.explain(error)[1]


def problemOf(volumeNode: Any) -> str | None:
    """Why `volumeNode`, or None, cannot be segmented, as one sentence; None if it can. Reads no voxels."""
    if volumeNode is None:
        return _("Select the volume to segment.")
    image = volumeNode.GetImageData()
    transform = volumeNode.GetParentTransformNode()
    sentence = None
    if image is None or image.GetPointData().GetScalars() is None or 0 in image.GetDimensions():
        sentence = _("The volume '{name}' is empty; load its voxels or select another one.")
    elif image.GetNumberOfScalarComponents() != 1:
        sentence = _("The volume '{name}' has several values per voxel (colour, vector or 4-D); select another one.")
    elif min(image.GetDimensions()) < 2:
        sentence = _("The volume '{name}' is a single slice; select a 3-D volume.")
    elif transform is not None and not transform.IsTransformToWorldLinear():
        sentence = _("The volume '{name}' is under the non-linear transform '{transform}'; harden the transform first.")
    names = {"name": volumeNode.GetName(), "transform": transform.GetName() if transform else ""}
    return sentence and sentence.format(**names)
