"""The panel: widgets on one side, parameter node and runner on the other. No MRML surgery, no processes."""

from typing import Any

import ctk
import qt
import slicer
import slicer.util

from . import display, handover, questions, wording
from .backend import Backend
from .batch import Batch
from .batch_section import BatchSection
from .browser_section import BrowserSection
from .correct_section import CorrectSection
from .dependencies import DependencyError
from .display import VOLUME_ROLE, Overlay
from .estimate import Measured
from .handover import HandoverError
from .i18n import tr as _
from .jobs import Job
from .parameters import DiffusionSegmentationParameterNode, choices
from .preview import Preview
from .report_section import ReportSection
from .result_section import ResultSection
from .review_section import ReviewSection
from .scene import removeResult
from .slices_section import SlicesSection
from .volumes_section import VolumesSection
from .widgets import enable, setQuietly

POLL_MILLISECONDS = 100


class Panel:
    """Shows and changes the choices of `parameterNode`, starts and stops runs, and shows the last result of its own.

    The runner is shared with scripts: a run of theirs keeps the panel busy, but its result is theirs to show.
    `ui` has the widgets of DiffusionSegmentation.ui as attributes.
    """

    def __init__(self, ui: Any, backend: Backend) -> None:
        self._ui = ui
        self._backend = backend
        self._runner = backend.runner
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
        self._opened: bool | None = None
        self._notice = ""
        self._failed = False
        self._timer = qt.QTimer()
        self._timer.interval = POLL_MILLISECONDS
        self._timer.timeout.connect(self._poll)
        self._fillModels()
        self._fillDevices()
        ui.statusIcon.pixmap = slicer.app.style().standardIcon(qt.QStyle.SP_MessageBoxWarning).pixmap(16, 16)
        ui.pythonPathLineEdit.filters = ctk.ctkPathLineEdit.Files
        ui.pythonPathLineEdit.currentPath = backend.settings.workerPython
        self._connect()
        self.refresh()

    def _connect(self) -> None:
        ui = self._ui
        ui.segmentButton.clicked.connect(self._onSegment)
        ui.cpuButton.clicked.connect(self._onCpu)
        ui.keepButton.clicked.connect(self._onKeep)
        self._keepText, self._cpuTip = ui.keepButton.text, ui.cpuButton.toolTip
        ui.modelComboBox.currentIndexChanged.connect(self._onModelChosen)
        ui.deviceComboBox.currentIndexChanged.connect(self._onDeviceChosen)
        ui.pythonPathLineEdit.currentPathChanged.connect(self._onPythonChosen)
        self._runner.changed.connect(self._onRunnerChanged)
        self._runner.client.logged.connect(self._onLogged)

    def close(self) -> None:
        """Let go of the runner and the parameter node; the widgets may be deleted afterwards."""
        self._timer.stop()
        self._batchSection.close()
        self._preview.end()
        self._review.close()
        self._slices.close()
        self._samples.close()
        self._correct.close()
        self._report.close()
        self.setParameterNode(None)
        self._runner.changed.disconnect(self._onRunnerChanged)
        self._runner.client.logged.disconnect(self._onLogged)

    def setParameterNode(self, parameterNode: DiffusionSegmentationParameterNode | None) -> None:
        """Show and change the choices in `parameterNode` from now on; with None, as while a scene closes, nothing."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._guiTag)
            self._parameterNode.RemoveObserver(self._observerTag)
        self._parameterNode = parameterNode
        if parameterNode is not None:
            self._guiTag = parameterNode.connectGui(self._ui)
            self._observerTag = parameterNode.AddObserver("ModifiedEvent", lambda _caller, _event: self.refresh())
        self.refresh()

    def abandon(self) -> None:
        """Give up what is under way, because its scene goes away."""
        self._batch.cancel()
        self._batch.clear()
        self._runner.abandon()

    def warmUp(self) -> None:
        """Start the background process if there is a volume that it could be for."""
        if self._parameterNode is None or self._problem() is not None:
            return
        try:
            self._backend.warmUp()
        except DependencyError as error:
            self._say(str(error), failed=True)
        self._timer.start()

    def refresh(self) -> None:
        """Bring every widget in line with what is; not while a scene is loaded, whose nodes come one by one."""
        if slicer.mrmlScene.IsImporting():
            return
        parameterNode = self._parameterNode
        volumeID = parameterNode.inputVolume.GetID() if parameterNode and parameterNode.inputVolume else None
        if volumeID != self._lastVolumeID:
            self._lastVolumeID = volumeID
            if volumeID is not None and not self._runner.busy:
                self._notice, self._failed = "", False  # what it says is about another volume
        self._refreshModel()
        self._refreshRun()
        segmentation = parameterNode.segmentation if parameterNode else None
        display.removeOrphans(slicer.mrmlScene)
        self._result.refresh(segmentation)
        self._volumes.refresh(segmentation)
        self._review.refresh(segmentation)
        self._slices.refresh(segmentation)
        self._samples.refresh(segmentation)
        self._refreshCorrect()
        self._report.refresh(segmentation)
        self._batchSection.refresh(self._runner.busy and not self._batch.busy)
        self._openSections(segmentation is not None)

    def _openSections(self, useful: bool) -> None:
        """Open what a result makes useful, when there is one, and close it when there is none; then it is theirs."""
        if useful != self._opened:
            self._opened = useful
            for name in ("result", "review", "samples", "correct", "report"):
                getattr(self._ui, f"{name}CollapsibleButton").collapsed = not useful

    def _refreshCorrect(self) -> None:
        self._correct.refresh(self._parameterNode.segmentation if self._parameterNode else None)

    # The run

    def _problem(self) -> str | None:
        """One sentence why no run can be started, or None."""
        if self._parameterNode is None:
            return _("The scene is being closed.")
        if self._ui.modelComboBox.count == 0:
            return _("No model is installed; install the extension again.")
        if self._ui.modelComboBox.currentIndex < 0:
            return _("The model '{name}' is not here; choose another one.").format(name=self._parameterNode.model)
        return handover.problemOf(self._parameterNode.inputVolume)

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
        self._runner.poll()
        if self._preview.poll():
            self.refresh()
        if not self._runner.busy and not self._runner.client.running:
            self._timer.stop()

    def _onRunnerChanged(self) -> None:
        self._fillDevices()
        self._batch.follow()
        job = self._runner.job
        if job is not None and job is self._ownJob and job.active and job.preview is not None:
            files, samples = job.preview
            self._preview.show(self._previewed, job.id, files, samples)
        if job is not None and not job.active and job is self._ownJob:
            self._ownJob = None  # shown once
            self._preview.end(restore=job.result is None)
            self._previewed = None
            self._remember(job)
            self._say(job.message, failed=job.state == "failed")
            if job.result is not None and self._parameterNode is not None:
                self._parameterNode.segmentation = job.result.segmentationNode
                if self._replaced is not None and self._replaced.GetScene() is not None:
                    removeResult(self._replaced)
                self._replaced = None
                Overlay(job.result.entropyNode).show()
        elif job is None and self._runner.workerProblem:
            self._say(self._runner.workerProblem, failed=True)
        self.refresh()

    def _remember(self, job: Job) -> None:
        """Keep how long the run took, for the estimate of the next."""
        try:
            measured = Measured.of(job.report or {})
        except (KeyError, TypeError, ZeroDivisionError):
            return
        self._backend.settings.setMeasured(job.choices.model, job.choices.device, measured.asText())

    def _estimate(self) -> str:
        """How long a run would take, as far as that is known."""
        if not self._parameterNode.model:
            return ""
        chosen = choices(self._parameterNode, self._backend.settings.device)
        measured = Measured.fromText(self._backend.settings.measured(chosen.model, chosen.device))
        if measured is None:
            return _("How long it takes is known after the first run with this model on this device.")
        return measured.text(self._parameterNode.inputVolume, chosen.samples, chosen.steps)

    def _say(self, sentence: str, failed: bool = False) -> None:
        self._notice, self._failed = sentence, failed
        self.refresh()

    def _refreshRun(self) -> None:
        ui, job, busy = self._ui, self._runner.job, self._runner.busy
        problem = self._problem()
        if busy:
            ui.segmentButton.text = _("Cancel")
            enable(ui.segmentButton, None, _("Stop, and leave the scene as it is."))
            status = wording.statusText(job)
            if job is self._ownJob and self._preview.change is not None:
                status += _("; the uncertainty changed by {percent:.1f} % since the last picture").format(
                    percent=100 * self._preview.change
                )
            ui.keepButton.text = self._keepText
            unready = None if job.finishedSamples else _("Possible as soon as the first sample is drawn.")
            enable(ui.keepButton, unready, _("Finish now, with the samples drawn so far."))
            ui.progressBar.maximum = 0 if job.fraction is None else 1000
            ui.progressBar.value = round(1000 * (job.fraction or 0))
        else:
            ui.segmentButton.text = _("Segment")
            enable(ui.segmentButton, problem, _("Segment the volume in the background; Slicer stays usable."))
            status = self._notice or problem or self._estimate()
        recoverable = 0 if busy or job is None else job.recoverable
        if recoverable:
            ui.keepButton.text = _("Show the finished samples ({count})").format(count=recoverable)
            enable(ui.keepButton, None, _("Bring what the run had finished into the scene."))
        ui.keepButton.visible = busy or recoverable > 0
        elsewhere = not busy and job is not None and job.tryDevice is not None and self._failed
        ui.cpuButton.visible = elsewhere
        if elsewhere:
            enable(ui.cpuButton, problem, self._cpuTip)
        ui.progressBar.visible = busy
        ui.statusLabel.text = status
        ui.statusLabel.visible = bool(status)
        ui.statusIcon.visible = self._failed and not busy

    # Model and device

    def _fillModels(self) -> None:
        combo = self._ui.modelComboBox
        combo.clear()
        for entry in self._backend.models():
            combo.addItem(entry.title, entry.key)
            tooltip = "\n".join(filter(None, [entry.description, ", ".join(entry.structures)]))
            combo.setItemData(combo.count - 1, tooltip, qt.Qt.ToolTipRole)
        combo.currentIndex = -1

    def _refreshModel(self) -> None:
        combo = self._ui.modelComboBox
        index = combo.findData(self._parameterNode.model) if self._parameterNode else -1
        setQuietly(combo, "currentIndex", index)
        enable(
            combo,
            self._problem() if combo.count == 0 else None,
            combo.itemData(index, qt.Qt.ToolTipRole) if index >= 0 else _("Choose a model."),
        )

    def _onModelChosen(self) -> None:
        combo = self._ui.modelComboBox
        if self._parameterNode is not None and combo.currentIndex >= 0:
            self._parameterNode.model = combo.itemData(combo.currentIndex)

    def _fillDevices(self) -> None:
        """Offer "auto", what the worker has found, and what was chosen before even if it is not (yet) found."""
        chosen = self._backend.settings.device
        devices = {"auto": _("Automatic")} | {device["id"]: device["name"] for device in self._runner.devices()}
        devices.setdefault(chosen, chosen)
        if "cpu" in devices:
            devices["cpu"] = _("CPU")  # its name is often no more than "x86_64"
        combo = self._ui.deviceComboBox
        if [combo.itemData(index) for index in range(combo.count)] != list(devices):
            blocked = combo.blockSignals(True)
            combo.clear()
            for identifier, name in devices.items():
                combo.addItem(name, identifier)
            combo.blockSignals(blocked)
        setQuietly(combo, "currentIndex", combo.findData(chosen))
        combo.toolTip = (
            _("What computes. Automatic takes the first graphics card that can be used, otherwise the processor.")
            if self._runner.devices()
            else _("What computes. More devices appear when the background process has looked for them.")
        )

    def _onDeviceChosen(self) -> None:
        combo = self._ui.deviceComboBox
        self._backend.settings.device = combo.itemData(combo.currentIndex)

    # The interpreter and what it says

    def _onPythonChosen(self) -> None:
        self._backend.settings.workerPython = self._ui.pythonPathLineEdit.currentPath

    def _onLogged(self, line: str) -> None:
        self._ui.logText.appendPlainText(line)
