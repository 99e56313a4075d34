"""Section "Cohort": goes through the cases of a cohort, those with the lowest expected Dice first."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import slicer

from ...i18n import tr as _
from ...review.corrections import hasEdits
from ...review.review import OPEN, Review
from ...runs import cohort
from ...runs.cohort import Case, CohortError
from ...runs.runner import Runner
from ...scene import display
from ...scene.display import VOLUME_ROLE, Overlay
from ...scene.overlays import ResultOverlays
from ...scene.result_nodes import Result, resultsOf
from .. import dialogs
from ..parameter_node import DiffusionSegmentationParameterNode
from ..widgets import Section, chosen, enable, fillComboBox


class CohortSection(Section):
    """Shows one case at a time: its volume and its result replace those of the case before."""

    TIMER_MILLISECONDS = 10

    def __init__(
        self,
        ui: Any,
        runner: Runner,
        parameterNode: Callable[[], DiffusionSegmentationParameterNode | None],
        removeResult: Callable[[slicer.vtkMRMLSegmentationNode], None],
    ) -> None:
        super().__init__(ui)
        self._runner, self._parameterNode, self._removeResult = runner, parameterNode, removeResult
        self._cases: list[Case] = []
        self._current: Case | None = None
        self._volume: slicer.vtkMRMLScalarVolumeNode | None = None  # of the case that is shown
        self._import: Iterator[Result | None] | None = None
        self._message = ""
        ui.openCohortButton.clicked.connect(self._onOpen)
        ui.previousCaseButton.clicked.connect(lambda *_arguments: self._move(-1))
        ui.nextCaseButton.clicked.connect(lambda *_arguments: self._move(1))
        ui.warnedFirstCheckBox.toggled.connect(self._onOrder)
        ui.caseComboBox.activated.connect(lambda *_arguments: self._show(self._order()[chosen(ui.caseComboBox)]))

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        ui, order = self._ui, self._order()
        self._segmentation = segmentation
        if self._parameterNode() is None:  # the scene is being closed
            self._endImport()
            self._current = None
        place = order.index(self._current) if self._current in order else -1
        texts = {n: f"{n + 1}. {case.name}" for n, case in enumerate(order)}
        fillComboBox(ui.caseComboBox, texts, max(place, 0))
        none = None if order else _("Open a cohort first.")
        busy = _("The case is being opened.") if self._import is not None else None
        enable(busy, ui.openCohortButton)
        enable(none or busy, ui.caseComboBox)
        enable(none or busy or (None if place > 0 else _("This is the first case.")), ui.previousCaseButton)
        last = None if place + 1 < len(order) else _("This is the last case.")
        enable(none or busy or last, ui.nextCaseButton)
        ui.caseComboBox.visible = bool(order)
        ui.warnedFirstCheckBox.visible = any(case.unlike for case in order)
        enable(busy, ui.warnedFirstCheckBox)
        ui.cohortLabel.text = " ".join(filter(None, [self._caseText(order), busy or self._message]))
        ui.cohortLabel.visible = bool(ui.cohortLabel.text)

    def close(self) -> None:
        super().close()
        self._endImport()

    def _order(self) -> list[Case]:
        return cohort.warnedFirst(self._cases) if self._ui.warnedFirstCheckBox.checked else self._cases

    def _caseText(self, order: list[Case]) -> str:
        case = self._current
        if case not in order:
            return ""
        unlike = _("The scan is unlike those that the model was made for.") if case.unlike else ""
        known, none = _("Case {place} of {count}: expected Dice {dice:.3f}."), _("Case {place} of {count}: no samples.")
        text = none if case.expectedDice is None else known
        text = text.format(place=order.index(case) + 1, count=len(order), dice=case.expectedDice)
        return f"{text} {unlike}".rstrip()

    def _onOpen(self, *_arguments: Any) -> None:
        folder = dialogs.selectFolder(self._ui.openCohortButton, _("Select the folder of a cohort"))
        if not folder:
            return
        try:
            cases = cohort.readCases(Path(folder))
        except CohortError as error:
            self._say(str(error))
            return
        previous, self._cases = self._cases, cases
        if not self._show(self._order()[0]):
            self._cases = previous
            self.refresh(self._segmentation)

    def _onOrder(self, *_arguments: Any) -> None:
        self._message = ""
        self.refresh(self._segmentation)

    def _move(self, step: int) -> None:
        order = self._order()
        place = order.index(self._current) if self._current in order else -1
        self._show(order[place + step])

    def _show(self, case: Case) -> bool:
        """Begin to open `case`, unless a run is active or the user keeps the changed result of the case before."""
        if self._runner.busy:
            self._say(_("A run is active; wait until it has ended."))
            return False
        unsaved = [node.GetName() for node in self._results() if _isUnsaved(node)]
        if unsaved and not dialogs.confirmNextCase(", ".join(unsaved)):
            self.refresh(self._segmentation)
            return False
        self._current, self._message, self._import = case, "", cohort.openSteps(case)
        self._timer.start()
        self.refresh(self._segmentation)
        return True

    def _onTimer(self) -> None:
        """Do one step of the import; the case before is removed when the new one is complete."""
        if self._import is None:
            return
        try:
            result = next(self._import)
        except CohortError as error:
            self._endImport()
            self._say(str(error))
            return
        if result is not None:
            self._endImport()
            self._replace(result)

    def _replace(self, result: Result) -> None:
        before, volumeNode = self._results(), self._volume
        self._volume = result.segmentationNode.GetNodeReference(VOLUME_ROLE)
        parameterNode = self._parameterNode()
        Overlay(result.entropyNode).show()
        parameterNode.inputVolume = self._volume
        parameterNode.segmentation = result.segmentationNode
        for node in before:
            ResultOverlays(node).hide()
            self._removeResult(node)
        if volumeNode is not None and volumeNode.GetScene() is not None:
            display.removeNode(volumeNode)
        self.refresh(result.segmentationNode)

    def _endImport(self) -> None:
        self._timer.stop()
        if self._import is not None:
            self._import.close()
            self._import = None

    def _results(self) -> list[slicer.vtkMRMLSegmentationNode]:
        """The results of the volume of the case that is shown: that of the cohort, updates and further runs."""
        return resultsOf(self._volume) if self._volume is not None and self._volume.GetScene() is not None else []

    def _say(self, message: str) -> None:
        self._message = message
        self.refresh(self._segmentation)


def _isUnsaved(node: slicer.vtkMRMLSegmentationNode) -> bool:
    """Whether a result was corrected or reviewed, and not saved since."""
    review = Review(node)
    reviewed = any(review.state(region) != OPEN for region in review.regions)
    return reviewed or (hasEdits(node) and node.GetModifiedSinceRead())
