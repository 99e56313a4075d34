"""The protocol with invalid messages, a client that does not read, prints, a full log and a jumping clock."""

from __future__ import annotations

import ast
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import harness
import pytest
from fuzz_messages import fuzz

from diffusion_segmentation.worker import protocol as messages
from diffusion_segmentation.worker import sender
from diffusion_segmentation.worker.sender import MessageSender

ENGINE = Path(__file__).resolve().parents[2] / "DiffusionSegmentation"
PATIENCE_SECONDS = 20.0

# A worker with an engine without torch that prints as libraries do, moves the clock, and sends many messages.
WORKER = """
import os, sys, time
from types import SimpleNamespace
from diffusion_segmentation.runtime.stdio import claim_stdin, claim_stdout
from diffusion_segmentation.worker.server import Worker

def Now(stage):
    return SimpleNamespace(stage=stage, sample=1, samples=1, step=1, steps=1, seconds_left=1, note="")

def segment(request, progress, preview, cancel, models):
    if request.model == "missing":
        raise ValueError("x" * 5_000_000)
    if request.model == "deaf":
        for stage in ("before", "after"):
            progress(Now(stage))
            time.sleep(1.5)
        if request.samples == 2:
            raise OSError("The job folder is gone.")
    now = time.time
    for step in range(request.samples):
        print("a library speaks")
        os.write(1, b'{"type":"cancelled","job":"print"}\\n')
        time.time = lambda: now() + (-1) ** step * 1e9
        progress(Now(f"{request.model}{step}"))
    print("the run is over")
    return SimpleNamespace(report={}, partial=False)

engine = SimpleNamespace(
    Request=lambda **fields: SimpleNamespace(**fields),
    ModelCache=lambda: SimpleNamespace(clear=lambda: None),
    segment=segment,
    devices=lambda: [],
)
worker = Worker(claim_stdin(), claim_stdout(), engine)
os._exit(worker.serve())
"""


