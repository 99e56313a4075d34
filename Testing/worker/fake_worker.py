"""A worker whose engine needs no torch: what a job does is chosen by the name of its model.

Started by the tests as a process of its own: python fake_worker.py [idle seconds] [seconds that loading takes]
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from diffusion_segmentation.errors import Cancelled, DeviceLostError, InputError, OutOfMemoryError
from diffusion_segmentation.runtime.stdio import claim_stdin, claim_stdout
from diffusion_segmentation.worker.server import Worker

LOADING_SECONDS = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0


class ModelCache:
    def __init__(self) -> None:
        time.sleep(LOADING_SECONDS)
        self.cleared = 0

    def clear(self) -> None:
        self.cleared += 1


@dataclass
class Job:
    request: Any
    progress: Callable[[Any], None]
    preview: Callable[[Any], None]
    cancel: Callable[[], str | None]
    models: ModelCache

    def tell(self, stage: str, step: int = 0) -> None:
        now = SimpleNamespace(stage=stage, sample=1, samples=2, step=step, steps=5, seconds_left=1.5, note="")
        self.progress(now)

    def outcome(self, partial: bool = False, **report: Any) -> SimpleNamespace:
        used = {key: str(value) for key, value in vars(self.request).items()}
        return SimpleNamespace(report={"cleared": self.models.cleared, "request": used, **report}, partial=partial)


def quick(job: Job) -> SimpleNamespace:
    for stage in ("reading", "model", "encoding", "sampling", "writing"):
        job.tell(stage)
        if stage == "encoding":
            folder = job.request.output
            job.preview(SimpleNamespace(segmentation=folder / "p.seg.nrrd", entropy=folder / "e.nrrd", samples=0))
    return job.outcome()


def burst(job: Job) -> SimpleNamespace:
    """1,000 steps in about half a second, then another stage of two steps."""
    for step in range(1000):
        job.tell("sampling", step)
        time.sleep(0.0005)
    job.tell("writing", 0)
    job.tell("writing", 1)
    return job.outcome()


def patient(job: Job) -> SimpleNamespace:
    """Works until it is cancelled."""
    job.tell("sampling")
    while not (how := job.cancel()):
        time.sleep(0.01)
    if how == "drop":
        raise Cancelled
    return job.outcome(partial=True)


def slow_to_end(job: Job) -> SimpleNamespace:
    """Reacts to a cancel only after one long call, and sends a message before its end."""
    job.tell("sampling")
    while not job.cancel():
        time.sleep(0.01)
    time.sleep(1.0)
    job.tell("writing")
    raise Cancelled


def deaf(job: Job) -> SimpleNamespace:
    """One long call, as into a network, with a child process beside it."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (job.request.output / "child").write_text(str(child.pid))
    job.tell("sampling")
    time.sleep(60)
    return job.outcome()


def noisy(job: Job) -> SimpleNamespace:
    """Prints the way libraries do: from Python, from C, from a child."""
    print("printed by Python", flush=True)
    os.write(1, b"written to descriptor 1\n")
    libc = ctypes.CDLL(None)
    libc.printf(b"printed by C\n")
    libc.fflush(None)
    subprocess.run([sys.executable, "-c", "print('printed by a child')"], check=True)
    return job.outcome(read=sys.stdin.read(), descriptor=len(os.read(0, 100)))


def hungry(job: Job) -> SimpleNamespace:
    raise MemoryError


def full_gpu(job: Job) -> SimpleNamespace:
    raise OutOfMemoryError("The memory of 'cuda:0' did not suffice.", try_device="cpu")


def reset_gpu(job: Job) -> SimpleNamespace:
    raise DeviceLostError("The graphics card stopped working.")


def reset_when_cancelled(job: Job) -> SimpleNamespace:
    job.tell("sampling")
    while not job.cancel():
        time.sleep(0.01)
    return reset_gpu(job)


def hungry_torch(job: Job) -> SimpleNamespace:
    raise type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2.00 GiB")


def hungry_cpu(job: Job) -> SimpleNamespace:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")


def wrong_input(job: Job) -> SimpleNamespace:
    raise InputError("The volume 'a.nrrd' is a 2-D image; give a 3-D volume.")


def defective(job: Job) -> SimpleNamespace:
    return {}["no such key"]


def unspeakable(job: Job) -> SimpleNamespace:
    return job.outcome(value=float("nan"))


def finishing(job: Job) -> SimpleNamespace:
    """Keeps finished samples as the engine does, ten times a second, until it is cancelled."""
    before = None
    for count in range(1, 100_000):
        folder = job.request.output / f"finished-{count}"
        folder.mkdir(parents=True)
        data = (f"{count}," * 500_000).encode()[:1_000_000] + os.urandom(100_000)
        (folder / "segmentation.seg.nrrd").write_bytes(data)
        report = {"samples": count, "sha256": hashlib.sha256(data).hexdigest()}
        (folder / "report.json").write_text(json.dumps(report))
        if before is not None:
            shutil.rmtree(before)
        before = folder
        job.tell("sampling", count)
        time.sleep(0.1)
        if how := job.cancel():
            if how == "drop":
                raise Cancelled
            break
    return job.outcome(partial=True)


def crash(job: Job) -> SimpleNamespace:
    os._exit(42)


BEHAVIOURS = (
    quick, burst, patient, slow_to_end, deaf, noisy, hungry, hungry_torch, hungry_cpu, full_gpu, reset_gpu,
    reset_when_cancelled, wrong_input, defective, unspeakable, crash, finishing,
)  # fmt: skip


def segment(request: Any, **callbacks: Any) -> SimpleNamespace:
    behaviour = {function.__name__: function for function in BEHAVIOURS}[request.model]
    return behaviour(Job(request, **callbacks))


if __name__ == "__main__":
    engine = SimpleNamespace(
        Request=lambda **fields: SimpleNamespace(**fields),
        ModelCache=ModelCache,
        segment=segment,
        devices=lambda: [{"id": "cpu", "name": "Abacus", "totalBytes": 8, "freeBytes": 4}],
    )
    idle_seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    sys.exit(Worker(claim_stdin(), claim_stdout(), engine, idle_seconds).serve())
