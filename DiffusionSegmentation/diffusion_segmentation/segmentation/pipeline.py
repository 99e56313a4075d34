"""Segmentation of one volume, from its file to the result files."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
import torch

from ..diffusion.copula import Frame
from ..errors import InputError, ModelError, is_out_of_memory
from ..images.case_files import CaseFiles
from ..images.file_digest import array_sha256
from ..images.intensity import body_box
from ..images.resampling import Projection
from ..images.working_grid import Grid
from ..images.writing import write_volume
from ..model.cache import ModelCache
from ..runtime.devices import choose_device, empty_cache, explained_gpu_errors, out_of_memory_error
from ..runtime.devices import devices as devices  # part of the interface that the worker uses
from ..runtime.floating_point import flush_denormals
from . import result_folder
from .asked import questions
from .encoded_folds import Encoded, EncodedFolds, encode
from .encoded_slices import INDEPENDENT
from .ensemble import MAX_MASKS, Convergence, Ensemble
from .facts import ROUGH, FactsProjection, follows_facts, including, read_facts
from .folded_image import SamplerImage
from .foreign_head import Predict, log_odds
from .input_volume import check_input_distance, read_input
from .memory_plan import MemoryPlan
from .model_source import model_source
from .outputs import ResultWriter, finish, geometry
from .own_cases import OwnCases
from .partial_results import PartialResults, output_folder
from .request import Outcome, Preview, Progress, Request
from .result_folder import FACTS
from .run_control import RunControl, SamplingStopped
from .sampler import EncodedVolume, normalised, sample_seeds
from .tiling import Tiling
from .uncertain_regions import voxel_size

AUTO_SAMPLES = (8, 32)
AUTO_INTERVAL = 4  # with `samples` "auto" convergence is checked after every 4 samples
BODY_MARGIN_MM = 8.0
NOT_FITTED = (
    "The spread of this model's samples was not fitted to labelled cases: its intervals can be too narrow. "
    "`diffusion-segmentation calibrate` fits it."
)


def segment(
    request: Request,
    progress: Callable[[Progress], None] = lambda progress: None,
    preview: Callable[[Preview], None] = lambda preview: None,
    cancel: Callable[[], Literal["keep", "drop"] | None] = lambda: None,
    models: ModelCache | None = None,
    predict: Predict | None = None,
) -> Outcome:
    """Segment `request.volume` into the folder `request.output`, which is created if necessary.

    `cancel` is called before each layer of the networks: "drop" discards the run, "keep" finishes with the samples
    drawn so far. `predict` runs the network that others trained, for a model on top of one; of several folds each
    sample uses one.

    Raises InputError and GeometryError for an unusable volume, ModelError for an unusable model, OutOfMemoryError,
    GpuError, Cancelled, and DiffusionSegmentationError if a file cannot be written.
    """
    run = _Run(request, RunControl(progress, cancel), preview, predict)
    with explained_gpu_errors(lambda: run.device), result_folder.new_folder(request.output), flush_denormals():
        return run.segment(models or ModelCache(for_updates=False))


class _Run:
    """One run of `segment`; its methods are in the order in which they are called."""

    def __init__(
        self, request: Request, control: RunControl, preview: Callable[[Preview], None], predict: Predict | None
    ) -> None:
        self.request, self.control, self.preview, self._predict = request, control, preview, predict
        self.device = torch.device("cpu")

    def segment(self, models: ModelCache) -> Outcome:
        self._models = models
        stage = self.control.stage
        result_folder.require_replaceable(self.request.output)
        with stage("reading"):
            files = self.request.files()
        with stage("model"):
            self._load_model(models)
            self._choose_settings()
        with stage("reading"):
            self._require_dimensions(files)
            self.input = read_input(self.request, files, self.model.section)
            if self.request.sha256 not in (None, self.input.sha256):
                raise InputError("The volume is not the one of the result: its voxels differ; give that volume.")
            self.facts = read_facts(self.request, self.model, self.input.image, self._folds)
            if self.facts is None:
                models.forget_encoded()  # its memory is for this run
            self.questions = questions(self.request.ask, self.model.section["labels"], self.input.image)
            self.warnings = list(self.input.warnings)
            if "calibration" not in self.model.section and not OwnCases.of(self.model.section).has_all_factors:
                self.warnings.append(NOT_FITTED)
            if self.facts is not None and self.copula_only:
                self.warnings.append(ROUGH)
        with stage("encoding"):
            projection = self._resample()  # runs foreign networks, which check for themselves whether to end
            with self.control.checked_layers():
                self.encoded = self._given(self._encode())
                self._prepare_results(projection)
        self.partial.preview(self.ensemble.direct, 0)
        with stage("sampling"), self.control.checked_layers():
            stopped = self._sample()
        return self._write_results(stopped)

    def _load_model(self, models: ModelCache) -> None:
        self.device = choose_device(self.request.device)
        self.model = _unless_out_of_memory(partial(models.get, self.request.model, self.device))
        if self.model is None:
            raise out_of_memory_error(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def _require_dimensions(self, files: CaseFiles) -> None:
        """Raise GeometryError for a picture and a model of volumes."""
        if files.is_picture and self.model.dims == 3:
            files.first.require_volume()

    def _choose_settings(self) -> None:
        """Set steps and number of samples; where the request leaves them open, to the model's defaults."""
        request, model = self.request, self.model
        self.copula_only = model.is_copula_only
        if request.steps == 1 and not self.copula_only:
            # One step gives every sample the same mask, that of the direct head.
            raise InputError("One step cannot draw different samples; choose two steps or more.")
        self.steps = 0 if self.copula_only else request.steps or model.default_steps(self.device)
        self.grid = model.step_grid(self.steps) if self.steps else np.empty(0)
        self.auto = request.samples == "auto"
        usual = model.default_samples
        self.samples = max(AUTO_SAMPLES[1], usual) if request.samples == "auto" else request.samples or usual
        self.plan = MemoryPlan(model, self.device, self._models.for_updates)

    def _resample(self) -> Projection:
        """Set `image`, the normalised channels of the body on the working grid, and check the memory.

        They are float32 [channels, z, y, x], for a model of pictures of the whole slices of the input.
        """
        grid, image = Grid.of(self.model.section), self.input.image
        whole = grid.resampled(image)
        values = sitk.GetArrayViewFromImage(whole)
        box = tuple(slice(0, n) for n in values.shape)
        if grid.dims == 3:
            box = body_box(values, round(BODY_MARGIN_MM / grid.spacing_mm))
        if self.facts is not None:
            known, foreground = self.facts.on_working_grid(whole, image)
            box = including(box, foreground)
            self.known = known[box]
        body = whole[tuple(box[::-1])]
        axes = slice(3 - grid.dims, None)
        self.frame = Frame(values.shape[axes], tuple(part.start for part in box[axes]))
        further = (sitk.GetArrayFromImage(grid.resampled(channel))[box] for channel in self.input.channels[1:])
        normalised_values = grid.normalised([sitk.GetArrayFromImage(body), *further])
        self.image: SamplerImage = normalised_values
        if grid.dims == 2 and len(values) > 1:
            self.warnings.append(INDEPENDENT.format(count=len(values)))
            self.plan.slices = len(values)
        projection = Projection(body, image) if self.facts is None else FactsProjection(body, image, self.facts)
        self.plan.frame = self.frame.shape
        self.plan.folds = self._folds
        self.plan.require(self._tiling, image.GetNumberOfPixels(), math.prod(projection.box[1]))
        for note in self.plan.notes:
            self.control.notify(note)
        if self.model.foreign is not None:
            place = partial(log_odds, image=image, grid=grid, box=box)
            predicted = self.input.unchanged, self.device, self.control, place
            self.image = self._required_prediction(normalised_values, *predicted)
            empty_cache(self.device)
        return projection

    @property
    def _folds(self) -> int:
        """Number of folds of the network that others trained; 0 for a model on top of none."""
        return 0 if self.model.foreign is None else len(self._required_prediction.members)

    @property
    def _required_prediction(self) -> Predict:
        if self._predict is None:
            raise ValueError("A model on top of a foreign network needs its prediction.")
        return self._predict

    def _tiling(self) -> Tiling:
        """Windows of the plan, on the padded grid of the model's window, so that noise does not depend on the plan."""
        shape = self.image.shape[-self.model.dims :]
        full = Tiling(shape, self.model.section["window"], self.model.multiple)
        return Tiling(shape, self.plan.window, self.model.multiple, full.padded)

    def _encode(self) -> Encoded:
        """Run the encoder, with smaller windows if the memory is exhausted."""
        while True:
            tiling = self._tiling()
            arguments = self.model, self.image, self.device, tiling, self.plan.store, self.frame
            work: Callable[[], Encoded] = partial(encode, *arguments, self.plan.holds_all_folds)
            if isinstance(self.image, np.ndarray) and follows_facts(self.model):  # an update needs it again
                key = array_sha256(self.image), tiling.windows[0], len(tiling.windows), self.frame, self.plan.store
                work = partial(self._models.encoded, (self.device, str(key)), work)
            encoded = _unless_out_of_memory(work)
            if encoded is not None:
                self.windows = len(tiling.windows)  # also of a run that is stopped while it encodes again
                return encoded
            empty_cache(self.device)
            self.control.notify(self.plan.shrink(1, tiling))

    def _given(self, encoded: Encoded) -> Encoded:
        """The encoder's output given the facts of the request, if it has any."""
        if isinstance(encoded, EncodedVolume):
            encoded.kept_bytes = self.plan.kept_bytes
        if self.facts is None or isinstance(encoded, EncodedFolds):  # `read_facts` refuses facts for these
            return encoded
        return encoded.given(self.known, sample_seeds(self.request.seed, self.samples), self.control.check)

    def _prepare_results(self, projection: Projection) -> None:
        """Set `writer`, `ensemble` and `partial`; warns if the scan is unlike those that the model was made for."""
        request, model, encoded = self.request, self.model, self.encoded
        direct = encoded.direct()
        self._require_finite(direct)
        settings = {
            # From white noise the first node uses the direct head's probabilities, without a pass of the denoiser.
            "denoiser_passes": len(self.grid) - int(model.start is None),
            "seed": request.seed,
            "steps": self.steps,
            "requested_samples": request.samples or self.samples,
            **({"facts": self.facts.as_json(model.names)} if self.facts else {}),
        }
        distance = encoded.input_distance()
        spacing = projection.working_spacing[::-1]
        source = model_source(model, self.device, settings, direct, spacing, distance, encoded.voxel_distances)
        options = request.compress, request.keep_samples, request.region_mm, self.questions
        kept = self._models.maps if self.plan.keeps_maps(self.input.image.GetNumberOfPixels()) else None
        self.writer = ResultWriter(self.input, source, projection, *options, kept)
        unlike = check_input_distance(distance, model.names)
        self.warnings[:0] = unlike
        for warning in unlike:
            self.control.notify(warning)
        self.partial = PartialResults(request, self.control, self.writer, self.preview)
        size, _ = voxel_size(*geometry(self.input.image))
        sampled = MAX_MASKS * request.keep_samples, self.copula_only, self.writer.measure, source.own_cases.temperature
        self.ensemble = Ensemble(normalised(direct), model.map_prior, size, *sampled)

    def _require_finite(self, probabilities: np.ndarray) -> None:
        """Raise ModelError for NaN, as very large weights can give: it would become background with 0 bits."""
        if not np.isfinite(probabilities.sum(dtype=np.float64)):
            name, what = self.model.section["title"], "picture" if self.input.is_picture else "volume"
            raise ModelError(f"The model '{name}' gives no numbers for this {what}; choose another model.")

    def _sample(self) -> bool:
        """Draw the samples in groups, the first of one sample; returns whether the run was stopped early."""
        convergence = Convergence()
        project = self.writer.projection.mask if self.copula_only else self.writer.projection.labels
        while len(self.ensemble) < self.samples:
            group = self._group_size()
            try:
                samples = _unless_out_of_memory(partial(self._draw, group))
                if samples is None:
                    self._use_less_memory(group)
                    continue
            except SamplingStopped:
                return True
            for sample in samples:
                self.control.check_dropped()
                self.ensemble.add(sample, project(sample))
            count = self.control.samples = len(self.ensemble)
            if count < self.samples:
                # Samples do not change the map of copula masks, which is exact from the start.
                if count & (count - 1) == 0 and not self.copula_only:
                    self.partial.preview(self.ensemble.map, count)
                self.partial.save(count, self._write)
            check = self.auto and count >= AUTO_SAMPLES[0] and count % AUTO_INTERVAL == 0
            if check and convergence.reached(self.ensemble):
                break
        return False

    def _group_size(self) -> int:
        """Number of samples to draw together next; with "auto" a group ends at the next check of convergence."""
        count = len(self.ensemble)
        group = 1 if self.copula_only or not count else self.plan.group_size(self.encoded.tiling)
        return min(group, self.samples - count, AUTO_INTERVAL - count % AUTO_INTERVAL if self.auto else group)

    def _draw(self, count: int) -> np.ndarray:
        """The next samples: class probabilities [N, C, z, y, x], or copula masks uint8 [N, z, y, x]."""
        first = len(self.ensemble)
        seeds = sample_seeds(self.request.seed, count, first)
        on_step = partial(self._on_step, count)
        if self.copula_only:
            masks = np.stack([self.encoded.start_mask(seed, first + n) for n, seed in enumerate(seeds)])
            on_step(1)
            return masks
        samples = self.encoded.sample(seeds, self.grid, on_step, first)
        self._require_finite(samples)
        return samples

    def _on_step(self, group: int, step: int) -> None:
        drawn, steps = len(self.ensemble), len(self.grid) or 1
        done = drawn * steps + group * step
        left = (time.monotonic() - self.control.stage_start) / done * (self.samples * steps - done)
        total, seconds = (None, None) if self.auto else (self.samples, left)
        self.control.progress(Progress("sampling", drawn + 1, total, step, steps, seconds, self.control.note))
        self.control.check()

    def _use_less_memory(self, group: int) -> None:
        """Shrink the plan after the memory was exhausted by `group` samples at a time; drawn samples are kept."""
        if self.copula_only:
            raise out_of_memory_error(self.device)  # the latent fields do not shrink with the windows
        kept = self.plan.window, self.plan.holds_all_folds
        empty_cache(self.device)
        self.control.notify(self.plan.shrink(group, self.encoded.tiling))
        if (self.plan.window, self.plan.holds_all_folds) != kept:
            del self.encoded  # frees its memory before the next encoding
            empty_cache(self.device)
            self.encoded = self._given(self._encode())

    def _write(self, folder: Path) -> dict[str, Any]:
        """Write the results of the samples so far into `folder`; returns their report."""
        report = self.writer.write(folder, self.ensemble, self.windows, [*self.warnings, *self.plan.notes])
        if self.facts is not None:
            write_volume(folder / FACTS, self.facts.labels, self.input.image, self.request.compress)
        return report

    def _write_results(self, stopped: bool) -> Outcome:
        with result_folder.replacing(output_folder(self.request, self.control)) as folder:
            with self.control.stage("writing"):
                report = self._write(folder)
            finish(folder, report, self.control.timings, stopped)
        self.partial.remove()
        return Outcome(report, stopped)


def _unless_out_of_memory(work: Callable[[], Any]) -> Any:
    """The result of `work`; None if it ran out of memory: an error would hold the arrays of the failed attempt."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None
