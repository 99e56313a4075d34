"""Reading the input volume of a run, with warnings about assumptions and about what is unusual for the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..dicom.export import Exporter
from ..errors import GeometryError, InputError
from ..images.case_files import CaseFiles
from ..images.file_digest import array_sha256
from ..images.fill_value import replace_fill_value
from ..images.headers import read_header
from ..images.input_names import ONE_INPUT, Input, inputs_of
from ..images.intensity import subsample
from ..images.volume import VolumeFile, plane_of_slices
from ..networks import InputDistance
from .request import Request

TOLERATED_FACTOR = 1.5
"""Factor by which spacing or field of view may exceed the model's range with a warning; beyond it the run fails."""

AIR, SOFT_TISSUE = (-1100.0, -900.0), (-200.0, 200.0)  # ranges in Hounsfield units; air is -1000, water 0

PLACES = {"features": "{}", "volume": "the volume of {}", "entropy": "the entropy of {}"}
"""Words for the largest part of the distance, by `networks.input_statistics.KINDS`."""

MIN_CT_SHARE = 0.02  # minimum share of air, and of soft tissue, among the voxels of a CT


@dataclass(frozen=True)
class InputVolume:
    """Input volume of a run."""

    image: sitk.Image  # the first channel, float32, whose grid is that of the result
    sha256: str  # digest of its stored voxels, the same for all file formats
    warnings: list[str]  # sentences about assumptions and about what is unusual for the model
    # All channels on the grid of the first, for our own models with air in place of the fill value outside the field
    # of view.
    channels: Sequence[sitk.Image] = ()
    further_sha256: Mapping[str, str] = field(default_factory=dict)  # digests of the other inputs, by their names
    unchanged: Sequence[sitk.Image] = ()  # all channels as they were read, for networks that others trained
    names: Sequence[str] = ()  # names of the inputs in their order
    series_uid: str = ""  # of the DICOM series of the first input
    exporter: Exporter | None = None  # writes the result as DICOM objects

    @property
    def is_picture(self) -> bool:
        """Whether there is a single slice."""
        return self.image.GetSize()[2] == 1


def read_input(request: Request, files: CaseFiles, section: Mapping[str, Any]) -> InputVolume:
    """Read the inputs of `request` from `files` for the model of `section`, our section of its metadata.

    Raises as `CaseFiles.read` and `check_grid`.
    """
    input_range, inputs = section["input_range"], inputs_of(section)
    axes = section["network"].get("dims", 3)
    files.require_fit(inputs)
    # Before reading voxels, which takes gigabytes for a whole-body CT.
    first = files.first
    is_stated = "spacing" not in first.missing or request.spacing is not None
    warnings = check_grid(first.size[:axes], first.spacing[:axes], input_range, is_stated)
    plane, trained = plane_of_slices(first.direction), input_range.get("plane")
    if axes == 2 and not files.is_picture and trained not in (None, plane):
        warnings.append(f"The slices are {plane} and the model was trained on {trained} ones; do not trust the result.")
    fills: set[float] = set()

    def clean(channel: sitk.Image) -> sitk.Image:
        channel, fill = replace_fill_value(channel)
        fills.update([] if fill is None else [fill])
        return channel

    read = read_unchanged(files, request.source, inputs, warnings, clean)
    warnings, channels = read.warnings, [*map(clean, read.channels)]
    for fill in sorted(fills):
        warnings.append(f"Voxels of {fill:g}, far below all others, were taken for air outside the field of view.")
    warnings += check_modality(sitk.GetArrayViewFromImage(channels[0]), input_range.get("modality"))
    return replace(read, image=channels[0], warnings=warnings, channels=channels)


