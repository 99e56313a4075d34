"""Volumes: reading them, and whether they suit a model.

Physical space is LPS in mm, as in SimpleITK; arrays are indexed [k, j, i].
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from . import memory
from .errors import GeometryError, InputError, OutOfMemoryError, explain, is_out_of_memory
from .headers import Stored, incomplete, read_header, unreadable

TOLERATED_FACTOR = 1.5
"""So far beyond the model's range of spacing or extent an answer is still given, with a warning; beyond that, none."""

HOUNSFIELD_AIR_BELOW = -500.0
"""MR intensities are not this negative, air in CT is."""

LARGEST_VALUE = 1e30
"""Beyond it differences of float32 values become infinite; no scanner gives such values, some programs mean "none"."""

FARTHEST_MM = 1e6
"""A volume whose first voxel lies a kilometre from the origin of its coordinates has a damaged header."""

LEAST_DETERMINANT = 0.999
"""Of the unit axes: where they are not at right angles, a voxel is smaller than the product of its spacings by this."""

BLUR_BYTES = 12
"""For a voxel of the input: the image, and two of its size where ITK blurs it, float32 each; measured."""


def read_volume(path: str | Path) -> sitk.Image:
    """Return the 3-D scalar volume in `path` as float32, all values finite, at least two voxels along each axis.

    Raises InputError (missing, unreadable, incomplete, colour, complex, 2-D, 4-D, NaN or infinite, constant),
    GeometryError (a single slice, axes not at right angles, place or voxel size not told or contradictory) and
    OutOfMemoryError (before any voxel is read), each with one sentence that names the file but not its folder.
    """
    path = Path(path)
    name = f"The volume '{_shown(path)}'"
    image = _executed(_checked_reader(path, name), name, sitk.sitkFloat32)
    _require_contrast(image, name)
    return image


def read_labels(path: Path, image: sitk.Image, count: int) -> np.ndarray:
    """The numbers of a label file, int64 [k, j, i] in 0 to count - 1, on the grid of `image`.

    Raises InputError, one sentence: unreadable, not on the image's grid, or a number that is not listed; and, as
    read_volume, GeometryError and OutOfMemoryError.
    """
    name = f"The label file '{_shown(path)}'"
    labels = _executed(_checked_reader(path, name), name)
    numbers = np.rint(sitk.GetArrayFromImage(labels)).astype(np.int64)
    if (
        labels.GetSize() != image.GetSize()
        or not np.allclose(labels.GetOrigin(), image.GetOrigin(), atol=0.01)
        or not np.allclose(labels.GetSpacing(), image.GetSpacing(), rtol=1e-3)
        or not np.allclose(labels.GetDirection(), image.GetDirection(), atol=1e-3)
    ):
        raise InputError(f"{name} does not lie on its image's grid; resample it to the image.")
    if numbers.min() < 0 or numbers.max() >= count:
        raise InputError(f"{name} has labels that dataset.json does not list; mend one of them.")
    return numbers


def _shown(path: Path) -> str:
    """A file's name as it goes into a sentence: one line, and not too long."""
    name = "".join(c if c.isprintable() else "?" for c in path.name)
    return name if len(name) <= 100 else f"{name[:100]} ..."


def itk_name(path: Path) -> str:
    """The name by which ITK can open a file: on Windows it reads names in the ANSI code page.

    There the short name (PROGRA~1), which is ASCII where the volume makes such names, stands for others.
    """
    if sys.platform != "win32" or str(path).isascii():
        return str(path)
    import ctypes

    short = ctypes.create_unicode_buffer(32_768)
    return short.value if ctypes.windll.kernel32.GetShortPathNameW(str(path), short, len(short)) else str(path)


def _checked_reader(path: Path, name: str) -> sitk.ImageFileReader:
    """A reader that knows the header of `path` and is set to read a 3-D scalar volume. Raises as read_volume.

    ITK mostly believes a header; so it is read here first, and held against the file.
    """
    try:
        if not path.exists():
            raise InputError(f"{name} does not exist; check its name and folder.")
        if path.is_dir():
            raise InputError(f"{name} is a folder; give one file, for DICOM a volume that was saved as NRRD or NIfTI.")
        if not path.is_file():
            raise InputError(f"{name} is a pipe or a device; give a file.")
        stored = read_header(path, name)
        reader = sitk.ImageFileReader()
        reader.SetFileName(itk_name(path))
        reader.ReadImageInformation()
    except OSError as error:
        raise InputError(f"{name} cannot be opened; check that you may read it.") from error
    except RuntimeError as error:
        raise unreadable(name) from error
    _require_scalar_3d(reader, name)
    if stored.problem:
        raise GeometryError(f"{name} {stored.problem}.")
    _require_place(reader, stored, name)
    voxels = math.prod(reader.GetSize())
    length = voxels * (stored.voxel or sitk.Image([1, 1, 1], reader.GetPixelIDValue()).GetSizeOfPixelComponent())
    if not stored.holds(length):
        raise incomplete(name)
    # While it reads NIfTI, ITK holds what is stored twice beside the result.
    memory.require(max(2 * length + 4 * voxels, BLUR_BYTES * voxels), name)
    # Last, because it takes long where a NIfTI file is compressed.
    if not stored.unpacks_to(length):
        raise incomplete(name)
    return reader


