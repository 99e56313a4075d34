"""Correctness, speed and memory of runs on a graphics card, in less than ten minutes.

    python Testing/benchmarks/gpu.py VOLUME [--model NAME|DIR] [--json FILE]

Prints a table for each measurement; FILE has all tables so far. Times are medians of calls in turn after one to warm
up, each from an idle card to an idle card, with the model's number of steps for a GPU. The exit status is 1 without a
graphics card and after a failed measurement.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from accuracy import array, mean_dice
from speed import SAMPLES, seconds

from diffusion_segmentation.errors import DiffusionSegmentationError
from diffusion_segmentation.evaluation import cost
from diffusion_segmentation.images.intensity import body_box, normalise
from diffusion_segmentation.images.resampling import working_image
from diffusion_segmentation.images.volume import read_volume
from diffusion_segmentation.metrics import dice
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.networks import CHANNELS_LAST
from diffusion_segmentation.runtime import devices
from diffusion_segmentation.segmentation import memory_plan
from diffusion_segmentation.segmentation.memory_plan import MemoryPlan
from diffusion_segmentation.segmentation.pipeline import BODY_MARGIN_MM, ModelCache, Request, segment
from diffusion_segmentation.segmentation.sampler import EncodedVolume, sample_seeds
from diffusion_segmentation.segmentation.tiling import Tiling
from diffusion_segmentation.worker import protocol

REPEATS = 5
Rows = dict[str, Any]
"""Quantities by name, with the unit in brackets."""


@contextlib.contextmanager
def cudnn(name: str, value: bool, device: torch.device) -> Iterator[None]:
    """Change a setting of cuDNN within the context."""
    before = getattr(torch.backends.cudnn, name)
    setattr(torch.backends.cudnn, name, value)
    try:
        yield
    finally:
        setattr(torch.backends.cudnn, name, before)


VARIANTS: dict[str, Callable[[torch.device], contextlib.AbstractContextManager]] = {
    "float32": contextlib.nullcontext,
    "float32 without TF32": partial(cudnn, "allow_tf32", False),
    "float32, cuDNN searches": partial(cudnn, "benchmark", True),
    "bfloat16": lambda device: torch.autocast(device.type, torch.bfloat16),
}
"""Kinds of arithmetic; the product uses the first."""


class Bench:
    """A model on a device, and a volume on the model's working grid, made when they are first asked for."""

    def __init__(self, volume: Path, name: str, device: torch.device, folder: Path) -> None:
        """`folder` takes the results of runs."""
        self.volume, self.name, self.device, self.folder = volume, name, device, folder
        self.cache = ModelCache()
        self.steps: int = models.read_metadata(models.find(name))["diffusion_segmentation"]["steps"]["gpu"]

    @cached_property
    def model(self) -> models.Model:
        return self.cache.get(self.name, self.device)

    @cached_property
    def image(self) -> np.ndarray:
        """What `segment` gives the encoder: the body's normalised intensities, float32 [z, y, x]."""
        whole = sitk.GetArrayFromImage(working_image(read_volume(self.volume), self.model.spacing))
        box = body_box(whole, round(BODY_MARGIN_MM / self.model.spacing))
        return normalise(whole[box], self.model.section.get("intensity"))

    @cached_property
    def tiling(self) -> Tiling:
        return Tiling(self.image.shape, self.model.section["window"], self.model.multiple)

    @cached_property
    def group(self) -> int:
        """How many samples the plan draws together on the device."""
        return MemoryPlan(self.model, self.device).group_size(self.tiling)

    @cached_property
    def grid(self) -> np.ndarray:
        """Log-SNR nodes; none where the mask that the sampler starts from is the sample."""
        start = self.model.start
        return np.empty(0) if start and start.log_snr is None else self.model.step_grid(self.steps)

    def encode(self) -> EncodedVolume:
        return EncodedVolume(self.model, self.image, self.device, self.tiling)

    def draw(self, encoded: EncodedVolume, count: int, first: int = 0) -> np.ndarray:
        """Class probabilities of samples [N, C, z, y, x], or their masks [N, z, y, x] where no network draws them."""
        seeds = sample_seeds(0, count, first)
        return encoded.sample(seeds, self.grid) if len(self.grid) else np.stack([*map(encoded.start_mask, seeds)])

    def draw_all(self, encoded: EncodedVolume) -> None:
        """All samples as `segment` draws them: the first by itself, then as many together as the plan says."""
        for done in (0, *range(1, SAMPLES, self.group)):
            self.draw(encoded, min(self.group, SAMPLES - done) if done else 1, done)

    def run(self, name: str) -> tuple[float, dict[str, Any]]:
        """Seconds of a whole run from the volume's file to the results in `folder / name`, and its report."""
        others = {"device": str(self.device), "keep_samples": True, "compress": False}
        request = Request(self.volume, self.folder / name, self.name, SAMPLES, self.steps, **others)
        start = time.perf_counter()
        report = segment(request, models=self.cache).report
        return time.perf_counter() - start, report

    def seconds(self, act: Callable[[], object]) -> float:
        wait = torch.cuda.synchronize if self.device.type == "cuda" else lambda device: None
        wait(self.device)
        return seconds(lambda: (act(), wait(self.device)))

    def times(self, acts: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
        """Seconds of each act, REPEATS times in turn, so that what else the machine does falls on all alike."""
        for act in acts.values():
            act()
        elapsed: dict[str, list[float]] = {name: [] for name in acts}
        for _ in range(REPEATS):
            for name, act in acts.items():
                elapsed[name].append(self.seconds(act))
        return elapsed

    def peak(self, act: Callable[[], object]) -> int:
        """Most bytes that torch held on the card during an act; 0 on a CPU."""
        on_card = self.device.type == "cuda"
        devices.empty_cache(self.device)
        if on_card:
            torch.cuda.reset_peak_memory_stats(self.device)
        self.seconds(act)
        return torch.cuda.max_memory_allocated(self.device) if on_card else 0


def machine(bench: Bench) -> Rows:
    """Machine"""
    rows = {"device": cost.machine(bench.device), "processor": cost.machine(torch.device("cpu"))}
    rows |= {"PyTorch": torch.__version__, "its CUDA": torch.version.cuda or "none"}
    if bench.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(bench.device)
        rows |= {
            "driver": subprocess.getoutput("nvidia-smi --query-gpu=driver_version --format=csv,noheader"),
            "cuDNN": torch.backends.cudnn.version(),
            "compute capability": "{}.{}".format(*torch.cuda.get_device_capability(bench.device)),
            "memory of the card [GB]": total / 1e9,
            "of it free [GB]": free / 1e9,
        }
    return rows


def waiting(bench: Bench) -> Rows:
    """Waiting for a run in this process"""
    cold, _ = bench.run("cold")
    warm, reports = zip(*(bench.run("warm") for _ in range(3)), strict=True)
    rows = {"from command to files, cold [s]": cold, "from command to files, warm [s]": statistics.median(warm)}
    report = reports[warm.index(statistics.median(warm))]
    rows |= {f"of these, {stage} [s]": elapsed for stage, elapsed in report["timings_s"].items()}
    return rows | {f"memory, {name} [MB]": size / 1e6 for name, size in report["memory_bytes"].items()}


def ratio(bench: Bench) -> Rows:
    """Samples against the direct head"""
    encoded, group = bench.encode(), bench.group
    times = bench.times(
        {
            "direct head": lambda: bench.encode().direct(),
            f"{SAMPLES} samples": lambda: bench.draw_all(bench.encode()),
            "of these, 1 sample": lambda: bench.draw(encoded, 1),
            f"of these, {group} at a time": lambda: bench.draw(encoded, group),
        }
    )
    each = [b / a for a, b in zip(times["direct head"], times[f"{SAMPLES} samples"], strict=True)]
    medians = {name: statistics.median(of) for name, of in times.items()}
    return {
        "working grid [voxels z, y, x]": " x ".join(map(str, bench.image.shape)),
        "windows": len(bench.tiling.windows),
        "steps of a sample": len(bench.grid),
        f"{SAMPLES} samples against the direct head [times]": medians[f"{SAMPLES} samples"] / medians["direct head"],
        "range of the repeats [times]": f"{min(each):.3g} to {max(each):.3g}",
        **{f"{name} [s]": median for name, median in medians.items()},
    }


def memory(bench: Bench) -> Rows:
    """Most memory that torch holds on the card beside the weights"""
    plan, tiling, group, encoded_volumes = MemoryPlan(bench.model, bench.device), bench.tiling, bench.group, []
    one = plan.sampling_bytes(tiling)
    more = memory_plan.STATES_PER_SAMPLE * 4 * bench.model.classes * np.prod(tiling.padded)
    held = bench.peak(lambda: None)
    rows = {"weights [MB]": held / 1e6, "samples drawn together": group}
    for name, estimate, act in (
        ("encoding", plan.encoding_bytes(tiling), lambda: encoded_volumes.append(bench.encode())),
        ("drawing 1 sample", one, lambda: bench.draw(encoded_volumes[0], 1)),
        ("drawing them together", one + (group - 1) * more, lambda: bench.draw(encoded_volumes[0], group)),
    ):
        rows |= {f"{name}, estimate [MB]": estimate / 1e6, f"{name} [MB]": (bench.peak(act) - held) / 1e6}
    return rows


def arithmetic(bench: Bench) -> Rows:
    """Kinds of arithmetic: time of a pass over a window, and what they change"""
    acts = {f"{name}, {kind}": act for kind in VARIANTS for name, act in passes(bench, kind).items()}
    medians = {name: statistics.median(spent) for name, spent in bench.times(acts).items()}
    rows: Rows = {}
    for name, spent in medians.items():
        network, variant = name.split(", ", 1)
        rows[f"{name} [ms]"] = 1e3 * spent
        if variant != "float32":
            rows[f"{name}, of float32's time [times]"] = spent / medians[f"{network}, float32"]
    before: list[np.ndarray] = []
    for variant, context in VARIANTS.items():
        with context(bench.device):
            encoded = bench.encode()
            outputs = [encoded.direct(), bench.draw(encoded, 1)[0]]
        before = before or outputs
        for name, *pair in (
            zip(("direct head", "sample"), before, outputs, strict=True) if outputs is not before else ()
        ):
            labels = [p.argmax(0) if p.ndim == 4 else p for p in pair]
            rows[f"{name}, {variant}, Dice of the labels"] = mean_dice(*labels, bench.model.classes)
            rows |= apart(f"{name}, {variant}", *pair) if pair[0].ndim == 4 else {}
    return rows


def passes(bench: Bench, variant: str) -> dict[str, Callable[[], object]]:
    """One pass of each network over the first window; of the denoiser for one state and for a group."""
    model, tiling, device = bench.model, bench.tiling, bench.device
    window = torch.from_numpy(tiling.pad(bench.image))[None, None][(..., *tiling.voxels(tiling.windows[0]))].to(device)

    def under(act: Callable[[], Any]) -> Any:
        with VARIANTS[variant](device), torch.inference_mode():
            return act()

    features, direct = under(partial(model.encoder, window))
    prepared = under(partial(model.denoiser.prepare, features, direct))
    acts: dict[str, Callable[[], object]] = {"encoder": partial(under, partial(model.encoder, window))}
    for count in sorted({1, bench.group}):
        noise = torch.randn((count, *direct.shape[1:])).to(device).contiguous(memory_format=CHANNELS_LAST[3])
        level = torch.full((count,), -1.0, device=device)
        acts[f"denoiser for {count}"] = partial(under, partial(model.denoiser, noise, level, prepared, direct))
    return acts


def apart(name: str, a: np.ndarray, b: np.ndarray, unit: str = "") -> Rows:
    difference = np.abs(a.astype(np.float64) - b)
    return {f"{name}, {kind} difference{unit}": float(getattr(difference, kind)()) for kind in ("max", "mean")}


def agreement(bench: Bench) -> Rows:
    """Agreement with the same run on the CPU"""
    cpu = Bench(bench.volume, bench.name, torch.device("cpu"), bench.folder)
    elapsed, report = cpu.run("cpu")
    files = ("segmentation.seg", "samples.seq", "entropy")
    labels, masks, bits = ([array(bench.folder / run / f"{name}.nrrd") for run in ("warm", "cpu")] for name in files)
    rows = {"the run on the CPU [s]": elapsed, "Dice of the segmentation": mean_dice(*labels, report["classes"])}
    rows["its least of a structure"] = float(dice(*labels, report["classes"]).min())
    for n, pair in enumerate(zip(*(np.moveaxis(several, -1, 0) for several in masks), strict=True), 1):
        rows[f"Dice of sample {n}"] = mean_dice(*pair, report["classes"])
    rows |= apart("probabilities of the direct head", bench.encode().direct(), cpu.encode().direct())
    return rows | apart("entropy", *bits, " [bits]")


def worker(bench: Bench) -> Rows:
    """Waiting for a run of the worker: the first preview is the direct head's"""
    command = [sys.executable, "-X", "utf8", "-m", "diffusion_segmentation", "worker"]
    rows: Rows = {}
    devices.empty_cache(bench.device)
    start = time.perf_counter()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes) as process:
        messages = map(protocol.decode, process.stdout)
        for turn in ("from a cold start", "warm"):
            run = {
                "type": "run", "job": turn, "folder": str(bench.folder / turn), "volume": str(bench.volume),
                "model": bench.name, "samples": SAMPLES, "steps": bench.steps, "seed": 0, "device": str(bench.device),
            }  # fmt: skip
            process.stdin.write(protocol.encode(run))
            process.stdin.flush()
            for message in messages:
                elapsed = time.perf_counter() - start
                if message["type"] == "error":
                    raise RuntimeError(message["message"])
                if message["type"] == "preview":
                    rows.setdefault(f"first preview, {turn} [s]", elapsed)
                if message["type"] == "done":
                    rows[f"all files, {turn} [s]"] = elapsed
                    break
            else:
                raise RuntimeError("the worker ended before its run")
            start = time.perf_counter()
    return rows


