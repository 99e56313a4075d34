"""Segmentation of one volume by the folds of an nnU-Net.

The mean of their class probabilities is the map and their most probable masks take the place of samples, as for an
import of several files of class probabilities.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
import torch

from ..errors import GeometryError
from ..images.case_files import CaseFiles
from ..images.input_names import inputs_of
from ..images.resampling import Projection
from ..runtime import memory
from ..runtime.devices import choose_device, empty_cache, explained_gpu_errors
from ..runtime.versions import versions
from ..segmentation import result_folder
from ..segmentation.ensemble import Ensemble
from ..segmentation.input_volume import read_unchanged
from ..segmentation.members import ProbabilityMean, VoxelBox, WriteOptions, result_bytes, write_members
from ..segmentation.model_source import peak_memory
from ..segmentation.outputs import ResultSource, ResultWriter, finish
from ..segmentation.partial_results import PartialResults, output_folder
from ..segmentation.request import Outcome, Preview, Progress, Request
from ..segmentation.run_control import RunControl, SamplingStopped
from .library import PACKAGES, require_nnunetv2
from .model import NnunetModel, read_model
from .prediction import Case, Prediction, no_numbers
from .run_warnings import run_warnings

FOLDS = (
    "The entropy is that of the mean of {count} folds of one nnU-Net: their disagreement, and what each is unsure of. "
    "Folds are not samples of the possible masks of the whole volume, so in place of volume intervals there is the "
    "range of the volumes of their most probable masks."
)
ONE_FOLD = (
    "The uncertainty is that of the class probabilities of one fold of an nnU-Net; without samples of the whole volume "
    "there are no volume intervals and no alternatives, and what the network does not know is not in it."
)
FEATURES_PER_PASS = 12
"""Peak memory of a pass of the network, as multiples of its finest features; measured by the benchmark `nnunet`."""
WEIGHT_COPIES = 3  # of a fold while it is loaded: file, tensors, network


def segment(
    request: Request,
    folder: Path,
    progress: Callable[[Progress], None] = lambda progress: None,
    preview: Callable[[Preview], None] = lambda preview: None,
    cancel: Callable[[], Literal["keep", "drop"] | None] = lambda: None,
) -> Outcome:
    """Segment as `segmentation.pipeline.segment` does, with the nnU-Net in the model folder `folder`.

    Samples, steps and seed of the request have no meaning here, which a warning says if they were set. With "keep" the
    finished folds become the result. Raises as `segmentation.pipeline.segment`.
    """
    run = _Run(request, RunControl(progress, cancel), preview)
    try:
        with explained_gpu_errors(lambda: run.device), result_folder.new_folder(request.output):
            return run.segment(folder)
    finally:
        device = run.device
        vars(run).clear()  # its parts refer to it, so that its network and volumes would stay for a while
        empty_cache(device)


class _Run:
    """One run of `segment`; its methods are in the order in which they are called."""

    def __init__(self, request: Request, control: RunControl, preview: Callable[[Preview], None]) -> None:
        self.request, self.control, self.preview = request, control, preview
        self.device = torch.device("cpu")

    def segment(self, folder: Path) -> Outcome:
        stage = self.control.stage
        result_folder.require_replaceable(self.request.output)
        with stage("reading"):
            files = CaseFiles(self.request.volume, self.request.spacing)
        with stage("model"):
            self._load_model(folder)
        with stage("reading"):
            files.first.require_volume()
            self.volume = read_unchanged(files, self.request.source, inputs_of(self.model.section))
            self._require_memory(self.volume.channels)
        self._prepare_results()
        with stage("encoding"):
            case = self.prediction.preprocessed(self.volume.channels)
        with stage("sampling"):
            stopped = self._predict(case)
        return self._write_results(stopped)

    def _load_model(self, folder: Path) -> None:
        require_nnunetv2()
        self.model = read_model(folder)
        self.model.require_weights()
        self.device = choose_device(self.request.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.prediction = Prediction(self.model, self.device, self.control, self._on_pass)

    def _require_memory(self, images: Sequence[sitk.Image]) -> None:
        """Raise OutOfMemoryError, with both figures, if the run cannot fit into this computer's memory."""
        needed = required_bytes(self.model, images, on_cpu=self.device.type == "cpu")
        memory.require(needed, "Segmenting this volume", "crop it, or close other programs")

    def _prepare_results(self) -> None:
        """Set `mean` and `partial`, which writes previews and finished folds while the run goes on."""
        image = self.volume.image
        self.mean = ProbabilityMean(image.GetSize()[::-1])
        source = ResultSource(self.model.labels, image.GetSpacing()[::-1], self._report_entries)
        writer = ResultWriter(self.volume, source, Projection(image, image), self.request.compress)
        self.partial = PartialResults(self.request, self.control, writer, self.preview)

    def _predict(self, case: Case) -> bool:
        """Add the prediction of each fold to `mean`; returns whether the run was stopped early."""
        folds = self.model.folds
        for number, fold in enumerate(folds, 1):
            try:
                self.control.check()
                logits = self.prediction.logits(case, fold)
            except SamplingStopped:
                return True
            p = self.prediction.probabilities(case, logits)
            del logits
            if not np.isfinite(p.sum(dtype=np.float64)):
                raise no_numbers(self.model)
            self.control.check_dropped()
            self.mean.add(p)
            del p  # a volume of all classes, beside the next fold's
            self.control.samples = len(self.mean)
            empty_cache(self.device)
            if number < len(folds):
                self.partial.preview(self.mean.mean, len(self.mean))
                self.partial.save(len(self.mean), self._write)
        return False

    def _on_pass(self, done: int, passes: int) -> None:
        folds, finished = len(self.model.folds), len(self.mean)
        share = (finished + done / max(passes, done)) / folds
        left = (time.monotonic() - self.control.stage_start) * (1 - share) / share
        self.control.progress(
            Progress("sampling", finished + 1, folds, done, max(passes, done), left, self.control.note)
        )

    def _write(self, folder: Path) -> dict[str, Any]:
        """Write the results of the folds so far into `folder`; returns their report."""
        request, count = self.request, len(self.mean)
        spread = FOLDS.format(count=count) if count > 1 else ONE_FOLD
        warnings = run_warnings(request, self.model, self.volume.image, self.prediction.differing)
        report = write_members(
            folder,
            self.volume,
            self.mean.members(),
            self.model.labels,
            self._report_entries,
            WriteOptions(request.compress, request.keep_samples, request.region_mm),
            [spread, *warnings, *self.volume.warnings],
            model_spacing_mm=min(self.model.settings["spacing_mm"]),
            are_draws=False,
        )
        return report | {"versions": versions(*PACKAGES)}

    def _report_entries(self, ensemble: Ensemble) -> dict[str, Any]:
        model, section = self.model, self.model.section
        return {
            "model": {
                **{key: section[key] for key in ("name", "title", "sha256")},
                "version": model.metadata["version"],
                **{key: model.metadata.get(key, "") for key in ("description", "intended_use")},
                "card": {},
            },
            "folds": {
                "names": [fold["name"] for fold in model.folds[: len(self.mean)]],
                **{key: model.settings[key] for key in ("configuration", "trainer", "plans")},
            },
            "map_source": "folds",
            "map_prior": None,
            "start": {"kind": "folds", "log_snr": None},
            "seed": None,
            "steps": 0,
            "requested_samples": len(model.folds),
            "denoiser_passes": 0,
            "device": self.device.type if self.device.type == "cpu" else str(self.device),
            "memory_bytes": peak_memory(self.device),
        }

    def _write_results(self, stopped: bool) -> Outcome:
        with result_folder.replacing(output_folder(self.request, self.control)) as folder:
            with self.control.stage("writing"):
                report = self._write(folder)
            self.control.check_dropped()
            finish(folder, report, self.control.timings, stopped)
        self.partial.remove()
        return Outcome(report, stopped)


