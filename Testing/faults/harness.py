"""Kills the worker at every stage and at random moments of a run, and its parent; looks at what is left each time.

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
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "DiffusionSegmentation"))

from DiffusionSegmentationLib.runs.temporary_files import FINISHED, newestFinished  # noqa: E402
from DiffusionSegmentationLib.runs.worker_client import WorkerClient, workerCommand, workerEnvironment  # noqa: E402
from DiffusionSegmentationLib.scene.nrrd_files import ResultFileError, readHeader  # noqa: E402

LIMITED = Path(__file__).with_name("limited_worker.py")
FINAL = ("done", "partial", "cancelled", "error")
PATIENCE_SECONDS = 120.0
"""Only what fails waits so long."""
END_SECONDS = 2.0
"""So long after a death everything that belonged to the dead may still be there."""
SAMPLES = 8
STEPS = 20
"""Of the tiny model: a run of eight samples takes some seconds."""

# Python runs this at its start. The worker gets a child, which must not outlive it, and a way into os._exit.
SITE_CUSTOMIZE = """
import os, signal, subprocess, sys
if sys.orig_argv[-1:] == ["worker"]:
    signal.signal(signal.SIGUSR1, lambda *_: os._exit(3))
    subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL)
"""

# A small Slicer: it starts a worker, begins a run, prints the worker's process and waits to be killed.
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
        make_model(self.root / "model")
        make_volume(self.root / "volume.nrrd")
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


def make_model(folder: Path) -> None:
    """Two random classes and background."""
    import torch

    from diffusion_segmentation.model import folder as model

    torch.manual_seed(0)
    network = {"encoder": {"channels": [8, 8], "blocks": [1, 1]}, "denoiser": {"channels": [8, 8], "blocks": 1}}
    encoder, denoiser = model.build(network, 3)
    with torch.no_grad():  # heads start at zero, which would make every voxel the same
        for parameter in (*encoder.parameters(), *denoiser.parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))
    labels = [
        {"label": n, "id": name, "name": name, "color": [1.0, 0.5 * n, 0.0], "terminology": "a~b^c^d~e^f^g~^^~h~^^~^^"}
        for n, name in enumerate(("inner", "outer"), start=1)
    ]
    section = {
        "schema": model.SCHEMA, "name": "tiny", "title": "Two random classes", "map_source": "samples",
        "working_spacing_mm": 4.0, "window": [32, 32, 32], "steps": {"cpu": 2, "gpu": 2}, "network": network,
        "labels": labels, "process": {"loss_curve": {"log_snr": [-12.0, 0.0, 8.0], "cross_entropy": [1.0, 0.5, 0.1]}},
        "input_range": {"spacing_mm": [0.3, 8.0], "extent_mm": [60, 500], "modality": "MR"},
    }  # fmt: skip
    model.save(folder, {"version": "0.0.1", "diffusion_segmentation": section}, encoder, denoiser)


def make_volume(path: Path) -> None:
    """A bright ball with noise, 40 x 44 x 36 voxels of 2.5 mm."""
    import numpy as np
    import SimpleITK as sitk

    z, y, x = np.ogrid[-1:1:36j, -1:1:44j, -1:1:40j]
    noise = np.random.default_rng(0).standard_normal((36, 44, 40))
    image = sitk.GetImageFromArray((100 * (x**2 + y**2 + z**2 < 0.6) + 5 * noise).astype(np.float32))
    image.SetSpacing((2.5, 2.5, 2.5))
    sitk.WriteImage(image, str(path))


class Slicer:
    """What Slicer does with a worker, without Slicer: its client, polled, and all that was said."""

    def __init__(self, bench: Bench, limited: bool = False) -> None:
        self.bench = bench
        self.said: list[dict[str, Any]] = []
        self.reasons: list[str] = []
        command = [sys.executable, str(LIMITED), "worker"] if limited else workerCommand(sys.executable)
        self.client = WorkerClient(command, bench.environment)
        self.client.received.connect(self.said.append)
        self.client.ended.connect(self.reasons.append)
        self.client.start()
        while self.client._process is not None and self.client._process._process is None:
            time.sleep(0.001)
        self.pid = self.client._process._process.pid

    def until(self, condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
        """Poll until `condition` holds and return what it says. Raises TimeoutError, with the worker's last words."""
        deadline = time.monotonic() + seconds
        while not (answer := condition()):
            if time.monotonic() > deadline or not self.client.running:
                raise TimeoutError(f"{self.said[-2:]} {self.reasons} {list(self.client.log)[-8:]}")
            self.client.poll()
            time.sleep(0.001)
        return answer

    def until_hello(self) -> None:
        self.until(lambda: self.client.hello)

    def of(self, job: str, *types: str) -> list[dict[str, Any]]:
        """What was said of a job, of these types or of all."""
        return [m for m in self.said if m.get("job") == job and (not types or m["type"] in types)]

    def finish(self, message: dict[str, Any]) -> dict[str, Any]:
        """The last message of a job."""
        return self.until(lambda: self.of(message["job"], *FINAL))[0]

    def run(self, **fields: Any) -> dict[str, Any]:
        """Begin a run and return its message."""
        message = self.bench.run_message(**fields)
        self.client.send(message)
        return message

    def cancel(self, message: dict[str, Any], keep: bool = False) -> tuple[str, float]:
        """Cancel a run; what the last message was, and after how many seconds it came."""
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


