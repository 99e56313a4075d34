"""Segment one volume: from a file on disk to result files beside each other, with progress, previews and cancel."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
import torch

from ..diffusion.copula import Frame
from ..errors import Cancelled, DiffusionSegmentationError, InputError, ModelError, is_out_of_memory
from ..images.intensity import body_box, normalise
from ..images.resampling import Projection, working_image
from ..images.volume import VolumeFile
from ..model.cache import ModelCache
from ..runtime.devices import choose_device, empty_cache, explain_gpu_error, out_of_memory_error
from ..runtime.devices import devices as devices  # the worker asks its engine
from ..runtime.floating_point import flush_denormals
from . import result_folder
from .ensemble import Ensemble, Settled
from .input_volume import read_input
from .memory_plan import MemoryPlan
from .outputs import RunResults, finish
from .request import Outcome, Preview, Progress, Request
from .sampler import Encoded, normalised, sample_seeds
from .suitability import check_input_distance
from .tiling import Tiling

logger = logging.getLogger(__name__)

AUTO_SAMPLES = (8, 32)
AUTO_EVERY = 4
BODY_MARGIN_MM = 8.0
FINISHED = "finished-"
NOT_FITTED = (
    "The spread of this model's samples was not fitted to labelled cases: its volume intervals can be too narrow. "
    "`diffusion-segmentation calibrate` fits it."
)
KEEP_SECONDS = 20.0
"""So much work at most is lost where the process does not live to its end."""


class _Stop(Exception):
    """Raised inside sampling to leave it with what is finished."""


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
    OutOfMemoryError, GpuError, Cancelled, and DiffusionSegmentationError where a file cannot be written.
    """
    run = _Run(request, progress, preview, cancel)
    try:
        with result_folder.made(request.output), flush_denormals():
            return run.go(models or ModelCache())
    except RuntimeError as error:
        problem = explain_gpu_error(error, run.device)
        if problem is None:
            raise
        raise problem from error


