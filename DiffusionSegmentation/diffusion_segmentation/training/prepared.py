"""Cases of a data set resampled to a model's working grid, stored as .npy files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..images.dataset import Case, Dataset
from ..images.file_digest import files_sha256
from ..images.fill_value import replace_fill_value
from ..images.intensity import body_box, normalise
from ..images.label_file import IGNORED, read_labels
from ..images.resampling import working_image
from ..images.volume import read_volume
from ..segmentation.result_folder import new_folder

logger = logging.getLogger(__name__)


def prepare(
    cases: Sequence[Case], dataset: Dataset, spacing_mm: float, intensity: Mapping[str, Any] | None, folder: Path
) -> list[tuple[Path, Path]]:
    """Images and labels on the working grid, as pairs of .npy files in `folder`.

    Files of the same content and settings are reused.
    """
    pairs = []
    names, ignored = dataset.label_names, dataset.ignored
    with new_folder(folder):
        for number, case in enumerate(cases):
            made_of = [case.name, spacing_mm, intensity, names, ignored, files_sha256(case.image, *case.labels)]
            key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
            plain = re.sub(r"[^A-Za-z0-9._-]+", "_", case.name)[:60]
            image, masks = (folder / f"{plain}-{key}-{part}.npy" for part in ("image", "labels"))
            if not image.exists():
                logger.info(f"preparing case {number + 1} of {len(cases)}: {case.name}")
                values, labels = on_grid(read_volume(case.image), case.labels, spacing_mm, intensity, names, ignored)
                _save(masks, labels)  # first, so that an image that exists has its labels
                _save(image, values)
            pairs.append((image, masks))
    return pairs


def on_grid(
    image: sitk.Image,
    labels: Sequence[Path],
    spacing_mm: float,
    intensity: Mapping[str, Any] | None,
    names: Sequence[str],
    ignored: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Normalised image float16 [z, y, x] and labels uint8 [R, z, y, x] of the body's box on the working grid.

    `labels` are the files of R raters; `names` and `ignored` as for `label_file.read_labels`.
    """
    working = working_image(replace_fill_value(image)[0], spacing_mm)
    box = body_box(sitk.GetArrayViewFromImage(working), round(8 / spacing_mm))
    values = normalise(sitk.GetArrayFromImage(working)[box], intensity).astype(np.float16)
    return values, np.stack([_labels(path, image, spacing_mm, names, ignored)[box] for path in labels])


def _labels(path: Path, image: sitk.Image, spacing_mm: float, names: Sequence[str], ignored: int | None) -> np.ndarray:
    """A label file uint8 [z, y, x] on the working grid of its image: the class with the largest resampled share."""
    numbers = read_labels(path, image, names, ignored)

    def share(label: int) -> np.ndarray:
        mask = sitk.GetImageFromArray((numbers == label).astype(np.float32))
        mask.CopyInformation(image)
        return sitk.GetArrayFromImage(working_image(mask, spacing_mm, outside=float(label == 0)))

    largest = share(0)
    labels = np.zeros(largest.shape, np.uint8)
    for label in (*range(1, len(names) + 1), *((IGNORED,) if ignored is not None else ())):
        current = share(label)
        labels[current > largest] = label
        np.maximum(largest, current, out=largest)
    return labels


def _save(path: Path, array: np.ndarray) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # with several GPUs several processes prepare
    with part.open("wb") as file:
        np.save(file, array)
    part.replace(path)
