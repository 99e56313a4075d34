"""A volume on its way to the worker: checked and held on the GUI thread, written as NRRD on another.

Holding copies no voxel: a copy of a 512 x 512 x 1000 CT would freeze the GUI for a fifth of a second. `changed` tells
whether somebody wrote into the volume meanwhile.
"""

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import slicer.util

from diffusion_segmentation import errors

from ..i18n import tr as _
from ..scene import voxel_grids as grids

CHUNK_BYTES = 8 * 2**20
"""Piece in which voxels are written; a cancelled hand-over stops after the current one."""

_NRRD_TYPES = {
    "i1": "int8",
    "u1": "uint8",
    "i2": "int16",
    "u2": "uint16",
    "i4": "int32",
    "u4": "uint32",
    "i8": "int64",
    "u8": "uint64",
    "f4": "float",
    "f8": "double",
}


class HandoverError(Exception):
    """The volume cannot be handed over; the text is one plain sentence."""


class Handover:
    """One volume as it was when it was taken, and the thread that writes it.

    `voxels` is a view [k, j, i] of `volumeNode`'s own array, `ijkToRAS` 4 x 4 in mm, without the parent transform.
    `source`, after writing, is the file that the volume was loaded from, which may not state all that the scene has of
    it; None without one.
    """

    def __init__(self, volumeNode: Any) -> None:
        """Check and hold `volumeNode` (vtkMRMLScalarVolumeNode or None). Raises HandoverError."""
        problem = problemOf(volumeNode)
        if problem is not None:
            raise HandoverError(problem)
        self.volumeNode = volumeNode
        self.voxels = slicer.util.arrayFromVolume(volumeNode)
        self.ijkToRAS = grids.ijkToRAS(volumeNode)
        self._image = volumeNode.GetImageData()
        self._modified = self._image.GetMTime()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._problem: str | None = None
        storage = volumeNode.GetStorageNode()
        self._loadedFrom = storage.GetFileName() if storage is not None else None
        self.source: str | None = None

    def changed(self) -> bool:
        """True if the volume's voxels or geometry were modified since it was taken."""
        return (
            self.volumeNode.GetImageData() is not self._image
            or self._image.GetMTime() != self._modified
            or not np.array_equal(grids.ijkToRAS(self.volumeNode), self.ijkToRAS)
        )

    def startWriting(self, path: Path) -> None:
        """Begin to write an uncompressed NRRD in LPS to `path` on a thread of its own."""
        self._thread = threading.Thread(target=self._write, args=(path,), name="handover", daemon=True)
        self._thread.start()

    @property
    def writing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def problem(self) -> str | None:
        """After writing: one sentence why the file is of no use, or None."""
        if self._problem is None and self.changed():
            return _("The volume was modified while it was handed over; start again.")
        return self._problem

    def join(self) -> None:
        """Wait for the writing to end."""
        if self._thread is not None:
            self._thread.join()

    def discard(self, path: Path) -> threading.Thread:
        """Stop writing and remove the file or folder `path`; returns at once, the thread ends when that is done."""
        self._stop.set()
        return removeSoon(path, after=self.join)

    def _write(self, path: Path) -> None:
        try:
            # On this thread: a network drive that is gone answers after seconds.
            if self._loadedFrom and Path(self._loadedFrom).is_file():
                self.source = self._loadedFrom
            with open(path, "wb", buffering=0) as file:
                file.write(_header(self.voxels, self.ijkToRAS))
                _writeVoxels(self.voxels, file, self._stop)
        except OSError as error:
            self._problem = errors.explain(error)[1]


def removeSoon(path: Path, after: Callable[[], None] = lambda: None) -> threading.Thread:
    """Remove the file or folder `path` once `after` returns; returns at once, the thread ends when that is done."""
    thread = threading.Thread(target=_remove, args=(path, after), name="removal", daemon=True)
    thread.start()
    return thread


def _remove(path: Path, after: Callable[[], None]) -> None:
    after()
    for _attempt in range(20):  # on Windows a virus scanner, or a worker that is about to end, may hold a file
        with contextlib.suppress(OSError):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if not path.exists():
            return
        time.sleep(0.5)


def problemOf(volumeNode: Any) -> str | None:
    """One sentence why `volumeNode` (or None) cannot be handed over, or None if it can. Quick: no voxel is read."""
    if volumeNode is None:
        return _("Select the volume to segment.")
    name = volumeNode.GetName()
    image = volumeNode.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None or 0 in image.GetDimensions():
        return _("The volume '{name}' is empty; load its voxels or select another one.").format(name=name)
    if image.GetNumberOfScalarComponents() != 1:
        sentence = _("The volume '{name}' has several values per voxel (colour, vector or 4-D); select another one.")
        return sentence.format(name=name)
    if min(image.GetDimensions()) < 2:
        return _("The volume '{name}' is a single slice; select a 3-D volume.").format(name=name)
    transform = volumeNode.GetParentTransformNode()
    if transform is not None and not transform.IsTransformToWorldLinear():
        sentence = _("The volume '{name}' is under the non-linear transform '{transform}'; harden the transform first.")
        return sentence.format(name=name, transform=transform.GetName())
    return None


def _header(voxels: np.ndarray, ijkToRAS: np.ndarray) -> bytes:
    ijkToLPS = np.diag([-1.0, -1.0, 1.0, 1.0]) @ ijkToRAS
    directions = " ".join(_vector(ijkToLPS[:3, axis]) for axis in range(3))
    lines = [
        "NRRD0004",
        f"type: {_NRRD_TYPES[voxels.dtype.str[1:]]}",
        "dimension: 3",
        "space: left-posterior-superior",
        "sizes: {2} {1} {0}".format(*voxels.shape),
        f"space directions: {directions}",
        "kinds: domain domain domain",
        f"endian: {sys.byteorder}",
        "encoding: raw",
        f"space origin: {_vector(ijkToLPS[:3, 3])}",
    ]
    return ("\n".join(lines) + "\n\n").encode("ascii")


def _vector(values: np.ndarray) -> str:
    return "(" + ",".join(repr(float(value)) for value in values) + ")"  # repr: exact in both directions


def _writeVoxels(voxels: np.ndarray, file: Any, stop: threading.Event) -> None:
    flat = np.ascontiguousarray(voxels).reshape(-1).view(np.uint8).data
    for start in range(0, len(flat), CHUNK_BYTES):
        if stop.is_set():
            return
        piece = flat[start : start + CHUNK_BYTES]
        while len(piece):  # an unbuffered file may take only a part; it releases the GIL while it writes
            piece = piece[file.write(piece) :]
