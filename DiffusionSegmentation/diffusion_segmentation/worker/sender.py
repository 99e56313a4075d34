"""What the worker says: its messages, built and sent whole, from whichever thread, which never waits for the client.

A thread of its own writes them. A client that reads no more, because it is stopped or hangs, holds up neither the run
nor the listener, which must still notice the end of stdin.
"""

from __future__ import annotations

import collections
import contextlib
import io
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import explain
from ..runtime.stdio import write_all
from . import protocol as messages

SECONDS_BETWEEN_PROGRESS = 0.1

MAX_DETAILS = 100_000
"""Characters of a traceback that are sent; its end says most."""

MAX_SENTENCE = 2_000
"""Characters of a sentence that are sent; some name what the client asked for, which may be of any length."""

PROGRESS_BYTES = 64 * 2**10
"""While so much waits to be read, progress is left out: what it tells is old before anybody reads it."""

MAX_WAITING_BYTES = 16 * 2**20
"""A client that leaves so much unread does not read any more."""


class Outbox:
    """Sends messages through `stream`; calls `on_lost_client` when nobody reads any more."""

    def __init__(self, stream: io.RawIOBase, on_lost_client: Callable[[], None]) -> None:
        self._stream = stream
        self._on_lost_client = on_lost_client
        self._waiting: collections.deque[bytes] = collections.deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()  # guards the two above
        self._stage: tuple[str, str] | None = None
        self._next_progress = 0.0
        self._held: Mapping[str, Any] | None = None
        threading.Thread(target=self._write, name="outbox", daemon=True).start()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send `message` after those before it; returns at once. Raises MessageError if it is none."""
        line = messages.encode(message)
        with self._changed:
            self._waiting.append(line)
            self._waiting_bytes += len(line)
            lost = self._waiting_bytes > MAX_WAITING_BYTES
            self._changed.notify_all()
        if lost:
            self._on_lost_client()

    def flush(self, seconds: float) -> None:
        """Wait until all is written, but no longer than `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, seconds)

    def hello(self, versions: Mapping[str, str], devices: list[dict[str, Any]]) -> None:
        self.send({"type": "hello", "protocol": messages.PROTOCOL, "versions": versions, "devices": devices})

    def progress(self, job: str, now: Any) -> None:
        """Send the `Progress` of a job: at most ten a second, but the first and the last of every stage always.

        This and `last` must not be called by two threads at a time.
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
        if now.note:
            message["note"] = now.note
        if self._stage != (job, now.stage):
            self._release()
            self._stage = (job, now.stage)
        elif time.monotonic() < self._next_progress or self._waiting_bytes > PROGRESS_BYTES:
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

    def _write(self) -> None:
        """The outbox's thread: write what waits, one message after another."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                line = self._waiting[0]
            try:
                write_all(self._stream, line)
            except OSError:
                self._on_lost_client()
                return
            with self._changed:  # only now: `flush` waits for what is being written, too
                self._waiting.popleft()
                self._waiting_bytes -= len(line)
                self._changed.notify_all()


def error_message(job: str | None, error: BaseException) -> dict[str, Any]:
    """Return the message for `error`, and write its traceback to stderr, which is the log."""
    kind, sentence = explain(error)
    details = "".join(traceback.format_exception(error))[-MAX_DETAILS:]
    with contextlib.suppress(OSError, ValueError):  # the log may lie on the very disk that is full
        print(details, file=sys.stderr, flush=True)
    message = {"type": "error", "job": job, "kind": kind, "message": sentence[:MAX_SENTENCE], "details": details}
    try_device = getattr(error, "try_device", None)
    return message | ({"tryDevice": try_device} if try_device else {})
