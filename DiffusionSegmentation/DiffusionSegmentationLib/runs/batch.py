"""Many volumes, one after another: volumes of the scene, files of a folder, frames of a sequence. No qt.

One that fails does not stop the rest. Each result is named after its volume, as that of a single run is.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer

from ..i18n import tr as _
from ..scene import display
from ..signals import Signal
from .dependencies import DependencyError
from .job import Job

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"

FILE_ENDINGS = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd")
"""Files of a folder that are taken for volumes."""


@dataclass
class Item:
    """One volume of a batch. `bring` gives its node when its turn comes; `message` is one plain sentence."""

    name: str
    bring: Callable[[], slicer.vtkMRMLScalarVolumeNode]
    state: str = WAITING
    message: str = ""
    result: Any = None
    node: slicer.vtkMRMLScalarVolumeNode | None = None


def ofVolumes(volumeNodes: Iterable[slicer.vtkMRMLScalarVolumeNode]) -> list[Item]:
    """Items for volumes of the scene. One that is removed before its turn fails."""

    def bring(node: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLScalarVolumeNode:
        if node.GetScene() is None:
            raise LookupError(_("The volume is no longer in the scene."))
        return node

    return [Item(node.GetName(), lambda node=node: bring(node)) for node in volumeNodes]


def ofFolder(folder: Path, load: Callable[[str], slicer.vtkMRMLScalarVolumeNode]) -> list[Item]:
    """Items for the volumes in `folder` itself, by name; `load` brings a file into the scene. Raises OSError."""
    paths = sorted(path for path in folder.iterdir() if path.name.lower().endswith(FILE_ENDINGS))
    paths = [path for path in paths if not path.name.lower().endswith((".seg.nrrd", ".seq.nrrd"))]
    return [Item(path.name, lambda path=path: load(str(path))) for path in paths]


def ofSequence(sequenceNode: slicer.vtkMRMLSequenceNode) -> list[Item]:
    """Items for the frames of a sequence of volumes; a frame becomes a volume of the scene when its turn comes."""

    def bring(index: int, name: str) -> slicer.vtkMRMLScalarVolumeNode:
        frame = slicer.vtkMRMLScalarVolumeNode()
        frame.CopyContent(sequenceNode.GetNthDataNode(index))
        frame.SetName(name)
        added = sequenceNode.GetScene().AddNode(frame)
        added.CreateDefaultDisplayNodes()
        return added

    names = [
        f"{sequenceNode.GetName()} {sequenceNode.GetNthIndexValue(n)}"
        for n in range(sequenceNode.GetNumberOfDataNodes())
    ]
    return [Item(name, lambda n=n, name=name: bring(n, name)) for n, name in enumerate(names)]


def sequencesOfVolumes(scene: slicer.vtkMRMLScene) -> list[slicer.vtkMRMLSequenceNode]:
    """The sequences of volumes that are a person's, not those of a result."""
    return [
        node
        for node in display.nodesOfClass(scene, "vtkMRMLSequenceNode")
        if node.GetNumberOfDataNodes()
        and node.GetNthDataNode(0).IsA("vtkMRMLScalarVolumeNode")
        and not node.GetNthDataNode(0).IsA("vtkMRMLLabelMapVolumeNode")
        and node.GetNodeReference(display.VOLUME_ROLE) is None
    ]


class Batch:
    """Takes its items to `submit`, one after another. Signal `changed`: an item or the batch has news."""

    def __init__(
        self,
        submit: Callable[[slicer.vtkMRMLScalarVolumeNode], Job],
        cancel: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.items: list[Item] = []
        self.changed = Signal()
        self._submit, self._cancel, self._clock = submit, cancel, clock
        self._job: Job | None = None
        self._current: Item | None = None
        self._began, self._finished = 0.0, 0
        self.problem = ""
        """Why the batch could not go on, one sentence."""

    @property
    def busy(self) -> bool:
        """True from `start` until the last item has ended."""
        return self._current is not None

    @property
    def job(self) -> Job | None:
        """The run of the item under way."""
        return self._job

    @property
    def waiting(self) -> list[Item]:
        return [item for item in self.items if item.state == WAITING]

    def start(self) -> None:
        """Begin with the items that wait."""
        self._began, self._finished, self.problem = self._clock(), 0, ""
        self._next()

    def follow(self) -> None:
        """Go on when a run has ended; for the runner's `changed`."""
        if self._current is None or self._job is None or self._job.active:
            return
        item, job = self._current, self._job
        states = {"done": DONE, "partial": DONE, "failed": FAILED, "cancelled": CANCELLED}
        item.state, item.message, item.result = states[job.state], " ".join([job.message, *job.warnings]), job.result
        self._finished += 1
        self._next()

    def cancel(self) -> None:
        """Give up the run under way and leave the rest waiting; what is finished stays."""
        if self._current is not None:
            item, self._current, self._job = self._current, None, None
            item.state, item.message = WAITING, ""
            self._cancel()
            self.changed.emit()

    def clear(self) -> None:
        """Forget the items; results stay in the scene."""
        self.items, self.problem = [], ""
        self.changed.emit()

    def secondsLeft(self) -> float | None:
        """For all that waits and the rest of the run under way, at the pace so far; None before the first has ended."""
        if not self._finished or self._current is None:
            return None
        each = (self._clock() - self._began) / (self._finished + (self._job.fraction or 0.0))
        return each * (len(self.waiting) + 1 - (self._job.fraction or 0.0))

    def _next(self) -> None:
        self._current = self._job = None
        for item in self.waiting:
            try:
                if item.node is None or item.node.GetScene() is None:
                    item.node = item.bring()
                self._job = self._submit(item.node)
            except DependencyError as error:  # the next one would need the same
                self.problem = str(error)
                break
            except Exception as error:  # whatever a reader of files may raise: the rest goes on
                # Without its words and the volume's name, which may be a patient's: logs are kept and passed on.
                logging.warning("A volume of the list could not be segmented (%s).", type(error).__name__)
                item.state, item.message = FAILED, str(error)
                self._finished += 1
                continue
            item.state, self._current = RUNNING, item
            break
        self.changed.emit()
