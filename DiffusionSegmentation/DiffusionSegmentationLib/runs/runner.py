"""Runs: a volume goes to the worker, its result comes into the scene. One run at a time, nothing here waits.

`Runner.poll`, called by a timer (Slicer) or a loop (headless), moves everything on and fires `changed`. No qt.
"""

import contextlib
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import vtk

from diffusion_segmentation import errors
from diffusion_segmentation.worker import protocol as messages

from ..i18n import tr as _
from ..signals import Signal
from . import messages as wording
from . import temporary_files as leftovers
from .handover import Handover, HandoverError, removeSoon
from .job import Choices, Job
from .worker_client import WorkerClient

INPUT_NAME = "input.nrrd"

CANCEL_SECONDS = 10.0
"""How long the worker may take to give up a cancelled run before it is ended."""

CLOSE_SECONDS = 5.0
"""Longest wait for the worker, and for the removal of a job's files, when the application ends."""


@dataclass(frozen=True)
class _Finished:
    """What a failed run has left: a folder with a whole result, its report, and its volume, which may be removed."""

    folder: Path
    report: dict
    volume: vtk.vtkWeakReference


class Importer(Protocol):
    """The part of scene.py that a run needs."""

    def importSteps(self, volumeNode: Any, folder: Path, report: dict) -> Iterator[Any]:
        """Bring the files in `folder` into the scene, one slow piece a step: None each time, at last the result.

        Removes what it has made if it fails or is closed.
        """


