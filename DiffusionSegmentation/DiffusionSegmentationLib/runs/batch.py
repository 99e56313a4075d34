"""Segmentation of several volumes in sequence: volumes of the scene, files of a folder, frames of a sequence.

A failed volume does not stop the batch. Results are named after their volume, as for a single run. Independent of Qt.
"""

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer.util

from ..i18n import tr as _
from ..scene import display
from ..signals import Signal
from .dependencies import DependencyError
from .job import Job

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
"""States of an item; the last three are also states of a job."""

FILE_ENDINGS = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd")
"""Files of a folder that are loaded as volumes."""
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
"""The same for models of pictures, beside those of volumes."""


@dataclass
class Item:
    """One volume of a batch; `message` is one plain sentence.

    If `node` is not in the scene when the item is processed, `load` adds a node; without `load` the item fails.
    """

    name: str
    load: Callable[[], slicer.vtkMRMLScalarVolumeNode] | None = None
    state: str = WAITING
    message: str = ""
    result: Any = None
    node: slicer.vtkMRMLScalarVolumeNode | None = None


def ofFolder(
    folder: Path, load: Callable[[str], slicer.vtkMRMLScalarVolumeNode], withPictures: bool = False
) -> list[Item]:
    """Items for the volume files directly in `folder`, by name; `load` loads a file into the scene. Raises OSError."""
    endings = FILE_ENDINGS + PICTURE_ENDINGS * withPictures
    paths = sorted(path for path in folder.iterdir() if path.name.lower().endswith(endings))
    paths = [path for path in paths if not path.name.lower().endswith((".seg.nrrd", ".seq.nrrd"))]
    return [Item(path.name, lambda path=path: load(str(path))) for path in paths]


def ofSequences() -> list[Item]:
    """Items for the frames of all volume sequences in the scene, except those of results."""
    items = []
    for sequenceNode in slicer.util.getNodesByClass("vtkMRMLSequenceNode"):
        count = sequenceNode.GetNumberOfDataNodes()
        first = sequenceNode.GetNthDataNode(0) if count else None
        isVolume = first and first.IsA("vtkMRMLScalarVolumeNode") and not first.IsA("vtkMRMLLabelMapVolumeNode")
        isResult = sequenceNode.GetNodeReference(display.VOLUME_ROLE) is not None
        for n in range(count) if isVolume and not isResult else ():
            name = f"{sequenceNode.GetName()} {sequenceNode.GetNthIndexValue(n)}"
            items.append(Item(name, functools.partial(_addFrame, sequenceNode, n, name)))
    return items


def _addFrame(sequenceNode: slicer.vtkMRMLSequenceNode, index: int, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    """Add a frame to the scene as a volume."""
    frame = slicer.vtkMRMLScalarVolumeNode()
    frame.CopyContent(sequenceNode.GetNthDataNode(index))
    frame.SetName(name)
    volumeNode = slicer.mrmlScene.AddNode(frame)
    volumeNode.CreateDefaultDisplayNodes()
    return volumeNode


class Batch:
    """Passes its items to `submit`, one after another. Signal `changed`: an item or the batch has changed."""

    def __init__(
        self,
        submit: Callable[[slicer.vtkMRMLScalarVolumeNode], Job],
        cancel: Callable[[], None],
    ) -> None:
        self.items: list[Item] = []
        self.job: Job | None = None
        """Run of the current item."""
        self.changed = Signal()
        self.problem = ""
        """Why the batch was stopped, one sentence."""
        self._submit, self._cancel = submit, cancel
        self._current: Item | None = None
        self._startTime, self._finished = 0.0, 0

    @property
    def busy(self) -> bool:
        return self._current is not None

    @property
    def waiting(self) -> list[Item]:
        return [item for item in self.items if item.state == WAITING]

    def start(self) -> None:
        """Start with the first waiting item."""
        self._startTime, self._finished, self.problem = time.monotonic(), 0, ""
        self._next()

    def update(self) -> None:
        """Continue if the current run has ended; called for the runner's `changed`."""
        item, job = self._current, self.job
        if item is None or job is None or job.active:
            return
        item.state, item.result = DONE if job.state == "partial" else job.state, job.result
        item.message = " ".join([job.message, *job.warnings])
        self._finished += 1
        self._next()

    def cancel(self) -> None:
        """Cancel the current run, whose item then waits again, and stop. Finished results are kept."""
        if self._current is not None:
            item, self._current, self.job = self._current, None, None
            item.state, item.message = WAITING, ""
            self._cancel()
            self.changed.emit()

    def clear(self) -> None:
        """Remove all items; results stay in the scene."""
        self.items, self.problem = [], ""
        self.changed.emit()

    def secondsLeft(self) -> float | None:
        """Estimated time for the current and all waiting items; None before the first has finished."""
        if not self._finished or self._current is None:
            return None
        fraction = self.job.fraction or 0.0
        secondsPerItem = (time.monotonic() - self._startTime) / (self._finished + fraction)
        return secondsPerItem * (len(self.waiting) + 1 - fraction)

    def _next(self) -> None:
        self._current = self.job = None
        for item in self.waiting:
            try:
                if item.node is None or item.node.GetScene() is None:
                    if item.load is None:
                        raise LookupError(_("The volume is no longer in the scene."))
                    item.node = item.load()
                self.job = self._submit(item.node)
            except DependencyError as error:  # would also fail for all other items
                self.problem = str(error)
                break
            except Exception as error:  # of any kind, from any file reader
                # Users share logs: no message and no volume name, which may identify a patient.
                logging.warning("A volume of the list could not be segmented (%s).", type(error).__name__)
                item.state, item.message = FAILED, str(error)
                self._finished += 1
                continue
            item.state, self._current = RUNNING, item
            break
        self.changed.emit()
