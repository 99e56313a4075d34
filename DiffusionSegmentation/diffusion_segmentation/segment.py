"""Segment one volume: from a file on disk to result files beside each other, with progress, previews and cancel."""

from __future__ import annotations

import contextlib
import hashlib
import math
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
import torch

from . import model as models_module
from . import regions, results
from .basins import SEED_DISTANCE_MM, basins
from .denormals import flushed
from .ensemble import Ensemble, Settled, volumes_ml
from .errors import Cancelled, DiffusionSegmentationError, InputError, ModelError
from .intensity import body_box, normalise
from .metrics import dice
from .metrics.intervals import interval_method, predictive_interval
from .model import Model
from .sampler import Encoded, sample_seeds
from .versions import versions
from .volume import Projection, check_fits, read_volume, working_image

AUTO_SAMPLES = (8, 32)
AUTO_EVERY = 4
BODY_MARGIN_MM = 8.0
FINISHED = "finished-"
KEEP_SECONDS = 20.0
"""So much work at most is lost where the process does not live to its end."""


@dataclass(frozen=True)
class Request:
    """What is asked for. `samples` is a number or "auto" (8 to 32); `steps` None takes the model's advice.

    `region_mm`, 5 to 100, is how far the middles of uncertain regions lie apart at least, None for 15; none is more
    than twice that across.
    """

    volume: Path
    output: Path
    model: str = "brain-structures"
    samples: int | Literal["auto"] = 8
    steps: int | None = None
    seed: int = 0
    device: str = "auto"
    region_mm: float | None = None
    keep_samples: bool = False
    compress: bool = True
    previews: bool = False


@dataclass(frozen=True)
class Progress:
    """Where a run stands. Stages: reading, model, encoding, sampling, writing; the time left may be unknown."""

    stage: str
    sample: int = 0
    samples: int | None = None
    step: int = 0
    steps: int | None = None
    seconds_left: float | None = None


@dataclass(frozen=True)
class Preview:
    """Result files so far, from `samples` samples; 0 is the direct head's fast mask, which is no sample."""

    segmentation: Path
    entropy: Path
    samples: int


@dataclass(frozen=True)
class Outcome:
    """The report, as in report.json; `partial` when the run was stopped with some samples drawn."""

    report: dict[str, Any]
    partial: bool


class _Stop(Exception):
    """Raised inside sampling to leave it with what is finished."""


