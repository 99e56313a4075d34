"""Short runs through one worker, one after another: memory and files of both processes must stay as they are.

    python Testing/faults/soak.py [--runs 200] [--json FILE]

After each run the resident memory and the open files of the worker and of the client are read, and the job folder is
removed as Slicer removes it. A line is fitted through the memory after the tenth run and printed with its standard
error. The exit status is 1 where it rises by more than 20 KiB a run beyond twice that error, or where open files,
threads or temporary files have grown.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from worker_bench import Bench, Slicer, bench

WARM_UP_RUNS = 10
MOST_KIB_A_RUN = 20.0
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") / 1024


@dataclass(frozen=True)
class Measurement:
    """One process after a run."""

    kib: float
    files: int
    threads: int


def measure(pid: int) -> Measurement:
    process = Path("/proc") / str(pid)
    pages = int((process / "statm").read_text().split()[1])
    return Measurement(pages * PAGE_KIB, len(os.listdir(process / "fd")), len(os.listdir(process / "task")))


def soak(bench: Bench, runs: int) -> dict[str, list[Measurement]]:
    """Measurements of both processes after each run."""
    measurements: dict[str, list[Measurement]] = {"worker": [], "client": []}
    slicer = Slicer(bench)
    try:
        slicer.until_hello()
        for _ in range(runs):
            run = slicer.run(samples=2, steps=2)
            end = slicer.finish(run)
            if end["type"] != "done":
                raise RuntimeError(end["message"])
            slicer.messages.clear()
            shutil.rmtree(run["folder"])
            measurements["worker"].append(measure(slicer.pid))
            measurements["client"].append(measure(os.getpid()))
    finally:
        slicer.stop()
    return measurements


def slope(values: list[float]) -> tuple[float, float]:
    """The rise from one value to the next by least squares, and its standard error."""
    steps = np.arange(len(values)) - (len(values) - 1) / 2
    centred = np.array(values) - np.mean(values)
    rise = float(steps @ centred / (steps @ steps))
    rest = centred - rise * steps
    return rise, float(np.sqrt(rest @ rest / (len(values) - 2) / (steps @ steps)))


def problems(name: str, measurements: list[Measurement]) -> list[str]:
    """Print the measurements of one process and return its problems."""
    after = measurements[WARM_UP_RUNS:]
    rise, error = slope([one.kib for one in after])
    first, last = after[0], after[-1]
    print(
        f"{name}: {rise:+.2f} +- {error:.2f} KiB/run, {first.kib / 1024:.0f} MiB after run {WARM_UP_RUNS + 1}, "
        f"{last.kib / 1024:.0f} MiB at the end; open files {first.files} -> {last.files}, "
        f"threads {first.threads} -> {last.threads}"
    )
    leaks = []
    if rise - 2 * error > MOST_KIB_A_RUN:
        leaks.append(f"the memory of the {name} grows")
    if last.files > first.files:
        leaks.append(f"the open files of the {name} grow")
    if last.threads > first.threads:
        leaks.append(f"the threads of the {name} grow")
    return leaks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the memory after each run here, in KiB")
    options = parser.parse_args()
    if options.runs < WARM_UP_RUNS + 5:
        parser.error(f"a line needs at least {WARM_UP_RUNS + 5} runs")
    with bench() as opened_bench:
        measurements = soak(opened_bench, options.runs)
        remaining = sorted(path.name for path in (*opened_bench.jobs.iterdir(), *opened_bench.temporary.iterdir()))
    print(f"{options.runs} runs; files left: {', '.join(remaining) or 'none'}")
    leaks = [problem for name in measurements for problem in problems(name, measurements[name])]
    leaks += ["files are left"] if remaining else []
    print("; ".join(leaks) or "flat")
    if options.json:
        options.json.write_text(json.dumps({name: [one.kib for one in measurements[name]] for name in measurements}))
    return int(bool(leaks))


if __name__ == "__main__":
    sys.exit(main())