def group(leader: int) -> list[int]:
    """The processes of a process group that live; one that ended and waits to be asked for its status does not."""
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
    """Who is left of a group after at most so many seconds, and how long that took."""
    began = time.monotonic()
    while (left := group(leader)) and time.monotonic() - began < seconds:
        time.sleep(0.02)
    return left, time.monotonic() - began


def broken_files(folder: Path) -> list[str]:
    """Files under a final name that are not whole. Where `.part` stands in a name, nobody takes it for a file."""
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


def lost_previews(said: list[dict[str, Any]]) -> list[str]:
    """What previews announced and is not there whole."""
    lost = []
    for message in said:
        for name in ("segmentation", "entropy") if message["type"] == "preview" else ():
            try:
                readHeader(Path(message[name]))
            except ResultFileError as error:
                lost.append(f"preview of {message['samples']}: {error}")
    return lost


def lost_finished(folder: Path) -> list[str]:
    """What a panel would offer of a run that died, and is not whole."""
    found = newestFinished(folder)
    if found is None:
        return []
    part, _ = found
    return [f"{part.name} lacks {name}" for name in RESULT if not (part / name).is_file()]


@dataclass
class Row:
    """One death: `moment`, what the person still has, what is lost that was announced, what is left behind."""

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
    """One life of a worker, ended by `kill` as soon as `when` holds for a run (or that run is over)."""
    slicer = bench.slicer(limited)
    lost, extra = [], ""
    try:
        if not before_hello:
            slicer.until_hello()
        if whole_run_first:
            began = time.monotonic()
            first = slicer.run(samples=2, steps=2)
            end = slicer.finish(first)
            extra = f", next run whole in {time.monotonic() - began:.1f} s"
            if end["type"] != "done" or broken_files(Path(first["folder"])):
                lost.append(f"the next run: {end}")
            shutil.rmtree(first["folder"])
        message = slicer.run()
        slicer.until(lambda: when(slicer, message) or slicer.of(message["job"], *FINAL))
        if len(group(slicer.pid)) < 2 and not before_hello:
            lost.append("the worker had no child to lose")
        KILLS[kill](slicer.pid)
        began = time.monotonic()
        slicer.wait_for_end()
        alive, _ = group_after(slicer.pid, max(0.0, END_SECONDS - (time.monotonic() - began)))
        seconds = time.monotonic() - began
    finally:
        slicer.stop()
    folder = Path(message["folder"])
    said = slicer.of(message["job"])
    left = [f"process {pid}" for pid in alive] + [f"temporary {path.name}" for path in bench.temporary.iterdir()]
    if seconds > END_SECONDS:
        left.append(f"noticed after {seconds:.1f} s")
    if not slicer.reasons:
        lost.append("nobody was told")
    lost += broken_files(folder) + lost_previews(said) + lost_finished(folder)
    row = Row(f"{moment}, {kill}{', small memory' if limited else ''}", summary(folder, said) + extra, lost, left)
    shutil.rmtree(folder)
    return row


def summary(folder: Path, said: list[dict[str, Any]]) -> str:
    """What a person still has of a run: the samples of the last preview or all, and of how many that were drawn."""
    previews = [m["samples"] for m in said if m["type"] == "preview"]
    drawn = max(
        [0, *(m["sample"] - 1 for m in said if m["type"] == "progress" and m["stage"] == "sampling"), *previews]
    )
    parts = sum(".part" in path.name for path in folder.iterdir())
    if any(m["type"] in ("done", "partial") for m in said):
        kept = "the result"
    elif (folder / "report.json").is_file():
        kept = "the result, unannounced"
    elif (folder / "samples.seq.nrrd").is_file():
        kept = "all masks, no report"
    elif (found := newestFinished(folder)) is not None:
        kept = f"{found[0].name.removeprefix(FINISHED)} finished samples of {drawn}"
    else:
        kept = f"preview of {max(previews)} of {drawn} samples" if previews else "nothing announced"
    return kept + (f", {parts} .part" if parts else "")


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
        left, seconds = group_after(worker, 30.0)
        lost = [] if before else ["the worker had ended before"]
        late = [f"{before} processes for {seconds:.1f} s"] if seconds > END_SECONDS or left else []
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    row = Row(f"{moment}, parent SIGKILL", f"{before} processes ended after {seconds:.2f} s", lost, late)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    lost += broken_files(Path(run["folder"]))
    shutil.rmtree(run["folder"])
    # Nobody is left to remove the log of a killed parent's worker; the system's own cleaning does.
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
    chance = random.Random(seed)
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
        at = chance.uniform(0, seconds)
        moment = f"{at:.2f} s after {'the start' if before_hello else 'run'}"
        kill = chance.choice(("SIGKILL", "SIGKILL", "SIGSEGV", "os._exit"))
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
    deaths = lost = left = 0
    with bench() as made:
        print(f"{'moment':<58} | {'survived':<58} | lost | left behind", flush=True)
        for row in rows(made, options.moments, options.seed):
            print(row, flush=True)
            deaths, lost, left = deaths + 1, lost + bool(row.lost), left + bool(row.left)
        leftovers = list(made.jobs.iterdir()) + list(made.temporary.iterdir())
    print(f"{deaths} deaths, {lost} with something lost, {left} with something left, {len(leftovers)} stray files")
    return int(bool(lost or left or leftovers))


if __name__ == "__main__":
    sys.exit(main())