class Worker:
    """A worker process whose output is read only after `read`."""

    def __init__(self, command: list[str], stderr: Any) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ENGINE)}
        self.process = subprocess.Popen(
            [sys.executable, "-X", "utf8", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            start_new_session=True,
        )
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read(self) -> None:
        threading.Thread(target=lambda: [self._lines.put(line) for line in self.process.stdout], daemon=True).start()

    def next(self, *types: str) -> dict[str, Any]:
        while True:
            message = messages.decode(self._lines.get(timeout=PATIENCE_SECONDS), messages.FROM_WORKER)
            if not types or message["type"] in types:
                return message

    def line(self, line: bytes) -> None:
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def run(self, job: str, model: str = "stage", samples: int = 1) -> None:
        fields = {"folder": "f", "volume": "v", "model": model, "samples": samples, "steps": None, "seed": 0}
        self.line(messages.encode({"type": "run", "job": job, "device": "cpu", **fields}))

    def kibibytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") // 1024


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with (tmp_path / "log").open("wb") as log:
        started = Worker(["-c", WORKER], log)
    yield started
    started.process.kill()
    started.process.wait()
    started.process.stdin.close()


def test_fuzz() -> None:
    count = fuzz(1500, start=1)
    assert (count.crashes, count.hangs) == (0, 0), count
    assert count.inputs >= 1500 and 0.05 * count.inputs < count.accepted < 0.9 * count.inputs


@pytest.mark.parametrize("value", [1e999, -1e999, 10**400, -(10**400)])
def test_numbers_beyond_their_range_are_refused(value: float) -> None:
    progress = {"type": "progress", "job": "1", "stage": "s", "sample": 0, "samples": 1, "step": 0, "steps": 1}
    text = json.dumps({**progress, "secondsLeft": 0}).replace('"secondsLeft": 0', f'"secondsLeft": {value!r}')
    with pytest.raises(messages.MessageError):
        messages.decode(text.replace("inf", "1e999").encode())


def test_a_name_too_long_for_a_reply_is_refused(worker: Worker) -> None:
    worker.read()
    # Each letter has six bytes in a reply; the request is just short enough.
    name = "ü" * (messages.MAX_LINE_BYTES // 2 - 100)
    for message in ({"type": "cancel", "keep": False, "job": name}, {"type": name}, {"type": "run", "job": name}):
        worker.line(json.dumps(message, ensure_ascii=False).encode() + b"\n")
        assert worker.next("error")["job"] is None
    worker.run("long error", model="missing")
    assert len(worker.next("error")["message"]) <= sender.MAX_SENTENCE
    worker.run("after")
    assert worker.next("done")["job"] == "after"


def test_a_line_without_end_takes_no_memory(worker: Worker) -> None:
    worker.read()
    worker.next("hello")
    before = worker.kibibytes()
    for _ in range(48):
        worker.line(b"x" * 2**20)
    during = worker.kibibytes()
    worker.line(b"\n")
    assert worker.next()["type"] == "error"
    assert during - before < 16 * 1024
    worker.run("after")
    assert worker.next("done")["job"] == "after"


def test_an_incomplete_last_line_is_ignored(worker: Worker) -> None:
    worker.read()
    worker.next("hello")
    worker.line(b'{"type":"run","job":"1","folder":"f","volume":"v"')
    worker.process.stdin.close()
    assert worker.process.wait(PATIENCE_SECONDS) == 0 and worker._lines.empty()


@pytest.mark.slow
def test_a_real_worker_survives_invalid_input() -> None:
    worker = Worker(["-m", "diffusion_segmentation", "worker"], subprocess.DEVNULL)
    try:
        worker.read()
        for line in (b"\xff\xfe", b"[" * 100_000, b"x" * (3 * messages.MAX_LINE_BYTES), b'{"type":"later"}', b"{"):
            worker.line(line + b"\n")
            assert worker.next("error")["kind"] == "input"
        assert worker.next("hello")["protocol"] == messages.PROTOCOL
    finally:
        worker.process.kill()
        worker.process.wait()
        worker.process.stdin.close()


def test_prints_and_a_jumping_clock_do_not_disturb_the_protocol(worker: Worker) -> None:
    worker.read()
    worker.run("1", samples=50)
    received = [worker.next()]
    while received[-1]["type"] != "done":
        received.append(worker.next())
    assert [m["stage"] for m in received if m["type"] == "progress"] == [f"stage{step}" for step in range(50)]
    assert {m["type"] for m in received} == {"hello", "progress", "done"}


def test_time_limits_use_the_monotonic_clock() -> None:
    sources = [*ENGINE.rglob("*.py")]
    assert len(sources) > 20
    for path in sources:
        if path.name in (
            "temporary_files.py",
            "agent.py",
        ):  # the age of a file is wall-clock time; nothing waits for it
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in ("time.time", "datetime.now", "datetime.datetime.now"), path


def test_a_client_that_does_not_read_delays_no_run(worker: Worker, tmp_path: Path) -> None:
    """5,000 stages exceed the buffer of a pipe: the run ends, and its last message is read later."""
    worker.run("1", samples=5000)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while "the run is over" not in (tmp_path / "log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    worker.read()
    assert worker.next("done")["job"] == "1"


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 2], ids=["it ends well", "it fails"])
def test_a_dropped_run_that_does_not_listen_is_acknowledged_once(worker: Worker, samples: int) -> None:
    worker.read()
    worker.run("1", model="deaf", samples=samples)
    worker.next("progress")
    began = time.monotonic()
    worker.line(messages.encode({"type": "cancel", "job": "1", "keep": False}))
    assert worker.next() == {"type": "cancelled", "job": "1", "over": False}
    assert time.monotonic() - began < 1.0
    worker.run("2")
    assert worker.next() == {"type": "cancelled", "job": "1"}
    received = [worker.next()]
    while received[-1]["type"] != "done":
        received.append(worker.next())
    assert {message["job"] for message in received} == {"2"}


def test_the_end_of_stdin_ends_a_worker_whose_client_does_not_read(worker: Worker) -> None:
    worker.run("1", samples=5000)
    time.sleep(1.0)
    began = time.monotonic()
    worker.process.stdin.close()
    worker.process.wait(PATIENCE_SECONDS)
    assert time.monotonic() - began < harness.END_SECONDS


class Stuck:
    """A pipe that nobody reads, until `go` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.written = b""

    def write(self, data: bytes) -> int:
        self.go.wait(PATIENCE_SECONDS)
        self.written += bytes(data)
        return len(data)


def test_the_sender_does_not_block_and_is_bounded() -> None:
    stream, lost = Stuck(), threading.Event()
    box = MessageSender(stream, on_lost_client=lost.set)
    now = SimpleNamespace(stage="sampling", sample=1, samples=8, step=1, steps=5, seconds_left=1.0, note="")
    began = time.monotonic()
    filler = {"type": "done", "job": "1", "folder": "f", "report": {"x": "x" * sender.PROGRESS_BYTES}}
    box.send(filler)
    for step in range(20_000):
        now.step = step
        box.progress("1", now)
    assert box._queued_bytes < 2 * sender.PROGRESS_BYTES  # the first of the stage, no more
    for _ in range(sender.MAX_QUEUED_BYTES // sender.PROGRESS_BYTES - 2):
        box.send(filler)
    assert not lost.is_set()
    box.send(filler)
    box.send(filler)
    assert lost.is_set() and time.monotonic() - began < PATIENCE_SECONDS / 2
    stream.go.set()
    box.last({"type": "cancelled", "job": "1"})
    box.flush(PATIENCE_SECONDS)
    received = [messages.decode(line) for line in stream.written.splitlines()]
    assert [m["type"] for m in received[-2:]] == ["progress", "cancelled"] and received[-2]["step"] == 19_999


def test_a_flush_has_a_time_limit() -> None:
    stream = Stuck()
    box = MessageSender(stream, on_lost_client=lambda: None)
    box.send({"type": "cancelled", "job": "1"})
    began = time.monotonic()
    box.flush(0.1)
    assert time.monotonic() - began < PATIENCE_SECONDS / 2
    stream.go.set()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk as Linux has it")
def test_errors_are_reported_if_the_disk_of_the_log_is_full() -> None:
    with open("/dev/full", "wb") as full:
        worker = Worker(["-c", WORKER], full)
    try:
        worker.read()
        for job in ("1", "2"):
            worker.run(job, model="missing")
            assert worker.next("error")["job"] == job
        worker.process.stdin.close()
        assert worker.process.wait(PATIENCE_SECONDS) == 0
    finally:
        worker.process.kill()
        worker.process.wait()