MEASUREMENTS = (waiting, machine, ratio, memory, arithmetic, agreement, worker)
"""The first begins with a cold start, before anything else uses the card. Titles are what they say of themselves."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("volume", type=Path)
    parser.add_argument("--model", default="brain-structures")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)  # "cpu" for the test of this script
    options = parser.parse_args(arguments)
    if options.device != "cpu" and not torch.cuda.is_available():
        built = "finds no graphics card" if torch.version.cuda else "was built without CUDA (PyPI's for Linux has it)"
        sys.exit(f"PyTorch {torch.__version__} {built}: there is nothing to measure here.")
    tables: dict[str, Rows] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.volume.resolve(), options.model, devices.choose_device(options.device), Path(folder))
        read_volume(bench.volume)  # what is wrong with it is said once
        for measure in MEASUREMENTS:
            try:
                rows = measure(bench)
            except (DiffusionSegmentationError, RuntimeError, OSError) as error:
                rows = {"not measured": f"{type(error).__name__}: {error}"}
            print(f"\n{measure.__doc__}")
            for name, value in rows.items():
                text = f"{value:.4g}" if isinstance(value, float) else value
                print(f"  {name:<58} {text}", flush=True)
            tables[measure.__doc__] = rows
            if options.json:
                options.json.write_text(json.dumps(tables, indent=2), encoding="utf-8")
    return int(any("not measured" in rows for rows in tables.values()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DiffusionSegmentationError as error:
        sys.exit(str(error))
