"""The background process: runs jobs for Slicer one after another and keeps models loaded between them.

Threads: the main thread imports the engine, sends hello and runs the jobs. The listener reads stdin, so that a cancel
arrives during a run; it answers requests that need no engine, and ends the process soon after the end of stdin. The
sender's thread writes stdout.
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
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NoReturn

from ..errors import Cancelled, DeviceLostError, is_out_of_memory
from ..runtime.log import configure_logging
from ..runtime.stdio import claim_stdin, claim_stdout, read_lines
from ..runtime.versions import versions
from . import protocol as messages
from .sender import MessageSender, error_message

IDLE_SECONDS = 600.0  # models are unloaded after this time without a job
GRACE_SECONDS = 0.5  # time allowed for a run to end after the end of stdin; one pass of a network can take longer
CANCEL_GRACE_SECONDS = 0.5  # grace period before a cancelled run is acknowledged; a second message follows at its end
FLUSH_SECONDS = 2.0  # maximum time that a worker without an engine waits until the client has read the error


def main() -> NoReturn:
    """Serve stdin and stdout until stdin ends or `bye` arrives, then end the process with the status of `serve`."""
    configure_logging()
    stdin, stdout = claim_stdin(), claim_stdout()
    status = Worker(stdin, stdout).serve()
    # Without the interpreter's shutdown, which takes up to 2 s with torch on a busy machine.
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(status)


@dataclass
class _Run:
    message: Mapping[str, Any]
    started: bool = False
    cancel: Literal["keep", "drop"] | None = None
    acknowledged: bool = False  # the client considers the run over; only the message at its end is still sent


class Worker:
    """Serves one client.

    `engine` runs the jobs: by default the module `diffusion_segmentation.any_model`, imported on start, or
    another object with its `Request`, `ModelCache`, `segment` and `devices`.
    """

    def __init__(
        self,
        stdin: io.RawIOBase,
        stdout: io.RawIOBase,
        engine: ModuleType | Any = None,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._stdin = stdin
        self._sender = MessageSender(stdout, on_lost_client=end_process)
        self._engine = engine
        self._idle_seconds = idle_seconds
        self._tasks: queue.SimpleQueue[_Run | Literal["unload", "end"]] = queue.SimpleQueue()
        self._runs: dict[str, _Run] = {}
        self._ended: set[str] = set()
        self._lock = threading.Lock()  # guards _runs, their fields, and _ended
        self._finished = threading.Event()
        self._device_lost = False

    def serve(self) -> int:
        """Send hello, run jobs until the client leaves, and return the exit status: 0, or 1 without an engine.

        A worker that has lost its GPU also returns 1: only another process can use the GPU again.
        """
        threading.Thread(target=self._listen, name="listener", daemon=True).start()
        try:
            engine = self._engine or importlib.import_module("diffusion_segmentation.any_model")
            models = engine.ModelCache()
            hello = {"type": "hello", "protocol": messages.PROTOCOL, "versions": versions()}
            self._sender.send({**hello, "devices": engine.devices()})
        except Exception as error:
            self._sender.send(error_message(None, error))
            self._sender.flush(FLUSH_SECONDS)
            return 1
        self._serve(engine, models)
        self._sender.flush(GRACE_SECONDS)
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
                continue
            with self._lock:
                task.started = task.message["job"] in self._runs  # else it was cancelled in the queue
            if task.started:
                loaded = True
                self._end(task, self._outcome(task, engine, models))
                if self._device_lost:
                    return

    def _report(self, run: _Run, send: Callable[[str, Any], None], value: Any) -> None:
        """Send progress or a preview of `run` unless it is acknowledged as cancelled."""
        with self._lock:  # held briefly: the sender does not block
            if not run.acknowledged:
                send(run.message["job"], value)

    def _end(self, run: _Run, message: Mapping[str, Any]) -> None:
        """Remove a finished run and send its last message."""
        job = run.message["job"]
        with self._lock:
            del self._runs[job]
            self._ended.add(job)
            if run.cancel == "drop":  # also if the run finished or failed before it noticed
                message = {"type": "cancelled", "job": job}
            run.acknowledged = True
            self._sender.last({**message, **({"ends": True} if self._device_lost else {})})

    def _acknowledge(self, run: _Run) -> None:
        """Acknowledge the cancel of a run that has not ended yet."""
        with self._lock:
            if not run.acknowledged:
                run.acknowledged = True
                self._sender.last({"type": "cancelled", "job": run.message["job"], "over": False})

    def _outcome(self, run: _Run, engine: ModuleType | Any, models: Any) -> dict[str, Any]:
        """Run one job and return its last message."""
        job = run.message["job"]
        try:
            if run.message["type"] == "ask":
                message = {"type": "answers", "job": job, "answers": self._answers(run)}
            else:
                outcome = self._result(run, engine, models)
                kind = "partial" if outcome.partial else "done"
                message = {"type": kind, "job": job, "folder": run.message["folder"], "report": outcome.report}
            messages.encode(message)  # a report that cannot be sent is an error of this job, not of the worker
            return message
        except Cancelled:
            return {"type": "cancelled", "job": job}
        except Exception as error:
            message = error_message(job, error)
            out_of_memory = is_out_of_memory(error)
            self._device_lost = isinstance(error, DeviceLostError)
        if out_of_memory:  # outside the handler, whose traceback references the arrays of the failed run
            models.clear()
            gc.collect()
        return message

    def _result(self, run: _Run, engine: ModuleType | Any, models: Any) -> Any:
        """Segment the volume of a run, or import its masks; returns the outcome."""
        common: dict[str, Any] = {
            "progress": partial(self._report, run, self._sender.progress),
            "cancel": lambda: run.cancel,
        }
        if run.message["type"] == "import":
            from ..masks.import_masks import import_masks

            return import_masks(_import_request(run.message), **common)
        preview = partial(self._report, run, self._sender.preview)
        return engine.segment(_request(run.message, engine), preview=preview, models=models, **common)

    def _answers(self, run: _Run) -> list[dict[str, Any]]:
        """Answer the questions of a message `ask`; raises Cancelled if it is cancelled in any way."""
        from ..segmentation.asked import ask
        from ..segmentation.request import Progress

        def on_sample(done: int, of: int) -> None:
            if run.cancel:
                raise Cancelled
            self._report(run, self._sender.progress, Progress("measuring", sample=done, samples=of))

        return ask(Path(run.message["folder"]), run.message["questions"], on_sample)

    def _listen(self) -> None:
        """The listener's thread: answer or queue each line, then ensure that the process ends."""
        for line in read_lines(self._stdin, messages.MAX_LINE_BYTES):
            try:
                message = messages.decode(line, messages.TO_WORKER)
            except messages.MessageError as error:
                job = error.job if error.job and self._is_new(error.job) else None
                self._sender.send(error_message(job, error))
                continue
            if message["type"] == "bye":
                break
            self._handle(message)
        with self._lock:
            self._runs = {job: run for job, run in self._runs.items() if run.started}
            for run in self._runs.values():
                run.cancel = "drop"
        self._tasks.put("end")
        if not self._finished.wait(GRACE_SECONDS):
            end_process()

    def _handle(self, message: Mapping[str, Any]) -> None:
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
            self._sender.refuse(f"There was a job '{message['job']}' already; give each job a name of its own.")

    def _cancel(self, job: str, keep: bool) -> None:
        if self._is_new(job):
            self._sender.refuse(f"There is no job '{job}' to cancel.")
            return
        with self._lock:
            run = self._runs.get(job)
            if run is None:
                return  # it has just ended: its last message is the answer
            if run.started and run.cancel != "drop":
                run.cancel = "keep" if keep else "drop"
                if not keep:
                    timer = threading.Timer(CANCEL_GRACE_SECONDS, self._acknowledge, [run])
                    timer.daemon = True
                    timer.start()
            if run.started:
                return
            del self._runs[job]
            self._ended.add(job)
        self._sender.send({"type": "cancelled", "job": job})

    def _is_new(self, job: str) -> bool:
        with self._lock:
            return job not in self._runs and job not in self._ended


