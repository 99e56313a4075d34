"""The panel's section for many volumes: the list, what becomes of each, and the time for all."""

from pathlib import Path
from typing import Any

import slicer
import slicer.util

from ..i18n import tr as _
from ..runs import batch, status_texts
from ..runs.batch import CANCELLED, DONE, FAILED, RUNNING, WAITING, Batch
from ..scene import display
from ..scene.display import VOLUME_ROLE
from . import dialogs as questions
from .widgets import enable

MARKS = {WAITING: "", RUNNING: "▶", DONE: "✓", FAILED: "✗", CANCELLED: "–"}


class BatchSection:
    """Shows a batch, fills it and starts it."""

    def __init__(self, ui: Any, queue: Batch) -> None:
        self._ui = ui
        self._batch = queue
        self._problem = ""
        self._other = False
        ui.addScenesButton.clicked.connect(self._onAddVolumes)
        ui.addSequenceButton.clicked.connect(self._onAddSequences)
        ui.addFolderButton.clicked.connect(self._onAddFolder)
        ui.clearBatchButton.clicked.connect(lambda *_arguments: queue.clear())
        ui.batchButton.clicked.connect(self._onStart)
        queue.changed.connect(self._refresh)

    def refresh(self, otherRun: bool) -> None:
        """Show the batch; `otherRun` while a run that is not of the batch is under way."""
        self._other = otherRun
        self._refresh()

    def close(self) -> None:
        """Show the batch no longer."""
        self._batch.changed.disconnect(self._refresh)

    def _refresh(self) -> None:
        ui, queue = self._ui, self._batch
        busy = _("The volumes are being segmented.") if queue.busy else None
        enable(ui.addScenesButton, busy, _("Add every volume of the scene that has no result yet."))
        enable(ui.addSequenceButton, busy, _("Add every frame of the sequences of volumes in the scene."))
        enable(ui.addFolderButton, busy, _("Add the NRRD, NIfTI and MetaImage files of a folder."))
        none = None if queue.items else _("The list is empty.")
        enable(ui.clearBatchButton, busy or none, _("Empty the list; results stay in the scene."))
        if queue.busy:
            ui.batchButton.text = _("Cancel all")
            enable(ui.batchButton, None, _("Stop; what is finished stays."))
        else:
            ui.batchButton.text = _("Segment all")
            idle = none or (None if queue.waiting else _("Every volume of the list has had its turn."))
            idle = idle or (_("Another run is under way.") if self._other else None)
            enable(ui.batchButton, idle, _("Segment the volumes of the list, one after another."))
        texts = [self._text(item) for item in queue.items]
        listed = ui.batchList
        for row, text in enumerate(texts):
            if row < listed.count:
                listed.item(row).setText(text)
            else:
                listed.addItem(text)
            listed.item(row).setToolTip(text)
        while listed.count > len(texts):
            listed.takeItem(listed.count - 1)
        listed.visible = bool(texts)
        ui.batchProgressBar.visible = queue.busy
        ended = sum(item.state in (DONE, FAILED, CANCELLED) for item in queue.items)
        ui.batchProgressBar.maximum = 1000 * max(len(queue.items), 1)
        ui.batchProgressBar.value = round(1000 * (ended + ((queue.job.fraction or 0) if queue.job else 0)))
        ui.batchLabel.text = self._problem or queue.problem or self._summary(ended)
        ui.batchLabel.visible = bool(ui.batchLabel.text)

    def _text(self, item: batch.Item) -> str:
        told = status_texts.statusText(self._batch.job) if item.state == RUNNING and self._batch.job else item.message
        return " ".join(filter(None, [MARKS[item.state], f"{item.name}: {told}" if told else item.name]))

    def _summary(self, ended: int) -> str:
        queue = self._batch
        if not queue.items:
            return ""
        text = _("{ended} of {count} volumes").format(ended=ended, count=len(queue.items))
        failed = sum(item.state == FAILED for item in queue.items)
        if failed:
            text += _(", {failed} failed").format(failed=failed)
        left = queue.secondsLeft()
        return (
            text
            + (_(", {duration} left").format(duration=status_texts.durationText(left)) if left is not None else "")
            + "."
        )

    def _add(self, items: list[batch.Item], nothing: str) -> None:
        self._problem = "" if items else nothing
        self._batch.items += items
        self._refresh()

    def _onAddVolumes(self, *_arguments: Any) -> None:
        scene = slicer.mrmlScene
        listed = {item.name for item in self._batch.waiting}
        results = {
            node.GetNodeReference(VOLUME_ROLE) for node in display.nodesOfClass(scene, "vtkMRMLSegmentationNode")
        }
        volumes = [
            node
            for node in display.nodesOfClass(scene, "vtkMRMLScalarVolumeNode")
            if not node.IsA("vtkMRMLLabelMapVolumeNode")
            and node.GetNodeReference(VOLUME_ROLE) is None
            and node not in results
            and node.GetName() not in listed
        ]
        self._add(batch.ofVolumes(volumes), _("Every volume of the scene has a result or is in the list."))

    def _onAddSequences(self, *_arguments: Any) -> None:
        sequences = batch.sequencesOfVolumes(slicer.mrmlScene)
        items = [item for sequence in sequences for item in batch.ofSequence(sequence)]
        self._add(items, _("There is no sequence of volumes in the scene."))

    def _onAddFolder(self, *_arguments: Any) -> None:
        folder = questions.folder(self._ui.addFolderButton, _("Choose a folder of volumes"))
        if not folder:
            return
        try:
            items = batch.ofFolder(Path(folder), slicer.util.loadVolume)
        except OSError as error:
            self._add([], _("The folder cannot be read: {reason}.").format(reason=error.strerror))
            return
        self._add(items, _("There is no NRRD, NIfTI or MetaImage file in this folder."))

    def _onStart(self, *_arguments: Any) -> None:
        self._problem = ""
        if self._batch.busy:
            self._batch.cancel()
            return
        self._batch.start()
