"""Part of section "Correct": draws the rest of a result again, given what the reviewer has settled, and undoes that."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import slicer

from ...coalescing_thread import CoalescingThread
from ...i18n import tr as _
from ...review import updates
from ...review.corrections import hasEdits
from ...review.facts import FactsSource, Settled, doneIn
from ...review.review import Review
from ...runs import status_texts, updating
from ...runs.job import Job
from ...scene.display import VOLUME_ROLE
from ...scene.label_map import Labels
from ...scene.result_nodes import reportOf
from ...signals import Signal
from .. import dialogs
from ..backend import Backend
from ..widgets import Section, enable, missingResult, setButton

Follow = Callable[[Callable[[], object], str, Any], bool]


class UpdateSection(Section):
    """Starts updates, and gives their results the looks and decisions of those before.

    Signal `undoRequested`: the shown result, an update, is to be removed and the one before it to be shown.
    """

    TIMER_MILLISECONDS = 50

    def __init__(self, ui: Any, backend: Backend, inputs: Callable[[], dict[str, Any]], follow: Follow) -> None:
        """`inputs` returns the selected volumes by the names of the model's inputs, if there are several.

        `follow` calls a function that starts a run on a volume node, and follows it; see `Panel`.
        """
        super().__init__(ui)
        self._backend, self._inputs, self._follow = backend, inputs, follow
        self.undoRequested = Signal()
        self._thread = CoalescingThread()
        self._stamp: tuple | None = None
        """Identifies the edits and done regions for which the facts were or are being collected."""
        self._source: FactsSource | None = None
        """What they were collected from."""
        self._settled: Settled | None = None
        self._problem: str | None = None
        self._job: Job | None = None
        """The update that was started last, and what its result needs of the one before."""
        self._former: slicer.vtkMRMLSegmentationNode | None = None
        self._numbers: dict[str, int] = {}
        self._formerStamp: tuple[int, ...] = ()
        self._note = self._nextNote = ""
        """A sentence on what happened, and that for the result that is shown next."""
        ui.updateButton.clicked.connect(self._onUpdate)
        ui.undoUpdateButton.clicked.connect(self._onUndo)
        backend.runner.changed.connect(self._show)
        backend.asker.changed.connect(self._show)

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        if segmentation is not self._segmentation:
            self._segmentation, self._stamp, self._source = segmentation, None, None
            self._note, self._nextNote = self._nextNote, ""
        self._problem = missingResult(segmentation)
        self._problem = self._problem or updating.refusalOf(reportOf(segmentation), self._backend.models())
        if self._problem is None:
            self._collect()
        self._show()

    def close(self) -> None:
        super().close()
        self._backend.runner.changed.disconnect(self._show)
        self._backend.asker.changed.disconnect(self._show)

    def finished(self, job: Job) -> None:
        """Give the result of `job`, if it is an update of this section, the looks and decisions of the one before."""
        former, self._former = self._former, None
        if job is not self._job or former is None or former.GetScene() is None:
            return
        updates.carryOver(former, job.result.segmentationNode, self._numbers)
        if _labelStamp(former) != self._formerStamp:
            text = _("'{name}' was edited during the update; these edits are only there, and Undo update shows it.")
            self._nextNote = text.format(name=former.GetName())

    # What became facts

    def _collect(self) -> None:
        """Collect the facts on a thread, unless nothing has changed since the last time."""
        node = self._segmentation
        stamp = node.GetID(), _labelStamp(node), doneIn(Review(node))
        if stamp == self._stamp:
            return
        try:
            source = FactsSource(node, self._source)
        except LookupError as error:
            self._stamp, self._source, self._settled, self._problem = None, None, None, str(error)
            return
        self._stamp, self._source, self._settled = stamp, source, None
        self._thread.submit(lambda: (stamp, source.settled()))
        self._timer.start()

    def _onTimer(self) -> None:
        collected = self._thread.poll()
        if not self._thread.busy:
            self._timer.stop()
        if collected is not None and collected[0] == self._stamp:
            self._settled = collected[1]
            self._show()

    def _show(self) -> None:
        ui, runner, node = self._ui, self._backend.runner, self._segmentation
        isUpdating = runner.busy and runner.job is self._job
        former = updates.formerOf(node)
        if isUpdating:
            setButton(ui.updateButton, _("Cancel update"), _("Stop the update. Nothing is changed."))
        else:
            tip = _("Draw the samples again, given corrected voxels and regions marked as done.")
            setButton(ui.updateButton, _("Update the rest from my corrections"), tip, self._refusal())
        noFormer = None if former else _("This result was not updated.")
        busy = _("A run is active.") if runner.busy else None
        enable(missingResult(node) or noFormer or busy, ui.undoUpdateButton)
        ui.undoUpdateButton.visible = former is not None
        ui.updateLabel.text = status_texts.statusText(runner.job) if isUpdating else self._text()
        ui.updateLabel.visible = bool(ui.updateLabel.text)

    def _refusal(self) -> str | None:
        """Why no update can be started now, one sentence, or None."""
        if self._problem:
            return self._problem
        if self._backend.runner.busy:
            return _("A run is active; update when it has ended.")
        if self._backend.asker.busy:
            return _("Questions are being answered; update when they have been.")
        if self._settled is None:
            return _("The corrections are being collected.")
        if not self._settled.fresh:
            return _("Nothing was corrected yet: edit voxels, or mark regions as done, first.")
        return None

    def _text(self) -> str:
        """What an update takes as facts, does and costs, or why there can be none."""
        node = self._segmentation
        if node is None:
            return ""
        report, settled = reportOf(node), self._settled
        sentences = [self._note] if self._note else []
        if self._problem:
            return " ".join([*sentences, self._problem])
        if settled is None:
            return " ".join([*sentences, _("Collecting corrections ...")])
        if "facts" in report:
            sentences.append(factsText(node, report))
        if settled.fresh:
            labels = Labels(node)
            text = _("Facts for an update: {edited} edited voxels and {regions} done regions, {voxels} in all.")
            counts = {"edited": settled.edited, "regions": settled.regions}
            sentences.append(text.format(**counts, voxels=labels.countText(settled.voxels)))
            sentences.append(costText(report))
            if updating.questionsOf(report):
                text = _("The questions of Measurements are asked again, which takes further time, most for distances.")
                sentences.append(text)
            sentences.append(_("Facts are never changed. The rest follows them only roughly, so check it."))
        elif "facts" not in report:
            sentences.append(_("Edit voxels or mark regions as done; then the rest can be drawn again given these."))
        return " ".join(sentences)

    # Update and undo

    def _onUpdate(self, *_arguments: Any) -> None:
        runner = self._backend.runner
        if runner.busy:
            if runner.job is self._job:
                runner.cancel()
            return
        self.refresh(self._segmentation)  # edits in Segment Editor may be newer than the facts
        if self._refusal():
            return
        node, settled = self._segmentation, self._settled
        report, volumeNode = reportOf(node), node.GetNodeReference(VOLUME_ROLE)
        model = updating.modelOf(report, self._backend.models())
        choices = updating.choicesOf(report, model)
        names = report.get("input", {}).get("names", [])
        selected = self._inputs() if names else {}
        inputs = {name: volumeNode if name == names[0] else selected.get(name) for name in names}
        if None in inputs.values():
            text = _("Select the volumes of this result, {names}, as inputs of its model.")
            self._note = text.format(names=", ".join(names))
            self._show()
            return
        self._note, stamp = "", _labelStamp(node)
        facts = dataclasses.replace(settled.facts, ask=updating.questionsOf(report))
        numbers = {"edited_voxels": settled.edited, "done_regions": settled.regions, "voxels": settled.voxels}

        def start() -> Job:
            self._job = self._backend.submit(volumeNode, choices, (), inputs or None, facts)
            self._former, self._numbers, self._formerStamp = node, numbers, stamp
            return self._job

        self._follow(start, _("The update could not be started."), volumeNode)
        self._show()

    def _onUndo(self, *_arguments: Any) -> None:
        node = self._segmentation
        if hasEdits(node, updates.formerOf(node)) and not dialogs.confirmUndo(node.GetName()):
            return
        self.undoRequested.emit()


def factsText(segmentationNode: slicer.vtkMRMLSegmentationNode, report: Mapping[str, Any]) -> str:
    """The facts given which the samples of an updated result were drawn."""
    facts = report["facts"]
    text = _("The samples were drawn given {voxels} as facts, in round {rounds}.")
    return text.format(voxels=Labels(segmentationNode).countText(facts["voxels"]), rounds=facts["rounds"])


def costText(report: Mapping[str, Any]) -> str:
    """How many samples an update draws, and how long that takes."""
    seconds, device = updating.secondsOf(report), report.get("device") or "auto"
    if seconds is None:
        return _("An update draws {samples} samples.").format(samples=report["samples"])
    text = _("An update draws {samples} samples in {duration} on '{device}', estimated from the last run.")
    return text.format(samples=report["samples"], duration=status_texts.durationText(seconds), device=device)


def _labelStamp(segmentationNode: slicer.vtkMRMLSegmentationNode) -> tuple[int, ...]:
    """Modification times of the segments; empty if they cannot be read."""
    try:
        return Labels(segmentationNode).stamp()
    except LookupError:
        return ()
