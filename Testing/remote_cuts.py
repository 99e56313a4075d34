"""Cuts of the connection to the other computer of loopback.py, at a moment of choice, and what is left afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopback import ENGINE, GREETING, Loopback

from diffusion_segmentation.worker import protocol

CUTS = ("ssh killed", "line silent", "asleep", "session killed", "relay killed")
LOCAL_SECONDS = 10.0
REMOTE_SECONDS = 10.0


class Relay:
    """A relay to a loopback, as a client starts it."""

    def __init__(self, loopback: Loopback) -> None:
        command = [sys.executable, "-X", "utf8", "-m", "diffusion_segmentation", "relay"]
        command += ["--host", loopback.host, "--host-python", loopback.python]
        path = f"{loopback.bin}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PYTHONPATH": str(ENGINE), "PATH": path}
        self.log = loopback.folder / f"relay-{uuid.uuid4().hex[:6]}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                process_group=0,
            )
        self._arrived: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._arrived.put(protocol.decode(line, protocol.FROM_WORKER))
        self._arrived.put(None)

    def send(self, **message: Any) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.write(protocol.encode(message))
            self.process.stdin.flush()

    def run(self, folder: Path, volume: Path, model: str, **changed: Any) -> str:
        job = uuid.uuid4().hex
        fields = {"samples": 2, "steps": None, "seed": 0, "device": "cpu", **changed}
        self.send(type="run", job=job, folder=str(folder), volume=str(volume), model=model, **fields)
        return job

    def next(self, *kinds: str, seconds: float = 60.0) -> dict[str, Any] | None:
        """The next message of these kinds, or of any; None at the end."""
        deadline = time.monotonic() + seconds
        while True:
            message = self._arrived.get(timeout=max(0.01, deadline - time.monotonic()))
            if message is None or not kinds or message["type"] in kinds:
                return message

    def end(self) -> None:
        for sign in (signal.SIGCONT, signal.SIGKILL):
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, sign)
        self.process.wait(10)


@dataclass(frozen=True)
class Outcome:
    """What a cut has left: finished samples before and after it, the time until the other computer was empty (s)."""

    before: int
    after: int
    remote_s: float
    sentence: str


def cut(loopback: Loopback, kind: str, delay_s: float, folder: Path, volume: Path) -> Outcome:
    """Start a run whose samples are kept as they finish, and cut the connection `delay_s` later.

    Raises AssertionError if what had arrived is lost or damaged, or if anything remains on the other computer.
    """
    relay = Relay(loopback)
    try:
        started = time.monotonic()
        threading.Thread(target=_run_after_hello, args=(relay, folder, volume), daemon=True).start()
        time.sleep(max(0.0, started + delay_s - time.monotonic()))
        before = newest(folder)
        clients, sessions = loopback.clients(), loopback.sessions()
        connected = GREETING in relay.log.read_text()  # the relay has found the beginning of the frames
        frozen = {"line silent": clients, "asleep": [*clients, relay.process.pid]}.get(kind, [])
        killed = {"ssh killed": clients, "session killed": sessions, "relay killed": [relay.process.pid]}.get(kind, [])
        for pids, sign in ((frozen, signal.SIGSTOP), (killed, signal.SIGKILL)):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sign)
        if not connected:
            relay.end()  # there was nothing to cut yet
        remote_s = loopback.leaves_nothing(REMOTE_SECONDS)
        if kind == "asleep" and connected:
            for pid in frozen:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        try:
            relay.process.wait(LOCAL_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{kind}: the relay has not ended") from None
        after = newest(folder)
        assert after >= before, f"{kind}: {before} samples had finished, {after} are left"
        return Outcome(before, after, remote_s, relay.log.read_text()[-300:])
    finally:
        relay.end()
        shutil.rmtree(folder, ignore_errors=True)


def _run_after_hello(relay: Relay, folder: Path, volume: Path) -> None:
    with contextlib.suppress(queue.Empty):
        if relay.next("hello"):
            relay.run(folder, volume, "finishing")


def newest(folder: Path) -> int:
    """Number of samples in the finished folder with the most; AssertionError if one with a report is damaged."""
    counts = [0]
    for report in folder.glob("finished-*/report.json"):
        with contextlib.suppress(FileNotFoundError):  # replaced by the next one at this moment
            stated = json.loads(report.read_text())
            data = (report.parent / "segmentation.seg.nrrd").read_bytes()
            assert hashlib.sha256(data).hexdigest() == stated["sha256"], f"{report} is damaged"
            counts.append(stated["samples"])
    return max(counts)
