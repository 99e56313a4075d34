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
            return [_slice(path, image, frame) for frame in range(int(image.NumberOfFrames))]
    except Exception as error:  # pydicom raises many kinds for damaged elements
        raise _damaged(path) from error


def read_frames(path: Path) -> np.ndarray:
    """The values float32 [frame, j, i] of a multi-frame image, rescaled as each frame states. Raises InputError."""
    import pydicom

    with quiet():
        try:
            image = pydicom.dcmread(path)
            count, name = int(image.NumberOfFrames), image.file_meta.TransferSyntaxUID.name
        except Exception as error:
            raise _damaged(path) from error
        try:
            values = image.pixel_array.astype(np.float32)
        except (RuntimeError, NotImplementedError) as error:  # no decoder that can read it is installed
            raise InputError(
                f"The multi-frame DICOM image is compressed ({name}) and cannot be read here; save it uncompressed."
            ) from error
        except Exception as error:
            raise _damaged(path) from error
        if len(values) != count or values.ndim != 3:
            raise _damaged(path)
        for frame in range(count):
            rescale = _group(image, frame, "PixelValueTransformationSequence")
            values[frame] *= float(getattr(rescale, "RescaleSlope", 1))
            values[frame] += float(getattr(rescale, "RescaleIntercept", 0))
    return values


def _slice(path: Path, image: Any, frame: int) -> Slice:
    measures = _group(image, frame, "PixelMeasuresSequence")
    spacing = _numbers(measures, "PixelSpacing")
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
        _numbers(_group(image, frame, "PlanePositionSequence"), "ImagePositionPatient"),
        _numbers(_group(image, frame, "PlaneOrientationSequence"), "ImageOrientationPatient"),
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


def _numbers(item: Any, name: str) -> tuple[float, ...] | None:
    values = getattr(item, name, None)
    numbers = tuple(float(value) for value in values) if values is not None else ()
    return numbers if numbers and np.isfinite(numbers).all() else None


def _damaged(path: Path) -> InputError:
    return InputError(f"The DICOM image '{shown(path.name)}' is damaged or incomplete; copy it again.")
