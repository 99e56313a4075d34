"""The client of the worker process: start, messages in both directions, log, end.

Nothing blocks: `poll`, called by a timer, delivers what has arrived, so that all signals fire on the caller's thread.
Independent of Qt, Slicer and numpy.
"""

import collections
import json
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffusion_segmentation.remote import hosts
from diffusion_segmentation.worker import protocol

from ..i18n import tr as _
from ..signals import Signal
from .worker_process import End, WorkerProcess

ENGINE_FOLDER = Path(protocol.__file__).resolve().parents[2]
"""The parent folder of the package `diffusion_segmentation`."""

LOG_LINES = 2000
"""Number of lines of the worker's log that are kept."""


def workerCommand(python: str) -> list[str]:
    return [python, "-X", "utf8", "-m", "diffusion_segmentation", "worker"]


def relayCommand(python: str, host: str, hostPython: str) -> list[str]:
    """The command of a process that is a worker for its client, and has the work done on the computer `host`."""
    relay = ["relay", f"--host={host}", f"--host-python={hostPython}"]
    return [*workerCommand(python)[:-1], *relay]


def relayEnvironment(startup: Mapping[str, str]) -> dict[str, str]:
    """The environment of that process; ssh is started in `startup`, because Slicer's libraries are not its own."""
    return {**workerEnvironment(startup), hosts.ENVIRONMENT_VARIABLE: json.dumps(dict(startup))}


def workerEnvironment(startup: Mapping[str, str]) -> dict[str, str]:
    """The worker's environment, from `startup`, the environment in which the application was started.

    Without PYTHONHOME: Slicer's value would break another Python, and Slicer's launcher sets it again.
    """
    environment = {name: value for name, value in startup.items() if name != "PYTHONHOME"}
    environment.update(PYTHONPATH=str(ENGINE_FOLDER), PYTHONUNBUFFERED="1", PYTHONUTF8="1")
    return environment


class WorkerClient:
    """One worker at a time; `start` starts a new one after the last has ended.

    Signals, all emitted by `poll`: `received` (message), `ended` (reason, one sentence; not after `stop`) and
    `logged` (line).
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.command = list(command)
        self.environment = environment
        self.received = Signal()
        self.ended = Signal()
        self.logged = Signal()
        self.log: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        self.hello: dict | None = None
        self._process: WorkerProcess | None = None

    @property
    def running(self) -> bool:
        """Whether the worker was started, was not stopped by `stop`, and its end was not reported by `poll`."""
        return self._process is not None

    def start(self) -> None:
        """Start the worker unless one is running; does not wait for it."""
        if self._process is None:
            self._process = WorkerProcess(self.command, self.environment)

    def send(self, message: Mapping) -> None:
        """Send `message`; the end of the worker is reported by `poll`, not here. Raises protocol.MessageError."""
        line = protocol.encode(message)
        if self._process is not None:
            self._process.write(line)

    def poll(self) -> None:
        """Emit everything that has arrived since the last call: log lines, messages, then the end of the worker."""
        process = self._process
        if process is None:
            return
        self._addToLog(process.newLogLines())
        for item in process.arrivals():
            if isinstance(item, bytes):
                self._deliver(item)
            else:
                self._addToLog(process.newLogLines(last=True))
                process.removeLog()
                sentence = self._reason(item, process.killed)
                self._forget()
                self.ended.emit(sentence)
            if self._process is not process:  # it has ended, or a slot has called `stop`
                return

    def stop(self, graceSeconds: float = 2.0) -> threading.Thread | None:
        """Ask the worker to end, and kill it and its children after `graceSeconds`; does not wait for it.

        Its messages are no longer emitted. The returned thread ends with the worker.
        """
        process = self._process
        if process is None:
            return None
        self._forget()
        process.write(protocol.encode({"type": "bye"}))
        ending = threading.Thread(target=process.end, args=(graceSeconds,), name="worker-end", daemon=True)
        ending.start()
        return ending

    def kill(self) -> None:
        """Kill the worker and its children; `poll` then emits `ended`."""
        if self._process is not None:
            self._process.kill()

    def _deliver(self, line: bytes) -> None:
        try:
            message = protocol.decode(line, protocol.FROM_WORKER)
        except protocol.MessageError as error:
            # Output of a library that bypasses Python's stdout must not end the run.
            self._addToLog([f"{error} {line[:200]!r}"])
            return
        if message["type"] == "hello":
            self.hello = message
        self.received.emit(message)

    def _addToLog(self, lines: list[str]) -> None:
        for line in lines:
            self.log.append(line)
            self.logged.emit(line)

    def _forget(self) -> None:
        self._process = None
        self.hello = None

    def _reason(self, end: End, killed: bool) -> str:
        if end.error is not None:
            sentence = _("The Python interpreter could not be started ({reason}). Check its path under Advanced.")
            return sentence.format(reason=end.error)
        if killed:
            return _("The background process was stopped.")
        last = next((line.strip() for line in reversed(self.log) if line.strip()), "")
        if self.hello is None:
            sentence = _("The background process could not start: {reason} The log under Advanced has the details.")
            reason = last or _("exit code {code}").format(code=end.code)
            return sentence.format(reason=reason if reason.endswith((".", "!", "?")) else f"{reason}.")
        if end.code == -getattr(signal, "SIGKILL", 9):
            return _("The background process was ended by the system, most likely because the memory ran out.")
        sentence = _("The background process ended unexpectedly (exit code {code}). The log under Advanced says why.")
        return sentence.format(code=end.code)