class _Run:
    """One run: the steps of `segment`, and what they share."""

    def __init__(self, request: Request, progress: Callable, preview: Callable, cancel: Callable) -> None:
        self.request, self.progress, self.preview, self.cancel = request, progress, preview, cancel
        self.timings: dict[str, float] = {}
        self.steps = 0
        self.stage = ""
        self.note = ""
        self.ensemble: Ensemble | None = None
        self.kept: Path | None = None
        self.encoded: Encoded | None = None
        self.device = torch.device("cpu")

    def go(self, models: ModelCache) -> Outcome:
        result_folder.require_ours(self.request.output)
        with self._stage("reading"):
            file = VolumeFile(self.request.volume, spacing=self.request.spacing)
        with self._stage("model"):
            self.device = choose_device(self.request.device)
            self.model = self._within_memory(partial(models.get, self.request.model, self.device))
            if self.model is None:
                raise out_of_memory_error(self.device)
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            if self.model.dims != 3:
                raise ModelError("This model was made for 2-D pictures; choose one for volumes.")
            advised = self.model.section["steps"]["cpu" if self.device.type == "cpu" else "gpu"]
            self.free = self.model.is_free
            if self.request.steps == 1 and not self.free:
                # Measured in the tests: one step gives every sample the same mask, the direct head's at best.
                raise InputError("One step cannot draw different samples; choose two steps or more.")
            self.steps = 0 if self.free else self.request.steps or advised
            self.grid = self.model.step_grid(self.steps) if self.steps else np.empty(0)
            self.samples = self.request.samples or self.model.default_samples
            self.most = max(AUTO_SAMPLES[1], self.model.default_samples) if self.samples == "auto" else self.samples
            self.plan = MemoryPlan(self.model, self.device)
        with self._stage("reading"):
            read = read_input(self.request, file, self.model.section["input_range"])
            image, self.input_sha256, self.warnings = read.image, read.sha256, read.warnings
            if "calibration" not in self.model.section:
                self.warnings.append(NOT_FITTED)
        with self._stage("encoding"), self._asked_at_every_layer():
            working, self.array = self._working(image)
            self.plan.frame = self.frame.shape
            projection = Projection(working, image)
            box_voxels = math.prod(projection.box[1])
            smaller = self.plan.require(self._tiling, image.GetNumberOfPixels(), box_voxels)
            if smaller:
                self._noted(smaller)
            self._encode()
            self.results = self._results(image, projection)
            self._require_numbers(self.results.direct)
            self._compare()
        self._preview(self.results.direct, 0)
        voxel_ml = float(np.prod(image.GetSpacing())) / 1000
        self.ensemble = Ensemble(
            normalised(self.results.direct), self.model.map_prior, voxel_ml, self.request.keep_samples, self.free
        )
        with self._stage("sampling"), self._asked_at_every_layer():
            stopped = self._sample()
        folder = self._folder()
        with result_folder.writing(folder) as part:
            with self._stage("writing"):
                report = self._write(part)
            finish(part, report, self.timings, stopped)
        self._drop_kept()
        return Outcome(report, stopped)

    def _compare(self) -> None:
        """Say at once, and before all other warnings, where the scan is unlike those that the model was made for."""
        self.results.input_distance, self.results.cell_distances = (
            self.encoded.input_distance(),
            self.encoded.cell_distances(),
        )
        unlike = check_input_distance(self.results.input_distance, self.model.names)
        self.warnings[:0] = unlike
        for sentence in unlike:
            self._noted(sentence)

    def _results(self, image: sitk.Image, projection: Projection) -> RunResults:
        request = self.request
        asked = {"seed": request.seed, "steps": self.steps, "requested_samples": self.samples}
        return RunResults(
            self.model, self.device, image, self.input_sha256, projection, self.encoded.direct(),
            request.keep_samples, request.compress, request.region_mm, asked, self._passes(),
        )  # fmt: skip

    def _passes(self) -> int:
        """Passes of the denoiser for a sample: from white noise the first node is the direct head's and takes none."""
        return len(self.grid) - int(self.model.start is None)

    def _write(self, folder: Path) -> dict[str, Any]:
        """Write the samples so far and their maps into `folder`; returns what the report says of them."""
        return self.results.write(folder, self.ensemble, self.windows, [*self.warnings, *self.plan.notes])

    def _working(self, image: sitk.Image) -> tuple[sitk.Image, np.ndarray]:
        """The body on the working grid: its geometry, and its normalised intensities [z, y, x]."""
        whole = working_image(image, self.model.spacing)
        array = sitk.GetArrayViewFromImage(whole)
        box = body_box(array, round(BODY_MARGIN_MM / self.model.spacing))
        self.frame = Frame(array.shape, tuple(part.start for part in box))
        body = whole[tuple(box[::-1])]
        return body, normalise(sitk.GetArrayViewFromImage(body), self.model.section.get("intensity"))

    def _tiling(self) -> Tiling:
        """Of the plan's windows, on the lattice of the model's own: a seed's noise does not depend on the memory."""
        own = Tiling(self.array.shape, self.model.section["window"], self.model.multiple)
        return Tiling(self.array.shape, self.plan.window, self.model.multiple, own.padded)

    def _encode(self) -> None:
        """Let the encoder look at the volume, in smaller windows if the memory does not suffice."""
        if self.encoded is not None:
            self.encoded = None
            empty_cache(self.device)
        while self.encoded is None:
            tiling = self._tiling()
            given = self.model, self.array, self.device, self._stop_if_asked, tiling, self.plan.store, self.frame
            self.encoded = self._within_memory(partial(Encoded, *given))
            if self.encoded is None:
                empty_cache(self.device)
                self._noted(self.plan.less(1, tiling))
        self.windows = len(tiling.windows)

    def _with_less(self, group: int) -> None:
        """Go on with a smaller plan, after `group` samples at a time were too many. What is drawn already stays."""
        if self.free:
            raise out_of_memory_error(self.device)  # the fields do not shrink with the windows
        window = self.plan.window
        empty_cache(self.device)
        self._noted(self.plan.less(group, self.encoded.tiling))
        if self.plan.window != window:
            self._encode()

    @staticmethod
    def _within_memory(work: Callable[[], Any]) -> Any:
        """What `work` returns, None where the memory did not suffice.

        Left before the next try begins: while an error is handled, its traceback holds the arrays of the failed one.
        """
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _noted(self, sentence: str) -> None:
        self.note = sentence
        self.progress(Progress(self.stage, note=sentence))

    def _sample(self) -> bool:
        """Draw the samples in groups, the first of one; returns whether the run was stopped early."""
        settled = Settled()
        self.sampling_since = time.monotonic()
        self.keep_at = self.sampling_since + KEEP_SECONDS
        while len(self.ensemble) < self.most:
            done = len(self.ensemble)
            group = min(self._group(), self.most - done) if done else 1
            seeds = sample_seeds(self.request.seed, group, done)
            told = partial(self._on_step, done, group)
            try:
                # No name for the work: it holds the features, which must go before smaller windows are looked at.
                drawn = self._within_memory(partial(self._draw, seeds, told))
                if drawn is None:
                    self._with_less(group)
                    continue
            except _Stop:
                return True
            project = self.results.projection.nearest if self.free else self.results.projection.labels
            for sample in drawn:
                self._stop_if_dropped()
                self.ensemble.add(sample, project(sample))
            done = len(self.ensemble)
            # The map of a copula's masks is known from the beginning: no sample changes it.
            if done < self.most and done & (done - 1) == 0 and not self.free:
                self._preview(self.ensemble.map, done)
            if done < self.most and self.request.previews and time.monotonic() > self.keep_at:
                self._keep(done)
            if (
                self.samples == "auto"
                and done >= AUTO_SAMPLES[0]
                and done % AUTO_EVERY == 0
                and settled.ask(self.ensemble)
            ):
                break
        return False

    def _require_numbers(self, probabilities: np.ndarray) -> None:
        """Weights that are finite and absurd give what is none; NaN would be background and 0 bits in every file."""
        if not np.isfinite(probabilities.sum(dtype=np.float64)):
            name = self.model.section["title"]
            raise ModelError(f"The model '{name}' gives no numbers for this volume; choose another model.")

    def _group(self) -> int:
        group = 1 if self.free else self.plan.group(self.encoded.tiling)
        # A group ends where `auto` asks whether the samples have settled.
        return min(group, AUTO_EVERY - len(self.ensemble) % AUTO_EVERY) if self.samples == "auto" else group

    def _draw(self, seeds: list[int], told: Callable[[int], None]) -> np.ndarray:
        """Samples of the seeds: class probabilities [N, C, z, y, x], or masks uint8 [N, z, y, x] of the copula."""
        if not self.free:
            drawn = self.encoded.sample(seeds, self.grid, told)
            self._require_numbers(drawn)
            return drawn
        masks = np.stack([self.encoded.start_mask(seed) for seed in seeds])
        told(1)
        return masks

    def _on_step(self, done: int, group: int, step: int) -> None:
        steps = len(self.grid) or 1
        passes = done * steps + group * step
        spent = time.monotonic() - self.sampling_since
        left = spent / passes * (self.most * steps - passes)
        known = self.samples != "auto"
        self.progress(
            Progress(
                "sampling", done + 1, self.most if known else None, step, steps, left if known else None, self.note
            )
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

    def _stop_if_dropped(self) -> None:
        """Raise Cancelled where nothing is to be left: before files are written, whose folder may be gone already."""
        if self.cancel() == "drop":
            raise Cancelled

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
        if not self.request.previews:
            return
        self._stop_if_dropped()
        folder = self._folder()
        paths = folder / f"preview-{samples}.seg.nrrd", folder / f"preview-{samples}-entropy.nrrd"
        try:
            self.results.write_maps(probabilities, *paths)
        except DiffusionSegmentationError as error:  # the run can do without, and the disk may have room at its end
            logger.info(f"A preview could not be written: {error}")
            return
        self.preview(Preview(*paths, samples))

    def _folder(self) -> Path:
        """The folder of the results, made again where somebody has cleared the temporary files meanwhile."""
        folder = self.request.output
        if not folder.is_dir():
            self._stop_if_dropped()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def _keep(self, samples: int) -> None:
        """Write the whole result of the samples so far, for the case that this process does not live to its end.

        In a folder of its own, finished-N; the report comes last, so a folder that has one is whole.
        """
        self._stop_if_dropped()
        folder, started, made = self._folder() / f"{FINISHED}{samples}", time.monotonic(), False
        try:
            folder.mkdir()
            made = True
            report = self._write(folder)
            spent = {"sampling": started - self.sampling_since, "writing": time.monotonic() - started}
            finish(folder, report, self.timings | spent, stopped=True)
        except (DiffusionSegmentationError, OSError, MemoryError) as error:  # the run itself can do without
            logger.info(f"The samples so far could not be kept: {error}")
            if made:
                shutil.rmtree(folder, ignore_errors=True)
        else:
            self._drop_kept()
            self.kept = folder
        # A tenth of the time at most goes into it: 2 s a time for a head at 1 mm.
        self.keep_at = time.monotonic() + max(KEEP_SECONDS, 10 * (time.monotonic() - started))

    def _drop_kept(self) -> None:
        """Remove what was kept, after something newer is whole."""
        if self.kept is not None:
            shutil.rmtree(self.kept, ignore_errors=True)
            self.kept = None

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
        self.run.timings[self.name] = self.run.timings.get(self.name, 0.0) + time.monotonic() - self.start
