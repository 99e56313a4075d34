"""The panel: connects widgets and sections to the parameter node and to the runner."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import qt
import slicer.util

from ..i18n import tr as _
from ..runs.batch import Batch
from ..runs.dependencies import DependencyError
from ..runs.handover import HandoverError
from ..runs.job import Choices, Job
from ..scene.display import VOLUME_ROLE, Overlay
from ..scene.preview import Preview
from ..scene.result_nodes import removeOrphans
from . import dialogs
from .backend import Backend
from .parameter_node import DiffusionSegmentationParameterNode, connectWidgets
from .removal import Removal
from .sections.alternatives import AlternativesSection
from .sections.batch import BatchSection
from .sections.cohort import CohortSection
from .sections.corrections import CorrectionsSection
from .sections.engine import EngineSection
from .sections.inputs import InputsSection
from .sections.masks import MasksSection
from .sections.measurements import MeasurementsSection
from .sections.report import ReportSection
from .sections.result import ResultSection
from .sections.review import ReviewSection
from .sections.run import showRun
from .sections.samples import SamplesSection
from .sections.slices import SlicesSection
from .sections.update import UpdateSection
from .sections.volumes import VolumesSection
from .text_heights import TextHeights
from .widgets import makeTimer

POLL_MILLISECONDS = 100
STEP_MILLISECONDS = 10
"""Timer interval while a long task is done in steps, such as the import of a result."""
RESULT_SECTIONS = ("result", "review", "samples", "measurements", "correct", "report")  # opened when there is a result


class Panel:
    """Edits the choices in a parameter node, starts and stops runs, and shows the latest result of its own runs.

    Scripts share the runner: their runs keep the panel busy, but their results are not shown.
    `ui` has the widgets of DiffusionSegmentation.ui as attributes.
    """

    def __init__(self, ui: Any, backend: Backend) -> None:
        self._ui = ui
        self._backend = backend
        self._runner = backend.runner
        self._parameterNode: DiffusionSegmentationParameterNode | None = None
        self._tags: tuple[int, int] | None = None  # of the connection to the widgets, and of the observer
        self._lastVolumeID: str | None = None
        self._hadResult = True  # in the .ui file, the sections of a result are open
        self._removal = Removal()
        self._job: Job | None = None  # the active run that this panel has started outside of the batch
        self._jobVolume: slicer.vtkMRMLScalarVolumeNode | None = None
        self._replacedResult: slicer.vtkMRMLSegmentationNode | None = None
        self._preview = Preview()
        self._pendingSteps: deque[Callable[[], None]] = deque()
        """What remains to be shown of a finished run, one step per timer event."""
        self._message, self._messageIsError = "", False
        self._batch = Batch(self._submitOfBatch, self._runner.cancel)
        self._timer = makeTimer(POLL_MILLISECONDS, self._poll)
        self._createSections()
        ui.statusIcon.pixmap = slicer.app.style().standardIcon(qt.QStyle.SP_MessageBoxWarning).pixmap(16, 16)
        self._batch.changed.connect(self._onBatch)
        self._runner.changed.connect(self._onRunnerChanged)
        ui.segmentButton.clicked.connect(self._onSegment)
        ui.cpuButton.clicked.connect(lambda *_arguments: self._start(device=self._runner.job.tryDevice))
        ui.keepButton.clicked.connect(self._onKeep)
        self.refresh()
        self._textHeights = TextHeights(ui)

    def _createSections(self) -> None:
        ui = self._ui
        self._engine = EngineSection(ui, self._backend, self.refresh, partial(self._show, ""))
        self.inputs = InputsSection(ui)
        self._batchSection = BatchSection(ui, self._batch)
        self.masks = MasksSection(ui, self._start)
        self._samples = SamplesSection(ui)
        self._review = ReviewSection(ui)
        self._corrections = CorrectionsSection(ui)
        result = ResultSection(ui)
        # In the order in which they are refreshed.
        self._resultSections = [result, VolumesSection(ui), self._review, SlicesSection(ui)]
        alternatives = AlternativesSection(ui, self._review, self._samples, self._corrections)
        measurements = MeasurementsSection(ui, self._backend, self._timer.start)
        self._update = UpdateSection(ui, self._backend, self.inputs.volumes, self._follow)
        self._resultSections += [self._samples, alternatives, measurements, self._corrections, self._update]
        self._resultSections += [ReportSection(ui, self._backend, self.inputs.volumes)]
        self._resultSections += [CohortSection(ui, self._runner, lambda: self._parameterNode, self._removal.remove)]
        result.removalRequested.connect(self._onRemoveResult)
        result.thresholdChanged.connect(self._review.setThreshold)
        result.thresholdChanged.connect(self._corrections.setThreshold)
        self._corrections.editorOpening.connect(self._samples.hide)
        self._review.marked.connect(lambda: self._update.refresh(self._result()))
        self._update.undoRequested.connect(self._removeShown)

    def close(self) -> None:
        """Disconnect from the runner and the parameter node; the widgets may be deleted afterwards."""
        self._timer.stop()
        self._pendingSteps.clear()
        self._preview.close()
        for section in (*self._resultSections, self._engine, self.inputs):
            section.close()
        self._textHeights.close()
        self.setParameterNode(None)
        self._runner.changed.disconnect(self._onRunnerChanged)

    def setParameterNode(self, parameterNode: DiffusionSegmentationParameterNode | None) -> None:
        """Show and edit the choices of `parameterNode`; None disables the panel, as while a scene is closed."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._tags[0])
            self._parameterNode.RemoveObserver(self._tags[1])
        self._parameterNode = parameterNode
        if parameterNode is not None:
            observerTag = parameterNode.AddObserver("ModifiedEvent", self._onParameterNode)
            self._tags = connectWidgets(parameterNode, self._ui), observerTag
        self.refresh()

    def abandon(self) -> None:
        """Cancel the run and the batch, because the scene is being closed."""
        self._batch.cancel()
        self._batch.clear()
        self.masks.clear()
        self._runner.abandon()
        self._pendingSteps.clear()
        self._preview.close()
        self._replacedResult = self._jobVolume = None

    def warmUp(self) -> None:
        if self._problem() is None:
            try:
                self._backend.warmUp()
            except DependencyError as error:
                self._show(str(error), isError=True)
            self._timer.start()

    @property
    def settling(self) -> bool:
        """True while steps remain that show a finished run or remove its preview."""
        return bool(self._pendingSteps) or self._preview.busy

    # Refresh

    def refresh(self) -> None:
        """Update all widgets, except while a scene is imported, whose nodes arrive one by one."""
        if not slicer.mrmlScene.IsImporting() and not self._removal.active:
            for step in self._refreshSteps():
                step()

    def _refreshSteps(self) -> list[Callable[[], None]]:
        return [self._refreshChoices, *(lambda s=s: s.refresh(self._result()) for s in self._resultSections)]

    def _result(self) -> slicer.vtkMRMLSegmentationNode | None:
        return self._parameterNode.segmentation if self._parameterNode else None

    def _refreshChoices(self) -> None:
        parameterNode = self._parameterNode
        volumeID = parameterNode.inputVolume.GetID() if parameterNode and parameterNode.inputVolume else None
        if volumeID != self._lastVolumeID:
            self._lastVolumeID = volumeID
            if volumeID is not None and not self._runner.busy:
                self._message, self._messageIsError = "", False  # it was about another volume
        self._engine.refresh(parameterNode)
        self.inputs.refresh(parameterNode, self._engine.model())
        self._refreshRun()
        self._batchSection.refresh(self._engine.model(), self._runner.busy and not self._batch.busy)
        self.masks.refresh(_("A run is active.") if self._runner.busy else self.inputs.volumeProblem())
        removeOrphans()
        if self._hadResult != (self._result() is not None):  # otherwise only the user opens and closes sections
            self._hadResult = not self._hadResult
            for name in RESULT_SECTIONS:
                getattr(self._ui, f"{name}CollapsibleButton").collapsed = not self._hadResult

    def _refreshRun(self) -> None:
        """Update what changes during a run: buttons, progress and status."""
        job, problem = self._runner.job, self._problem()
        idleText = "" if self._runner.busy else self._message or problem or self._estimate()
        previewChange = self._preview.change if job is self._job else None
        showRun(self._ui, job, problem, idleText, self._messageIsError, previewChange)

    def _show(self, message: str, isError: bool = False) -> None:
        """Show `message` in the status line while no run is active."""
        self._message, self._messageIsError = message, isError
        self.refresh()

    def _onParameterNode(self, _caller: Any, _event: Any) -> None:
        if not self._pendingSteps:
            self.refresh()
        elif self._refreshChoices not in self._pendingSteps:  # that step was done before this change
            self._pendingSteps.append(self._refreshChoices)

    # Start and stop

    def _problem(self) -> str | None:
        if self._parameterNode is None:
            return _("The scene is being closed.")
        return self._engine.problem() or self.inputs.problem()

    def _choices(self, device: str | None = None) -> Choices:
        """Return the choices of a run on `device`, by default that of the settings."""
        node = self._parameterNode
        device = device or self._backend.settings.device or "auto"
        steps = node.steps if node.steps > 1 else None
        return Choices(node.model, node.samples or None, steps, node.seed, device, node.regionMm)

    def _estimate(self) -> str:
        hasModel = bool(self._parameterNode.model)
        return self._backend.estimate(self._parameterNode.inputVolume, self._choices()) if hasModel else ""

    def _onSegment(self) -> None:
        if self._runner.busy:
            self._batch.cancel() if self._batch.busy else self._runner.cancel()
        else:
            self._start()

    def _start(self, masks: Sequence[slicer.vtkMRMLNode | str] = (), device: str | None = None) -> None:
        """Start a run on `device` or the import of `masks`; ask first if the result could replace manual edits."""
        segmentation, volumeNode = self._parameterNode.segmentation, self._parameterNode.inputVolume
        answer = dialogs.KEEP
        if segmentation is not None and segmentation.GetNodeReference(VOLUME_ROLE) is volumeNode:
            edited = self._corrections.countEdited(segmentation)
            answer = dialogs.keepReplaceOrCancel(segmentation.GetName(), edited) if edited else dialogs.KEEP
        if answer == dialogs.CANCEL:
            return
        self._show("")
        submit = partial(self._backend.submit, volumeNode, self._choices(device), masks, self.inputs.volumes())
        if self._follow(submit, _("The run could not be started."), volumeNode):
            self._replacedResult = segmentation if answer == dialogs.REPLACE else None

    def _onKeep(self) -> None:
        """Stop an active run and keep its samples; after a failed run import those that were finished."""
        if self._runner.busy:
            self._runner.cancel(keep=True)
        else:
            self._follow(self._runner.recover, _("The finished samples could not be shown."))

    def _follow(self, start: Callable[[], object], problem: str, volumeNode: slicer.vtkMRMLVolumeNode = None) -> bool:
        """Call `start` and follow its run on `volumeNode`, in whose views previews are shown.

        If it fails, show why (`problem` for unexpected errors) and return False.
        """
        with slicer.util.tryWithErrorDisplay(problem):
            try:
                start()
            except (DependencyError, HandoverError) as error:
                self._show(str(error), isError=True)
                return False
            self._job, self._jobVolume, self._replacedResult = self._runner.job, volumeNode, None
            self._timer.start()
            return True
        return False

    def _submitOfBatch(self, volumeNode: slicer.vtkMRMLScalarVolumeNode) -> Job:
        job = self._backend.submit(volumeNode, self._choices())
        self._timer.start()
        return job

    # Progress and end

    def _poll(self) -> None:
        """Do one step: of an import, else of those that wait; Slicer handles its events between two calls."""
        if slicer.mrmlScene.IsImporting():  # the nodes of a result would be mixed with those of the scene
            return
        wasImporting = self._runner.importing
        self._runner.poll()
        if not (wasImporting or self._runner.importing):
            if self._pendingSteps:
                self._pendingSteps.popleft()()
            elif self._preview.poll():
                self._refreshRun()
        inSteps = self.settling or self._runner.importing
        interval = STEP_MILLISECONDS if inSteps else POLL_MILLISECONDS
        if self._timer.interval != interval:
            self._timer.interval = interval
        if not (inSteps or self._runner.busy or self._runner.client.running):
            self._timer.stop()

    def _onRunnerChanged(self) -> None:
        self._batch.update()
        job = self._runner.job
        if job is None or job is not self._job:
            if job is None and self._runner.workerProblem:
                self._message, self._messageIsError = self._runner.workerProblem, True
            self.refresh()
        elif job.active:
            if job.preview is not None:
                files, samples = job.preview
                self._preview.show(self._jobVolume, job.id, files, samples)
            self._engine.refresh(self._parameterNode)
            self._refreshRun()
        else:
            self._finish(job)

    def _finish(self, job: Job) -> None:
        """Show that a run of this panel has ended, and its result in steps, each of which takes noticeable time."""
        self._job = self._jobVolume = None
        self._backend.storeTiming(job)
        self._message, self._messageIsError = job.message, job.state == "failed"
        self._refreshRun()  # first, so that the Segment button is up to date
        if job.result is None or self._parameterNode is None:
            self._preview.end()
            self.refresh()
            return
        replaced, self._replacedResult = self._replacedResult, None
        self._pendingSteps += [
            # The new overlay replaces that of the preview before the preview ends: the views show nothing else between.
            Overlay(job.result.entropyNode).show,
            lambda: self._preview.end(restore=False),
            lambda: self._update.finished(job),
            lambda: setattr(self._parameterNode, "segmentation", job.result.segmentationNode),
            *([] if replaced is None else [lambda: self._removal.remove(replaced)]),
            *self._refreshSteps(),
        ]
        self._timer.start()

    def _onBatch(self) -> None:
        """Show the last result of a batch at its end."""
        results = [item.result for item in self._batch.items if item.result is not None]
        if not self._batch.busy and results and self._parameterNode is not None:
            segmentation = results[-1].segmentationNode
            if segmentation.GetScene() is not None:
                self._parameterNode.segmentation = segmentation
        self.refresh()

    # Removal

    def _onRemoveResult(self) -> None:
        """Remove the displayed result, if the user confirms."""
        segmentation = self._parameterNode.segmentation
        if dialogs.confirmRemoval(segmentation.GetName(), self._corrections.countEdited(segmentation)):
            self._removeShown()

    def _removeShown(self) -> None:
        """Remove the displayed result and show the one before it."""
        self._parameterNode.segmentation = self._removal.goBack(self._parameterNode.segmentation)
        self.refresh()
