"""The background process: runs jobs for Slicer, one after another, warm between them.

The main thread imports the engine, says hello and runs the jobs. The listener reads stdin, so that a cancel arrives
during a run; it answers what needs no engine, and ends the process soon after stdin has ended, whatever the main thread
is doing. A third thread, the outbox's, writes stdout.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NoReturn

from ..errors import Cancelled, DeviceLostError, is_out_of_memory
from ..runtime.stdio import claim_stdin, claim_stdout, lines
from ..runtime.versions import versions
from . import protocol as messages
from .sender import Outbox, error_message

IDLE_SECONDS = 600.0
"""Without a job for so long, the model's memory goes back to the computer."""

GRACE_SECONDS = 0.5
"""So long after the end of stdin a run may still end by itself; a pass of a network can take longer than this."""

ANSWER_SECONDS = 0.5
"""So long a dropped run may take to end; then it is answered for, and its end after a pass of a network is said."""

FLUSH_SECONDS = 2.0
"""So long a worker without an engine waits until the client has read why."""


def main() -> NoReturn:
    """Serve stdin and stdout until stdin ends or `bye` comes, then end the process with the status of `serve`."""
    stdin, stdout = claim_stdin(), claim_stdout()
    status = Worker(stdin, stdout).serve()
    # Without taking the interpreter down: with torch in it that takes up to 2 s on a busy machine, and keeps nothing.
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(status)


@dataclass
class _Run:
    message: Mapping[str, Any]
    started: bool = False
    cancel: Literal["keep", "drop"] | None = None
    answered: bool = False
    """It is over for the client, which hears of nothing but its end now."""


