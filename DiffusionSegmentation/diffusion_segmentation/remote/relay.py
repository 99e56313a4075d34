"""The relay: a process that looks like a worker to its client and has the jobs done by an agent on another computer.

It speaks the worker's protocol on stdin and stdout, and frames with the agent through ssh. Files of a job are sent
before it, and what the worker there writes appears in the job's folder here, complete, before the message about it.
"""

from __future__ import annotations

import collections
import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__
from ..errors import Cancelled, DiffusionSegmentationError, explain
from ..runtime.stdio import claim_stdin, claim_stdout, read_lines
from ..worker import protocol as messages
from ..worker.sender import MessageSender
from . import hosts, names
from .agent import LAST, STARTING
from .frames import BEAT, CONTROL, MESSAGE, FileReceiver, FrameError, Frames, Heartbeat, read_json
from .job_folder import accept_finished, discard_finished, move_into
from .models import local_models

CONNECT_SECONDS = 60.0  # for the login and the first byte of the agent
LEAVE_SECONDS = 1.5  # for the agent to end after the client has left
SECONDS_BETWEEN_PROGRESS = 0.2
LOG_LINES = 50  # of ssh, from which the reason of a failure is read


@dataclass
class _Job:
    folder: Path
    dropped: bool = False  # cancelled without keeping its samples
    started: bool = False  # its files have been sent


