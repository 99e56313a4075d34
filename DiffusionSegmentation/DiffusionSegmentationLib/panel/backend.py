"""What the panel and scripts need to start runs: settings, models, runner and worker process."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import slicer.util
from packaging.requirements import Requirement

from diffusion_segmentation.runtime.locations import user_models

from ..i18n import tr as _
from ..runs import dependencies, input_volumes, models, more_samples
from ..runs.asking import Asker
from ..runs.engine_command import EngineCommand
from ..runs.estimate import RunMeasurement
from ..runs.handover import HandoverError
from ..runs.job import Choices, Job
from ..runs.runner import Runner
from ..runs.worker_client import WorkerClient, workerCommand, workerEnvironment
from ..scene import result_nodes
from ..scene.questions import Question
from .settings import Settings, timingKey


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
        """Start a command of the engine in the worker's Python. Raises DependencyError, one sentence."""
        if self.missingPackages():
            dependencies.ensure(self._requirementsPath)
        environment = workerEnvironment(slicer.util.startupEnvironment())
        return EngineCommand(workerCommand(self._python()), environment, arguments)

    def warmUp(self) -> None:
        """Start the worker ahead of the first run, unless packages are missing. Shows no dialog."""
        if self.runner.busy or self._client.running or self.missingPackages():
            return
        self._configure()
        self.runner.warmUp()

    def submit(
        self,
        volumeNode: Any,
        choices: Choices,
        masks: Sequence[Any] = (),
        inputs: Mapping[str, Any] | None = None,
    ) -> Job:
        """Start a run, or the import of `masks`, for which only `volumeNode` is used; see `Runner.submit`.

        Asks to install missing packages if Slicer's Python is the interpreter of the worker.
        Raises DependencyError or HandoverError with a one-sentence message; RuntimeError while another run is active.
        """
        self.runner.requireIdle()  # before any dialog, installation or restart
        problem = None if masks else self._misfit(volumeNode, choices.model, inputs)
        if problem is not None:
            raise HandoverError(problem)
        self._requireWorker()
        return self.runner.submit(volumeNode, choices, masks, None if masks else inputs)

    def ask(self, segmentationNode: Any, questions: Sequence[Question], count: int = 0) -> None:
        """Start to ask `questions` about a result, with `count` of that many samples.

        See `Asker.ask`. Raises and installs as `submit` does.
        """
        self.runner.requireIdle()
        model = more_samples.modelOf(result_nodes.reportOf(segmentationNode), self.models()) if count else None
        self._requireWorker()
        self.asker.ask(segmentationNode, questions, model, count, self.settings.device or "auto")

    def _requireWorker(self) -> None:
        """Prepare the start of the worker. Raises DependencyError."""
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
        """Store how long `job` took, for the estimate of the next run; imports are not estimated."""
        if job.masks:
            return
        try:
            measured = RunMeasurement.of(job.report or {})
        except (KeyError, TypeError, ZeroDivisionError):
            return
        self.settings.setValue(timingKey(job.choices.model, job.choices.device), measured.asText())

    def estimate(self, volumeNode: Any, choices: Choices) -> str:
        """Return a sentence on the expected run time, from the last run of the same model on the same device."""
        measured = RunMeasurement.fromText(self.settings.value(timingKey(choices.model, choices.device)))
        if measured is None:
            return _("The run time can be estimated after the first run with this model on this device.")
        return measured.text(volumeNode, choices.samples, choices.steps)

    def missingPackages(self) -> list[Requirement]:
        """Return the packages that Slicer's Python lacks. Another interpreter reports them itself when it starts."""
        return [] if self.settings.workerPython else dependencies.missing(self._requirementsPath)

    def _python(self) -> str:
        python = self.settings.workerPython or shutil.which("PythonSlicer")
        if python is None:
            raise dependencies.DependencyError(
                _("Slicer's Python was not found; select a Python interpreter under Advanced.")
            )
        return python

    def _configure(self) -> None:
        command = workerCommand(self._python())
        if command != self._client.command:
            self.runner.stopWorker()
            self._client.command = command
        self._client.environment = workerEnvironment(slicer.util.startupEnvironment())