def read_unchanged(
    files: CaseFiles,
    source: Path | None,
    inputs: Sequence[Input] = ONE_INPUT,
    warnings: Sequence[str] = (),
    clean: Callable[[sitk.Image], sitk.Image] = lambda channel: channel,
) -> InputVolume:
    """Read the inputs in `files`, for results of other models as they are; `warnings` follow those of the files.

    Channels that are resampled are `clean`ed before.
    `source` is the file from which the first one was loaded. Raises as `CaseFiles.read`.
    """
    channels = files.read(inputs, clean)
    warnings = [*files.warnings, *warnings]
    digests = [array_sha256(sitk.GetArrayViewFromImage(channel)) for channel in channels]
    if source is not None:
        warnings += unstated_in_source(source, channels[0])
    names = [f"{one.name} {n + 1}" if one.channels > 1 else one.name for one in inputs for n in range(one.channels)]
    further = dict(zip(names[1:], digests[1:], strict=True))
    of_inputs = [one.name for one in inputs]
    return InputVolume(
        channels[0],
        digests[0],
        warnings,
        channels,
        further,
        unchanged=channels,
        names=of_inputs,
        series_uid=files.series_uid,
        exporter=files.exporter,
    )


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
        if stored.turns:
            return []  # the program that loaded it can have left it as it is
        file = VolumeFile(path, default_spacing=image.GetSpacing(), pictures=True)
    except (OSError, RuntimeError, InputError):
        return []
    if file.size != image.GetSize() or not np.allclose(file.direction, image.GetDirection(), atol=1e-3):
        return []
    assumed = [sentence.replace(file.name, name) for sentence in file.warnings]
    in_pixels = file.size[2] == 1  # its report has areas in pixels, which assume no size
    if in_pixels or "spacing" not in file.missing or not np.allclose(file.itk_spacing, image.GetSpacing(), rtol=1e-3):
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


def check_grid(
    size: Sequence[int], spacing: Sequence[float], input_range: Mapping[str, Any], is_stated: bool = True
) -> list[str]:
    """Return warnings about a voxel spacing or field of view outside the model's range, or pixels of unknown size.

    `input_range` is {"spacing_mm": [low, high], "extent_mm": [low, high]} and for pictures optionally "unit": "mm", or
    "px" for a model of pictures without a pixel size. `is_stated`: whether `spacing` is in mm; otherwise it is 1.
    Raises GeometryError if either is outside by more than TOLERATED_FACTOR.
    """
    extent = [n * s for n, s in zip(size, spacing, strict=True)]
    is_picture = len(size) == 2
    unit = _unit(input_range) if is_picture else "mm"
    unknown = is_picture and not is_stated and unit == "mm"
    warnings = []
    for values, key, what in (
        (spacing, "spacing_mm", "pixel size" if is_picture else "voxel spacing"),
        (extent, "extent_mm", "field of view"),
    ):
        low, high = input_range[key]
        if all(low <= value <= high for value in values):
            continue
        shown = " x ".join(f"{value:.4g}" for value in values)
        sentence = f"The {what} is {shown} {unit}, the model was made for {low:g} to {high:g} {unit}"
        if min(values) * TOLERATED_FACTOR < low or max(values) > high * TOLERATED_FACTOR:
            other = "choose another picture or model" if is_picture else "choose another volume or model"
            advice = "the picture does not state the size of its pixels: give it with --spacing" if unknown else other
            raise GeometryError(f"{sentence}; {advice}.")
        warnings.append(f"{sentence}; look at the result with care.")
    if unknown:
        low, high = input_range["spacing_mm"]
        warnings.append(
            f"The picture does not state the size of its pixels, so they were taken to be 1 mm, and the model was made "
            f"for {low:g} to {high:g} mm: structures of another size can be missed; give it with --spacing."
        )
    return warnings


def _unit(input_range: Mapping[str, Any]) -> str:
    """Unit of the ranges: models of version 0.5 and older do not state it, and pixels without a size measure 1."""
    return input_range.get("unit", "px" if list(input_range["spacing_mm"]) == [0.5, 2.0] else "mm")


def check_modality(values: np.ndarray, modality: str | None) -> list[str]:
    """Return a warning if the values look like CT and the model is for MR."""
    if modality != "MR" or values.min() > AIR[1]:
        return []
    some = subsample(values)
    shares = [np.mean((low <= some) & (some <= high)) for low, high in (AIR, SOFT_TISSUE)]
    if min(shares) < MIN_CT_SHARE:
        return []
    return ["The values look like CT, the model was made for MR; do not trust the result."]


def check_input_distance(input_distance: InputDistance | None, names: Sequence[str]) -> list[str]:
    """Return a warning if a scan is unlike those that the model, with classes `names`, was made for."""
    if input_distance is None or not input_distance.unlike:
        return []
    name = names[input_distance.structure]
    name = name[0].lower() + name[1:] if name[1:].islower() else name
    return [
        f"The scan is unlike those that the model was made for (distance {input_distance.distance:.1f}, "
        f"limit {input_distance.limit:.1f}, most in {PLACES[input_distance.kind].format(name)}); "
        "do not trust the segmentation without checking it."
    ]
