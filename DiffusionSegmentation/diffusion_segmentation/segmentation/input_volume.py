"""Reading the input volume of a run: checks of its header, assumptions, and the air around the field of view."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import GeometryError, InputError
from ..images.fill_value import told, without_fill
from ..images.headers import read_header
from ..images.volume import VolumeFile, unstated
from .request import Request
from .suitability import check_grid, check_modality


@dataclass(frozen=True)
class InputVolume:
    """Input volume of a run.

    Attributes:
        image: float32, with air in place of the fill value outside the field of view.
        sha256: digest of the stored voxels, the same for all file formats.
        warnings: sentences about assumptions and about what is unusual for the model.
    """

    image: sitk.Image
    sha256: str
    warnings: list[str]


def read_input(request: Request, file: VolumeFile, input_range: Mapping[str, Any]) -> InputVolume:
    """Read the volume of `request` from `file`; `input_range` is the model's. Raises as `read_volume`, `check_grid`."""
    # Before reading voxels, which takes gigabytes for a whole-body CT.
    warnings = check_grid(file.size, file.spacing, input_range)
    image = file.read()
    warnings = [*file.assumed, *warnings]
    digest = hashlib.sha256(np.ascontiguousarray(sitk.GetArrayViewFromImage(image))).hexdigest()
    if request.source is not None:
        warnings += unstated_in_source(request.source, image)
    image, fill = without_fill(image)
    if fill is not None:
        warnings.append(told(fill))
    warnings += check_modality(sitk.GetArrayViewFromImage(image), input_range.get("modality"))
    return InputVolume(image, digest, warnings)


def unstated_in_source(path: Path, image: sitk.Image) -> list[str]:
    """Return warnings about what the file at `path`, from which `image` was loaded, does not state.

    Returns none if the image was moved since or the file cannot be read any more. Raises GeometryError if the file has
    two contradicting affines and the image has one of them. The warnings omit the file's name, which may be that of the
    patient.
    """
    name = "The file of the volume"
    try:
        stored = read_header(path, name)
        if stored.problem and len(stored.affines) == 2:
            if any(_has_affine(image, affine) for affine in stored.affines.values()):
                raise GeometryError(f"{name} {stored.problem}.")
            return []
        if stored.problem:
            return [f"{name} {stored.problem}."]
        no_spacing = "spacing" in unstated(path, stored)
        file = VolumeFile(path, spacing=image.GetSpacing() if no_spacing else None)
    except (OSError, RuntimeError, InputError):
        return []
    if file.size != image.GetSize() or not np.allclose(file.direction, image.GetDirection(), atol=1e-3):
        return []
    assumed = [sentence.replace(file.name, name) for sentence in file.assumed]
    if not no_spacing or not np.allclose(file.read_spacing, image.GetSpacing(), rtol=1e-3):
        return assumed
    shown = " x ".join(f"{step:.4g}" for step in image.GetSpacing())
    return [
        *assumed,
        f"{name} does not say how large its voxels are, and they were taken to be {shown} mm; correct them if they are "
        "not.",
    ]


def _has_affine(image: sitk.Image, affine: np.ndarray) -> bool:
    """Whether the geometry of an image is that of `affine` (index to LPS, mm), within a tenth of a voxel."""
    corners = [[0, 0, 0], [n - 1 for n in image.GetSize()]]
    apart = [image.TransformIndexToPhysicalPoint(c) - (affine @ [*c, 1])[:3] for c in corners]
    return bool(np.abs(apart).max() < min(image.GetSpacing()) / 10)
