"""Questions about a result: its segmentation and samples are written as files for the worker, which measures them.

Nothing blocks: `Asker.poll`, called by a timer, advances the work. Voxels are not copied; the files are written on
another thread. Independent of Qt.
"""

import json
import logging
import tempfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_segmentation import errors

from ..i18n import tr as _
from ..scene import answers, nrrd_files, sequences
from ..scene.label_map import Labels
from ..scene.questions import Question
from ..scene.result_nodes import SAMPLES_ROLE, reportOf
from ..signals import Signal
from . import temporary_files
from .handover import HandoverError
from .job import usableDevice
from .models import Entry
from .more_samples import MoreSamples
from .runner import Runner

FACTORS = [f"interval{level}_{key}" for level in (50, 90) for key in ("factor", "floor")]
TABLE_KEYS = ("label", "id", "name", "method", *FACTORS)
"""Entries of a structure in the report that the worker needs."""


def problemOf(segmentationNode: Any) -> str | None:
    """Why no questions about a result can be answered, one sentence, or None. Reads no voxels."""
    report = reportOf(segmentationNode)
    if not report["samples"]:
        return _("This result has no samples, and only samples can be measured.")
    samplesNode = segmentationNode.GetNodeReference(SAMPLES_ROLE)
    count = samplesNode.GetNumberOfDataNodes() if samplesNode is not None else 0
    if not count:
        return _("The samples of this result were removed.")
    if count == 1:
        return _("This result has a single sample; questions need two or more.")
    try:
        Labels(segmentationNode)
    except LookupError as error:
        return str(error)
    return None


def _tooOld() -> str:
    return _("The background process is of an older version that cannot measure; restart Slicer.")


class ResultFiles:
    """The segmentation as computed and the samples of a result, and the thread that writes them to `folder`.

    Their arrays live on if the nodes are removed from the scene.
    """

    def __init__(self, segmentationNode: Any, temporaryFolder: str | None) -> None:
        """Raises HandoverError, one sentence."""
        problem = problemOf(segmentationNode)
        if problem is not None:
            raise HandoverError(problem)
        self._labels = Labels(segmentationNode)
        self._samples = sequences.arrays(segmentationNode.GetNodeReference(SAMPLES_ROLE))
        if any(sample.shape != self._labels.shape for sample in self._samples):
            raise HandoverError(_("The samples of this result were resampled to another grid."))
        table = reportOf(segmentationNode)["volumes"]
        self._table = [{key: entry.get(key) for key in TABLE_KEYS} for entry in table]
        try:
            self.folder = Path(tempfile.mkdtemp(prefix=temporary_files.PREFIX, dir=temporaryFolder))
        except OSError as error:
            raise HandoverError(errors.explain(error)[1]) from error
        self.problem: str | None = None
        """After writing: why the files cannot be used, one sentence, or None."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, name="questions", daemon=True)
        self._thread.start()

    @property
    def writing(self) -> bool:
        return self._thread.is_alive()

    def request(self, job: str, questions: list[str]) -> dict[str, Any]:
        """The message that asks the worker."""
        return {"type": "ask", "job": job, "folder": str(self.folder), "questions": questions}

    def statusText(self, progress: Mapping[str, Any]) -> str:
        text = _("Measuring sample {number} of {count}")
        return text.format(number=progress["sample"], count=progress["samples"])

    def answers(self, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The answers in the worker's last message."""
        return message["answers"]

    def discard(self) -> threading.Thread:
        """Stop writing and remove the folder, on the returned thread."""
        self._stop.set()
        return temporary_files.removeInBackground(self.folder, after=self._thread.join)

    def _write(self) -> None:
        matrix, stop = self._labels.ijkToRAS, self._stop
        try:
            nrrd_files.write(self.folder / "segmentation.seg.nrrd", self._labels.consensus(), matrix, stop)
            nrrd_files.writeSequence(self.folder / "samples.seq.nrrd", self._samples, matrix, stop)
            text = json.dumps({"volumes": self._table}, ensure_ascii=False)
            temporary_files.writeCompletely(self.folder / "report.json", text)
        except (OSError, MemoryError) as error:
            self.problem = errors.explain(error)[1]