class Relay:
    """Serves one client with an agent on `host`, started by the interpreter `python` there."""

    def __init__(self, host: str, python: str) -> None:
        self._host, self._python = host, python
        self._command = hosts.ssh_command(host, python)
        self._sender = MessageSender(claim_stdout(), on_lost_client=lambda: self._end(1))
        self._log: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        self._jobs: dict[str, _Job] = {}
        self._uploads: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._ssh: subprocess.Popen[bytes] | None = None
        self._greeted = self._leaving = False
        self._ending = threading.Lock()
        self._receiver = FileReceiver(self._place, self._not_written)

    def serve(self) -> NoReturn:
        try:
            self._ssh = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=hosts.ssh_environment(),
                bufsize=0,
            )
        except OSError:
            self._fail(hosts.NO_SSH)
        ssh = self._ssh
        assert ssh.stdin is not None and ssh.stdout is not None
        self._frames = Frames(ssh.stdout, ssh.stdin)
        log = threading.Thread(target=self._read_log, name="log", daemon=True)
        log.start()
        threading.Thread(target=self._listen, name="listener", daemon=True).start()
        overdue = threading.Timer(CONNECT_SECONDS, lambda: self._fail(self._unanswered()))
        overdue.daemon = True
        overdue.start()
        try:
            if greeting := self._frames.skip_greeting():
                print(f"{self._host}: {greeting[:1000]}", file=sys.stderr, flush=True)
        except (EOFError, OSError, FrameError) as error:
            status = ssh.wait()
            log.join(1.0)
            reason = hosts.explain(self._host, self._python, list(self._log), status)
            self._fail(str(error) if isinstance(error, FrameError) else reason)
        overdue.cancel()
        Heartbeat(self._frames, self._lose)
        threading.Thread(target=self._upload_all, name="uploads", daemon=True).start()
        try:
            for kind, payload in self._frames.receive():
                self._take(kind, payload)
        except DiffusionSegmentationError as error:
            print(error, file=sys.stderr, flush=True)
        self._lose()

    # From the agent

    def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == MESSAGE:
            self._message(messages.decode(payload, messages.FROM_WORKER))
        elif kind == CONTROL:
            self._control(read_json(payload))
        elif kind != BEAT:
            self._receiver.take(kind, payload)

    def _control(self, control: Mapping[str, Any]) -> None:
        if control["type"] == "hello" and control["version"] != __version__:
            self._fail(hosts.version_mismatch(self._host, str(control["version"]), __version__))
        elif control["type"] == "models":
            self._answers.put(dict(control))
        elif control["type"] == "finished":
            job, folder = self._jobs.get(control["job"]), control["folder"]
            if job is not None and names.FINISHED.fullmatch(folder):
                accept_finished(job.folder, folder)
        elif control["type"] == "ended":
            if self._jobs:
                self._fail(hosts.ended(self._host, int(control["code"])))
            self._end(int(control["code"] != 0))

    def _message(self, message: dict[str, Any]) -> None:
        name = message.get("job")
        job = self._jobs.get(name) if name else None
        if message["type"] == "hello":
            self._greeted = True
        elif name and job is None:
            return  # it was given up here
        if job is not None:
            if message["type"] == "preview":
                for key in ("segmentation", "entropy"):
                    if message[key] is not None:
                        if not names.is_result(message[key]):
                            raise FrameError("The other computer names a file that may not be received.")
                        message[key] = str(job.folder / message[key])
            elif message["type"] in ("done", "partial"):
                message["folder"] = str(job.folder)
                discard_finished(job.folder)
            if message["type"] in LAST and message.get("over") is not False:
                job.dropped = True  # of a job that was refused the upload ends
                self._jobs.pop(message["job"], None)
        self._sender.send(message)

    def _place(self, about: dict[str, Any]) -> Path | None:
        job = self._jobs.get(about.get("job", ""))
        if job is None or job.dropped:
            return None
        if not names.is_result(about.get("name")):
            raise FrameError("The other computer sends a file that may not be received.")
        return job.folder / move_into(about["name"])

    def _not_written(self, about: dict[str, Any], error: OSError) -> None:
        name = about.get("job", "")
        if name in self._jobs:
            self._refuse(name, error)
            self._send({"type": "cancel", "job": name, "keep": False})

    # From the client

    def _listen(self) -> None:
        """Thread: queue or forward each line of the client, then leave."""
        for line in read_lines(claim_stdin(), messages.MAX_LINE_BYTES):
            try:
                message = messages.decode(line, messages.TO_WORKER)
            except messages.MessageError as error:
                self._sender.refuse(str(error))
                continue
            if message["type"] == "bye":
                break
            if message["type"] in STARTING:
                if message["job"] in self._jobs:
                    self._sender.refuse(f"There was a job '{message['job']}' already.")
                    continue
                self._jobs[message["job"]] = _Job(Path(message["folder"]))
                self._uploads.put(message)
            elif message["type"] == "cancel":
                self._cancel(message)
            else:
                self._send(message)
        self._leave()

    def _cancel(self, message: Mapping[str, Any]) -> None:
        job = self._jobs.get(message["job"])
        if job is None:
            return  # it has just ended: its last message is the answer
        job.dropped = job.dropped or not message["keep"] or not job.started
        if job.started:
            self._send(message)
        # Otherwise the thread of uploads says that it is cancelled.

    def _upload_all(self) -> None:
        """Thread: send the files of each job, then the job."""
        while True:
            message = self._uploads.get()
            name = message["job"]
            try:
                self._upload(name, self._jobs[name], message)
            except Cancelled:
                if self._jobs.pop(name, None) is not None:
                    self._send({"type": "cancel", "job": name, "keep": False})
                    self._sender.send({"type": "cancelled", "job": name})
            except (DiffusionSegmentationError, FileNotFoundError, PermissionError) as error:
                self._refuse(name, error)
                self._send({"type": "cancel", "job": name, "keep": False})
            except (OSError, ValueError, KeyError) as error:  # a file cannot be read, or the connection is lost
                self._refuse(name, error)
                self._lose()

    def _upload(self, name: str, job: _Job, message: Mapping[str, Any]) -> None:
        files: list[tuple[Path, dict[str, Any]]] = []
        packed = names.Packed(message)
        if "model" in message:
            folders = local_models(message["model"])
            if folders:
                models = [model.as_json() for _, model in folders]
                self._frames.send_json(CONTROL, {"type": "models", "job": name, "models": models})
                missing = self._answer(name, job)
                for folder, model in folders:
                    of_model = {"job": name, "model": model.name}
                    names_of_files = model.files if model.name in missing else ()
                    files += [(folder / file, {**of_model, "name": file}) for file in names_of_files]
        files += [(path, {"job": name, "name": file}) for file, path in packed.files.items()]
        total = sum(path.stat().st_size for path, _ in files)
        done, progress = 0, _UploadProgress(self._sender, name, total)
        for path, about in files:
            before = done

            def proceed(sent: int, before: int = before) -> bool:
                progress(before + sent)
                return not job.dropped

            if not self._frames.send_file(path, about, proceed):
                raise Cancelled
            done += path.stat().st_size
        if job.dropped:
            raise Cancelled
        job.started = True
        self._send(packed.message)

    def _answer(self, name: str, job: _Job) -> list[str]:
        """Names of the models of a job that the agent lacks."""
        while True:
            with contextlib.suppress(queue.Empty):
                answer = self._answers.get(timeout=0.1)
                if answer["job"] == name:
                    return answer["missing"]
            if job.dropped or name not in self._jobs:
                raise Cancelled

    def _send(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._frames.send(MESSAGE, messages.encode(message))

    def _refuse(self, name: str, error: BaseException) -> None:
        """End a job with the sentence of `error`."""
        if self._jobs.pop(name, None) is not None:
            kind, sentence = explain(error)
            self._sender.send({"type": "error", "job": name, "kind": kind, "message": sentence, "details": ""})

    # The end

    def _read_log(self) -> None:
        """Thread: pass on what ssh and the processes on the other computer write to stderr."""
        assert self._ssh is not None and self._ssh.stderr is not None
        with open(self._ssh.stderr.fileno(), "rb", closefd=False) as lines:
            for line in lines:
                text = line.decode("utf-8", errors="replace").rstrip()
                self._log.append(text)
                with contextlib.suppress(OSError, ValueError):
                    print(text, file=sys.stderr, flush=True)

    def _unanswered(self) -> str:
        return (
            f"'{self._host}' did not answer within {CONNECT_SECONDS:.0f} s; check that `ssh {self._host}` works in a "
            "terminal."
        )

    def _lose(self) -> NoReturn:
        self._fail(hosts.lost(self._host))

    def _fail(self, sentence: str) -> NoReturn:
        """End all jobs, or the start, with this sentence, then this process."""
        if self._leaving:
            self._end(0)
        if not self._ending.acquire(blocking=False):
            _wait_for_the_end()
        details = "\n".join(list(self._log)[-20:])
        print(sentence, file=sys.stderr, flush=True)
        error = {"type": "error", "kind": "internal", "message": sentence, "details": details}
        for name in list(self._jobs):
            self._sender.send({**error, "job": name, "ends": True})
        if not self._greeted:
            self._sender.send({**error, "job": None})
        self._sender.flush(1.0)
        self._kill(1)

    def _leave(self) -> NoReturn:
        """End after the client has left."""
        self._leaving = True
        self._send({"type": "bye"})
        ssh = self._ssh
        if ssh is not None and ssh.stdin is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                ssh.wait(LEAVE_SECONDS)
        self._end(0)

    def _end(self, status: int) -> NoReturn:
        if not self._ending.acquire(blocking=False):
            _wait_for_the_end()
        self._sender.flush(1.0)
        self._kill(status)

    def _kill(self, status: int) -> NoReturn:
        if self._ssh is not None:
            with contextlib.suppress(OSError):
                self._ssh.kill()
        self._receiver.close()
        os._exit(status)


class _UploadProgress:
    """Reports the upload of a job as the stage `sending`, in steps of 1 MB."""

    def __init__(self, sender: MessageSender, job: str, total: int) -> None:
        self._sender, self._job, self._total = sender, job, total
        self._start = self._last = time.monotonic()

    def __call__(self, sent: int) -> None:
        now = time.monotonic()
        if sent and now - self._last < SECONDS_BETWEEN_PROGRESS:
            return
        self._last = now
        left = (now - self._start) / sent * (self._total - sent) if sent else None
        steps = {"step": sent // 10**6, "steps": -(-self._total // 10**6), "sample": 0, "samples": None}
        self._sender.send({"type": "progress", "job": self._job, "stage": "sending", **steps, "secondsLeft": left})


def _wait_for_the_end() -> NoReturn:
    while True:  # another thread ends the process
        time.sleep(1.0)
