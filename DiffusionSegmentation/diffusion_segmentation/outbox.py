"""What the worker says: its messages, built and sent whole, from whichever thread."""

from __future__ import annotations

import io
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from . import messages
from .errors import explain
from .streams import write_all

SECONDS_BETWEEN_PROGRESS = 0.1

MAX_DETAILS = 100_000
"""Characters of a traceback that are sent; its end says most."""


class Outbox:
    """Sends messages through `stream`; calls `on_lost_client` when nobody reads any more."""

    def __init__(self, stream: io.RawIOBase, on_lost_client: Callable[[], None]) -> None:
        self._stream = stream
        self._on_lost_client = on_lost_client
        self._lock = threading.Lock()
        self._stage: tuple[str, str] | None = None
        self._next_progress = 0.0
        self._held: Mapping[str, Any] | None = None

    def send(self, message: Mapping[str, Any]) -> None:
        """Send `message` now. Raises MessageError if it is none; nothing is sent then."""
        line = messages.encode(message)
        try:
            with self._lock:
                write_all(self._stream, line)
        except OSError:
            self._on_lost_client()

    def hello(self, versions: Mapping[str, str], devices: list[dict[str, Any]]) -> None:
        self.send({"type": "hello", "protocol": messages.PROTOCOL, "versions": versions, "devices": devices})

    def progress(self, job: str, now: Any) -> None:
        """Send the `Progress` of a job: at most ten a second, but the first and the last of every stage always.

        Only the thread that runs the jobs may call this.
        """
        message = {
            "type": "progress",
            "job": job,
            "stage": now.stage,
            "sample": now.sample,
            "samples": now.samples,
            "step": now.step,
            "steps": now.steps,
            "secondsLeft": now.seconds_left,
        }
        if self._stage != (job, now.stage):
            self._release()
            self._stage = (job, now.stage)
        elif time.monotonic() < self._next_progress:
            self._held = message
            return
        self._held = None
        self.send(message)
        self._next_progress = time.monotonic() + SECONDS_BETWEEN_PROGRESS

    def preview(self, job: str, now: Any) -> None:
        """Send the `Preview` of a job."""
        paths = {"segmentation": str(now.segmentation), "entropy": str(now.entropy)}
        self.send({"type": "preview", "job": job, **paths, "samples": now.samples})

    def last(self, message: Mapping[str, Any]) -> None:
        """Send the last message of a job, after the progress that is still held back."""
        self._release()
        self.send(message)

    def refuse(self, sentence: str) -> None:
        """Answer what no job asked for."""
        self.send(error_message(None, messages.MessageError(sentence)))

    def _release(self) -> None:
        if self._held:
            self.send(self._held)
            self._held = None


def error_message(job: str | None, error: BaseException) -> dict[str, Any]:
    """Return the message for `error`, and write its traceback to stderr, which is the log."""
    kind, sentence = explain(error)
    details = "".join(traceback.format_exception(error))[-MAX_DETAILS:]
    print(details, file=sys.stderr, flush=True)
    return {"type": "error", "job": job, "kind": kind, "message": sentence, "details": details}
