"""What the panel and scripts need to start runs: settings, models, runner and worker process."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import slicer.util
from packaging.requirements import Requirement

from diffusion_segmentation.remote import hosts
from diffusion_segmentation.runtime.locations import user_models

from ..i18n import tr as _
from ..runs import dependencies, input_volumes, models, more_samples
from ..runs.asking import Asker
from ..runs.engine_command import EngineCommand
from ..runs.estimate import RunMeasurement
from ..runs.handover import HandoverError
from ..runs.job import Choices, Job
from ..runs.runner import Runner
from ..runs.worker_client import WorkerClient, relayCommand, relayEnvironment, workerCommand, workerEnvironment
from ..scene import result_nodes
from ..scene.facts import Facts
from ..scene.questions import Question
from . import dialogs
from .settings import HOST, PYTHON, THIS, Settings, timingKey


class Backend:
    def __init__(self, requirementsPath: Path) -> None:
        self.settings = Settings()
        self._requirementsPath = requirementsPath
        self._client = WorkerClient([])
        self.runner = Runner(self._client, result_nodes.importSteps, slicer.app.temporaryPath)
        self.asker = Asker(self.runner, slicer.app.temporaryPath)

    def models(self) -> list[models.Entry]:
        folders = filter(None, (self.settings.modelsFolder, user_models()))
        return models.models(tuple(map(Path, folders)))

    def command(self, arguments: Sequence[str]) -> EngineCommand:
        """Start a command of the engine in the worker's Python here. Raises DependencyError, one sentence."""
        if not self.settings.otherPython and dependencies.missing(self._requirementsPath):
            dependencies.ensure(self._requirementsPath)
        environment = workerEnvironment(slicer.util.startupEnvironment())
        return EngineCommand(workerCommand(self._python()), environment, arguments)

    def warmUp(self) -> None:
        """Start the worker ahead of the first run, unless packages are missing. Shows no dialog.

        Another computer is not called before the user has agreed to it.
        """
        host = self._host()
        if self.runner.busy or self._client.running or self.missingPackages():
            return
        if host is not None and not self.settings.isConfirmed(host):
            return
        self._configure()
        self.runner.warmUp()

    def submit(
        self,
        volumeNode: Any,
        choices: Choices,
        masks: Sequence[Any] = (),
        inputs: Mapping[str, Any] | None = None,
        facts: Facts | None = None,
    ) -> Job:
        """Start a run, or the import of `masks`, for which only `volumeNode` is used; see `Runner.submit`.

        While questions are answered, the worker starts it after them, and the job's message says so.

        Asks to install missing packages if Slicer's Python is the interpreter of the worker.
        Raises DependencyError or HandoverError with a one-sentence message; RuntimeError while another run is active.
        """
        self.runner.requireIdle()  # before any dialog, installation or restart
        problem = None if masks else self._misfit(volumeNode, choices.model, inputs)
        if problem is not None:
            raise HandoverError(problem)
        self._requireWorker()
        job = self.runner.submit(volumeNode, choices, masks, None if masks else inputs, facts)
        if self.asker.busy:
            job.message = _("Waiting until the questions are answered")
            self.runner.changed.emit()
        return job

    def ask(self, segmentationNode: Any, questions: Sequence[Question], count: int = 0) -> None:
        """Start to ask `questions` about a result, with `count` of that many samples.

        See `Asker.ask`. Raises and installs as `submit` does.
        """
        self.runner.requireIdle()
        model = more_samples.modelOf(result_nodes.reportOf(segmentationNode), self.models()) if count else None
        self._requireWorker()
        self.asker.ask(segmentationNode, questions, model, count)

    def _requireWorker(self) -> None:
        """Prepare the start of the worker. Raises DependencyError.

        Before the first run on another computer the user is asked whether the volume may be sent there.
        """
        host = self._host()
        if host is not None and not self.settings.isConfirmed(host):
            if not dialogs.confirmSending(host):
                raise dependencies.DependencyError(
                    _("Nothing was sent; choose another place to run under Advanced, or click again.")
                )
            self.settings.confirm(host)
        if self.missingPackages():
            dependencies.ensure(self._requirementsPath)
        self._configure()

    def _misfit(self, volumeNode: Any, key: str, inputs: Mapping[str, Any] | None) -> str | None:
        """Why the model cannot segment the volumes, one sentence; None if it can, or if the model is not known here."""
        model = next((entry for entry in self.models() if entry.key == key), None)
        if model is None:
            return None
        return input_volumes.problemOf(model, inputs or {model.inputs[0].name: volumeNode})

    def storeTiming(self, job: Job) -> None:
        """Store how long `job` took, for the estimate of the next run; imports and updates are not estimated."""
        if job.masks or job.update:
            return
        try:
            measured = RunMeasurement.of(job.report or {})
        except (KeyError, TypeError, ZeroDivisionError):
            return
        self.settings.setValue(self._timingKey(job.choices), measured.asText())

    def estimate(self, volumeNode: Any, choices: Choices) -> str:
        """Return a sentence on the expected run time, from the last run of the same model on the same device."""
        measured = RunMeasurement.fromText(self.settings.value(self._timingKey(choices)))
        if measured is None:
            return _("The run time can be estimated after the first run with this model on this device.")
        return measured.text(volumeNode, choices.samples, choices.steps)

    def _timingKey(self, choices: Choices) -> str:
        host = self._host()
        return timingKey(choices.model, choices.device if host is None else f"{choices.device}@{host}")

    def missingPackages(self) -> list[Requirement]:
        """Return the packages that Slicer's Python lacks, if the worker runs in it.

        Another interpreter, here or on another computer, reports them itself when it starts.
        """
        return dependencies.missing(self._requirementsPath) if self.settings.runOn == THIS or self._isSlicers() else []

    def _isSlicers(self) -> bool:
        """Whether another Python was chosen and none was named."""
        return self.settings.runOn == PYTHON and not self.settings.workerPython

    def _host(self) -> str | None:
        """The computer on which the worker runs, or None for this one."""
        return self.settings.workerHost if self.settings.runOn == HOST else None

    def _python(self) -> str:
        python = self.settings.otherPython or shutil.which("PythonSlicer")
        if python is None:
            raise dependencies.DependencyError(
                _("Slicer's Python was not found; select a Python interpreter under Advanced.")
            )
        return python

    def _configure(self) -> None:
        python, host, startup = self._python(), self._host(), slicer.util.startupEnvironment()
        if host is None:
            command, environment = workerCommand(python), workerEnvironment(startup)
        else:
            command = relayCommand(python, host, self.settings.workerHostPython or hosts.DEFAULT_PYTHON)
            environment = relayEnvironment(startup)
        if command != self._client.command:
            self.runner.stopWorker()
            self._client.command = command
        self._client.environment = environment
