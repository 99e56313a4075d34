"""The panel: widgets on one side, parameter node and runner on the other. No MRML surgery, no processes."""

import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import qt
import slicer
import slicer.util

from ..i18n import tr as _
from ..runs import handover
from ..runs.batch import Batch
from ..runs.dependencies import DependencyError
from ..runs.handover import HandoverError
from ..runs.job import Job
from ..scene import display
from ..scene.display import VOLUME_ROLE, Overlay
from ..scene.overlays import ResultOverlays
from ..scene.preview import Preview
from ..scene.result_nodes import removeOrphanedSequences, removeResult, resultsOf
from . import dialogs as questions
from .backend import Backend
from .batch_section import BatchSection
from .browser_section import BrowserSection
from .correct_section import CorrectSection
from .engine_section import EngineSection
from .fitting import Fitting
from .parameters import DiffusionSegmentationParameterNode, choices
from .report_section import ReportSection
from .result_section import ResultSection
from .review_section import SHOWN_REGIONS, ReviewSection
from .run_section import RunSection
from .slices_section import SlicesSection
from .volumes_section import VolumesSection

POLL_MILLISECONDS = 100
STEP_MILLISECONDS = 10
"""Between two pieces of something long."""


class Panel:
    """Shows and changes the choices of `parameterNode`, starts and stops runs, and shows the last result of its own.

    The runner is shared with scripts: a run of theirs keeps the panel busy, but its result is theirs to show.
    `ui` has the widgets of DiffusionSegmentation.ui as attributes.
    """

    def __init__(self, ui: Any, backend: Backend) -> None:
        self._ui = ui
        self._backend = backend
        self._runner = backend.runner
        self._engine = EngineSection(ui, backend)
        self._run = RunSection(ui)
        self._result = ResultSection(ui)
        self._volumes = VolumesSection(ui)
        self._review = ReviewSection(ui)
        self._slices = SlicesSection(ui)
        self._samples = BrowserSection(ui)
        self._correct = CorrectSection(ui)
        self._report = ReportSection(ui)
        self._result.thresholdChanged.connect(self._review.rank)
        self._result.thresholdChanged.connect(self._correct.follow)
        self._samples.changed.connect(self._refreshCorrect)
        self._review.moved.connect(self._refreshCorrect)
        self._correct.editing.connect(self._samples.hide)
        self._result.removalWished.connect(self._onRemoveResult)
        self._parameterNode: DiffusionSegmentationParameterNode | None = None
        self._guiTag: int | None = None
        self._observerTag: int | None = None
        self._lastVolumeID: str | None = None
        self._ownJob: Job | None = None
        self._batch = Batch(self._submitOfBatch, self._runner.cancel)
        self._batchSection = BatchSection(ui, self._batch)
        self._batch.changed.connect(self._onBatch)
        self._preview = Preview()
        self._previewed: slicer.vtkMRMLScalarVolumeNode | None = None
        self._replaced: slicer.vtkMRMLSegmentationNode | None = None
        self._removing = False
        self._due: deque[Callable[[], None]] = deque()
        self._opened: bool | None = None
        self._notice = ""
        self._failed = False
        self._timer = qt.QTimer()
        self._timer.interval = POLL_MILLISECONDS
        self._timer.timeout.connect(self._poll)
        self._connect()
        self.refresh()
        names = ("inputs", "result", "review", "samples", "correct", "report", "batch", "advanced")
        sections = [getattr(ui, f"{name}CollapsibleButton") for name in names]
        labels = [widget for widget in vars(ui).values() if isinstance(widget, qt.QLabel) and widget.wordWrap]
        tables = [(ui.volumesTable, sys.maxsize), (ui.regionTable, SHOWN_REGIONS)]
        self._fitting = Fitting([*sections, sections[0].parentWidget()], labels, tables)

    def _connect(self) -> None:
        ui = self._ui
        ui.segmentButton.clicked.connect(self._onSegment)
        ui.cpuButton.clicked.connect(self._onCpu)
        ui.keepButton.clicked.connect(self._onKeep)
        self._runner.changed.connect(self._onRunnerChanged)

    def close(self) -> None:
        """Let go of the runner and the parameter node; the widgets may be deleted afterwards."""
        self._timer.stop()
        self._batchSection.close()
        self._due.clear()
        self._preview.close()
        self._review.close()
        self._slices.close()
        self._samples.close()
        self._correct.close()
        self._report.close()
        self._engine.close()
        self._fitting.close()
        self.setParameterNode(None)
        self._runner.changed.disconnect(self._onRunnerChanged)

    def setParameterNode(self, parameterNode: DiffusionSegmentationParameterNode | None) -> None:
        """Show and change the choices in `parameterNode` from now on; with None, as while a scene closes, nothing."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._guiTag)
            self._parameterNode.RemoveObserver(self._observerTag)
        self._parameterNode = parameterNode
        if parameterNode is not None:
            self._guiTag = parameterNode.connectGui(self._ui)
            self._observerTag = parameterNode.AddObserver("ModifiedEvent", self._onChoices)
        self.refresh()

    def abandon(self) -> None:
        """Give up what is under way, because its scene goes away."""
        self._batch.cancel()
        self._batch.clear()
        self._runner.abandon()
        self._due.clear()
        self._preview.close()
        self._replaced = self._previewed = None

    def warmUp(self) -> None:
        """Start the background process if there is a volume that it could be for."""
        if self._parameterNode is None or self._problem() is not None:
            return
        try:
            self._backend.warmUp()
        except DependencyError as error:
            self._say(str(error), failed=True)
        self._timer.start()

    @property
    def settling(self) -> bool:
        """True while pieces of what the end of a run brings along are still to be shown or taken back."""
        return bool(self._due) or self._preview.busy

    def refresh(self) -> None:
        """Bring every widget in line with what is; not while a scene is loaded, whose nodes come one by one."""
        if not slicer.mrmlScene.IsImporting() and not self._removing:
            for piece in self._refreshes():
                piece()

    def _remove(self, segmentation: slicer.vtkMRMLSegmentationNode) -> None:
        """Take a result out of the scene; its parts go one by one, and the panel is not refreshed for each."""
        self._removing = True
        try:
            removeResult(segmentation)
        finally:
            self._removing = False

    def _refreshes(self) -> list[Callable[[], None]]:
        """The pieces of `refresh`."""
        sections = self._result, self._volumes, self._review, self._slices, self._samples, self._correct, self._report
        return [self._refreshChoices, *(lambda section=section: section.refresh(self._shown()) for section in sections)]

    def _shown(self) -> slicer.vtkMRMLSegmentationNode | None:
        """The result on show."""
        return self._parameterNode.segmentation if self._parameterNode else None

    def _refreshChoices(self) -> None:
        parameterNode = self._parameterNode
        volumeID = parameterNode.inputVolume.GetID() if parameterNode and parameterNode.inputVolume else None
        if volumeID != self._lastVolumeID:
            self._lastVolumeID = volumeID
            if volumeID is not None and not self._runner.busy:
                self._notice, self._failed = "", False  # what it says is about another volume
        self._engine.refresh(parameterNode)
        self._refreshRun()
        self._batchSection.refresh(self._runner.busy and not self._batch.busy)
        display.removeOrphanedSegmentations(slicer.mrmlScene)
        removeOrphanedSequences(slicer.mrmlScene)
        self._openSections(self._shown() is not None)

    def _openSections(self, useful: bool) -> None:
        """Open what a result makes useful, when there is one, and close it when there is none; then it is theirs."""
        if useful != self._opened:
            self._opened = useful
            for name in ("result", "review", "samples", "correct", "report"):
                getattr(self._ui, f"{name}CollapsibleButton").collapsed = not useful

    def _refreshCorrect(self) -> None:
        if not slicer.mrmlScene.IsImporting():
            self._correct.refresh(self._shown())

    def _onChoices(self, _caller: Any, _event: Any) -> None:
        if not self._due:
            self.refresh()
        elif self._refreshChoices not in self._due:  # its turn was before this choice
            self._due.append(self._refreshChoices)

    # The run

    def _problem(self) -> str | None:
        """One sentence why no run can be started, or None."""
        if self._parameterNode is None:
            return _("The scene is being closed.")
        return self._engine.problem() or handover.problemOf(self._parameterNode.inputVolume)

    def _onSegment(self) -> None:
        if self._runner.busy:
            self._batch.cancel() if self._batch.busy else self._runner.cancel()
        else:
            self._start(self._backend.settings.device)

    def _onCpu(self) -> None:
        """Once more, where the graphics card could not; only a person decides to wait so much longer."""
        self._start(self._runner.job.tryDevice)

    def _start(self, device: str) -> None:
        replaced = None
        count = self._correct.handEdited() if self._isOfInput() else 0
        if count:
            answer = questions.keepReplaceOrCancel(self._parameterNode.segmentation.GetName(), count)
            if answer == questions.CANCEL:
                return
            replaced = self._parameterNode.segmentation if answer == questions.REPLACE else None
        self._say("")
        with slicer.util.tryWithErrorDisplay(_("The segmentation could not be started.")):
            try:
                self._ownJob = self._backend.submit(
                    self._parameterNode.inputVolume, choices(self._parameterNode, device)
                )
            except (DependencyError, HandoverError) as error:
                self._say(str(error), failed=True)
            else:
                self._replaced = replaced
                self._previewed = self._parameterNode.inputVolume
                self._timer.start()

    def _submitOfBatch(self, volumeNode: slicer.vtkMRMLScalarVolumeNode) -> Job:
        job = self._backend.submit(volumeNode, choices(self._parameterNode, self._backend.settings.device))
        self._timer.start()
        return job

    def _onBatch(self) -> None:
        """Show the last result of a batch when all is done."""
        results = [item.result for item in self._batch.items if item.result is not None]
        if not self._batch.busy and results and self._parameterNode is not None:
            segmentation = results[-1].segmentationNode
            if segmentation.GetScene() is not None:
                self._parameterNode.segmentation = segmentation
        self.refresh()

    def _isOfInput(self) -> bool:
        """Whether the result on show is of the volume that is chosen."""
        segmentation = self._parameterNode.segmentation
        return (
            segmentation is not None and segmentation.GetNodeReference(VOLUME_ROLE) is self._parameterNode.inputVolume
        )

    def _onRemoveResult(self) -> None:
        """Take the result on show out of the scene; the one before it, of the same volume, comes back into sight."""
        segmentation = self._parameterNode.segmentation
        if not questions.mayRemove(segmentation.GetName(), self._correct.handEdited()):
            return
        volumeNode = segmentation.GetNodeReference(VOLUME_ROLE)
        ResultOverlays(segmentation).hide()
        self._remove(segmentation)
        earlier = resultsOf(volumeNode) if volumeNode else []
        if earlier:
            earlier[-1].SetDisplayVisibility(True)
            self._parameterNode.segmentation = earlier[-1]
        self.refresh()

    def _onKeep(self) -> None:
        """Stop and keep; after a failure show what was finished."""
        if self._runner.busy:
            self._runner.cancel(keep=True)
            return
        with slicer.util.tryWithErrorDisplay(_("The finished samples could not be shown.")):
            try:
                self._runner.recover()
            except HandoverError as error:
                self._say(str(error), failed=True)
            else:
                self._ownJob = self._runner.job
                self._timer.start()

    def _poll(self) -> None:
        """Move everything on by one piece that takes long; between two of them the windows live."""
        if slicer.mrmlScene.IsImporting():  # its nodes come one by one, and ours would come among them
            return
        self._runner.poll()
        if self._due:
            self._due.popleft()()
        elif self._preview.poll():
            self._refreshRun()
        quick = self.settling or self._runner.importing
        interval = STEP_MILLISECONDS if quick else POLL_MILLISECONDS
        if self._timer.interval != interval:
            self._timer.interval = interval
        if not (quick or self._runner.busy or self._runner.client.running):
            self._timer.stop()

    def _onRunnerChanged(self) -> None:
        self._batch.update()
        job = self._runner.job
        if job is not None and job is self._ownJob and job.active:
            if job.preview is not None:
                files, samples = job.preview
                self._preview.show(self._previewed, job.id, files, samples)
            self._engine.refresh(self._parameterNode)
            self._refreshRun()
        elif job is not None and job is self._ownJob:
            self._finish(job)
        else:
            if job is None and self._runner.workerProblem:
                self._say(self._runner.workerProblem, failed=True)
            self.refresh()

    def _finish(self, job: Job) -> None:
        """Show how a run of the panel's own has ended, once."""
        self._ownJob = self._previewed = None
        self._backend.remember(job)
        self._notice, self._failed = job.message, job.state == "failed"
        self._refreshRun()  # the button does what it says at once
        if job.result is None or self._parameterNode is None:
            self._preview.end()
            self.refresh()
            return
        replaced, self._replaced = self._replaced, None
        # The new overlay takes the place of the preview's, so that no view shows anything else meanwhile.
        self._due.extend(
            [
                Overlay(job.result.entropyNode).show,
                lambda: self._preview.end(restore=False),
                lambda: setattr(self._parameterNode, "segmentation", job.result.segmentationNode),
                *([] if replaced is None else [lambda: self._remove(replaced)]),
                *self._refreshes(),
            ]
        )
        self._timer.start()

    def _estimate(self) -> str:
        """How long a run would take, as far as that is known."""
        if not self._parameterNode.model:
            return ""
        wished = choices(self._parameterNode, self._backend.settings.device)
        return self._backend.estimate(self._parameterNode.inputVolume, wished)

    def _say(self, sentence: str, failed: bool = False) -> None:
        self._notice, self._failed = sentence, failed
        self.refresh()

    def _refreshRun(self) -> None:
        """Show how far the run is; all that changes while it goes on."""
        job, problem = self._runner.job, self._problem()
        idle = "" if self._runner.busy else self._notice or problem or self._estimate()
        change = self._preview.change if job is self._ownJob else None
        self._run.refresh(job, problem, idle, self._failed, change)
