"""The worker process: pipes, log file, process group, and the thread that reads its stdout."""

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
"""Grace period for the end of stdout after the worker's exit: its child processes may keep it open."""

NICENESS = 5
"""The worker uses all cores; at equal priority the GUI would become slow."""


@dataclass(frozen=True)
class End:
    """End of a process: its exit code, or the error that prevented its start."""

    code: int | None = None
    error: str | None = None


class WorkerProcess:
    """Runs `command` in its own process group and collects its output; only `end` blocks.

    stderr goes to a file: unlike a pipe it cannot fill up, is complete after a crash, and needs no second thread.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None) -> None:
        self.killed = False
        self._process: subprocess.Popen | None = None
        self._queue: queue.SimpleQueue[bytes | End] = queue.SimpleQueue()
        self._deadSince: float | None = None
        self._folder: Path | None = None
        self._logRead = 0
        self._logTail = b""
        self._reapLock = threading.Lock()
        # The thread also starts the process, which can block for long (Windows with a virus scanner).
        self._reader = threading.Thread(
            target=self._run, args=(list(command), environment), name="worker-reader", daemon=True
        )
        self._reader.start()

    def arrivals(self) -> Iterator[bytes | End]:
        """Yield the lines of stdout since the last call; after the last line, one End."""
        process = self._process
        if process is not None and self._deadSince is None and _hasExited(process):
            self._deadSince = time.monotonic()
            self._killGroup()  # child processes would keep stdout open
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._queue.get_nowait()
        if self._deadSince is not None and time.monotonic() - self._deadSince > ORPHAN_SECONDS:
            with self._reapLock:
                code = process.poll()
            yield End(code=code)

    def newLogLines(self, last: bool = False) -> list[str]:
        """Return the lines of stderr since the last call; with `last` also an incomplete last line."""
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
        """Write `line` to stdin; no effect before the start and after the end."""
        if self._process is not None:
            with contextlib.suppress(OSError, ValueError):
                self._process.stdin.write(line)
                self._process.stdin.flush()

    def kill(self) -> None:
        self.killed = True
        self._killGroup()

    def end(self, graceSeconds: float) -> None:
        """Close stdin, wait for the end, kill the group after `graceSeconds`, remove the log. Blocks."""
        deadline = time.monotonic() + graceSeconds
        while self._process is None and self._reader.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)  # still being started
        if self._process is not None:
            with contextlib.suppress(OSError, ValueError):
                self._process.stdin.close()
        self._reader.join(max(0.0, deadline - time.monotonic()))
        self.kill()
        self._reader.join(ORPHAN_SECONDS)
        self.removeLog()

    def removeLog(self) -> None:
        """Remove the folder with the log, except files that another program has open."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, command: list[str], environment: Mapping[str, str] | None) -> None:
        try:
            process = self._start(command, environment)
        except (OSError, ValueError) as error:
            self._queue.put(End(error=getattr(error, "strerror", None) or str(error)))
            return
        self._process = process
        if self.killed:  # during the start
            self.kill()
        for line in iter(lambda: process.stdout.readline(MAX_LINE_BYTES + 1), b""):
            self._queue.put(line)
        deadline = time.monotonic() + ORPHAN_SECONDS
        while not _hasExited(process) and time.monotonic() < deadline:
            time.sleep(0.01)
        if not _hasExited(process):  # it has closed stdout but does not end
            self.kill()
            while not _hasExited(process):
                time.sleep(0.01)
        with self._reapLock:
            if process.returncode is None:  # not reaped yet: the process ID is still its own
                _killGroup(process.pid)
            code = process.wait()
        self._queue.put(End(code=code))

    def _killGroup(self) -> None:
        """Kill the group, unless its leader was reaped: then the ID may belong to another group."""
        with self._reapLock:
            if self._process is not None and self._process.returncode is None:
                _killGroup(self._process.pid)

    def _start(self, command: list[str], environment: Mapping[str, str] | None) -> subprocess.Popen:
        self._folder = Path(tempfile.mkdtemp(prefix="DiffusionSegmentation-worker-"))
        # `-m` adds the working folder to sys.path; an empty one cannot shadow a package.
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
                **_groupOptions(),
            )
        if os.name != "nt":  # on Windows `_groupOptions` lowers the priority
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PGRP, process.pid, NICENESS)
        return process


def _hasExited(process: subprocess.Popen) -> bool:
    """Whether a process has exited, without reaping it.

    Without os.waitid (macOS with Python before 3.13) it is reaped, and its group is killed at once.
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
    except ChildProcessError:  # reaped by another thread
        return True


def _groupOptions() -> dict:
    if os.name == "nt":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
        return {"creationflags": flags | subprocess.BELOW_NORMAL_PRIORITY_CLASS}
    # Not a new session: with autogrouping in the Linux kernel a nice value applies only within a session.
    return {"process_group": 0}


def _killGroup(pid: int) -> None:
    if os.name == "nt":
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        with contextlib.suppress(OSError):
            subprocess.Popen(
                ["taskkill", "/T", "/F", "/PID", str(pid)], creationflags=subprocess.CREATE_NO_WINDOW, **pipes
            )
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