class Runner:
    """Takes one volume after another to the worker and brings each result into the scene.

    Signal `changed`: the job or the worker has news. `workerProblem` is why there is no worker, or None.
    """

    def __init__(
        self,
        client: WorkerClient,
        importer: Importer,
        temporaryFolder: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self.changed = Signal()
        self.job: Job | None = None
        self.workerProblem: str | None = None
        self._importer = importer
        self._temporaryFolder = temporaryFolder
        self._clock = clock
        self._handover: Handover | None = None
        self._import: Iterator[Any] | None = None
        self._outcome = ""
        self._cleaning: threading.Thread | None = None
        self._startProblem: str | None = None
        self._windingDown: str | None = None
        self._dropped: Path | None = None
        self._ending = False
        self._killAt = 0.0
        self._killed = False
        self._news = False
        self._finished: _Finished | None = None
        self._swept = False
        client.received.connect(self._onMessage)
        client.ended.connect(self._onWorkerEnded)

    @property
    def busy(self) -> bool:
        """True while a job is active."""
        return self.job is not None and self.job.active

    @property
    def importing(self) -> bool:
        """True while a result is brought into the scene, one piece in each call of `poll`."""
        return self._import is not None

    def devices(self) -> list[dict]:
        """The worker's devices ({id, name, totalBytes, freeBytes}); empty before its hello."""
        return self.client.hello["devices"] if self.client.hello else []

    def warmUp(self) -> None:
        """Start the worker, so that it is ready when it is needed; the first time, remove what is left of old runs."""
        if not self._swept:
            self._swept = True
            leftovers.sweep(self._temporaryFolder)
        self.workerProblem = None
        self.client.start()

    def requireIdle(self) -> None:
        """Raises RuntimeError while a job is active."""
        if self.busy:
            raise RuntimeError("A run is under way.")

    def stopWorker(self) -> None:
        """End the worker, and with it a cancelled job that it still winds down; the next run starts another one.

        Raises RuntimeError while a job is active.
        """
        self.requireIdle()
        self.client.stop()
        self._ending = False
        self._woundDown()  # else the next worker would be ended in its place
        self._startProblem = None

    def submit(self, volumeNode: Any, choices: Choices) -> Job:
        """Begin a run and return its job. Raises HandoverError, one sentence, if the volume cannot be used.

        Raises RuntimeError while another job is active.
        """
        self.requireIdle()
        handover = Handover(volumeNode)
        try:
            folder = Path(tempfile.mkdtemp(prefix=leftovers.PREFIX, dir=self._temporaryFolder))
        except OSError as error:
            raise HandoverError(errors.explain(error)[1]) from error
        self._finished = None
        self.job = Job(volumeNode.GetName(), choices, folder, started=self._clock(), message=_("Preparing the volume"))
        self._handover = handover
        handover.startWriting(folder / INPUT_NAME)
        self.warmUp()
        self.changed.emit()
        return self.job

    def recover(self) -> None:
        """Bring the finished samples of the run that failed into the scene; the job goes on as if it were stopped.

        Raises HandoverError, one sentence, if its volume is not there or cannot be used any more, and RuntimeError
        while a job is active or when nothing was finished.
        """
        self.requireIdle()
        if self._finished is None:
            raise RuntimeError("No finished samples are left of a failed run.")
        found = self._finished
        volumeNode = found.volume.Get()
        if volumeNode is None or volumeNode.GetScene() is None:
            sentence = _("The volume '{name}' is no longer in the scene; the finished samples are kept in {folder}.")
            raise HandoverError(sentence.format(name=self.job.volumeName, folder=found.folder))
        self._handover = Handover(volumeNode)
        self._finished, self.job.recoverable = None, 0
        self.job.state, self.job.report, self.job.message = "running", found.report, _("Showing the result")
        self._outcome = "partial"
        self._import = self._importer.importSteps(volumeNode, found.folder, found.report)
        self.changed.emit()

    def cancel(self, keep: bool = False) -> None:
        """Stop the active job; with `keep` the samples drawn so far become its result, otherwise nothing is left."""
        job = self.job
        if job is None or not job.active:
            return
        if keep and job.finishedSamples:
            self.client.send({"type": "cancel", "job": job.id, "keep": True})
            job.message = _("Finishing with the samples drawn so far")
            self.changed.emit()
        else:
            self._drop(_("Cancelled; nothing was changed."))

    def abandon(self) -> None:
        """Give up the active job because its scene goes away."""
        if self.busy:
            self._drop(_("Cancelled, because the scene was closed."))

    def close(self) -> None:
        """Give up everything, end the worker and remove what is left on disk; waits for that a little."""
        self.abandon()
        for thread in (self.client.stop(), self._cleaning):
            if thread is not None:
                thread.join(CLOSE_SECONDS)

    def poll(self) -> None:
        """Move everything on by one step; call it every 100 ms or so. Whatever fails in it ends the job."""
        try:
            self._moveOn()
        except Exception as error:
            logging.exception("A run failed in Slicer.")
            if self.busy:
                wasRefused = self.job.state == "queued"
                self._letGo()
                self._fail(errors.explain(error)[1], wasRefused)
        if self._news:
            self._news = False
            self.changed.emit()

    def _moveOn(self) -> None:
        self.client.poll()
        if (self._windingDown or self._ending) and self._clock() > self._killAt:
            self._endOverdueWorker()
        if self._import is not None:
            self._importStep()
        elif self.busy and self.job.state == "queued":
            self._launchIfReady()

    def _endOverdueWorker(self) -> None:
        """Kill it; and leave it behind if not even that helps, as where it waits within a driver."""
        if self._killed:
            self.client.stop()
            self._onWorkerEnded("")
        else:
            self._killed, self._killAt = True, self._clock() + CANCEL_SECONDS
            self.client.kill()

    def _launchIfReady(self) -> None:
        job = self.job
        if self._handover.writing:
            return
        problem = self._handover.problem()
        if problem is not None:
            self._finish("failed", problem)
        elif self.client.hello is None or self._ending:
            self._say(_("Starting the background process"))
        elif self._windingDown is None:
            self.client.send(
                {
                    "type": "run",
                    "job": job.id,
                    "folder": str(job.folder),
                    "volume": str(job.folder / INPUT_NAME),
                    "model": job.choices.model,
                    "samples": job.choices.samples,
                    "steps": job.choices.steps,
                    "seed": job.choices.seed,
                    "device": job.choices.device,
                    "regionMm": job.choices.regionMm,
                    "source": self._handover.source,
                }
            )
            job.state = "running"

    def _onMessage(self, message: dict) -> None:
        self._news = True
        kind = message["type"]
        if message.get("ends"):  # it has lost its GPU: another run waits for another worker
            self._ending, self._killed = True, False
            self._killAt = self._clock() + CANCEL_SECONDS
        if kind == "hello":
            self._startProblem = None
            problem = messages.compatible(message)
            if problem is not None:
                self.client.stop()
                self._onWorkerEnded(problem)
        elif kind == "error" and message["job"] is None:
            logging.error("Worker: %s\n%s", message["message"], message["details"])
            if self.client.hello is None:  # it says why it cannot start, and ends
                self._startProblem = message["message"]
        elif message["job"] == self._windingDown:
            if kind in ("done", "partial", "cancelled", "error") and message.get("over") is not False:
                self._woundDown()
        elif self.busy and message["job"] == self.job.id:
            self._onJobMessage(message)

    def _onJobMessage(self, message: dict) -> None:
        job = self.job
        kind = message["type"]
        if kind == "progress":
            job.message = wording.progressText(message)
            if message["stage"] == "sampling":  # `sample` is the one being drawn
                job.finishedSamples = max(job.finishedSamples, message["sample"] - 1)
            job.secondsLeft = message["secondsLeft"]
            job.note = message.get("note") or ""
            if job.secondsLeft is not None:
                elapsed = self._clock() - job.started
                # A bar that goes back tells the person nothing that the time left does not tell better.
                job.fraction = max(job.fraction or 0.0, elapsed / max(elapsed + job.secondsLeft, 1e-3))
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
            job.report = message["report"]
            job.message = _("Showing the result")
            job.secondsLeft = None
            self._outcome = kind
            self._import = self._importer.importSteps(self._handover.volumeNode, job.folder, job.report)

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
            sentences = [wording.doneText(job.report, self._clock() - job.started)]
        except Exception as error:  # whatever it is, the worker's files are whole and the person must learn where
            logging.exception("The result could not be brought into the scene.")
            self._failImport(str(error))
            return
        self._closeImport()
        if self._handover.changed():
            sentences.append(_("The volume was modified meanwhile; the result fits it as it was at the start."))
        self._finish(self._outcome, " ".join(sentences))

    def _failImport(self, reason: str) -> None:
        self._closeImport()
        sentence = _("The result could not be shown ({reason}); its files are kept in {folder}.")
        self._finish("failed", sentence.format(reason=reason, folder=self.job.folder), keepFiles=True)

    def _onWorkerEnded(self, sentence: str) -> None:
        self._news = True
        if self._windingDown is not None or self._ending:  # over the run before, which is no news for the next one
            self._ending = False
            self._woundDown()
            if self.busy:
                self.client.start()
            return
        self.workerProblem = self._startProblem or sentence
        self._startProblem = None
        if self.busy and self._import is None:
            self._fail(self.workerProblem, wasRefused=self.job.state == "queued")

    def _fail(self, sentence: str, wasRefused: bool) -> None:
        """End a run that failed. What it has finished stays for `recover`; nothing has, where it was refused."""
        job, volumeNode = self.job, self._handover.volumeNode
        found = None if wasRefused else leftovers.newestFinished(job.folder)
        if found is None:
            self._finish("failed", sentence)
            return
        folder, report = found
        volume = vtk.vtkWeakReference()
        volume.Set(volumeNode)
        self._finished = _Finished(folder, report, volume)
        job.recoverable = report["samples"]
        kept = _("{count} samples were finished; they can be shown, and are kept in {folder} for a week.")
        kept = kept if job.recoverable > 1 else _("One sample was finished; it can be shown, and is kept in {folder}.")
        sentence = f"{sentence} {kept.format(count=job.recoverable, folder=folder)}"
        self._finish("failed", sentence, keepFiles=True)

    def _letGo(self) -> None:
        """Tell the worker, where it still computes, that nobody waits for the job any more."""
        job = self.job
        if job.state == "running" and self._import is None:
            with contextlib.suppress(Exception):
                self.client.send({"type": "cancel", "job": job.id, "keep": False})
            self._windingDown, self._dropped, self._killed = job.id, job.folder, False
            self._killAt = self._clock() + CANCEL_SECONDS
        self._closeImport()

    def _drop(self, sentence: str) -> None:
        self._letGo()
        self._finish("cancelled", sentence)
        self.changed.emit()

    def _woundDown(self) -> None:
        """A cancelled run is over in the worker, too, which may have written something after its folder was removed."""
        self._windingDown, dropped, self._dropped = None, self._dropped, None
        if dropped is not None and dropped.exists():
            self._cleaning = removeSoon(dropped)

    def _closeImport(self) -> None:
        if self._import is not None:
            self._import.close()
            self._import = None

    def _say(self, message: str) -> None:
        if self.job.message != message:
            self.job.message = message
            self._news = True

    def _finish(self, state: str, message: str, keepFiles: bool = False) -> None:
        job = self.job
        job.state = state
        job.message = message
        self._news = True
        handover, self._handover = self._handover, None  # it holds the voxels of a volume that may be removed next
        self._cleaning = handover.discard(job.folder / INPUT_NAME if keepFiles else job.folder)