def end_process() -> NoReturn:
    """End this process at once, with its children and, if it leads one, as the client's worker does, its group."""
    for child in multiprocessing.active_children():
        child.kill()
    if os.name == "posix" and os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def _request(message: Mapping[str, Any], engine: ModuleType | Any) -> Any:
    names = ("model", "samples", "steps", "seed", "device")
    common = _common(message)
    if inputs := message.get("inputs"):
        common["volume"] = {name: Path(path) for name, path in inputs.items()}
    if message["type"] == "update":
        common |= {"facts": (Path(message["facts"]),), "rounds": message.get("rounds") or 1}
        common["sha256"] = message.get("sha256")
    asked = tuple(message.get("ask") or ())
    if asked:
        common |= {"ask": asked, "keep_samples": False}
    if message.get("keepSamples") is not None:
        common["keep_samples"] = message["keepSamples"]
    if spacing := message.get("spacing"):
        common["spacing"] = tuple(spacing)
    previews = not asked or (message["type"] == "update" and bool(message.get("keepSamples")))
    return engine.Request(**common, **{name: message[name] for name in names}, previews=previews)


def _import_request(message: Mapping[str, Any]) -> Any:
    from ..masks.import_masks import ImportRequest

    masks, labels = tuple(map(Path, message["masks"])), message.get("labels")
    return ImportRequest(**_common(message), masks=masks, labels=Path(labels) if labels else None)


def _common(message: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that the messages `run` and `import` share."""
    return {
        "volume": Path(message["volume"]),
        "output": Path(message["folder"]),
        "region_mm": message.get("regionMm"),
        "source": Path(message["source"]) if message.get("source") else None,
        "called": "The volume",  # its file is temporary
        "keep_samples": True,
        "compress": bool(message.get("compress")),
    }
