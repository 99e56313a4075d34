"""Cases of a data set on a model's working grid, kept as .npy files."""

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

    Those that are there already, made of the same content with the same settings, are kept.
    """
    pairs = []
    with new_folder(folder):
        for number, case in enumerate(cases):
            made_of = [case.name, spacing_mm, intensity, dataset.label_names, dataset.ignored]
            described = json.dumps([*made_of, files_sha256(case.image, *case.labels)], sort_keys=True)
            key = hashlib.sha256(described.encode()).hexdigest()[:16]
            plain = re.sub(r"[^A-Za-z0-9._-]+", "_", case.name)[:60]
            image, masks = (folder / f"{plain}-{key}-{part}.npy" for part in ("image", "labels"))
            if not image.exists():
                logger.info(f"preparing case {number + 1} of {len(cases)}: {case.name}")
                volume = read_volume(case.image)
                values, labels = on_grid(
                    volume, case.labels, spacing_mm, intensity, dataset.label_names, dataset.ignored
                )
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
    """Image float16 [z, y, x], normalised, and label files uint8 [R, z, y, x] of the body, on the working grid.

    `names` and `ignored` as for `label_file.read_labels`.
    """
    working = working_image(replace_fill_value(image)[0], spacing_mm)
    box = body_box(sitk.GetArrayViewFromImage(working), round(8 / spacing_mm))
    values = normalise(sitk.GetArrayFromImage(working)[box], intensity).astype(np.float16)
    return values, np.stack([_labels(path, image, spacing_mm, names, ignored)[box] for path in labels])


def _labels(path: Path, image: sitk.Image, spacing_mm: float, names: Sequence[str], ignored: int | None) -> np.ndarray:
    """A label file uint8 [z, y, x] on the working grid of its image: each class is resampled, the largest wins."""
    numbers = read_labels(path, image, names, ignored)
    best = most = None
    for c in (*range(len(names) + 1), *((IGNORED,) if ignored is not None else ())):
        part = sitk.GetImageFromArray((numbers == c).astype(np.float32))
        part.CopyInformation(image)
        # Beyond the image all is background.
        share = sitk.GetArrayFromImage(working_image(part, spacing_mm, outside=float(c == 0)))
        if most is None:
            best, most = np.zeros(share.shape, np.uint8), share
        else:
            best[share > most] = c
            most = np.maximum(most, share)
    return best


def _save(path: Path, array: np.ndarray) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # with several GPUs several processes prepare
    with part.open("wb") as file:
        np.save(file, array)
    part.replace(path)
