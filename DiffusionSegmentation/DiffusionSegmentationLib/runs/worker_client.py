"""The background process and the line to it: started, spoken to, listened to, and ended with all it started.

`poll`, called by a timer on the caller's thread, delivers what has arrived, so that every signal fires there and
nothing here waits. Needs neither qt, slicer nor numpy.
"""

import collections
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffusion_segmentation.worker import protocol as messages

from ..i18n import tr as _
from ..signals import Signal
from .worker_process import End, WorkerProcess

ENGINE_FOLDER = Path(messages.__file__).resolve().parents[2]
"""The folder that holds the package `diffusion_segmentation`."""

LOG_LINES = 2000
"""Lines of the worker's log that are kept for the person to read."""


def workerCommand(python: str) -> list[str]:
    """The command that runs the worker on the interpreter `python`."""
    return [python, "-X", "utf8", "-m", "diffusion_segmentation", "worker"]


def workerEnvironment(startup: Mapping[str, str]) -> dict[str, str]:
    """A copy of `startup`, the environment in which the application was started, as the worker needs it.

    Slicer's own PYTHONHOME would break another Python; Slicer's own Python sets it again in its launcher.
    """
    environment = {name: value for name, value in startup.items() if name != "PYTHONHOME"}
    environment.update(PYTHONPATH=str(ENGINE_FOLDER), PYTHONUNBUFFERED="1", PYTHONUTF8="1")
    return environment


class WorkerClient:
    """One worker at a time; it is started again by `start` after it has ended.

    Signals, all fired by `poll`: `received` (message), `ended` (one sentence why; not after `stop`), `logged` (line).
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
        """True from `start` until `poll` has reported the end, or `stop` was called."""
        return self._process is not None

    def start(self) -> None:
        """Start the worker; returns at once. Does nothing while one is running."""
        if self._process is None:
            self._process = WorkerProcess(self.command, self.environment)

    def send(self, message: Mapping) -> None:
        """Send `message`; a worker that has died meanwhile is reported by `poll`. Raises messages.MessageError."""
        line = messages.encode(message)
        if self._process is not None:
            self._process.write(line)

    def poll(self) -> None:
        """Deliver everything that has arrived since the last call, the log first and the end of the worker last."""
        process = self._process
        if process is None:
            return
        self._keepLog(process.newLogLines())
        for item in process.arrivals():
            if isinstance(item, bytes):
                self._deliver(item)
            else:
                self._keepLog(process.newLogLines(last=True))
                process.removeLog()
                sentence = self._reason(item, process.killed)
                self._forget()
                self.ended.emit(sentence)
            if self._process is not process:  # it has ended, or a slot has stopped it
                return

    def stop(self, graceSeconds: float = 2.0) -> threading.Thread | None:
        """Ask the worker to end, and end it and its children if it has not after `graceSeconds`; returns at once.

        Nothing more of it is delivered. The returned thread ends with the worker.
        """
        process = self._process
        if process is None:
            return None
        self._forget()
        process.write(messages.encode({"type": "bye"}))
        ending = threading.Thread(target=process.end, args=(graceSeconds,), name="worker-end", daemon=True)
        ending.start()
        return ending

    def kill(self) -> None:
        """End the worker and its children now; `ended` follows from `poll`."""
        if self._process is not None:
            self._process.kill()

    def _deliver(self, line: bytes) -> None:
        try:
            message = messages.decode(line, messages.FROM_WORKER)
        except messages.MessageError as error:
            # A library that prints past Python's stdout must not cost the person the run.
            self._keepLog([f"{error} {line[:200]!r}"])
            return
        if message["type"] == "hello":
            self.hello = message
        self.received.emit(message)

    def _keepLog(self, lines: list[str]) -> None:
        for line in lines:
            self.log.append(line)
            self.logged.emit(line)

    def _forget(self) -> None:
        self._process = None
        self.hello = None

    def _reason(self, end: End, killed: bool) -> str:
        if end.error is not None:
            sentence = _("The Python for the segmentation could not be started ({reason}). Check it under Advanced.")
            return sentence.format(reason=end.error)
        if killed:
            return _("The background process was stopped.")
        last = next((line.strip() for line in reversed(self.log) if line.strip()), "")
        if self.hello is None:
            sentence = _("The background process could not start: {reason} The log under Advanced says more.")
            return sentence.format(reason=_asSentence(last or _("exit code {code}").format(code=end.code)))
        if end.code == -getattr(signal, "SIGKILL", 9):
            return _("The background process was ended by the system, most likely because the memory ran out.")
        sentence = _("The background process ended unexpectedly (exit code {code}). The log under Advanced says why.")
        return sentence.format(code=end.code)


def _asSentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."