def _executed(reader: sitk.ImageFileReader, name: str, pixel_type: int = sitk.sitkUnknown) -> sitk.Image:
    """The image, its directions of unit length: MetaImage may hide a factor in them."""
    reader.SetOutputPixelType(pixel_type)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise (OutOfMemoryError(explain(error)[1]) if is_out_of_memory(error) else incomplete(name)) from error
    lengths = np.linalg.norm(np.reshape(image.GetDirection(), (3, 3)), axis=0)
    if np.abs(lengths - 1).max() > 1e-6:
        image.SetDirection((np.reshape(image.GetDirection(), (3, 3)) / lengths).ravel().tolist())
        image.SetSpacing((lengths * image.GetSpacing()).tolist())
    return image


def _require_place(reader: sitk.ImageFileReader, stored: Stored, name: str) -> None:
    """The volume lies where its header says, on axes at right angles."""
    dimensions = len(reader.GetSize())
    size, spacing, origin = (np.array(got[:3]) for got in (reader.GetSize(), reader.GetSpacing(), reader.GetOrigin()))
    direction = np.reshape(reader.GetDirection(), (dimensions, dimensions))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * spacing, origin
    if not np.isfinite(affine).all():
        raise GeometryError(f"{name} does not say where it lies; correct its origin, spacing and directions.")
    if np.abs(origin).max() > FARTHEST_MM:
        raise GeometryError(f"{name} lies more than a kilometre from where its coordinates begin; correct its origin.")
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if np.linalg.matrix_rank(direction) < 3 or not steps.all():
        raise GeometryError(f"{name} has axes of no extent or in one plane; correct its spacing and directions.")
    if abs(np.linalg.det(affine[:3, :3] / steps)) < LEAST_DETERMINANT:
        raise GeometryError(f"{name} has axes that are not at right angles; resample it onto a rectangular grid.")
    corners = np.array([(*corner, 1) for corner in itertools.product(*[(0, n - 1) for n in size])]).T
    away = [np.abs((other - affine) @ corners).max() for other in stored.affines]
    if away and not min(np.where(np.isnan(away), math.inf, away)) <= steps.min() / 2:
        raise GeometryError(f"{name} contradicts itself about where its voxels lie; export it again.")


def _require_scalar_3d(reader: sitk.ImageFileReader, name: str) -> None:
    size = reader.GetSize()
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelIDValue()):
        raise InputError(f"{name} has complex values; give its magnitude.")
    if reader.GetNumberOfComponents() != 1:
        raise InputError(f"{name} has {reader.GetNumberOfComponents()} values a voxel; give a grey-value volume.")
    if len(size) == 2:
        raise InputError(f"{name} is a 2-D image; give a 3-D volume.")
    if len(size) > 3:
        if math.prod(size[3:]) != 1:
            raise InputError(f"{name} is a series of {math.prod(size[3:])} volumes; give one of them.")
        reader.SetExtractSize([*size[:3], *[0] * (len(size) - 3)])
    if min(size[:3]) < 2:
        raise GeometryError(f"{name} has {' x '.join(map(str, size[:3]))} voxels; give a volume of several slices.")


def _require_contrast(image: sitk.Image, name: str) -> None:
    values = sitk.GetArrayViewFromImage(image)
    # One pass without a mask: a sum of float32 values in double precision cannot overflow, so only NaN or Inf spoil it.
    if not np.isfinite(values.sum(dtype=np.float64)):
        raise InputError(f"{name} has voxels that are not a number or infinite; replace them and try again.")
    lowest, highest = values.min(), values.max()
    if max(-lowest, highest) > LARGEST_VALUE:
        raise InputError(
            f"{name} has voxels beyond {LARGEST_VALUE:g}, which no scanner gives; replace them and try again."
        )
    if lowest == highest:
        raise InputError(f"{name} has the same value everywhere; give a volume with contrast.")


def check_fits(image: sitk.Image, input_range: Mapping[str, Any]) -> list[str]:
    """Return warnings, one sentence each, about what is unusual for the model in `image`.

    `input_range` is the model's: {"spacing_mm": [low, high], "extent_mm": [low, high], "modality": "MR"}. Raises
    GeometryError where spacing or field of view is more than TOLERATED_FACTOR beyond the range.
    """
    spacing = image.GetSpacing()
    extent = [n * s for n, s in zip(image.GetSize(), spacing, strict=True)]
    warnings = []
    for values, key, what in ((spacing, "spacing_mm", "voxel spacing"), (extent, "extent_mm", "field of view")):
        low, high = input_range[key]
        if all(low <= value <= high for value in values):
            continue
        shown = " x ".join(f"{value:.4g}" for value in values)
        sentence = f"The {what} is {shown} mm, the model was made for {low:g} to {high:g} mm"
        if min(values) * TOLERATED_FACTOR < low or max(values) > high * TOLERATED_FACTOR:
            raise GeometryError(f"{sentence}; choose another volume or model.")
        warnings.append(f"{sentence}; look at the result with care.")
    if input_range.get("modality") == "MR" and sitk.GetArrayViewFromImage(image).min() < HOUNSFIELD_AIR_BELOW:
        warnings.append("The values look like CT, the model was made for MR; do not trust the result.")
    return warnings
