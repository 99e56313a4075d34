"""Multi-frame DICOM images, read with pydicom: SimpleITK does not give the position of each frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, shown
from .extra import quiet, require_extra
from .slices import Slice, problem


def read_slices(path: Path) -> list[Slice]:
    """The frames of a multi-frame image in the order in which they are stored. Raises InputError."""
    require_extra("A multi-frame DICOM image")
    import pydicom

    try:
        with quiet():
            image = pydicom.dcmread(path, stop_before_pixels=True)
            groups = len(image.get("PerFrameFunctionalGroupsSequence") or ())
            frames = [_slice(path, image, frame) for frame in range(groups)]
    except Exception as error:  # pydicom raises many kinds for damaged elements
        raise _damaged(path) from error
    if not frames:
        raise InputError("The multi-frame DICOM image does not state where its frames lie; save it as NRRD or NIfTI.")
    return frames


def read_frames(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """The values float32 [frame, j, i] of a multi-frame image, rescaled as each frame states.

    Raises InputError, also unless all frames that have a header have this `shape`.
    """
    import pydicom

    with quiet():
        try:
            image = pydicom.dcmread(path)
            name = image.file_meta.TransferSyntaxUID.name
            count = len(image.PerFrameFunctionalGroupsSequence)
            groups = [_group(image, frame, "PixelValueTransformationSequence") for frame in range(count)]
            slopes = [float(getattr(group, "RescaleSlope", 1)) for group in groups]
            intercepts = [float(getattr(group, "RescaleIntercept", 0)) for group in groups]
        except Exception as error:
            raise _damaged(path) from error
        try:
            values = image.pixel_array.astype(np.float32).reshape(-1, *shape)
        except (RuntimeError, NotImplementedError) as error:  # no decoder that can read it is installed
            raise InputError(
                f"The multi-frame DICOM image is compressed ({name}) and cannot be read here; save it uncompressed."
            ) from error
        except Exception as error:
            raise _damaged(path) from error
    if values.shape != (count, *shape):
        raise _damaged(path)
    for frame, slope, intercept in zip(values, slopes, intercepts, strict=True):
        frame *= slope
        frame += intercept
    return values


def _slice(path: Path, image: Any, frame: int) -> Slice:
    measures = _group(image, frame, "PixelMeasuresSequence")
    spacing = _numbers(measures, "PixelSpacing", 2)
    grey = image.PhotometricInterpretation == "MONOCHROME2" and image.SamplesPerPixel == 1
    kind = [str(part) for part in image.get("ImageType", [])]
    return Slice(
        path,
        frame,
        str(image.SOPInstanceUID),
        str(image.SeriesInstanceUID),
        str(image.Modality),
        (int(image.Columns), int(image.Rows)),
        None if spacing is None or min(spacing) <= 0 else spacing[::-1],
        _numbers(_group(image, frame, "PlanePositionSequence"), "ImagePositionPatient", 3),
        _numbers(_group(image, frame, "PlaneOrientationSequence"), "ImageOrientationPatient", 6),
        "LOCALIZER" in kind,
        problem(kind, grey),
    )


def _group(image: Any, frame: int, name: str) -> Any:
    """The item of a functional group of a frame, its own or the one that all frames share; None if there is none."""
    for groups in (image.get("PerFrameFunctionalGroupsSequence"), image.get("SharedFunctionalGroupsSequence")):
        if groups:
            found = getattr(groups[frame if len(groups) > 1 else 0], name, None)
            if found:
                return found[0]
    return None


def _numbers(item: Any, name: str, count: int) -> tuple[float, ...] | None:
    """The numbers of an element; None unless there are `count` finite ones."""
    numbers = tuple(float(value) for value in getattr(item, name, None) or ())
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def _damaged(path: Path) -> InputError:
    return InputError(f"The DICOM image '{shown(path.name)}' is damaged or incomplete; copy it again.")
