"""Kills the worker or its parent at every stage and at random moments of a run, and checks what remains.

    python Testing/faults/harness.py [--moments 50] [--seed 0]

Each row is one life of a real worker, started by the client that Slicer uses, with a child process of its own. It is
killed with SIGKILL, SIGSEGV or os._exit, at every boundary also in a memory that is too small (limited_worker.py), and
so at every second of the random moments. Then no process of its group may be left, no file but the job's may lie about,
every file under its final name must be whole, what a preview announced must be readable, and what was kept of the
finished samples must be a whole result. Every row is a next run
in a fresh worker after the kill before it; every fifth draws a whole result first. The last rows kill the parent
instead, in the place of Slicer: the worker and its child must end within two seconds. The exit status is 1 if anything
is lost or left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker_bench import FINAL, Bench, Slicer, bench

from DiffusionSegmentationLib.runs.temporary_files import FINISHED, newestFinished
from DiffusionSegmentationLib.runs.worker_client import workerCommand
from DiffusionSegmentationLib.scene.nrrd_files import ResultFileError, readHeader

END_SECONDS = 2.0
"""Processes of a worker must have ended this long after its death."""

# In place of Slicer: starts a worker and a run, prints the worker's process ID and waits to be killed.
PARENT = """
import json, sys, time
from DiffusionSegmentationLib.runs.worker_client import WorkerClient
command, environment, run = json.loads(sys.argv[1])
client = WorkerClient(command, environment)
client.received.connect(lambda message: print(message["type"], message.get("stage", ""), flush=True))
client.start()
while client._process._process is None:
    time.sleep(0.001)
print(client._process._process.pid, flush=True)
client.send(run)
while True:
    client.poll()
    time.sleep(0.002)
"""


def group(leader: int) -> list[int]:
    """Running processes of a process group, without zombies."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, of_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except (OSError, ValueError):
                continue
            if int(of_group) == leader and state not in "ZX":
                members.append(int(entry.name))
    return members


def group_after(leader: int, seconds: float) -> tuple[list[int], float]:
    """Processes of a group that remain after at most `seconds`, and the seconds waited."""
    began = time.monotonic()
    while (remaining := group(leader)) and time.monotonic() - began < seconds:
        time.sleep(0.02)
    return remaining, time.monotonic() - began


def broken_files(folder: Path) -> list[str]:
    """Files with a final name that are incomplete; names with `.part` are not final."""
    broken = []
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or ".part" in path.name:
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            else:
                readHeader(path)
        except (OSError, ValueError, ResultFileError) as error:
            broken.append(f"{path.name}: {error}")
    return broken


def lost_previews(messages: list[dict[str, Any]]) -> list[str]:
    """Announced previews whose files are incomplete."""
    missing = []
    for message in messages:
        for name in ("segmentation", "entropy") if message["type"] == "preview" else ():
            try:
                readHeader(Path(message[name]))
            except ResultFileError as error:
                missing.append(f"preview of {message['samples']}: {error}")
    return missing


def lost_finished(folder: Path) -> list[str]:
    """Missing files of the finished samples that a panel would offer."""
    newest = newestFinished(folder)
    if newest is None:
        return []
    part, _ = newest
    return [f"{part.name} lacks {name}" for name in RESULT if not (part / name).is_file()]


@dataclass
class Row:
    """One death: `moment`, results that survived, announced results that are lost, and leftovers."""

    moment: str
    survived: str
    lost: list[str]
    left: list[str]

    def __str__(self) -> str:
        cells = (f"{self.moment:<58}", f"{self.survived:<58}", "; ".join(self.lost) or "-", "; ".join(self.left) or "-")
        return " | ".join(cells)


RESULT = (
    "segmentation.seg.nrrd",
    "entropy.nrrd",
    "disagreement.nrrd",
    "samples.seq.nrrd",
    "probabilities.seq.nrrd",
    "regions.nrrd",
)
KILLS: dict[str, Callable[[int], None]] = {
    "SIGKILL": lambda pid: os.kill(pid, signal.SIGKILL),
    "SIGSEGV": lambda pid: os.kill(pid, signal.SIGSEGV),
    "os._exit": lambda pid: os.kill(pid, signal.SIGUSR1),
}


