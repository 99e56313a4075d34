"""The volume of a run: read once its header fits the model, with what had to be assumed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import GeometryError, InputError
from ..images.fill_value import fill_warning, replace_fill_value
from ..images.headers import read_header
from ..images.volume import VolumeFile, missing_geometry
from .request import Request
from .suitability import check_grid, check_modality


@dataclass(frozen=True)
class InputVolume:
    """`image` float32, with air in place of what fills outside its field of view; `sha256` of the voxels as they were.

    `warnings` are sentences about what was assumed and about what is unusual for the model.
    """

    image: sitk.Image
    sha256: str
    warnings: list[str]


def read_input(request: Request, file: VolumeFile, input_range: Mapping[str, Any]) -> InputVolume:
    """Read `file`, the volume of `request`; `input_range` is the model's. Raises as `read_volume` and `check_grid`."""
    # Before any voxel is read, which takes gigabytes of a CT of the whole body.
    warnings = check_grid(file.size, file.spacing, input_range)
    image = file.read()
    warnings = [*file.warnings, *warnings]
    # Of the voxels alone, so that it is the same whatever kind of file they came in.
    digest = hashlib.sha256(np.ascontiguousarray(sitk.GetArrayViewFromImage(image))).hexdigest()
    if request.source is not None:
        warnings += left_open(request.source, image)
    image, fill = replace_fill_value(image)
    if fill is not None:
        warnings.append(fill_warning(fill))
    warnings += check_modality(sitk.GetArrayViewFromImage(image), input_range.get("modality"))
    return InputVolume(image, digest, warnings)


def left_open(path: Path, image: sitk.Image) -> list[str]:
    """What the file leaves open that `image` was loaded from, one sentence each.

    Nothing where the image lies elsewhere than the file says, because a person has placed it since, or where the file
    cannot be read any more. Raises GeometryError where the file gives two places that contradict each other, and the
    image has one of them. Sentences leave out its name: files of patients are often called after them, and reports are
    handed on.
    """
    name = "The file of the volume"
    try:
        stored = read_header(path, name)
        if stored.problem and len(stored.affines) == 2:
            if any(_lies_so(image, affine) for affine in stored.affines.values()):
                raise GeometryError(f"{name} {stored.problem}.")
            return []
        if stored.problem:
            return [f"{name} {stored.problem}."]
        spaceless = "spacing" in missing_geometry(path, stored)
        file = VolumeFile(path, spacing=image.GetSpacing() if spaceless else None)
    except (OSError, RuntimeError, InputError):
        return []
    if file.size != image.GetSize() or not np.allclose(file.direction, image.GetDirection(), atol=1e-3):
        return []
    assumed = [sentence.replace(file.name, name) for sentence in file.warnings]
    if not spaceless or not np.allclose(file.itk_spacing, image.GetSpacing(), rtol=1e-3):
        return assumed
    shown = " x ".join(f"{step:.4g}" for step in image.GetSpacing())
    return [
        *assumed,
        f"{name} does not say how large its voxels are, and they were taken to be {shown} mm; correct them if they are "
        "not.",
    ]


def _lies_so(image: sitk.Image, affine: np.ndarray) -> bool:
    """Whether the voxels of an image lie where an affine (LPS, mm) puts them, within a tenth of a voxel."""
    corners = [[0, 0, 0], [n - 1 for n in image.GetSize()]]
    apart = [image.TransformIndexToPhysicalPoint(c) - (affine @ [*c, 1])[:3] for c in corners]
    return bool(np.abs(apart).max() < min(image.GetSpacing()) / 10)
