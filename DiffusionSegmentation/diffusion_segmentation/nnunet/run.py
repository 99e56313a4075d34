"""Segmentation of one volume by the folds of an nnU-Net."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk

from ..errors import GeometryError
from ..segmentation.members import VoxelBox, result_bytes
from ..segmentation.predicted_run import PredictedRun
from ..segmentation.request import Outcome, Preview, Progress, Request
from .library import PACKAGES, require_nnunetv2
from .model import NnunetModel, read_model
from .prediction import Case, Prediction
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

    What the request means here, and what is raised, is described in `segmentation.predicted_run`.
    """
    return _Run(request, progress, preview, cancel).run(folder)


class _Run(PredictedRun):
    """One run of `segment`, whose members are the folds."""

    source = "folds"
    packages = PACKAGES
    model: NnunetModel
    case: Case

    def read_model(self, folder: Path) -> dict[str, Any]:
        require_nnunetv2()
        self.model = read_model(folder)
        self.model.require_weights()
        return self.model.metadata

    @property
    def takes_slices(self) -> bool:
        return len(self.model.settings["patch_size"]) == 2

    @property
    def count(self) -> int:
        return len(self.model.folds)

    def prepare(self) -> None:
        self.prediction = Prediction(self.model, self.device, self.control, self.on_pass)

    def required_bytes(self) -> int:
        return required_bytes(self.model, self.volume.channels, on_cpu=self.device.type == "cpu")

    def preprocess(self) -> None:
        self.case = self.prediction.preprocessed(self.volume.channels)

    def probabilities(self, number: int) -> np.ndarray:
        logits = self.prediction.logits(self.case, self.model.folds[number])
        return self.prediction.probabilities(self.case, logits)

    def meaning(self, count: int) -> str:
        return FOLDS.format(count=count) if count > 1 else ONE_FOLD

    def warnings(self) -> list[str]:
        return run_warnings(self.model, self.volume.image, self.prediction.differing)

    def model_spacing_mm(self) -> float:
        return min(self.model.settings["spacing_mm"])

    def report(self, count: int) -> dict[str, Any]:
        names = [fold["name"] for fold in self.model.folds[:count]]
        settings = {key: self.model.settings[key] for key in ("configuration", "trainer", "plans")}
        return {"folds": {"names": names, **settings}}


def required_bytes(model: NnunetModel, images: Sequence[sitk.Image], on_cpu: bool) -> int:
    """Peak memory (bytes) of a run on these inputs.

    Raises GeometryError if the volume has no voxel on the network's grid, or a single slice across the network's axes.

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
    if image.GetSize()[2] == 1 and turn.order[order[0]] != 0:
        raise GeometryError(
            "The slice lies across the slices that the model sees; give a volume of several slices, or choose another "
            "model."
        )
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