class Asker:
    """Asks questions about one result at a time and stores the answers in its report.

    Signal `changed`: `status`, `problem` or the stored answers have changed. `status` is what is being done, empty
    while nothing is; `problem` why the last questions were not answered, one sentence, or empty.
    """

    def __init__(self, runner: Runner, temporaryFolder: str | None = None) -> None:
        self.changed = Signal()
        self.status = self.problem = ""
        self._runner, self._client = runner, runner.client
        self._temporaryFolder = temporaryFolder
        self._files: ResultFiles | MoreSamples | None = None
        self._node: Any = None
        self._questions: Sequence[Question] = ()
        self._job = ""
        self._hello: Mapping[str, Any] | None = None
        """The hello of the worker that was asked; None until it is."""
        self._client.received.connect(self._onMessage)

    @property
    def busy(self) -> bool:
        return self._files is not None

    def ask(
        self,
        segmentationNode: Any,
        questions: Sequence[Question],
        model: Entry | None = None,
        count: int = 0,
    ) -> None:
        """Start to ask `questions` about a result; with `count` of that many samples, which `model` draws.

        Raises HandoverError, one sentence; RuntimeError while busy.
        """
        if self.busy:
            raise RuntimeError("Questions are being answered.")
        if model is not None and count:
            self._files = MoreSamples(segmentationNode, model, count, self._temporaryFolder)
        else:
            self._files = ResultFiles(segmentationNode, self._temporaryFolder)
        self._node, self._questions = segmentationNode, questions
        self._job, self._hello = uuid.uuid4().hex, None
        self.problem = ""
        if not self._client.running:
            self._runner.warmUp()
        self._setStatus(_("Writing the samples"))

    def cancel(self) -> None:
        """Give up the questions that are being answered."""
        if self.busy:
            if self._hello is not None and self._client.hello is self._hello:
                self._client.send({"type": "cancel", "job": self._job, "keep": False})
            self._end()

    def poll(self) -> None:
        """Advance the work by one step; call it about every 100 ms, beside `Runner.poll`."""
        if not self.busy:
            return
        if self._node.GetScene() is None:
            self.cancel()
        elif self._hello is not None:
            if self._client.hello is not self._hello:
                self._end(_("The background process ended before it answered; ask again."))
        elif self._files.writing:
            pass
        elif self._files.problem:
            self._end(self._files.problem)
        elif self._client.hello is not None:
            self._hello = self._client.hello
            texts = [question.text() for question in self._questions]
            message = self._files.request(self._job, texts)
            if "device" in message:  # that of the run, which may have been on another computer
                message["device"] = usableDevice(message["device"], self._hello["devices"])
            self._client.send(message)
            self._setStatus(_("Measuring"))
        elif self._client.running:
            self._setStatus(_("Starting the background process"))
        else:
            self._end(self._runner.workerProblem or _("The background process could not be started."))

    def _onMessage(self, message: Mapping[str, Any]) -> None:
        kind = message["type"]
        if self._hello is None or message.get("job") not in (self._job, None):
            return
        if kind == "progress":
            self._setStatus(self._files.statusText(message))
        elif kind in ("answers", "done"):
            self._end(self._store(message))
        elif kind == "error" and message["job"] is None:  # the runner logs it
            self._end(_tooOld())
        elif kind == "error":
            logging.error("Worker: %s\n%s", message["message"], message["details"])
            self._end(message["message"])

    def _store(self, message: Mapping[str, Any]) -> str:
        """Store the answers in the worker's last message; returns why they cannot be used, one sentence, or nothing."""
        try:
            pairs = zip(self._files.answers(message), self._questions, strict=True)
            answered = [answer | question.facts() for answer, question in pairs]
        except HandoverError as error:
            return str(error)
        except ValueError:
            return _tooOld()
        if self._node.GetScene() is not None:
            answers.store(self._node, answered)
        return ""

    def _setStatus(self, status: str) -> None:
        if status != self.status:
            self.status = status
            self.changed.emit()

    def _end(self, problem: str = "") -> None:
        self._files.discard()
        self._files = self._node = self._hello = None
        self.status, self.problem = "", problem
        self.changed.emit()
