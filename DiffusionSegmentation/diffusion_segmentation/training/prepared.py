"""Cases of a data set resampled to a model's working grid, stored as .npy files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..images.case_files import CaseFiles
from ..images.dataset import Case, Dataset
from ..images.file_digest import files_sha256
from ..images.fill_value import replace_fill_value
from ..images.input_names import Input
from ..images.intensity import body_box
from ..images.label_file import IGNORED, read_labels
from ..images.working_grid import Grid
from ..segmentation.foreign_head import log_odds
from ..segmentation.result_folder import new_folder

logger = logging.getLogger(__name__)


def prepare(cases: Sequence[Case], dataset: Dataset, grid: Grid, folder: Path) -> list[tuple[Path, Path]]:
    """Images and labels on the working grid, as pairs of .npy files in `folder`, as `on_grid` returns them.

    Files of the same content and settings are reused.
    """
    pairs = []
    names, ignored = dataset.label_names, dataset.ignored
    with new_folder(folder):
        for number, case in enumerate(cases):
            settings = [grid.spacing_mm, grid.intensities, [one.as_json() for one in grid.inputs], grid.dims]
            made_of = [case.name, *settings, names, ignored, files_sha256(*case.files)]
            key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
            plain = re.sub(r"[^A-Za-z0-9._-]+", "_", case.name)[:60]
            image, masks = (folder / f"{plain}-{key}-{part}.npy" for part in ("image", "labels"))
            if not image.exists():
                logger.info(f"preparing case {number + 1} of {len(cases)}: {case.name}")
                values, labels = on_grid(read_case(case, grid.inputs), case.labels, grid, names, ignored)
                save_array(masks, labels)  # first, so that an image that exists has its labels
                save_array(image, values)
            pairs.append((image, masks))
    return pairs


def read_case(case: Case, inputs: Sequence[Input]) -> list[sitk.Image]:
    """The channels of a case on the grid of its first image; logs assumptions. Raises as `CaseFiles`."""
    files = CaseFiles(case.images)
    images = files.read(inputs, lambda channel: replace_fill_value(channel)[0])
    for sentence in files.warnings:
        logger.warning(sentence)
    return images


def on_grid(
    images: Sequence[sitk.Image],
    labels: Sequence[Path],
    grid: Grid,
    names: Sequence[str],
    ignored: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Normalised image float16 [channels, z, y, x] and labels uint8 [R, z, y, x] on the working grid.

    Volumes are cut to the box of the body; pictures and stacks of them stay whole, with z their slices. `images` are
    the channels of a case on one grid, `labels` the files of R raters; `names` and `ignored` as for
    `label_file.read_labels`.
    """
    working, box = _body(images, grid)
    values = grid.normalised([channel[box] for channel in working]).astype(np.float16)
    return values, np.stack([_labels(path, images[0], grid, names, ignored)[box] for path in labels])


def odds_on_grid(p: np.ndarray, images: Sequence[sitk.Image], grid: Grid) -> np.ndarray:
    """Log-odds of class probabilities on the grid of the images, see `log_odds`, where `on_grid` puts the images."""
    return log_odds(p, images[0], grid, _body(images, grid)[1])


def _body(images: Sequence[sitk.Image], grid: Grid) -> tuple[list[np.ndarray], tuple[slice, ...]]:
    """The images on the working grid, and the box there that is kept."""
    working = [sitk.GetArrayFromImage(grid.resampled(replace_fill_value(image)[0])) for image in images]
    if grid.dims == 3:
        return working, body_box(working[0], round(8 / grid.spacing_mm))
    return working, tuple(slice(0, n) for n in working[0].shape)


def _labels(path: Path, image: sitk.Image, grid: Grid, names: Sequence[str], ignored: int | None) -> np.ndarray:
    """A label file uint8 [z, y, x] on the working grid of its image: the class with the largest resampled share."""
    numbers = read_labels(path, image, names, ignored)

    def share(label: int) -> np.ndarray:
        mask = sitk.GetImageFromArray((numbers == label).astype(np.float32))
        mask.CopyInformation(image)
        return sitk.GetArrayFromImage(grid.resampled(mask, outside=float(label == 0)))

    largest = share(0)
    labels = np.zeros(largest.shape, np.uint8)
    for label in (*range(1, len(names) + 1), *((IGNORED,) if ignored is not None else ())):
        current = share(label)
        labels[current > largest] = label
        np.maximum(largest, current, out=largest)
    return labels


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file completely or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # with several GPUs several processes prepare
    with part.open("wb") as file:
        np.save(file, array)
    part.replace(path)
