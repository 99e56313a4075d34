"""Runs, one at a time: a volume is sent to the worker, and the result is imported into the scene.

Nothing blocks: `Runner.poll`, called by a timer (Slicer) or a loop (headless), advances all work. Independent of Qt.
"""

import contextlib
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from diffusion_segmentation import errors
from diffusion_segmentation.worker import protocol

from ..i18n import tr as _
from ..scene.facts import Facts
from ..signals import Signal
from . import status_texts, temporary_files
from .handover import INPUT_NAME, MASK_NAME, Handover, HandoverError, Inputs
from .job import Choices, FinishedSamples, Job
from .mask_nodes import MaskNode
from .worker_client import WorkerClient

CANCEL_SECONDS = 10.0
"""Grace period before the worker is killed for not acknowledging a cancelled run."""

CLOSE_SECONDS = 5.0
"""Longest wait for the worker, and for the removal of a job's files, when the application ends."""


class Runner:
    """Runs one volume after another.

    `importSteps` imports the files of a run from a folder (see scene/result_nodes.py): it yields None after each step,
    then the result, and undoes all if closed early. Signal `changed`: job or worker have changed. `workerProblem`: why
    there is no worker, or None.
    """

    def __init__(
        self,
        client: WorkerClient,
        importSteps: Callable[[Any, Path, dict], Iterator[Any]],
        temporaryFolder: str | None = None,
    ) -> None:
        self.client = client
        self.changed = Signal()
        self.job: Job | None = None
        self.workerProblem: str | None = None
        self._importSteps = importSteps
        self._temporaryFolder = temporaryFolder
        self._handover: Handover | None = None
        self._import: Iterator[Any] | None = None
        self._finalState = ""
        self._removal: threading.Thread | None = None
        self._startProblem: str | None = None
        # A cancelled run that the worker has not acknowledged, and a worker about to end: both until `_killTime`.
        self._cancelled: Job | None = None
        self._workerEnding = False
        self._killTime = 0.0
        self._killed = False
        self._hasChanged = False
        self._finishedSamples: FinishedSamples | None = None
        self._swept = False
        client.received.connect(self._onMessage)
        client.ended.connect(self._onWorkerEnded)

    @property
    def busy(self) -> bool:
        return self.job is not None and self.job.active

    @property
    def importing(self) -> bool:
        """Whether a result is being imported, one step in each `poll`."""
        return self._import is not None

    def devices(self) -> list[dict]:
        """The worker's devices ({id, name, totalBytes, freeBytes}); empty before its hello."""
        return self.client.hello["devices"] if self.client.hello else []

    def warmUp(self) -> None:
        """Start the worker; on the first call also remove files of old runs."""
        if not self._swept:
            self._swept = True
            temporary_files.sweep(self._temporaryFolder)
        self.workerProblem = None
        self.client.start()

    def requireIdle(self) -> None:
        """Raises RuntimeError while a job is active."""
        if self.busy:
            raise RuntimeError("A run is active.")

    def stopWorker(self) -> None:
        """Stop the worker; the next run starts a new one. Raises RuntimeError while a job is active."""
        self.requireIdle()
        self.client.stop()
        self._workerEnding = False
        self._onCancelAcknowledged()  # otherwise the next worker would be killed
        self._startProblem = None

    def submit(
        self, volumeNode: Any, choices: Choices, masks: Sequence = (), inputs: Inputs = None, facts: Facts | None = None
    ) -> Job:
        """Start a run and return its job. Raises HandoverError, one sentence, if a volume cannot be used.

        `masks`, if there are any, take the place of a model's samples: segmentation or label map nodes, and names of
        files, on the grid of the volume. `inputs`: see Handover. With `facts` the samples are drawn given these.
        Raises RuntimeError while another job is active.
        """
        self.requireIdle()
        files = [mask for mask in masks if isinstance(mask, str)]
        maskNodes = [MaskNode(mask, volumeNode) for mask in masks if not isinstance(mask, str)]
        handover = Handover(volumeNode, maskNodes if facts is None else [facts], inputs)
        try:
            folder = Path(tempfile.mkdtemp(prefix=temporary_files.PREFIX, dir=self._temporaryFolder))
        except OSError as error:
            raise HandoverError(errors.explain(error)[1]) from error
        self._finishedSamples = None
        self.job = Job(
            volumeNode.GetName(), choices, folder, started=time.monotonic(), message=_("Preparing the volume")
        )
        self.job.masks = (*(str(folder / MASK_NAME.format(number=n)) for n in range(len(maskNodes))), *files)
        self.job.inputs = handover.inputFiles(folder)
        self.job.update = {} if facts is None else facts.fields(folder / MASK_NAME.format(number=0))
        self._handover = handover
        handover.startWriting(folder)
        self.warmUp()
        self.changed.emit()
        return self.job

    def recover(self) -> None:
        """Import the finished samples of the failed run; the job continues as if it had been stopped.

        Raises HandoverError, one sentence, if its volume was removed or cannot be used any more, and RuntimeError
        while a job is active or if there are no finished samples.
        """
        self.requireIdle()
        finished = self._finishedSamples
        if finished is None:
            raise RuntimeError("There are no finished samples of a failed run.")
        volumeNode = finished.volumeNode()
        if volumeNode is None:
            sentence = _("The volume '{name}' is no longer in the scene; the finished samples are kept in {folder}.")
            raise HandoverError(sentence.format(name=self.job.volumeName, folder=finished.folder))
        self._handover = Handover(volumeNode)
        self._finishedSamples, self.job.recoverable = None, 0
        self.job.state = "running"
        self._startImport("partial", finished.folder, finished.report)
        self.changed.emit()

    def cancel(self, keep: bool = False) -> None:
        """Stop the active job; with `keep` the finished samples become its result, otherwise they are discarded."""
        if not self.busy:
            return
        if keep and self.job.finishedSamples:
            self.client.send({"type": "cancel", "job": self.job.id, "keep": True})
            self.job.message = _("Finishing with the samples drawn so far")
            self.changed.emit()
        else:
            self._abort(_("Cancelled; nothing was changed."))

    def abandon(self) -> None:
        """Cancel the active job because its scene is closed."""
        if self.busy:
            self._abort(_("Cancelled, because the scene was closed."))

    def close(self) -> None:
        """Cancel the job, stop the worker, remove the files; waits up to CLOSE_SECONDS for each."""
        self.abandon()
        for thread in (self.client.stop(), self._removal):
            if thread is not None:
                thread.join(CLOSE_SECONDS)

    def poll(self) -> None:
        """Advance all work by one step; call it about every 100 ms. An exception ends the job."""
        try:
            self._step()
        except Exception as error:
            logging.exception("A run failed in Slicer.")
            if self.busy:
                wasRefused = self.job.state == "queued"
                self._releaseJob()
                self._fail(errors.explain(error)[1], wasRefused)
        if self._hasChanged:
            self._hasChanged = False
            self.changed.emit()

    def _step(self) -> None:
        self.client.poll()
        if (self._cancelled or self._workerEnding) and time.monotonic() > self._killTime:
            self._killWorker()
        if self._import is not None:
            self._importStep()
        elif self.busy and self.job.state == "queued":
            self._launchIfReady()

    def _killWorker(self) -> None:
        """Kill the overdue worker; the second time, detach it: a process blocked in a driver cannot be killed."""
        if self._killed:
            self.client.stop()
            self._onWorkerEnded("")
        else:
            self._killed, self._killTime = True, time.monotonic() + CANCEL_SECONDS
            self.client.kill()

    def _launchIfReady(self) -> None:
        if self._handover.writing:
            return
        problem = self._handover.problem()
        if problem is not None:
            self._finish("failed", problem)
        elif self.client.hello is None or self._workerEnding:
            message = _("Starting the background process")
            self._hasChanged |= self.job.message != message
            self.job.message = message
        elif self._cancelled is None:
            self.client.send(self.job.request(self.job.folder / INPUT_NAME, self._handover.source, self.devices()))
            self.job.state = "running"

    def _onMessage(self, message: dict) -> None:
        self._hasChanged = True
        kind = message["type"]
        if message.get("ends"):  # the worker has lost its GPU: the next run needs a new one
            self._workerEnding, self._killed = True, False
            self._killTime = time.monotonic() + CANCEL_SECONDS
        if kind == "hello":
            self._startProblem = None
            problem = protocol.compatible(message)
            if problem is not None:
                self.client.stop()
                self._onWorkerEnded(problem)
        elif kind == "error" and message["job"] is None:
            logging.error("Worker: %s\n%s", message["message"], message["details"])
            if self.client.hello is None:  # why the worker cannot start; it ends next
                self._startProblem = message["message"]
        elif self._cancelled is not None and message["job"] == self._cancelled.id:
            if kind in ("done", "partial", "cancelled", "error") and message.get("over") is not False:
                self._onCancelAcknowledged()
        elif self.busy and message["job"] == self.job.id:
            self._onJobMessage(message)

    def _onJobMessage(self, message: dict) -> None:
        job = self.job
        kind = message["type"]
        if kind == "progress":
            job.message = status_texts.progressText(message)
            job.applyProgress(message, time.monotonic())
        elif kind == "preview":
            job.finishedSamples = max(job.finishedSamples, message["samples"])
            if message["entropy"] is not None:
                job.preview = (Path(message["segmentation"]), Path(message["entropy"])), message["samples"]
        elif kind == "error":
            logging.error("Worker: %s\n%s", message["message"], message["details"])
            job.tryDevice = message.get("tryDevice")
            self._fail(message["message"], wasRefused=message["kind"] in ("geometry", "model", "input"))
        elif kind == "cancelled":
            self._finish("cancelled", _("Cancelled; nothing was changed."))
        else:
            job.secondsLeft = None
            self._startImport(kind, job.folder, message["report"])

    def _startImport(self, finalState: str, folder: Path, report: dict) -> None:
        self.job.report, self.job.message = report, _("Showing the result")
        self._finalState = finalState
        self._import = self._importSteps(self._handover.volumeNode, folder, report)

    def _importStep(self) -> None:
        job = self.job
        if self._handover.volumeNode.GetScene() is None:
            self._failImport(_("the volume '{name}' is no longer in the scene").format(name=job.volumeName))
            return
        try:
            result = next(self._import)
            if result is None:
                return
            job.result = result
            sentences = [status_texts.doneText(job.report, time.monotonic() - job.started)]
        except Exception as error:  # of any kind: the worker's files are complete and kept
            logging.exception("The result could not be imported into the scene.")
            self._failImport(str(error))
            return
        self._closeImport()
        if self._handover.changed():
            sentences.append(_("The volume was modified during the run; the result is for its earlier state."))
        self._finish(self._finalState, " ".join(sentences))

    def _failImport(self, reason: str) -> None:
        self._closeImport()
        sentence = _("The result could not be shown ({reason}); its files are kept in {folder}.")
        self._finish("failed", sentence.format(reason=reason, folder=self.job.folder), keepFiles=True)

    def _onWorkerEnded(self, sentence: str) -> None:
        self._hasChanged = True
        if self._cancelled is not None or self._workerEnding:  # this was the worker of the previous run
            self._workerEnding = False
            self._onCancelAcknowledged()
            if self.busy:
                self.client.start()
            return
        self.workerProblem = self._startProblem or sentence
        self._startProblem = None
        if self.busy and self._import is None:
            self._fail(self.workerProblem, wasRefused=self.job.state == "queued")

    def _fail(self, sentence: str, wasRefused: bool) -> None:
        """End a failed run. Its finished samples are kept for `recover`; a refused run has none."""
        job = self.job
        newest = None if wasRefused else temporary_files.newestFinished(job.folder)
        if newest is None:
            self._finish("failed", sentence)
            return
        self._finishedSamples = FinishedSamples(*newest, self._handover.volumeNode)
        job.recoverable = self._finishedSamples.report["samples"]
        self._finish("failed", f"{sentence} {status_texts.recoverableText(self._finishedSamples)}", keepFiles=True)

    def _releaseJob(self) -> None:
        """Cancel the job in the worker, if it is computing, and close the import."""
        job = self.job
        if job.state == "running" and self._import is None:
            with contextlib.suppress(Exception):
                self.client.send({"type": "cancel", "job": job.id, "keep": False})
            self._cancelled, self._killed, self._killTime = job, False, time.monotonic() + CANCEL_SECONDS
        self._closeImport()

    def _abort(self, sentence: str) -> None:
        self._releaseJob()
        self._finish("cancelled", sentence)
        self.changed.emit()

    def _onCancelAcknowledged(self) -> None:
        """Remove what the worker wrote after the folder of the cancelled run was removed."""
        cancelled, self._cancelled = self._cancelled, None
        if cancelled is not None and cancelled.folder.exists():
            self._removal = temporary_files.removeInBackground(cancelled.folder)

    def _closeImport(self) -> None:
        if self._import is not None:
            self._import.close()
            self._import = None

    def _finish(self, state: str, message: str, keepFiles: bool = False) -> None:
        job = self.job
        job.state, job.message = state, message
        self._hasChanged = True
        handover, self._handover = self._handover, None  # it keeps the voxels of a volume that may be removed in memory
        self._removal = handover.discard(job.folder, keepFiles)
