"""Sending of messages from the worker to its client, from any thread and without blocking.

A thread of its own writes them, so that a client that is stopped or hangs blocks neither the run nor the listener,
which must still detect the end of stdin.
"""

from __future__ import annotations

import collections
import io
import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import explain
from ..runtime.stdio import write_all
from . import protocol as messages

SECONDS_BETWEEN_PROGRESS = 0.1

MAX_DETAILS = 100_000  # maximum characters of a traceback; the end is kept
MAX_SENTENCE = 2_000  # maximum characters of an error sentence, which can quote a request of any length
PROGRESS_BYTES = 64 * 2**10  # progress is skipped while more bytes are queued
MAX_QUEUED_BYTES = 16 * 2**20  # A client with more unread bytes is considered lost

logger = logging.getLogger(__name__)


class MessageSender:
    """Sends messages through `stream`; calls `on_lost_client` when the client no longer reads."""

    def __init__(self, stream: io.RawIOBase, on_lost_client: Callable[[], None]) -> None:
        self._stream = stream
        self._on_lost_client = on_lost_client
        self._queue: collections.deque[bytes] = collections.deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()  # guards _queue and _queued_bytes
        self._stage: tuple[str, str] | None = None
        self._next_progress = 0.0
        self._delayed: Mapping[str, Any] | None = None
        threading.Thread(target=self._write, name="sender", daemon=True).start()

    def send(self, message: Mapping[str, Any]) -> None:
        """Queue `message`. Raises MessageError if it is invalid."""
        line = messages.encode(message)
        with self._changed:
            self._queue.append(line)
            self._queued_bytes += len(line)
            lost = self._queued_bytes > MAX_QUEUED_BYTES
            self._changed.notify_all()
        if lost:
            self._on_lost_client()

    def flush(self, seconds: float) -> None:
        """Wait until all messages are written, at most `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queue, seconds)

    def progress(self, job: str, progress: Any) -> None:
        """Send the `Progress` of a job, at most ten a second, but always the first and last of each stage.

        This and `last` must not run in two threads at the same time.
        """
        fields = {name: getattr(progress, name) for name in ("stage", "sample", "samples", "step", "steps")}
        note = {"note": progress.note} if progress.note else {}
        message = {"type": "progress", "job": job, **fields, "secondsLeft": progress.seconds_left, **note}
        if self._stage != (job, progress.stage):
            self._send_delayed()
            self._stage = (job, progress.stage)
        elif time.monotonic() < self._next_progress or self._queued_bytes > PROGRESS_BYTES:
            self._delayed = message
            return
        self._delayed = None
        self.send(message)
        self._next_progress = time.monotonic() + SECONDS_BETWEEN_PROGRESS

    def preview(self, job: str, preview: Any) -> None:
        paths = {"segmentation": str(preview.segmentation), "entropy": str(preview.entropy)}
        self.send({"type": "preview", "job": job, **paths, "samples": preview.samples})

    def last(self, message: Mapping[str, Any]) -> None:
        """Send the last message of a job, after the delayed progress."""
        self._send_delayed()
        self.send(message)

    def refuse(self, sentence: str) -> None:
        """Send an error that belongs to no job."""
        self.send(error_message(None, messages.MessageError(sentence)))

    def _send_delayed(self) -> None:
        if self._delayed:
            self.send(self._delayed)
            self._delayed = None

    def _write(self) -> None:
        """The sender's thread: write the queued messages one after another."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
                line = self._queue[0]
            try:
                write_all(self._stream, line)
            except OSError:
                self._on_lost_client()
                return
            with self._changed:  # removed after writing, because `flush` waits for the current message too
                self._queue.popleft()
                self._queued_bytes -= len(line)
                self._changed.notify_all()


def error_message(job: str | None, error: BaseException) -> dict[str, Any]:
    """The message for `error`; its traceback is logged."""
    kind, sentence = explain(error)
    details = "".join(traceback.format_exception(error))[-MAX_DETAILS:]
    logger.error(details)
    message = {"type": "error", "job": job, "kind": kind, "message": sentence[:MAX_SENTENCE], "details": details}
    try_device = getattr(error, "try_device", None)
    return message | ({"tryDevice": try_device} if try_device else {})
