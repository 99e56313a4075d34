"""Warnings about what a run of an nnU-Net assumes, and about what it does not do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from .model import NnunetModel

POSTPROCESSING = (
    "nnU-Net determined a postprocessing of this model's masks, such as keeping the largest part; it is not applied."
)
NOT_AXIAL = (
    "The slices of this volume do not lie from inferior to superior, and the model takes the axes of a volume as they "
    "are stored; unless its training volumes were stored like this one, resample the volume to axial slices."
)

REGIONS = (
    "The model predicts regions that contain each other; a label here is the most probable class, where nnU-Net takes "
    "each region above a probability of 0.5, and the folds' masks differ from nnU-Net's in {share:.2g} % of the voxels."
)


def run_warnings(model: NnunetModel, image: sitk.Image, differing: Sequence[float]) -> list[str]:
    """Warnings of a run with this model on a volume as it was read; for `differing` see `Prediction`."""
    postprocessing = [POSTPROCESSING] if model.section.get("has_postprocessing") else []
    not_axial = [] if model.settings["reoriented"] or is_axial(image) else [NOT_AXIAL]
    regions = [REGIONS.format(share=100 * float(np.mean(differing)))] if differing else []
    return [*not_axial, *regions, *postprocessing]


def is_axial(image: sitk.Image) -> bool:
    """Whether the slices of a volume are stacked closest to the axis from inferior to superior."""
    stacked = np.abs(np.reshape(image.GetDirection(), (3, 3))[:, 2])
    return bool(stacked[2] >= stacked.max() - 1e-6)
