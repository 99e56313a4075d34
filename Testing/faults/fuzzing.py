"""What the fuzzers share: counts of results, limits of the child process and the command line."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import multiprocessing
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ENGINE = Path(__file__).resolve().parents[2] / "DiffusionSegmentation"

LONGEST_SECONDS = 5.0
"""Reading that takes longer is a hang."""

LONGEST_WAIT_SECONDS = 300.0
"""The same for a child that has the processor to itself for a part of the time only."""

MEMORY_BYTES = 4 * 2**30
"""Address space of a child, so that unbounded allocation is detected and does not exhaust the machine."""

CHUNK = 5000
"""Inputs of one child process; the memory of Hypothesis grows with them."""

MAX_SHAPES = 16


class Counts(ctypes.Structure):
    """Counts of a child, in shared memory that outlives it, of each shape of input, or of all.

    `began` is the start time of the current input, or 0; `slowest` is in seconds of the processor's time.
    """

    _fields_ = [(name, ctypes.c_double * MAX_SHAPES) for name in ("accepted", "refused")] + [
        (name, ctypes.c_double) for name in ("unexpected", "slowest", "began", "began_cpu")
    ]

    def begin(self) -> None:
        """Begin an input; the system ends the process if it takes LONGEST_SECONDS of the processor's time."""
        self.began, self.began_cpu = time.time(), time.process_time()
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, LONGEST_SECONDS)

    def add(self, answer: str, shape: int = 0) -> bool:
        """End the current input, and count its answer if it is "accepted" or "refused", which is returned."""
        self.slowest = max(self.slowest, time.process_time() - self.began_cpu)
        self.began = 0
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, 0)
        allowed = answer in ("accepted", "refused")
        if allowed:
            getattr(self, answer)[shape] += 1
        else:
            self.unexpected += 1
        return allowed


Work = Callable[[Counts, Any, Path, int, int, "Path | None"], None]
"""Of a child: counts, a queue for answers that are not allowed, a folder, inputs, seed, and where to keep inputs."""


@dataclass
class Tally:
    """Counts of results; `unexpected` counts exceptions other than the product's own errors, by text."""

    accepted: int = 0
    refused: int = 0
    crashes: int = 0
    hangs: int = 0
    unexpected: dict[str, int] = field(default_factory=dict)
    slowest: float = 0.0
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Accepted and refused inputs of each shape, if there are several."""

    @property
    def inputs(self) -> int:
        return self.accepted + self.refused + self.crashes + self.hangs + sum(self.unexpected.values())

    @property
    def passed(self) -> bool:
        return not (self.crashes or self.hangs or self.unexpected)

    def count(self, result: str, seconds: float = 0.0) -> None:
        """Count "accepted", "refused", "crash", "hang" or the text of another exception."""
        self.slowest = max(self.slowest, seconds)
        self.accepted += result == "accepted"
        self.refused += result == "refused"
        self.crashes += result == "crash"
        self.hangs += result == "hang"
        if result not in ("accepted", "refused", "crash", "hang"):
            self.unexpected[result] = self.unexpected.get(result, 0) + 1

    def __str__(self) -> str:
        unexpected = "".join(f", {count} x {text}" for text, count in self.unexpected.items())
        shapes = "".join(f"{shape}: {some} accepted, {rest} refused\n" for shape, (some, rest) in self.shapes.items())
        return shapes + (
            f"{self.inputs} inputs: {self.accepted} accepted, {self.refused} refused, {self.crashes} crashes, "
            f"{self.hangs} hangs, slowest {self.slowest:.2f} s{unexpected}"
        )


def limit_memory() -> None:
    """Limit the memory of this process, where the system can."""
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def in_children(
    work: Work, sound: Path, examples: int, seed: int, keep: Path | None, shapes: tuple[str, ...] = ()
) -> Tally:
    """Give `examples` inputs to child processes, each with a copy of the folder `sound`.

    A child that crashes or hangs is counted and replaced by another one; its folder is copied into `keep`.
    """
    tally = Tally(shapes=dict.fromkeys(shapes, (0, 0)))
    context = multiprocessing.get_context("spawn")
    while tally.inputs < examples:
        folder, counts, unexpected = sound.with_name("small"), context.Value(Counts, lock=False), context.Queue()
        shutil.copytree(sound, folder)
        some = min(CHUNK, examples - tally.inputs)
        arguments = (counts, unexpected, folder, some, seed * 10**9 + tally.inputs, keep)
        child = context.Process(target=work, args=arguments, daemon=True)
        child.start()
        hangs = False
        while child.exitcode is None and not hangs:
            child.join(0.2)
            began = counts.began  # read once: the child sets it to 0
            hangs = began > 0 and time.time() - began > LONGEST_WAIT_SECONDS
        child.kill() if hangs else None
        child.join()
        hangs |= hasattr(signal, "SIGPROF") and child.exitcode == -signal.SIGPROF
        for number, shape in enumerate(shapes):
            before = tally.shapes[shape]
            tally.shapes[shape] = tuple(
                int(n + more[number]) for n, more in zip(before, (counts.accepted, counts.refused), strict=True)
            )
        tally.accepted += int(sum(counts.accepted))
        tally.refused += int(sum(counts.refused))
        tally.hangs += hangs
        tally.crashes += child.exitcode != 0 and not hangs
        tally.slowest = max(tally.slowest, counts.slowest, LONGEST_SECONDS if hangs else 0)
        for _ in range(int(counts.unexpected)):
            tally.count(unexpected.get(timeout=10))
        if keep and child.exitcode != 0:
            copy_kept(folder, keep / f"{tally.inputs}-{'hang' if hangs else 'crash'}")
        shutil.rmtree(folder)
    return tally


def copy_kept(folder: Path, target: Path) -> None:
    """Copy an input that must be looked at; pipes and files that cannot be read are left out."""
    with contextlib.suppress(shutil.Error):
        shutil.copytree(folder, target, symlinks=True)


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder in memory where there is such a place: a disk is slower than the reader."""
    return tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)


def main(fuzz: Callable[[int, int, Path | None], Tally], description: str) -> int:
    """Run `fuzz(examples, seed, keep)` with the arguments of the command line; 1 if a result is not allowed."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=100_000, help="inputs, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="folder for inputs with a result not allowed")
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(ENGINE))
    start = time.monotonic()
    tally = fuzz(options.examples, options.seed, options.keep)
    print(f"{tally}; {tally.inputs / (time.monotonic() - start):.0f} inputs per second")
    return 0 if tally.passed else 1