def death(
    bench: Bench,
    moment: str,
    when: Callable[[Slicer, dict[str, Any]], Any],
    kill: str = "SIGKILL",
    whole_run_first: bool = False,
    before_hello: bool = False,
    limited: bool = False,
) -> Row:
    """Run a worker and end it by `kill` as soon as `when` holds for a run (or that run is over)."""
    slicer = bench.slicer(limited)
    missing, extra = [], ""
    try:
        if not before_hello:
            slicer.until_hello()
        if whole_run_first:
            began = time.monotonic()
            first = slicer.run(samples=2, steps=2)
            end = slicer.finish(first)
            extra = f", next run whole in {time.monotonic() - began:.1f} s"
            if end["type"] != "done" or broken_files(Path(first["folder"])):
                missing.append(f"the next run: {end}")
            shutil.rmtree(first["folder"])
        message = slicer.run()
        slicer.until(lambda: when(slicer, message) or slicer.of(message["job"], *FINAL))
        if len(group(slicer.pid)) < 2 and not before_hello:
            missing.append("the worker had no child to lose")
        KILLS[kill](slicer.pid)
        began = time.monotonic()
        slicer.wait_for_end()
        alive, _ = group_after(slicer.pid, max(0.0, END_SECONDS - (time.monotonic() - began)))
        seconds = time.monotonic() - began
    finally:
        slicer.stop()
    folder = Path(message["folder"])
    messages = slicer.of(message["job"])
    remaining = [f"process {pid}" for pid in alive] + [f"temporary {path.name}" for path in bench.temporary.iterdir()]
    if seconds > END_SECONDS:
        remaining.append(f"noticed after {seconds:.1f} s")
    if not slicer.reasons:
        missing.append("nobody was told")
    missing += broken_files(folder) + lost_previews(messages) + lost_finished(folder)
    row = Row(
        f"{moment}, {kill}{', small memory' if limited else ''}", summary(folder, messages) + extra, missing, remaining
    )
    shutil.rmtree(folder)
    return row


def summary(folder: Path, messages: list[dict[str, Any]]) -> str:
    """What the user still has of a run: samples of the last preview or all, and the number drawn."""
    previews = [m["samples"] for m in messages if m["type"] == "preview"]
    finished = max(
        [0, *(m["sample"] - 1 for m in messages if m["type"] == "progress" and m["stage"] == "sampling"), *previews]
    )
    parts = sum(".part" in path.name for path in folder.iterdir())
    if any(m["type"] in ("done", "partial") for m in messages):
        survived = "the result"
    elif (folder / "report.json").is_file():
        survived = "the result, unannounced"
    elif (folder / "samples.seq.nrrd").is_file():
        survived = "all masks, no report"
    elif (newest := newestFinished(folder)) is not None:
        survived = f"{newest[0].name.removeprefix(FINISHED)} finished samples of {finished}"
    else:
        survived = f"preview of {max(previews)} of {finished} samples" if previews else "nothing announced"
    return survived + (f", {parts} .part" if parts else "")


def after_stage(stage: str) -> Callable[[Slicer, dict[str, Any]], Any]:
    return lambda slicer, run: any(m.get("stage") == stage for m in slicer.of(run["job"]))


def after_preview(samples: int) -> Callable[[Slicer, dict[str, Any]], Any]:
    return lambda slicer, run: any(m["samples"] >= samples for m in slicer.of(run["job"], "preview"))


def after_file(name: str) -> Callable[[Slicer, dict[str, Any]], Any]:
    return lambda slicer, run: (Path(run["folder"]) / name).exists()


def after_seconds(seconds: float) -> Callable[[Slicer, dict[str, Any]], Any]:
    deadline: list[float] = []  # from the first look, when the run has just been sent

    def passed(slicer: Slicer, run: dict[str, Any]) -> bool:
        deadline[:] = deadline or [time.monotonic() + seconds]
        return time.monotonic() >= deadline[0]

    return passed


