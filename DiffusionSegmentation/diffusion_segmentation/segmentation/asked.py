"""Questions about a result: read from a request, or asked of a finished result whose samples were kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..measurements.answer import answer
from ..measurements.label_map import LabelMap
from ..measurements.question import Question, parse
from .outputs import geometry
from .uncertain_regions import voxel_size


def questions(texts: Sequence[str], labels: Sequence[dict[str, Any]], image: sitk.Image) -> list[Question]:
    """The questions of `texts` about a result on the grid of `image`. Raises InputError for one that does not fit."""
    unit, is_picture = voxel_size(*geometry(image))[1], image.GetSize()[2] == 1
    return [parse(text, labels, unit, is_picture) for text in texts]


def ask(
    folder: Path, texts: Sequence[str], on_sample: Callable[[int, int], None] = lambda done, of: None
) -> list[dict[str, Any]]:
    """Answers to the questions of `texts` from the samples that a finished run kept in `folder`.

    `on_sample(done, of)` is called after each sample. Raises InputError where the folder has no result or no samples,
    or a question does not fit it.
    """
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        labels, is_range = report["volumes"], any(entry["method"] == "range" for entry in report["volumes"])
        if not all(entry["id"] and entry["name"] and entry["label"] for entry in labels) or not labels:
            raise ValueError
        consensus = sitk.ReadImage(str(folder / "segmentation.seg.nrrd"))
    except (OSError, ValueError, LookupError, TypeError, RuntimeError):
        raise InputError(
            f"'{folder.name}' is not the folder of a finished result; name one with a report.json."
        ) from None
    asked = questions(texts, labels, consensus)
    try:
        stored = sitk.ReadImage(str(folder / "samples.seq.nrrd"))
    except RuntimeError:
        raise InputError(
            f"The result in '{folder.name}' has no samples to ask; segment again with --keep-samples, or ask at once "
            "with --ask."
        ) from None
    array = sitk.GetArrayViewFromImage(stored)
    samples = np.moveaxis(array, -1, 0) if array.ndim == 4 else array[None]  # a sequence of one volume
    if array.dtype != np.uint8 or np.any(np.greater(samples.shape[1:], consensus.GetSize()[::-1])):
        raise InputError(f"The samples in '{folder.name}' are not those of its segmentation; segment again.")
    values = []
    for number, mask in enumerate(samples, 1):
        image = LabelMap(np.ascontiguousarray(mask), consensus)
        values.append([question.value(image) for question in asked])
        on_sample(number, len(samples))
    whole = LabelMap(sitk.GetArrayFromImage(consensus), consensus)
    size = voxel_size(*geometry(consensus))[0] * consensus.GetNumberOfPixels()
    columns = np.array(values).reshape(len(samples), len(asked)).T
    return [
        answer(question, question.value(whole), column.tolist(), not is_range, size, labels, report.get("samples"))
        for question, column in zip(asked, columns, strict=True)
    ]