class ModelCache:
    """Keeps the last model in memory, because reading it takes longer than a pass of it."""

    def __init__(self) -> None:
        self._key: tuple[Path, str, float] | None = None
        self._model: Model | None = None

    def get(self, name: str, device: torch.device) -> Model:
        """The model of this name or folder on this device. Raises ModelError."""
        folder = models_module.find(name).resolve()
        key = folder, str(device), (folder / models_module.METADATA).stat().st_mtime
        if key != self._key:
            self.clear()
            self._model = models_module.load(folder).to(device)
            self._key = key
        return self._model

    def clear(self) -> None:
        """Forget the model and give its memory back."""
        self._key = self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def devices() -> list[dict[str, Any]]:
    """What can compute here: [{id, name, totalBytes, freeBytes}], the CPU first; its bytes are None."""
    found: list[dict[str, Any]] = [
        {"id": "cpu", "name": platform.processor() or platform.machine(), "totalBytes": None, "freeBytes": None}
    ]
    for index in range(torch.cuda.device_count()):
        try:
            free, total = torch.cuda.mem_get_info(index)
        except RuntimeError:
            # Full, or reserved by another process: it cannot be used, and must not keep the others from it.
            continue
        found.append(
            {"id": f"cuda:{index}", "name": torch.cuda.get_device_name(index), "totalBytes": total, "freeBytes": free}
        )
    return found


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU or else the CPU. Raises InputError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    index = int(name.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise InputError(f"There is no device '{name}' here; choose another, for example 'cpu'.")
    return torch.device("cuda", index)


def segment(
    request: Request,
    progress: Callable[[Progress], None] = lambda progress: None,
    preview: Callable[[Preview], None] = lambda preview: None,
    cancel: Callable[[], Literal["keep", "drop"] | None] = lambda: None,
    models: ModelCache | None = None,
) -> Outcome:
    """Segment `request.volume` into the folder `request.output`, which is made if need be.

    `cancel` is asked at every step of the sampler: "drop" leaves nothing, "keep" finishes with the samples so far.

    Raises InputError and GeometryError for a volume that cannot be used, ModelError for a model that cannot,
    OutOfMemoryError, Cancelled, and DiffusionSegmentationError where a file cannot be written.
    """
    if request.steps == 1:
        # Measured in the tests: one step gives every sample the same mask, the direct head's at best.
        raise InputError("One step cannot draw different samples; choose two steps or more.")
    request.output.mkdir(parents=True, exist_ok=True)
    with flushed():
        return _Run(request, progress, preview, cancel).go(models or ModelCache())


class _Run:
    """One run: the steps of `segment`, and what they share."""

    def __init__(self, request: Request, progress: Callable, preview: Callable, cancel: Callable) -> None:
        self.request, self.progress, self.preview, self.cancel = request, progress, preview, cancel
        self.timings: dict[str, float] = {}
        self.steps = 0
        self.stage = ""
        self.ensemble: Ensemble | None = None
        self.most = AUTO_SAMPLES[1] if request.samples == "auto" else request.samples

    def go(self, models: ModelCache) -> Outcome:
        with self._stage("reading"):
            image = read_volume(self.request.volume)
            # Of the voxels alone, so that it is the same whatever kind of file they came in.
            self.input_sha256 = hashlib.sha256(np.ascontiguousarray(sitk.GetArrayViewFromImage(image))).hexdigest()
        with self._stage("model"):
            self.device = choose_device(self.request.device)
            self.model = models.get(self.request.model, self.device)
            if self.model.dims != 3:
                raise ModelError("This model was made for 2-D pictures; choose one for volumes.")
            self.steps = (
                self.request.steps or self.model.section["steps"]["cpu" if self.device.type == "cpu" else "gpu"]
            )
            self.warnings = check_fits(image, self.model.section["input_range"])
        with self._stage("encoding"), self._asked_at_every_layer():
            working, array = self._working(image)
            self.reference = image
            self.projection = Projection(working, image)
            self.encoded = Encoded(self.model, array, self.device, self._stop_if_asked)
            self.direct = self.encoded.direct()
        self._preview(self.direct, 0)
        voxel_ml = float(np.prod(image.GetSpacing())) / 1000
        self.ensemble = Ensemble(self.model.classes, voxel_ml, self.request.keep_samples)
        with self._stage("sampling"), self._asked_at_every_layer():
            stopped = self._sample()
        folder = self.request.output
        with self._stage("writing"):
            report = self._write(folder)
        self._finish(folder, report, self.timings, stopped)
        for part in folder.glob(f"{FINISHED}*"):
            shutil.rmtree(part, ignore_errors=True)
        return Outcome(report, stopped)

    def _working(self, image: sitk.Image) -> tuple[sitk.Image, np.ndarray]:
        """The body on the working grid: its geometry, and its normalised intensities [z, y, x]."""
        whole = working_image(image, self.model.spacing)
        array = sitk.GetArrayViewFromImage(whole)
        box = body_box(array, round(BODY_MARGIN_MM / self.model.spacing))
        body = whole[tuple(box[::-1])]
        return body, normalise(sitk.GetArrayViewFromImage(body), self.model.section.get("intensity"))

    def _sample(self) -> bool:
        """Draw the samples in groups, the first of one; returns whether the run was stopped early."""
        grid = self.model.step_grid(self.steps)
        settled = Settled()
        self.sampling_since = time.monotonic()
        self.keep_at = self.sampling_since + KEEP_SECONDS
        while len(self.ensemble) < self.most:
            done = len(self.ensemble)
            group = min(self._group(), self.most - done) if done else 1
            try:
                drawn = self.encoded.sample(
                    sample_seeds(self.request.seed, group, done), grid, partial(self._on_step, done, group)
                )
            except _Stop:
                return True
            for probabilities in drawn:
                self.ensemble.add(probabilities, self.projection.labels(probabilities))
            done = len(self.ensemble)
            if done < self.most and done & (done - 1) == 0:
                self._preview(self.ensemble.mean, done)
            if done < self.most and self.request.previews and time.monotonic() > self.keep_at:
                self._keep(done)
            if (
                self.request.samples == "auto"
                and done >= AUTO_SAMPLES[0]
                and done % AUTO_EVERY == 0
                and settled.ask(self.ensemble)
            ):
                break
        return False

    def _group(self) -> int:
        """How many samples are drawn together.

        One on a CPU, where two take twice as long or longer: their states no longer fit what the allocator reuses. On a
        GPU as many as half of the free memory holds, at about 12 state-sized arrays a sample; and no more than 8.
        """
        if self.device.type == "cpu":
            return 1
        state = 4 * 8 * self.model.classes * math.prod(self.encoded.tiling.cells)
        free, _ = torch.cuda.mem_get_info(self.device)
        group = max(1, min(8, int(0.5 * free / (12 * state))))
        # A group ends where `auto` asks whether the samples have settled.
        return min(group, AUTO_EVERY - len(self.ensemble) % AUTO_EVERY) if self.request.samples == "auto" else group

    def _on_step(self, done: int, group: int, step: int) -> None:
        passes = done * self.steps + group * step
        spent = time.monotonic() - self.sampling_since
        left = spent / passes * (self.most * self.steps - passes)
        known = self.request.samples != "auto"
        self.progress(
            Progress("sampling", done + 1, self.most if known else None, step, self.steps, left if known else None)
        )
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        """Raise Cancelled, or _Stop where there are samples to keep. Once the sampling is over, keeping goes on."""
        asked = self.cancel()
        drawn = 0 if self.ensemble is None else len(self.ensemble)
        if asked == "drop" or (asked == "keep" and not drawn):
            raise Cancelled
        if asked == "keep" and self.stage == "sampling":
            raise _Stop

    @contextlib.contextmanager
    def _asked_at_every_layer(self) -> Iterator[None]:
        """One pass of a network over one window takes seconds on a CPU; a person who cancels waits for a layer."""
        layers = (*self.model.encoder.modules(), *self.model.denoiser.modules())
        hooks = [layer.register_forward_pre_hook(lambda *_: self._stop_if_asked()) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _preview(self, probabilities: np.ndarray, samples: int) -> None:
        if self.request.previews:
            folder = self.request.output
            paths = folder / f"preview-{samples}.seg.nrrd", folder / f"preview-{samples}-entropy.nrrd"
            self._write_maps(probabilities, *paths)
            self.preview(Preview(*paths, samples))

    def _keep(self, samples: int) -> None:
        """Write the whole result of the samples so far, for the case that this process does not live to its end.

        In a folder of its own, finished-N; the report comes last, so a folder that has one is whole.
        """
        folder, started = self.request.output / f"{FINISHED}{samples}", time.monotonic()
        try:
            folder.mkdir(exist_ok=True)
            report = self._write(folder)
            spent = {"sampling": started - self.sampling_since, "writing": time.monotonic() - started}
            self._finish(folder, report, self.timings | spent, stopped=True)
            # A tenth of the time at most goes into it: 2 s a time for a head at 1 mm.
            self.keep_at = time.monotonic() + max(KEEP_SECONDS, 10 * spent["writing"])
        except (DiffusionSegmentationError, OSError) as error:  # the run itself can do without
            print(f"The samples so far could not be kept: {error}", file=sys.stderr)
            return
        for part in self.request.output.glob(f"{FINISHED}*"):
            if part != folder:
                shutil.rmtree(part, ignore_errors=True)

    @staticmethod
    def _finish(folder: Path, report: dict[str, Any], timings: dict[str, float], stopped: bool) -> None:
        report["timings_s"] = {name: round(seconds, 3) for name, seconds in timings.items()}
        report["partial"] = stopped
        results.write_report(folder / "report.json", report)

    def _write_maps(self, probabilities: np.ndarray, segmentation: Path, entropy: Path) -> np.ndarray:
        labels, bits = self.projection.consensus(probabilities)
        results.write_segmentation(segmentation, labels, self.reference, self.model.labels, self.request.compress)
        results.write_entropy(entropy, bits, self.reference, self.request.compress)
        return labels

    def _write(self, folder: Path) -> dict[str, Any]:
        """Write the samples so far and their maps into `folder`; returns what the report says of them."""
        compress = self.request.compress
        source = self.model.section["map_source"]
        p = self.ensemble.mean if source == "samples" else self.direct
        labels = self._write_maps(p, folder / "segmentation.seg.nrrd", folder / "entropy.nrrd")
        if self.request.keep_samples:
            box = self.projection.box
            results.write_sequence(folder / "samples.seq.nrrd", self.ensemble.masks, self.reference, box, compress)
            quantised = list(self.projection.quantised(p))
            results.write_sequence(
                folder / "probabilities.seq.nrrd", quantised, self.reference, box, compress, index_name="class"
            )
        size = self.request.region_mm or SEED_DISTANCE_MM
        unsure = basins(1 - p.max(0), (self.model.spacing,) * 3, size, 2 * size)
        if self.request.keep_samples:
            on_box = self.projection.nearest(unsure)
            results.write_basins(folder / "regions.nrrd", on_box, self.reference, self.projection.box, compress)
        consensus_ml = volumes_ml(labels, self.model.classes, self.ensemble.voxel_ml)
        return self._report(source, labels, consensus_ml, self._regions(unsure, p))

    def _regions(self, unsure: np.ndarray, p: np.ndarray) -> list[dict[str, Any]]:
        """The worst of the uncertain regions, as the report tells them."""
        bits = -(p * np.log2(np.maximum(p, np.finfo(np.float32).tiny))).sum(0)
        names = ["background", *(entry["name"] for entry in self.model.labels)]
        ranking = regions.Ranking(unsure, list(p), bits, self.model.spacing**3 / 1000)
        return regions.as_json(ranking.at(regions.REVIEW_BITS, most=regions.REPORTED), names, self.projection.ras)

    def _samples_dice(self, labels: np.ndarray) -> list[float]:
        """Dice of each kept sample with the consensus `labels`, mean over structures; 1 for one that neither has."""
        index, size = self.projection.box
        consensus = labels[tuple(slice(a, a + n) for a, n in zip(index[::-1], size[::-1], strict=True))]
        scores = [dice(mask, consensus, self.model.classes) for mask in self.ensemble.masks]
        return [round(float(score[1:].mean()), 5) for score in scores]

    def _report(
        self, source: str, labels: np.ndarray, consensus_ml: np.ndarray, unsure: list[dict[str, Any]]
    ) -> dict[str, Any]:
        section, count = self.model.section, len(self.ensemble)
        return {
            "schema": 1,
            "model": {
                "name": section["name"],
                "title": section["title"],
                "version": self.model.metadata["version"],
                "sha256": section["sha256"],
                "description": self.model.metadata.get("description", ""),
                "intended_use": self.model.metadata.get("intended_use", ""),
                "card": section.get("card", {}),
            },
            "map_source": source,
            "seed": self.request.seed,
            "steps": self.steps,
            "samples": count,
            "requested_samples": self.request.samples,
            "device": self.device.type if self.device.type == "cpu" else str(self.device),
            "working_spacing_mm": self.model.spacing,
            "windows": len(self.encoded.tiling.windows),
            "classes": self.model.classes,
            "max_entropy_bits": math.log2(self.model.classes),
            "volumes": [self._volume(entry, consensus_ml) for entry in self.model.labels],
            "samples_dice": self._samples_dice(labels),
            "region_mm": self.request.region_mm or SEED_DISTANCE_MM,
            "regions": unsure,
            "direct_difference": round(_difference(self.direct, self.ensemble.mean), 5),
            "memory_bytes": self._memory(),
            "versions": versions(),
            "warnings": self.warnings,
            "input": {
                "size_ijk": list(self.reference.GetSize()),
                "spacing_mm": [round(s, 6) for s in self.reference.GetSpacing()],
                "sha256": self.input_sha256,
            },
        }

    def _volume(self, entry: dict[str, Any], consensus_ml: np.ndarray) -> dict[str, Any]:
        drawn = self.ensemble.volumes[:, entry["label"]]
        intervals = {}
        for level in (50, 90):
            interval = predictive_interval(drawn, level / 100)
            intervals[f"interval{level}_ml"] = None if interval is None else [round(bound, 4) for bound in interval]
        return {
            "label": entry["label"],
            "id": entry["id"],
            "name": entry["name"],
            "consensus_ml": round(float(consensus_ml[entry["label"]]), 4),
            "mean_ml": round(float(drawn.mean()), 4),
            **intervals,
            "method": interval_method(len(drawn)),
            "samples_ml": [round(float(v), 4) for v in drawn],
        }

    def _memory(self) -> dict[str, int]:
        """Peak bytes: of this process, and of the GPU if one was used. Windows has no such count at hand."""
        peak = {}
        try:
            import resource

            unit = 1 if platform.system() == "Darwin" else 1024
            peak["process_peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        except ImportError:
            pass
        if self.device.type == "cuda":
            peak["gpu_peak"] = torch.cuda.max_memory_allocated(self.device)
        return peak

    def _stage(self, name: str) -> _Stage:
        return _Stage(self, name)


class _Stage:
    """Tells that a stage begins, and times it."""

    def __init__(self, run: _Run, name: str) -> None:
        self.run, self.name = run, name

    def __enter__(self) -> None:
        self.run.stage = self.name
        self.run.progress(Progress(self.name))
        self.run._stop_if_asked()
        self.start = time.monotonic()

    def __exit__(self, *exception: object) -> None:
        self.run.timings[self.name] = time.monotonic() - self.start


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean total variation between two probability maps [C, z, y, x], where either sees more than 5 % foreground."""
    where = np.minimum(a[0], b[0]) < 0.95
    return float(0.5 * np.abs(a - b).sum(0)[where].mean()) if where.any() else 0.0
