"""The agent: the process that ssh starts on the other computer. It runs a worker and exchanges frames with the relay.

Files of jobs lie in a folder that only its owner can read. The agent ends with the connection, at the latest eight
seconds after the last byte of the relay; it then kills the worker with its children and removes the folder.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__
from ..errors import DiffusionSegmentationError, explain
from ..runtime.stdio import claim_stdin, claim_stdout
from ..worker import protocol as messages
from . import names
from .frames import BEAT, CONTROL, MESSAGE, FileReceiver, FrameError, Frames, Heartbeat, read_json
from .models import ModelFiles, Store, read_model_files

PREFIX = "DiffusionSegmentation-remote-"
SWEEP_SECONDS = 600.0  # after which a folder whose agent no longer touches it is removed
GRACE_SECONDS = 1.0  # for the worker to end after the end of the connection
LOOK_SECONDS = 0.5  # between two looks for finished samples
STARTING = ("run", "update", "import", "ask")
LAST = ("done", "partial", "answers", "cancelled", "error")


def main() -> NoReturn:
    """Serve stdin and stdout until the relay leaves or is lost, then end this process."""
    frames = Frames(claim_stdin(), claim_stdout())
    Agent(frames, [sys.executable, "-X", "utf8", "-m", "diffusion_segmentation", "worker"]).serve()


@dataclass
class _Job:
    folder: Path
    models: list[ModelFiles] = field(default_factory=list)
    model_folder: Path | None = None
    started: bool = False
    dropped: bool = False  # its result is not wanted any more
    sent: set[str] = field(default_factory=set)  # folders of finished samples

    @property
    def inputs(self) -> Path:
        return self.folder / "in"

    @property
    def results(self) -> Path:
        return self.folder / "out"


class Agent:
    """Serves one relay with the worker that `command` starts."""

    def __init__(self, frames: Frames, command: list[str]) -> None:
        self._frames, self._command = frames, command
        self._worker: subprocess.Popen[bytes] | None = None
        self._jobs: dict[str, _Job] = {}
        self._ending, self._finished_lock = threading.Lock(), threading.Lock()
        self._receiver = FileReceiver(self._place, self._not_written)
        sweep()
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX))  # for its owner only
        self._store = Store(self._folder / "models")

    def serve(self) -> NoReturn:
        """Serve until the relay leaves or is lost, and end this process; nothing is left behind in any case."""
        status = 0
        try:
            for name in ("SIGTERM", "SIGHUP", "SIGINT"):
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), lambda *_: self._end(1))
            self._frames.begin()
            versions = {"version": __version__, "python": platform.python_version()}
            self._frames.send_json(CONTROL, {"type": "hello", **versions})
            Heartbeat(self._frames, lambda: self._end(1), self._touch)
            self._start_worker()
            for work in (self._forward, self._send_finished):
                threading.Thread(target=work, name=work.__name__, daemon=True).start()
            for kind, payload in self._frames.receive():
                self._take(kind, payload)
        except OSError:  # the relay has gone
            status = 1
        except DiffusionSegmentationError as error:
            print(error, file=sys.stderr, flush=True)
            status = 1
        except Exception:  # of any kind: nothing may be left behind
            traceback.print_exc()
            status = 1
        self._leave(status)

    # From the relay

    def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == MESSAGE:
            self._message(payload)
        elif kind == CONTROL:
            self._models(read_json(payload))
        elif kind != BEAT:
            self._receiver.take(kind, payload)

    def _message(self, payload: bytes) -> None:
        message = messages.decode(payload, messages.TO_WORKER)
        job = self._jobs.get(message.get("job", ""))
        if message["type"] in STARTING:
            job = job or self._new(message["job"])
            try:
                message = names.unpack(message, job.inputs, job.results)
                if job.model_folder is None and job.models:
                    job.model_folder = self._store.install(job.models)
            except DiffusionSegmentationError as error:
                self._refuse(message["job"], error)
                return
            if job.model_folder is not None:
                message["model"] = str(job.model_folder)
            job.results.mkdir(mode=0o700, parents=True, exist_ok=True)
            job.started = True
        elif message["type"] == "cancel":
            if job is None:
                return  # it was refused here, or has just ended
            job.dropped = job.dropped or not message["keep"]
            if not job.started:  # its files are still arriving
                self._forget(message["job"])
                return
        elif message["type"] == "bye":
            self._leave(0)
        self._to_worker(messages.encode(message))

    def _models(self, request: dict[str, Any]) -> None:
        """Answer which of the models of a job are missing here."""
        job = self._jobs.get(request["job"]) or self._new(request["job"])
        missing: list[str] = []
        try:
            job.models = read_model_files(request["models"])
            job.model_folder = self._store.find(job.models)
            missing = [] if job.model_folder else self._store.missing(job.models)
        except DiffusionSegmentationError as error:
            self._refuse(request["job"], error)
        self._frames.send_json(CONTROL, {"type": "models", "job": request["job"], "missing": missing})

    def _new(self, name: str) -> _Job:
        if not isinstance(name, str) or not 0 < len(name) <= messages.MAX_JOB_CHARACTERS:
            raise FrameError("A job has no name.")
        self._jobs[name] = job = _Job(Path(tempfile.mkdtemp(prefix="job-", dir=self._folder)))
        return job

    def _place(self, about: dict[str, Any]) -> Path | None:
        job, file = self._jobs.get(about.get("job", "")), about.get("name")
        if job is None and isinstance(about.get("job"), str) and not about.get("model"):
            job = self._new(about["job"])
        if job is None or job.dropped:
            return None
        if not isinstance(file, str):
            return None
        if about.get("model"):
            return self._store.place(job.models, about["model"], file) if names.is_model_file(file) else None
        return job.inputs / file if names.is_input(file) else None

    def _not_written(self, about: dict[str, Any], error: OSError) -> None:
        self._refuse(about.get("job", ""), error)

    def _refuse(self, job: str, error: Exception) -> None:
        """End a job that the worker has not got with the sentence of `error`."""
        kind, sentence = explain(error)
        self._forget(job)
        message = {"type": "error", "job": job, "kind": kind, "message": sentence, "details": ""}
        self._frames.send(MESSAGE, messages.encode(message))

    # From the worker

    def _start_worker(self) -> None:
        working, temporary = self._folder / "empty", self._folder / "temporary"
        for folder in (working, temporary):  # an empty working folder cannot shadow a package
            folder.mkdir()
        options: dict[str, Any] = {} if os.name == "nt" else {"process_group": 0}
        self._worker = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=working,
            env={**os.environ, "TMPDIR": str(temporary), "TEMP": str(temporary)},
            bufsize=0,
            **options,
        )

    def _to_worker(self, line: bytes) -> None:
        if self._worker is not None and self._worker.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                self._worker.stdin.write(line)

    def _forward(self) -> None:
        """Thread: send what the worker says, the files of a message before it; report its end."""
        assert self._worker is not None and self._worker.stdout is not None
        with open(self._worker.stdout.fileno(), "rb", closefd=False) as lines:
            for line in iter(lambda: lines.readline(messages.MAX_LINE_BYTES + 1), b""):
                try:
                    self._from_worker(messages.decode(line, messages.FROM_WORKER))
                except messages.MessageError as error:  # output of a library
                    print(f"{error} {line[:200]!r}", file=sys.stderr, flush=True)
                except OSError:  # the relay has gone
                    return
        self._kill_worker()
        with contextlib.suppress(OSError):
            for name in list(self._jobs):
                self._send_finished_of(name)
            self._frames.send_json(CONTROL, {"type": "ended", "code": self._worker.wait()})

    def _from_worker(self, message: dict[str, Any]) -> None:
        name = message.get("job") or ""
        job = self._jobs.get(name)
        if job is not None:
            if message["type"] == "preview":
                for key in ("segmentation", "entropy"):
                    message[key] = message[key] and Path(message[key]).name
                if not all(self._send(name, job, message[key]) for key in ("segmentation", "entropy") if message[key]):
                    return  # replaced meanwhile, or not wanted any more
            elif message["type"] in ("done", "partial"):
                message["folder"] = "."
                for file in names.RESULT_FILES:
                    if (job.results / file).is_file():
                        self._send(name, job, file)
            elif message["type"] == "error":
                self._send_finished_of(name)
        self._frames.send(MESSAGE, messages.encode(message))
        if message["type"] in LAST and message.get("over") is not False:
            self._forget(name)

    def _send(self, name: str, job: _Job, file: str) -> bool:
        """Send a file of the results of a job; returns whether it was sent whole."""
        try:
            return self._frames.send_file(job.results / file, {"job": name, "name": file}, lambda sent: not job.dropped)
        except FileNotFoundError:
            return False

    def _send_finished(self) -> None:
        """Thread: send the samples that a run has finished, as they are written."""
        while True:
            time.sleep(LOOK_SECONDS)
            try:
                for name in list(self._jobs):
                    self._send_finished_of(name)
            except OSError:
                return

    def _send_finished_of(self, name: str) -> None:
        """Send the newest finished samples of a job that were not sent yet; the report goes last."""
        with self._finished_lock:  # the error of a run follows the samples that it has finished
            if (job := self._jobs.get(name)) is not None and not job.dropped:
                self._send_newest(name, job)

    def _send_newest(self, name: str, job: _Job) -> None:
        folders = sorted(job.results.glob("finished-*"), key=lambda folder: (len(folder.name), folder.name))
        new = [folder.name for folder in folders if (folder / "report.json").is_file() and folder.name not in job.sent]
        for folder in new[-1:]:
            job.sent.add(folder)
            files = [file for file in names.RESULT_FILES if (job.results / folder / file).is_file()]
            if all(self._send(name, job, f"{folder}/{file}") for file in files) and "report.json" in files:
                self._frames.send_json(CONTROL, {"type": "finished", "job": name, "folder": folder})

    # The end

    def _forget(self, name: str) -> None:
        job = self._jobs.pop(name, None)
        if job is not None:
            shutil.rmtree(job.folder, ignore_errors=True)

    def _touch(self) -> None:
        with contextlib.suppress(OSError):
            os.utime(self._folder)

    def _leave(self, status: int) -> NoReturn:
        """End after the relay has left: the worker may end by itself."""
        if self._worker is not None and self._worker.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                self._worker.stdin.close()
            deadline = time.monotonic() + GRACE_SECONDS
            while not _has_exited(self._worker) and time.monotonic() < deadline:
                time.sleep(0.02)
        self._end(status)

    def _end(self, status: int) -> NoReturn:
        """Kill the worker and its children, remove all files and end this process; from any thread."""
        if not self._ending.acquire(blocking=False):
            while True:  # another thread ends the process
                time.sleep(1.0)
        self._kill_worker()
        for _attempt in range(20):  # a thread may be writing a file at this moment
            self._store.clear()
            shutil.rmtree(self._folder, ignore_errors=True)
            if not self._folder.exists():
                break
            time.sleep(0.05)
        os._exit(status)

    def _kill_worker(self) -> None:
        worker = self._worker
        if worker is None:
            return
        if os.name == "nt":
            subprocess.run(["taskkill", "/T", "/F", "/PID", str(worker.pid)], capture_output=True, check=False)
        elif worker.returncode is None:  # not reaped: the number is still that of its group
            with contextlib.suppress(OSError):
                os.killpg(worker.pid, signal.SIGKILL)


def _has_exited(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has exited, without reaping it where the system can tell: its group is still to be killed."""
    if process.returncode is not None or not hasattr(os, "waitid"):
        return process.poll() is not None
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def sweep() -> None:
    """Remove this user's folders of agents that were killed: they are no longer touched."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            owned = not hasattr(os, "getuid") or status.st_uid == os.getuid()
            if owned and not folder.is_symlink() and time.time() - status.st_mtime > SWEEP_SECONDS:
                shutil.rmtree(folder)