BOUNDARIES: dict[str, Callable[[Slicer, dict[str, Any]], Any]] = {
    **{f"stage {stage}": after_stage(stage) for stage in ("reading", "model", "encoding", "sampling", "writing")},
    **{f"preview of {samples}": after_preview(samples) for samples in (0, 1, 2, 4)},
    "consensus written": after_file("segmentation.seg.nrrd"),
    "masks half written": after_file("samples.seq.part.nrrd"),
    "masks written": after_file("samples.seq.nrrd"),
    "report written, before done": after_file("report.json"),
    "done": lambda slicer, run: slicer.of(run["job"], "done"),
}
"""Every boundary of a run at which it may be killed."""


def orphans(bench: Bench, moment: str, word: str, wait_seconds: float) -> Row:
    """Kill the parent of a worker some time after it has printed `word`; the worker and its child must end."""
    run = bench.run_message()
    details = json.dumps([workerCommand(sys.executable), bench.environment, run])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, details], env=bench.environment, stdout=subprocess.PIPE, text=True
    )
    try:
        worker = int(parent.stdout.readline())
        while word and not parent.stdout.readline().startswith(word):
            pass
        time.sleep(wait_seconds)
        before = len(group(worker))
        parent.kill()
        remaining, seconds = group_after(worker, 30.0)
        missing = [] if before else ["the worker had ended before"]
        late = [f"{before} processes for {seconds:.1f} s"] if seconds > END_SECONDS or remaining else []
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    row = Row(f"{moment}, parent SIGKILL", f"{before} processes ended after {seconds:.2f} s", missing, late)
    for pid in remaining:
        os.kill(pid, signal.SIGKILL)
    missing += broken_files(Path(run["folder"]))
    shutil.rmtree(run["folder"])
    # The log of a killed parent's worker is left to the system's cleaning.
    for path in bench.temporary.glob("DiffusionSegmentation-worker-*"):
        shutil.rmtree(path)
    return row


ORPHANS = (
    ("while torch is imported", "", 1.0),
    ("idle after hello", "hello", 0.0),
    ("stage encoding", "progress encoding", 0.0),
    ("stage sampling", "progress sampling", 0.3),
    ("stage writing", "progress writing", 0.0),
)


def rows(bench: Bench, moments: int, seed: int) -> Iterator[Row]:
    rng = random.Random(seed)
    slicer = bench.slicer()
    try:
        slicer.until_hello()
        began = time.monotonic()
        run = slicer.run()
        slicer.finish(run)
        seconds = time.monotonic() - began
        shutil.rmtree(run["folder"])
    finally:
        slicer.stop()
    print(f"a run that is left alone takes {seconds:.1f} s", flush=True)
    for limited in (False, True):
        for moment, when in BOUNDARIES.items():
            yield death(bench, moment, when, limited=limited)
    for number in range(moments):
        before_hello = number % 10 == 9
        at = rng.uniform(0, seconds)
        moment = f"{at:.2f} s after {'the start' if before_hello else 'run'}"
        kill = rng.choice(("SIGKILL", "SIGKILL", "SIGSEGV", "os._exit"))
        if before_hello:
            kill = "SIGKILL"  # the hook for os._exit may not be there yet
        yield death(bench, moment, after_seconds(at), kill, number % 5 == 0, before_hello, number % 2 == 1)
    for arguments in ORPHANS:
        yield orphans(bench, *arguments)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moments", type=int, default=50, help="random moments, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the moments, default: %(default)s")
    options = parser.parse_args()
    deaths = missing = remaining = 0
    with bench() as opened_bench:
        print(f"{'moment':<58} | {'survived':<58} | lost | left behind", flush=True)
        for row in rows(opened_bench, options.moments, options.seed):
            print(row, flush=True)
            deaths, missing, remaining = deaths + 1, missing + bool(row.lost), remaining + bool(row.left)
        stray = list(opened_bench.jobs.iterdir()) + list(opened_bench.temporary.iterdir())
    print(f"{deaths} deaths, {missing} with something lost, {remaining} with something left, {len(stray)} stray files")
    return int(bool(missing or remaining or stray))


if __name__ == "__main__":
    sys.exit(main())
