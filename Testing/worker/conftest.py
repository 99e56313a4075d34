"""A minimal client of the worker: a process, a thread that reads, a queue."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffusion_segmentation.worker import protocol as messages

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from small_inputs import write_ball, write_model  # noqa: E402

ENGINE = HERE.parents[1] / "DiffusionSegmentation"
PATIENCE_SECONDS = 30.0
"""Time limit (s) of a step; reached only by failing tests."""


class Client:
    """A worker process and its messages. `line` sends raw bytes; every received line must be a message."""

    def __init__(self, command: list[str], log: Path, python_path: list[Path]) -> None:
        self._log = log
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, python_path))}
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                start_new_session=True,
            )
        self._arrived: queue.SimpleQueue[dict[str, Any] | Exception | None] = queue.SimpleQueue()
        self._reading = True
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            if not self._reading:
                return
            try:
                self._arrived.put(messages.decode(line, messages.FROM_WORKER))
            except messages.MessageError as error:
                self._arrived.put(error)
        self._arrived.put(None)

    def send(self, **message: Any) -> None:
        self.line(messages.encode(message))

    def line(self, line: bytes) -> None:
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def run(self, job: str, model: str, folder: Path, **changed: Any) -> None:
        fields = {"samples": 2, "steps": None, "seed": 0, "device": "cpu", "volume": str(folder / "a.nrrd"), **changed}
        self.send(**{"type": "run", "job": job, "model": model, "folder": str(folder), **fields})

    def next(self, *types: str) -> dict[str, Any]:
        """The next message, or the next of these types; others are skipped."""
        while True:
            message = self._arrived.get(timeout=PATIENCE_SECONDS)
            if message is None or isinstance(message, Exception):
                raise AssertionError(f"instead of a message: {message!r}\n{self.log()}")
            if not types or message["type"] in types:
                return message

    def rest(self) -> list[dict[str, Any]]:
        """All remaining messages until the worker ends."""
        return list(iter(lambda: self._arrived.get(timeout=PATIENCE_SECONDS), None))

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def read_no_more(self) -> None:
        """Close our end of the worker's stdout."""
        self._reading = False
        self.line(b"\n")  # its answer wakes the reader
        self._reader.join(PATIENCE_SECONDS)
        self.process.stdout.close()

    def leave(self) -> float:
        """Close stdin and return how many seconds the worker took to end."""
        start = time.monotonic()
        self.process.stdin.close()
        self.process.wait(PATIENCE_SECONDS)
        return time.monotonic() - start

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE_SECONDS)
        self.process.stdout.close()
        if not self.process.stdin.closed:
            self.process.stdin.close()


class Clients:
    """Starts workers; all are ended with the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Client] = []

    def fake(self, idle_seconds: float = 600.0, loading_seconds: float = 0.0) -> Client:
        """A worker with the engine of fake_worker.py, after its hello unless loading takes long."""
        client = self._start([str(HERE / "fake_worker.py"), str(idle_seconds), str(loading_seconds)])
        if not loading_seconds:
            client.next("hello")
        return client

    def real(self, *packages: Path) -> Client:
        """The worker that Slicer starts, before its hello; packages in these folders hide installed ones."""
        return self._start(["-m", "diffusion_segmentation", "worker"], *packages)

    def _start(self, arguments: list[str], *packages: Path) -> Client:
        log = self._folder / f"worker-{len(self._started)}.log"
        client = Client([sys.executable, "-X", "utf8", *arguments], log, [*packages, ENGINE])
        self._started.append(client)
        return client

    def end(self) -> None:
        for client in self._started:
            client.end()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with small random networks for two classes and background."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_model(folder)
    return folder


@pytest.fixture(scope="session")
def ball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An oblique volume of a bright ball with noise, in a path with non-ASCII characters."""
    path = tmp_path_factory.mktemp("Bilder von Müller") / "Kugel 図.nrrd"
    write_ball(path, oblique=True)
    return path


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Clients]:
    clients = Clients(tmp_path)
    yield clients
    clients.end()


@pytest.fixture(scope="module")
def real_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One real worker for all tests of a file, after its hello: loading torch takes seconds."""
    clients = Clients(tmp_path_factory.mktemp("logs"))
    client = clients.real()
    client.next("hello")
    yield client
    clients.end()
