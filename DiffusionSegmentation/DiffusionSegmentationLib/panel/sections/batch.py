"""Section "Batch processing": the list of volumes, their states, and the progress of the batch."""

from pathlib import Path
from typing import Any

import slicer.util

from ...i18n import tr as _
from ...runs import batch, status_texts
from ...runs.batch import CANCELLED, DONE, FAILED, RUNNING, WAITING, Batch
from ...runs.models import Entry
from ...scene.display import VOLUME_ROLE
from .. import dialogs
from ..widgets import enable, setButton

MARKS = {WAITING: "", RUNNING: "▶", DONE: "✓", FAILED: "✗", CANCELLED: "–"}


class BatchSection:
    def __init__(self, ui: Any, queue: Batch) -> None:
        self._ui = ui
        self._batch = queue
        self._problem = ""
        self._model: Entry | None = None
        ui.addVolumesButton.clicked.connect(self._onAddVolumes)
        ui.addSequenceButton.clicked.connect(self._onAddSequences)
        ui.addFolderButton.clicked.connect(self._onAddFolder)
        ui.clearBatchButton.clicked.connect(lambda *_arguments: queue.clear())
        ui.batchButton.clicked.connect(self._onStart)

    def refresh(self, model: Entry | None, otherRun: bool) -> None:
        """Show the batch for `model`, the selected one. `otherRun`: a run outside of the batch is active."""
        ui, queue = self._ui, self._batch
        self._model = model
        several = None
        if model is not None and len(model.inputs) > 1 and not queue.busy:
            several = _("The batch takes models of one input; choose another model.")
        busy = _("The batch is running.") if queue.busy else None
        enable(busy or several, ui.addVolumesButton, ui.addSequenceButton, ui.addFolderButton)
        empty = None if queue.items else _("The list is empty.")
        enable(busy or empty, ui.clearBatchButton)
        if queue.busy:
            setButton(ui.batchButton, _("Cancel all"), _("Stop the batch. Finished results are kept."))
        else:
            problem = several or empty or (None if queue.waiting else _("All volumes in the list have been processed."))
            problem = problem or (_("Another run is active.") if otherRun else None)
            tip = _("Segment the volumes in the list one after another.")
            setButton(ui.batchButton, _("Segment all"), tip, problem)
        self._fillList()
        ui.batchProgressBar.visible = queue.busy
        ended = sum(item.state in (DONE, FAILED, CANCELLED) for item in queue.items)
        ui.batchProgressBar.maximum = 1000 * max(len(queue.items), 1)
        ui.batchProgressBar.value = round(1000 * (ended + ((queue.job.fraction or 0) if queue.job else 0)))
        ui.batchLabel.text = several or self._problem or queue.problem or self._summary(ended)
        ui.batchLabel.visible = bool(ui.batchLabel.text)

    def _fillList(self) -> None:
        """Update the rows in place, so that the scroll position and the selection stay."""
        listWidget = self._ui.batchList
        for row, text in enumerate(map(self._text, self._batch.items)):
            if row == listWidget.count:
                listWidget.addItem(text)
            listWidget.item(row).setText(text)
            listWidget.item(row).setToolTip(text)
        while listWidget.count > len(self._batch.items):
            listWidget.takeItem(listWidget.count - 1)
        listWidget.visible = bool(self._batch.items)

    def _text(self, item: batch.Item) -> str:
        running = item.state == RUNNING and self._batch.job
        message = status_texts.statusText(self._batch.job) if running else item.message
        return " ".join(filter(None, [MARKS[item.state], f"{item.name}: {message}" if message else item.name]))

    def _summary(self, ended: int) -> str:
        items, left = self._batch.items, self._batch.secondsLeft()
        if not items:
            return ""
        text = _("{ended} of {count} volumes").format(ended=ended, count=len(items))
        failed = sum(item.state == FAILED for item in items)
        if failed:
            text += _(", {failed} failed").format(failed=failed)
        if left is not None:
            text += _(", {duration} left").format(duration=status_texts.durationText(left))
        return text + "."

    def _add(self, items: list[batch.Item], problem: str) -> None:
        """Append `items`, or show the `problem` if there are none."""
        self._problem = "" if items else problem
        self._batch.items += items
        self._batch.changed.emit()

    def _onAddVolumes(self, *_arguments: Any) -> None:
        waiting = {item.name for item in self._batch.waiting}
        results = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        segmented = {node.GetNodeReference(VOLUME_ROLE) for node in results}
        items = [
            batch.Item(node.GetName(), node=node)
            for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
            if not (node.IsA("vtkMRMLLabelMapVolumeNode") or node.GetNodeReference(VOLUME_ROLE))
            and node not in segmented
            and node.GetName() not in waiting
        ]
        self._add(items, _("All volumes in the scene have a result or are already in the list."))

    def _onAddSequences(self, *_arguments: Any) -> None:
        self._add(batch.ofSequences(), _("The scene contains no volume sequences."))

    def _onAddFolder(self, *_arguments: Any) -> None:
        folder = dialogs.selectFolder(self._ui.addFolderButton, _("Select a folder of volumes"))
        if not folder:
            return
        problem, withPictures = _("The folder contains no NRRD, NIfTI or MetaImage files."), False
        if self._model is not None and self._model.isForPictures:
            problem, withPictures = _("The folder contains no pictures and no volume files."), True
        try:
            items = batch.ofFolder(Path(folder), _loadFile, withPictures)
        except OSError as error:
            items, problem = [], _("The folder cannot be read: {reason}.").format(reason=error.strerror)
        self._add(items, problem)

    def _onStart(self, *_arguments: Any) -> None:
        self._problem = ""
        (self._batch.cancel if self._batch.busy else self._batch.start)()


def _loadFile(path: str) -> slicer.vtkMRMLScalarVolumeNode:
    """Load one file; Slicer would take numbered pictures for the slices of one volume."""
    return slicer.util.loadVolume(path, {"singleFile": True})
