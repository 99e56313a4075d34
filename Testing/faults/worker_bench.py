"""A folder with a small model and a volume, and the client that Slicer uses, for tests with real workers."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "DiffusionSegmentation"), str(ROOT / "Testing")]

from small_inputs import write_ball, write_model  # noqa: E402

from DiffusionSegmentationLib.runs.worker_client import WorkerClient, workerCommand, workerEnvironment  # noqa: E402

LIMITED = Path(__file__).with_name("limited_worker.py")
FINAL = ("done", "partial", "cancelled", "error")
PATIENCE_SECONDS = 120.0
"""Time limit (s) of a step; reached only by failing tests."""
SAMPLES = 8
STEPS = 20
"""Steps of the tiny model: a run of eight samples takes some seconds."""

# Python runs this at its start. The worker gets a child, which must not outlive it, and a way into os._exit.
SITE_CUSTOMIZE = """
import os, signal, subprocess, sys
if sys.orig_argv[-1:] == ["worker"]:
    signal.signal(signal.SIGUSR1, lambda *_: os._exit(3))
    subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL)
"""


@dataclass
class Bench:
    """A folder with a tiny model, a volume, and room for jobs and temporary files."""

    root: Path
    jobs: Path = field(init=False)
    temporary: Path = field(init=False)
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.jobs, self.temporary, hooks = (self.root / name for name in ("jobs", "temporary", "hooks"))
        for folder in (self.jobs, self.temporary, hooks):
            folder.mkdir(parents=True)
        write_model(self.root / "model")
        write_ball(self.root / "volume.nrrd")
        (hooks / "sitecustomize.py").write_text(SITE_CUSTOMIZE, encoding="utf-8")
        self.environment = workerEnvironment({**os.environ, "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"})
        self.environment["PYTHONPATH"] += os.pathsep + str(hooks)

    def run_message(self, samples: int = SAMPLES, steps: int | None = STEPS) -> dict[str, Any]:
        """A run in a new job folder."""
        job = uuid.uuid4().hex
        folder = self.jobs / job
        folder.mkdir()
        return {
            "type": "run", "job": job, "folder": str(folder), "volume": str(self.root / "volume.nrrd"),
            "model": str(self.root / "model"), "samples": samples, "steps": steps, "seed": 0, "device": "cpu",
        }  # fmt: skip

    def slicer(self, limited: bool = False) -> Slicer:
        return Slicer(self, limited)


@contextmanager
def bench() -> Iterator[Bench]:
    """A bench in a temporary folder; the client's temporary files go there, too."""
    root = Path(tempfile.mkdtemp(prefix="faults-"))
    before = tempfile.tempdir
    try:
        made = Bench(root / "bench")
        tempfile.tempdir = str(made.temporary)
        yield made
    finally:
        tempfile.tempdir = before
        shutil.rmtree(root, ignore_errors=True)


class Slicer:
    """Slicer's part towards a worker, without Slicer: its client, polled, and all received messages."""

    def __init__(self, bench: Bench, limited: bool = False) -> None:
        self.bench = bench
        self.messages: list[dict[str, Any]] = []
        self.reasons: list[str] = []
        command = [sys.executable, str(LIMITED), "worker"] if limited else workerCommand(sys.executable)
        self.client = WorkerClient(command, bench.environment)
        self.client.received.connect(self.messages.append)
        self.client.ended.connect(self.reasons.append)
        self.client.start()
        while self.client._process is not None and self.client._process._process is None:
            time.sleep(0.001)
        self.pid = self.client._process._process.pid

    def until(self, condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
        """Poll until `condition` is true and return its value. Raises TimeoutError with the worker's last messages."""
        deadline = time.monotonic() + seconds
        while not (answer := condition()):
            if time.monotonic() > deadline or not self.client.running:
                raise TimeoutError(f"{self.messages[-2:]} {self.reasons} {list(self.client.log)[-8:]}")
            self.client.poll()
            time.sleep(0.001)
        return answer

    def until_hello(self) -> None:
        self.until(lambda: self.client.hello)

    def of(self, job: str, *types: str) -> list[dict[str, Any]]:
        """Messages of a job, of these types or of all."""
        return [m for m in self.messages if m.get("job") == job and (not types or m["type"] in types)]

    def finish(self, message: dict[str, Any]) -> dict[str, Any]:
        """The last message of a job."""
        return self.until(lambda: self.of(message["job"], *FINAL))[0]

    def run(self, **fields: Any) -> dict[str, Any]:
        """Begin a run and return its message."""
        message = self.bench.run_message(**fields)
        self.client.send(message)
        return message

    def cancel(self, message: dict[str, Any], keep: bool = False) -> tuple[str, float]:
        """Cancel a run; return the type of its last message and the seconds until it arrived."""
        began = time.monotonic()
        self.client.send({"type": "cancel", "job": message["job"], "keep": keep})
        return self.finish(message)["type"], time.monotonic() - began

    def wait_for_end(self) -> None:
        while self.client.running:
            self.client.poll()
            time.sleep(0.001)

    def stop(self) -> None:
        ending = self.client.stop(0.0)
        if ending is not None:
            ending.join()
