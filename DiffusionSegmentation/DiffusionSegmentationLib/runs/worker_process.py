"""One life of the worker process: its pipes, its log, its process group, and the one thread that reads it."""

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusion_segmentation.worker.protocol import MAX_LINE_BYTES

ORPHAN_SECONDS = 2.0
"""How long something that the dead worker left behind may hold its stdout open before the worker counts as ended."""

NICENESS = 5
"""A worker computes on every core; at equal priority the application's frames would wait for it."""


@dataclass(frozen=True)
class End:
    """Why a process is over: its exit code, or the error that kept it from starting."""

    code: int | None = None
    error: str | None = None


class WorkerProcess:
    """Starts `command` in its own process group and collects what it prints; no call waits, except `end`.

    stderr goes to a file: it cannot fill up like a pipe, is complete after a crash, and needs no second thread.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None) -> None:
        self.killed = False
        self._process: subprocess.Popen | None = None
        self._queue: queue.SimpleQueue[bytes | End] = queue.SimpleQueue()
        self._deadSince: float | None = None
        self._folder: Path | None = None
        self._logRead = 0
        self._logTail = b""
        self._reaping = threading.Lock()
        # The thread starts the process, too: that can take longer than a GUI may pause (Windows with a virus scanner).
        self._reader = threading.Thread(
            target=self._run, args=(list(command), environment), name="worker-reader", daemon=True
        )
        self._reader.start()

    def arrivals(self) -> Iterator[bytes | End]:
        """Yield the lines of stdout since the last call; after the last line ever, one End."""
        process = self._process
        if process is not None and self._deadSince is None and _hasExited(process):
            self._deadSince = time.monotonic()
            self._killGroup()  # what the worker had started would hold its stdout open
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._queue.get_nowait()
        if self._deadSince is not None and time.monotonic() - self._deadSince > ORPHAN_SECONDS:
            with self._reaping:
                code = process.poll()
            yield End(code=code)

    def newLogLines(self, last: bool = False) -> list[str]:
        """Return the lines of stderr since the last call, an unfinished one only if this call is the `last`."""
        text = b""
        if self._folder is not None:
            with contextlib.suppress(OSError), open(self._folder / "worker.log", "rb") as log:
                log.seek(self._logRead)
                text = log.read()
        self._logRead += len(text)
        *lines, self._logTail = (self._logTail + text).split(b"\n")
        if last and self._logTail:
            lines.append(self._logTail)
            self._logTail = b""
        return [line.decode("utf-8", errors="replace").rstrip("\r") for line in lines]

    def write(self, line: bytes) -> None:
        """Write `line` to stdin; without effect before the start and after the end, which `arrivals` reports."""
        if self._process is not None:
            with contextlib.suppress(OSError, ValueError):
                self._process.stdin.write(line)
                self._process.stdin.flush()

    def kill(self) -> None:
        """End the process and everything in its group, now."""
        self.killed = True
        self._killGroup()

    def end(self, graceSeconds: float) -> None:
        """Close stdin, wait for the end, kill what is left after `graceSeconds`, remove the log. Blocks."""
        deadline = time.monotonic() + graceSeconds
        while self._process is None and self._reader.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)  # it is being started
        if self._process is not None:
            with contextlib.suppress(OSError, ValueError):
                self._process.stdin.close()
        self._reader.join(max(0.0, deadline - time.monotonic()))
        self.kill()
        self._reader.join(ORPHAN_SECONDS)
        self.removeLog()

    def removeLog(self) -> None:
        """Remove the folder with the log; what another program holds open stays."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, command: list[str], environment: Mapping[str, str] | None) -> None:
        try:
            process = self._start(command, environment)
        except (OSError, ValueError) as error:
            self._queue.put(End(error=getattr(error, "strerror", None) or str(error)))
            return
        self._process = process
        if self.killed:  # while it was being started
            self.kill()
        for line in iter(lambda: process.stdout.readline(MAX_LINE_BYTES + 1), b""):
            self._queue.put(line)
        deadline = time.monotonic() + ORPHAN_SECONDS
        while not _hasExited(process) and time.monotonic() < deadline:
            time.sleep(0.01)
        if not _hasExited(process):  # it closed its stdout and lives on, out of reach
            self.kill()
            while not _hasExited(process):
                time.sleep(0.01)
        with self._reaping:
            if process.returncode is None:  # a process that nobody has reaped keeps its number
                _killGroup(process.pid)
            code = process.wait()
        self._queue.put(End(code=code))

    def _killGroup(self) -> None:
        """End everything in the group; not after its leader was reaped, when its number may be another group's."""
        with self._reaping:
            if self._process is not None and self._process.returncode is None:
                _killGroup(self._process.pid)

    def _start(self, command: list[str], environment: Mapping[str, str] | None) -> subprocess.Popen:
        self._folder = Path(tempfile.mkdtemp(prefix="DiffusionSegmentation-worker-"))
        # `-m` puts the working folder on the path; this one is empty, so that nothing in it can shadow a package.
        emptyFolder = self._folder / "empty"
        emptyFolder.mkdir()
        with open(self._folder / "worker.log", "ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=None if environment is None else dict(environment),
                cwd=emptyFolder,
                **_ownGroup(),
            )
        _lowerPriority(process.pid)
        return process


def _hasExited(process: subprocess.Popen) -> bool:
    """Whether a process is over, which is left for somebody to reap where the system can do that.

    Where it cannot (macOS with Python before 3.13), what the process had started is ended at once.
    """
    if process.returncode is not None:
        return True
    if not hasattr(os, "waitid"):
        over = process.poll() is not None
        if over and os.name == "posix":
            _killGroup(process.pid)
        return over
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # reaped meanwhile
        return True


def _ownGroup() -> dict:
    if os.name == "nt":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
        return {"creationflags": flags | subprocess.BELOW_NORMAL_PRIORITY_CLASS}
    # Not a session of its own: where the kernel groups processes by session, a nice value counts within one only.
    return {"process_group": 0}


def _lowerPriority(pid: int) -> None:
    """Let the application go first where both want a core; Windows was told when it started the process."""
    if os.name != "nt":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PGRP, pid, NICENESS)


def _killGroup(pid: int) -> None:
    if os.name == "nt":
        command = ["taskkill", "/T", "/F", "/PID", str(pid)]
        with contextlib.suppress(OSError):
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                creationflags=subprocess.CREATE_NO_WINDOW,
            )
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