def required_bytes(model: NnunetModel, images: Sequence[sitk.Image], on_cpu: bool) -> int:
    """Peak memory (bytes) of a run on these inputs.

    Raises GeometryError if the volume has no voxel on the network's grid.

    nnU-Net resamples logits float16 as float64; then float32 probabilities are copied twice. The running mean lies
    beside the predictions of all folds but the first, and beside the result, with the entropies of mean and folds. On a
    CPU the memory of the passes is not returned before the result is written.
    """
    settings, image = model.settings, images[0]
    box = VoxelBox(image.GetSize()[::-1], margin=0)  # nnU-Net crops to it
    for one in images:
        box.include(sitk.GetArrayViewFromImage(one) != 0)
    turn, order = model.turn(image), settings["transpose"]
    shape, spacing = turn.sizes(box.shape), turn.sizes(image.GetSpacing()[::-1])
    target = [*[None] * (3 - len(settings["spacing_mm"])), *settings["spacing_mm"]]
    grid = [shape[a] if mm is None else round(shape[a] * spacing[a] / mm) for a, mm in zip(order, target, strict=True)]
    if min(grid) < 1:
        raise GeometryError(
            "What is not 0 in the volume is smaller than one voxel of the model's grid; choose another volume or model."
        )
    patch = [*[1] * (3 - len(settings["patch_size"])), *settings["patch_size"]]
    working = math.prod(max(n, edge) for n, edge in zip(grid, patch, strict=True))
    voxels = image.GetNumberOfPixels()
    features = 4 * settings["network"]["features_per_stage"][0] * math.prod(patch) if on_cpu else 0
    several = len(model.folds) > 1
    mean = 4 * (model.classes + 1) * voxels
    prediction = max(10 * working + 6 * voxels, 2 * working + 14 * voxels) * model.classes
    prediction += 28 * working * len(images)
    result = result_bytes(model.classes, voxels) + mean + several * 16 * voxels + 8 * working
    weights = max(fold["bytes"] for fold in model.folds)
    return max(prediction + several * mean, result) + FEATURES_PER_PASS * features + WEIGHT_COPIES * weights
