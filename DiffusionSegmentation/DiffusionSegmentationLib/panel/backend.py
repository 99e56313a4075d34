"""The worker as this machine's settings want it: which Python runs it, and whether that Python has what it needs."""

import shutil
from pathlib import Path
from typing import Any

import slicer
import slicer.util

from ..i18n import tr as _
from ..runs import dependencies
from ..runs import models as catalogue
from ..runs.estimate import RunMeasurement
from ..runs.job import Choices, Job
from ..runs.runner import Runner
from ..runs.worker_client import WorkerClient, workerCommand, workerEnvironment
from ..scene import result_nodes as scene
from .parameters import Settings


class Backend:
    """Runs of one application: settings, models, and the runner with its worker."""

    def __init__(self, requirementsPath: Path) -> None:
        self.settings = Settings()
        self._requirementsPath = requirementsPath
        self._client = WorkerClient([])
        self.runner = Runner(self._client, scene, slicer.app.temporaryPath)

    def models(self) -> list[catalogue.Entry]:
        """The models to choose from."""
        folder = self.settings.modelsFolder
        return catalogue.models((Path(folder),) if folder else ())

    def warmUp(self) -> None:
        """Start the worker ahead of the first run if nothing has to be installed for that; asks nothing."""
        if self.runner.busy or self._client.running or self._needsPackages():
            return
        self._configure()
        self.runner.warmUp()

    def submit(self, volumeNode: Any, choices: Choices) -> Job:
        """Begin a run; asks to install packages if Slicer's own Python is to run it and lacks some.

        Raises DependencyError or HandoverError, one sentence each; RuntimeError while another run is under way.
        """
        self.runner.requireIdle()  # before anything is asked, installed or restarted
        if self._needsPackages():
            dependencies.ensure(self._requirementsPath)
        self._configure()
        return self.runner.submit(volumeNode, choices)

    def remember(self, job: Job) -> None:
        """Keep how long `job` took, for the estimate of the next."""
        try:
            measured = RunMeasurement.of(job.report or {})
        except (KeyError, TypeError, ZeroDivisionError):
            return
        self.settings.setMeasured(job.choices.model, job.choices.device, measured.asText())

    def estimate(self, volumeNode: Any, choices: Choices) -> str:
        """How long a run would take, judging by the last one of its model on its device, or that this is not known."""
        measured = RunMeasurement.fromText(self.settings.measured(choices.model, choices.device))
        if measured is None:
            return _("How long it takes is known after the first run with this model on this device.")
        return measured.text(volumeNode, choices.samples, choices.steps)

    def _needsPackages(self) -> bool:
        """Only Slicer's own Python can be looked into; another one says itself what it lacks."""
        return not self.settings.workerPython and bool(dependencies.missing(self._requirementsPath))

    def _configure(self) -> None:
        python = self.settings.workerPython or shutil.which("PythonSlicer")
        if python is None:
            raise dependencies.DependencyError(_("Slicer's own Python was not found; choose a Python in Advanced."))
        command = workerCommand(python)
        if command != self._client.command:
            self.runner.stopWorker()
            self._client.command = command
        self._client.environment = workerEnvironment(slicer.util.startupEnvironment())
