"""The volume of a run: read once its header fits the model, with what had to be assumed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from .fill import told, without_fill
from .request import Request
from .suitability import check_grid, check_modality
from .volume import VolumeFile, left_open


@dataclass(frozen=True)
class InputVolume:
    """`image` float32, with air in place of what fills outside its field of view; `sha256` of the voxels as they were.

    `warnings` are sentences about what was assumed and about what is unusual for the model.
    """

    image: sitk.Image
    sha256: str
    warnings: list[str]


def read_input(request: Request, input_range: Mapping[str, Any]) -> InputVolume:
    """Read `request.volume`; `input_range` is the model's. Raises as `read_volume` and `check_grid`."""
    file = VolumeFile(request.volume, spacing=request.spacing)
    # Before any voxel is read, which takes gigabytes of a CT of the whole body.
    warnings = check_grid(file.size, file.spacing, input_range)
    image = file.read()
    warnings = [*file.assumed, *warnings]
    # Of the voxels alone, so that it is the same whatever kind of file they came in.
    digest = hashlib.sha256(np.ascontiguousarray(sitk.GetArrayViewFromImage(image))).hexdigest()
    if request.source is not None:
        warnings += left_open(request.source, image)
    image, fill = without_fill(image)
    if fill is not None:
        warnings.append(told(fill))
    warnings += check_modality(sitk.GetArrayViewFromImage(image), input_range.get("modality"))
    return InputVolume(image, digest, warnings)
