"""Label files: integer labels on the grid of an image, and the label names that some files contain."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError, shown
from .dataset import name_key
from .volume import VolumeFile

IGNORED = 255  # label of voxels that count neither in training nor in scores
ROUNDING_TOLERANCE = 0.01  # maximum distance of a stored value from its label number


@dataclass(frozen=True)
class Segment:
    """A named segment of a Slicer segmentation; colour "r g b" in 0..1 and tags as in the file, "" if it has none.

    `generated`: Slicer made the name, from a counter ("Segment_1") or from the terminology that the user chose.
    """

    name: str
    color: str = ""
    tags: str = ""
    generated: bool = False


def read_labels(path: Path, image: sitk.Image, names: Sequence[str], ignored: int | None = None) -> np.ndarray:
    """The labels of a file, uint8 [k, j, i], on the grid of `image`.

    `names` are those of labels 1, 2, ... in the data set; 0 is background. Voxels with the number `ignored`, which is
    none of these, become IGNORED.

    Raises InputError (unreadable, another grid, not integers, a label without a name, several layers, or label names
    in the file that differ), GeometryError and OutOfMemoryError, as `read_volume`.
    """
    name = f"The label file '{shown(path.name)}'"
    values, segments = read_label_numbers(path, image, "label file")
    for number, segment in segments.items():
        listed = names[number - 1] if 1 <= number <= len(names) else None
        if listed is not None and not segment.generated and name_key(segment.name) != name_key(listed):
            raise InputError(
                f"{name} calls its label {number} '{segment.name}' and dataset.json calls it '{listed}'; fix one of "
                "them."
            )
    valid = np.isin(values, np.arange(len(names) + 1))
    unlabelled = values == ignored if ignored is not None else np.zeros((), bool)
    if not (valid | unlabelled).all():
        value = values[~(valid | unlabelled)].ravel()[0]
        raise InputError(f"{name} has the label {value:.6g}, which dataset.json does not list; fix one of them.")
    return np.where(unlabelled, IGNORED, values).astype(np.uint8)


def read_label_numbers(path: Path, image: sitk.Image, kind: str) -> tuple[np.ndarray, dict[int, Segment]]:
    """Whole numbers [k, j, i] of a file on the grid of `image`, and its named segments by number.

    `kind` is what messages call the file. Raises InputError (unreadable, another grid, not whole numbers, several
    layers, two segments of one number), GeometryError and OutOfMemoryError, as `read_volume`.
    """
    # A file without a voxel size takes that of its image; only the number of voxels can be compared.
    file = VolumeFile(path, kind, default_spacing=image.GetSpacing())
    name = file.name
    segments = _segments(file.metadata(), name)
    labels = file.read_as()
    values = sitk.GetArrayViewFromImage(labels)
    if "spacing" in file.missing:  # origin and direction of the image must be those that ITK assumes
        same = np.allclose(image.GetDirection(), np.eye(3).ravel()) and not any(image.GetOrigin())
    else:
        same = (
            np.allclose(labels.GetOrigin(), image.GetOrigin(), atol=0.01)
            and np.allclose(labels.GetSpacing(), image.GetSpacing(), rtol=1e-3)
            and np.allclose(labels.GetDirection(), image.GetDirection(), atol=1e-3)
        )
    if labels.GetSize() != image.GetSize() or not same:
        raise InputError(f"{name} does not lie on its image's grid; resample it to the image.")
    if file.non_finite:
        raise InputError(f"{name} has voxels that are no numbers; write 0 or a label there.")
    if values.dtype.kind == "f":
        rounded = np.rint(values)
        # `not <=` so that NaN is refused.
        if not (difference := np.abs(values - rounded)).max() <= ROUNDING_TOLERANCE:
            value = values.ravel()[int(np.argmax(difference))]
            raise InputError(
                f"{name} has values such as {value:.4g}, which are no label numbers; resample labels to the nearest "
                "voxel."
            )
        values = rounded
    return np.array(values), segments


def relabel(labels: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Labels uint8 of any shape, each replaced by its entry in `order`; IGNORED stays."""
    table = np.full(256, IGNORED, np.uint8)
    table[: len(order)] = order
    return table[labels]


def _segments(metadata: Mapping[str, str], file: str) -> dict[int, Segment]:
    """The segments of a Slicer segmentation (.seg.nrrd) that have a name, by label number."""
    segments: dict[int, Segment] = {}
    for key in (key for key in metadata if key.startswith("Segment") and key.endswith("_LabelValue")):
        segment, value = key.removesuffix("_LabelValue"), metadata[key]
        name = metadata.get(f"{segment}_Name", "")
        if not name or not re.fullmatch("[0-9]{1,9}", value):
            continue
        if int(value) in segments:
            raise InputError(f"{file} has two segments with the number {int(value)}; save it again with Slicer.")
        generated = metadata.get(f"{segment}_NameAutoGenerated", "0") == "1"
        color, tags = (metadata.get(f"{segment}_{key}", "") for key in ("Color", "Tags"))
        segments[int(value)] = Segment(name, color, tags, generated)
    return segments