class Worker:
    """Serves one client.

    `engine` is what runs the jobs: the module `diffusion_segmentation.segmentation.pipeline`, imported when
    it is needed, or another object with its `Request`, `ModelCache`, `segment` and `devices`.
    """

    def __init__(
        self,
        stdin: io.RawIOBase,
        stdout: io.RawIOBase,
        engine: ModuleType | Any = None,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._stdin = stdin
        self._out = Outbox(stdout, on_lost_client=end_process)
        self._engine = engine
        self._idle_seconds = idle_seconds
        self._tasks: queue.SimpleQueue[_Run | Literal["unload", "end"]] = queue.SimpleQueue()
        self._runs: dict[str, _Run] = {}
        self._ended: set[str] = set()
        self._lock = threading.Lock()  # of _runs and what they hold, and of _ended
        self._finished = threading.Event()
        self._device_lost = False

    def serve(self) -> int:
        """Say hello, run jobs until the client leaves, and return the exit status: 0, or 1 without an engine.

        A worker that has lost its GPU ends, too, with 1: only another process can use it again.
        """
        threading.Thread(target=self._listen, name="listener", daemon=True).start()
        try:
            engine = self._engine or importlib.import_module("diffusion_segmentation.segmentation.pipeline")
            models = engine.ModelCache()
            self._out.hello(versions(), engine.devices())
        except Exception as error:
            self._out.send(error_message(None, error))
            self._out.flush(FLUSH_SECONDS)
            return 1
        self._serve(engine, models)
        self._out.flush(GRACE_SECONDS)
        self._finished.set()
        return int(self._device_lost)

    def _serve(self, engine: ModuleType | Any, models: Any) -> None:
        loaded = False
        while True:
            try:
                task = self._tasks.get(timeout=self._idle_seconds if loaded else None)
            except queue.Empty:
                task = "unload"
            if task == "end":
                return
            if task == "unload":
                models.clear()
                loaded = False
            elif self._start(task):
                loaded = True
                self._end(task, self._outcome(task, engine, models))
                if self._device_lost:
                    return

    def _start(self, run: _Run) -> bool:
        """Mark `run` as started; False if it was cancelled while it waited."""
        with self._lock:
            run.started = run.message["job"] in self._runs
            return run.started

    def _tell(self, run: _Run, send: Callable[[str, Any], None], now: Any) -> None:
        """Send what `run` says, unless it is answered; the outbox never waits, so the lock is held shortly."""
        with self._lock:
            if not run.answered:
                send(run.message["job"], now)

    def _end(self, run: _Run, message: Mapping[str, Any]) -> None:
        """Forget a run that is over, and send its last message unless it is answered."""
        job = run.message["job"]
        with self._lock:
            del self._runs[job]
            self._ended.add(job)
            if run.cancel == "drop":  # also where that came too late for the run, or made it fail
                message = {"type": "cancelled", "job": job}
            run.answered = True
            self._out.last(message | ({"ends": True} if self._device_lost else {}))

    def _answer(self, run: _Run) -> None:
        """Answer for a dropped run that has not come to its end yet; its end is said, too, for a client that waits."""
        with self._lock:
            if not run.answered:
                run.answered = True
                self._out.last({"type": "cancelled", "job": run.message["job"], "over": False})

    def _outcome(self, run: _Run, engine: ModuleType | Any, models: Any) -> dict[str, Any]:
        """Run one job and return its last message."""
        job = run.message["job"]
        try:
            outcome = engine.segment(
                _request(run.message, engine),
                progress=lambda now: self._tell(run, self._out.progress, now),
                preview=lambda now: self._tell(run, self._out.preview, now),
                cancel=lambda: run.cancel,
                models=models,
            )
            kind = "partial" if outcome.partial else "done"
            message = {"type": kind, "job": job, "folder": run.message["folder"], "report": outcome.report}
            messages.encode(message)  # a report that cannot be sent is an error of this job, not the end of the worker
            return message
        except Cancelled:
            return {"type": "cancelled", "job": job}
        except Exception as error:
            message = error_message(job, error)
            out_of_memory = is_out_of_memory(error)
            self._device_lost = isinstance(error, DeviceLostError)
        if out_of_memory:  # after the handler, whose traceback holds the arrays of the failed run
            models.clear()
            gc.collect()
        return message

    def _listen(self) -> None:
        """The listener's thread: answer or queue each line, then see to it that the process ends."""
        for line in lines(self._stdin, messages.MAX_LINE_BYTES):
            try:
                message = messages.decode(line, messages.TO_WORKER)
            except messages.MessageError as error:
                job = error.job if error.job and self._is_new(error.job) else None
                self._out.send(error_message(job, error))
                continue
            if message["type"] == "bye":
                break
            self._take(message)
        with self._lock:
            waiting = [job for job, run in self._runs.items() if not run.started]
            for job in waiting:
                del self._runs[job]
            for run in self._runs.values():
                run.cancel = "drop"
        self._tasks.put("end")
        if not self._finished.wait(GRACE_SECONDS):
            end_process()

    def _take(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "unload":
            self._tasks.put("unload")
        elif message["type"] == "cancel":
            self._cancel(message["job"], keep=message["keep"])
        elif self._is_new(message["job"]):
            run = _Run(message)
            with self._lock:
                self._runs[message["job"]] = run
            self._tasks.put(run)
        else:
            self._out.refuse(f"There was a job '{message['job']}' already; give each job a name of its own.")

    def _cancel(self, job: str, keep: bool) -> None:
        if self._is_new(job):
            self._out.refuse(f"There is no job '{job}' to cancel.")
            return
        with self._lock:
            run = self._runs.get(job)
            if run is None:
                return  # it has just ended: its last message is the answer
            if run.started:
                if run.cancel != "drop":
                    run.cancel = "keep" if keep else "drop"
                    if not keep:
                        patience = threading.Timer(ANSWER_SECONDS, self._answer, [run])
                        patience.daemon = True
                        patience.start()
                return
            del self._runs[job]
            self._ended.add(job)
        self._out.send({"type": "cancelled", "job": job})

    def _is_new(self, job: str) -> bool:
        with self._lock:
            return job not in self._runs and job not in self._ended


def end_process() -> None:
    """End this process at once, and all that it started: its group, if it leads one as the client's worker does."""
    for child in multiprocessing.active_children():
        child.kill()
    if os.name == "posix" and os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def _request(message: Mapping[str, Any], engine: ModuleType | Any) -> Any:
    return engine.Request(
        volume=Path(message["volume"]),
        output=Path(message["folder"]),
        model=message["model"],
        samples=message["samples"],
        steps=message["steps"],
        seed=message["seed"],
        device=message["device"],
        region_mm=message.get("regionMm"),
        source=Path(message["source"]) if message.get("source") else None,
        keep_samples=True,
        compress=False,
        previews=True,
    )
