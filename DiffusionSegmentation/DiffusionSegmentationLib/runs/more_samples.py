"""Questions that need more samples than a result keeps: its volume is segmented again with the same model and seed.

The samples of an updated result are drawn given its facts, as those that it keeps.
"""

import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_segmentation import errors

from ..i18n import tr as _
from ..scene.display import VOLUME_ROLE
from ..scene.facts import storedFacts
from ..scene.result_nodes import reportOf
from . import status_texts, temporary_files
from .handover import INPUT_NAME, MASK_NAME, Handover, HandoverError
from .job import Choices
from .models import Entry

COUNTS = (16, 32, 64)
"""Numbers of samples to choose from. One is chosen before a question is asked, so that nobody draws until they like the
answer."""


def modelOf(report: Mapping[str, Any], entries: Sequence[Entry]) -> Entry | None:
    """The model that drew the samples of a result, if it is installed and segments a single volume."""
    if not status_texts.isSampled(report) or "seed" not in report:
        return None
    digest = report["model"].get("sha256")
    return next((entry for entry in entries if digest and entry.digest == digest and len(entry.inputs) == 1), None)


class MoreSamples:
    """The volume of a result, and the thread that writes it to `folder`, to draw `count` samples of it.

    The first samples are those of the result, because the seed and the device are the same.
    """

    def __init__(self, segmentationNode: Any, model: Entry, count: int, temporaryFolder: str | None) -> None:
        """Raises HandoverError, one sentence."""
        self._report = report = reportOf(segmentationNode)
        device = report.get("device") or "auto"
        self._choices = Choices(model.key, count, report["steps"] or None, report["seed"], device)
        try:
            self._facts = storedFacts(segmentationNode)
        except LookupError as error:
            raise HandoverError(str(error)) from error
        given = [] if self._facts is None else [self._facts]
        self._handover = Handover(segmentationNode.GetNodeReference(VOLUME_ROLE), given)
        try:
            self.folder = Path(tempfile.mkdtemp(prefix=temporary_files.PREFIX, dir=temporaryFolder))
        except OSError as error:
            raise HandoverError(errors.explain(error)[1]) from error
        self._handover.startWriting(self.folder)

    @property
    def writing(self) -> bool:
        return self._handover.writing

    @property
    def problem(self) -> str | None:
        """After writing: why the files cannot be used, one sentence, or None."""
        return self._handover.problem()

    def request(self, job: str, questions: list[str]) -> dict[str, Any]:
        """The message that asks the worker."""
        message = {"type": "run", "job": job, "folder": str(self.folder), "ask": questions}
        if self._facts is not None:
            message |= {"type": "update", **self._facts.fields(self.folder / MASK_NAME.format(number=0))}
        files = {"volume": str(self.folder / INPUT_NAME), "source": self._handover.source}
        return message | files | self._choices.asMessage()

    def statusText(self, progress: Mapping[str, Any]) -> str:
        text = status_texts.progressText(progress)
        if progress["secondsLeft"] is None:
            return text
        duration = status_texts.durationText(progress["secondsLeft"])
        return _("{activity}, {duration} left").format(activity=text, duration=duration)

    def answers(self, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The answers in the worker's last message. Raises HandoverError where they are not about this result."""
        report = message["report"]
        if any(report["input"][key] != self._report["input"][key] for key in ("sha256", "spacing_mm")):
            raise HandoverError(
                _("The volume was changed since this result, so its samples cannot be drawn again; segment it again.")
            )
        return report.get("answers", [])

    def discard(self) -> threading.Thread:
        """Stop writing and remove the folder, on the returned thread."""
        return self._handover.discard(self.folder)
