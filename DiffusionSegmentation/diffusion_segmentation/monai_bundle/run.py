"""Segmentation of one volume by the network of a MONAI bundle."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
import torch

from ..errors import GeometryError
from ..segmentation.members import result_bytes
from ..segmentation.predicted_run import PredictedRun
from ..segmentation.request import Outcome, Preview, Progress, Request
from .model import MonaiModel, read_model
from .network import sketch
from .prediction import Prediction, window_size
from .preprocessing import affine_of, orientation

MEANING = (
    "The uncertainty is that of the class probabilities of one network; without samples of the whole volume there are "
    "no volume intervals and no alternatives, and what the network does not know is not in it."
)
LAYERS_PER_PASS = 3
"""Peak memory of a pass of the network, as multiples of the input and output of its largest layer."""
WEIGHT_COPIES = 3  # while they are loaded: file, tensors as stored and as float32
POSITION_BYTES, VALUE_BYTES = 48, 16
"""Of resampling, for each voxel, and for each voxel and channel: MONAI computes positions and values as float64."""


def segment(
    request: Request,
    folder: Path,
    progress: Callable[[Progress], None] = lambda progress: None,
    preview: Callable[[Preview], None] = lambda preview: None,
    cancel: Callable[[], Literal["keep", "drop"] | None] = lambda: None,
) -> Outcome:
    """Segment as `segmentation.pipeline.segment` does, with the converted bundle in the model folder `folder`.

    What the request means here, and what is raised, is described in `segmentation.predicted_run`.
    """
    return _Run(request, progress, preview, cancel).run(folder)


class _Run(PredictedRun):
    """One run of `segment`, whose single member is the network."""

    source = "network"
    count = 1
    model: MonaiModel
    data: torch.Tensor

    def read_model(self, folder: Path) -> dict[str, Any]:
        self.model = read_model(folder)
        self.model.require_weights()
        return self.model.metadata

    def prepare(self) -> None:
        self.prediction = Prediction(self.model, self.device, self.control, self.on_pass)

    def required_bytes(self) -> int:
        return required_bytes(self.model, self.volume.channels, on_cpu=self.device.type == "cpu")

    def preprocess(self) -> None:
        self.data = self.prediction.preprocessed(self.volume.channels)

    def probabilities(self, number: int) -> np.ndarray:
        return self.prediction.probabilities(self.prediction.logits(self.data))

    def meaning(self, count: int) -> str:
        return MEANING

    def warnings(self) -> list[str]:
        return []

    def model_spacing_mm(self) -> float:
        return min(grid(self.model.settings["preprocessing"], self.volume.image)[1])

    def report(self, count: int) -> dict[str, Any]:
        settings = self.model.settings
        return {"network": {"class": settings["network"]["class"], "bundle": settings["bundle"]}}


def required_bytes(model: MonaiModel, images: Sequence[sitk.Image], on_cpu: bool) -> int:
    """Peak memory (bytes) of a run on these inputs.

    Raises GeometryError if the volume has no voxel on the network's grid.

    Beside a pass there are the outputs of the network and the weights of their windows; then the probabilities on the
    grid of the volume, of which one class is resampled at a time. The memory of resampling is not returned before the
    result is written.
    """
    settings, image, inputs = model.settings, images[0], len(images)
    shape, _ = grid(settings["preprocessing"], image)
    if min(shape) < 1:
        raise GeometryError("The volume is smaller than one voxel of the model's grid; choose another volume or model.")
    window = window_size(shape, settings["inferer"])
    working = math.prod(max(n, edge) for n, edge in zip(shape, window, strict=True))
    voxels = image.GetNumberOfPixels()
    features = LAYERS_PER_PASS * sketch(settings["network"], window).bytes_of_layer if on_cpu else 0
    classes = model.classes
    resampling = (POSITION_BYTES + VALUE_BYTES) * max(working, voxels)
    preprocessing = resampling + VALUE_BYTES * (inputs - 1) * max(working, voxels) + 4 * inputs * voxels
    prediction = (8 * classes + 8 + 8 * inputs) * working + features
    back = 8 * classes * working + 8 * classes * voxels + resampling
    weights = WEIGHT_COPIES * model.section["weights"]["bytes"]
    result = resampling + result_bytes(classes, voxels)
    return max(preprocessing, prediction, back, result) + (4 + 4 * inputs) * voxels + weights


def grid(preprocessing: Sequence[dict[str, Any]], image: sitk.Image) -> tuple[list[int], list[float]]:
    """Voxels along each axis of the network's grid, at most, and their edges in mm.

    A crop, whose size depends on the voxels, can leave less. Several changes of the spacing count as the one with the
    most voxels.
    """
    shape, spacing = list(image.GetSize()), list(image.GetSpacing())
    affine = affine_of(image)
    shapes = [shape]
    for entry in preprocessing:
        if entry["transform"] == "Orientation":
            order, _ = orientation(affine, entry["axcodes"])
            shape, spacing = [shape[a] for a in order], [spacing[a] for a in order]
            affine = affine[:, [*order, 3]]
            shapes = [[one[a] for a in order] for one in shapes]
        if entry["transform"] == "Spacing":
            target = [mm if new == -1 else new for mm, new in zip(spacing, entry["pixdim"], strict=True)]
            shape = [math.ceil(n * mm / new) for n, mm, new in zip(shape, spacing, target, strict=True)]
            spacing = target
            shapes.append(shape)
    return max(shapes[1:] or shapes, key=math.prod), spacing
