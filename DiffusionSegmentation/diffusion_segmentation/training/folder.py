"""Training source: a folder of labelled images, of which random windows are drawn."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..images.case_files import CaseFiles
from ..images.dataset import Case, label_order, read_dataset
from ..images.input_names import channel_count, require_same_inputs
from ..images.label_file import IGNORED
from ..images.label_table import label_table
from ..images.volume import plane_of_slices
from ..images.working_grid import Grid
from ..segmentation.folded_image import FoldedImage, SamplerImage
from . import defaults
from .case_odds import CaseOdds, StoredOdds
from .prepared import prepare
from .settings import Optimisation, merged
from .windows import Windows

logger = logging.getLogger(__name__)

HELD_OUT_SHARE = 0.2  # share of the cases held out of training, on which the step grid is measured
UNSEEN_WINDOWS = 16
LARGEST_PICTURE = 512
"""Median length (pixels) of the longer edge of pictures on the working grid; larger ones are made smaller."""
PIXEL_SIZES = (1e-3, 100.0)
"""Smallest and largest working spacing of pictures."""
LARGEST_WINDOW = {2: 128, 3: 96}
"""Largest edge (voxels) of training windows, by number of axes."""
CT_WINDOW = [-200.0, 300.0]  # Hounsfield units
MIN_HELD_OUT_SCANS = 20  # held-out cases below which the input statistics are fitted to training cases too


class Folder:
    """Source of training windows: cases of a data set on the model's grid, kept as .npy files in `prepared`.

    Implements `sources.Source`.
    """

    def __init__(self, folder: Path, prepared: Path, slices: bool = False) -> None:
        """Read the listing and the headers; with `slices` volumes are stacks of pictures.

        Raises InputError where the folder is not a data set, or has both pictures and volumes.
        """
        self.folder, self.prepared = folder, prepared
        self.dataset = read_dataset(folder)
        self._divide(sorted(self.dataset.training, key=_place))
        self._slices = slices
        self.odds: CaseOdds | None = None  # of the foreign network that the model is on top of
        self._seen_before: list[str] = []

    def without(self, names: set[str]) -> int:
        """Leave out the cases with these names, which a frozen model has seen; returns how many remain."""
        self._seen_before = sorted(names)
        cases = [case for case in sorted(self.dataset.training, key=_place) if case.name not in names]
        self._divide(cases)
        return len(cases)

    def hold_out(self, seen: set[str]) -> None:
        """Divide the cases into those that a model has seen, by their names, and all others; as they are if none."""
        if seen:
            cases = sorted(self.dataset.training, key=_place)
            self.seen = [case for case in cases if case.name in seen]
            self.held_out = [case for case in cases if case.name not in seen]

    def _divide(self, cases: Sequence[Case]) -> None:
        """Set `held_out` and `seen`, from cases ordered by `_place`."""
        # In a small data set at least one case is held out, and at most half of them.
        held_out = [case for n, case in enumerate(cases) if _place(case) < HELD_OUT_SHARE or n == 0]
        self.held_out = held_out[: len(cases) // 2]
        self.seen = [case for case in cases if case not in self.held_out]

    @cached_property
    def _files(self) -> list[CaseFiles]:
        """All training cases. Raises InputError where there are both pictures and volumes."""
        files = [CaseFiles(case.images) for case in self.dataset.training]
        pictures = sum(one.is_picture for one in files)
        if 0 < pictures < len(files) and not self._slices:
            raise InputError(
                f"The data set '{self.folder.name}' has both pictures ({pictures}) and volumes "
                f"({len(files) - pictures}); keep one kind, or train on slices with --slices."
            )
        return files

    @property
    def has_pictures(self) -> bool:
        """Whether the cases are pictures of one slice."""
        return any(one.is_picture for one in self._files)

    @property
    def dims(self) -> int:
        """2 for pictures, and for volumes as stacks of them; 3 for volumes."""
        return 2 if self._slices or self._files[0].is_picture else 3

    @cached_property
    def grid(self) -> Grid:
        """How the model sees its images, by default at 1 mm; `configure` replaces it."""
        inputs = self.dataset.inputs
        return Grid(1.0, inputs, [None] * channel_count(inputs), self.dims)

    def settings(self) -> dict[str, Any]:
        """Configuration for this data set: its median voxel spacing, and windows that fit into its smallest image."""
        axes, dataset = self.dims, self.dataset
        spacings = [files.first.spacing[:axes] for files in self._files]
        firsts = [files.first for files in self._files]
        extents = [[n * s for n, s in zip(file.size, file.spacing, strict=True)][:axes] for file in firsts]
        spacing = float(np.round(np.clip(np.median(spacings), 0.4, 4.0), 2))
        if axes == 2:  # large pictures are made smaller, so that a window shows what a structure belongs to
            spacing = max(float(np.median(spacings)), float(np.median(np.max(extents, 1))) / LARGEST_PICTURE)
            spacing = float(f"{np.clip(spacing, *PIXEL_SIZES):.3g}")
        largest = LARGEST_WINDOW[axes]
        edge = int(np.clip(16 * (np.min(extents) / spacing // 16), 32, largest))
        title, modality = dataset.name, dataset.modalities[0]
        description = f"Trained on {len(self.seen)} cases of {title}."
        task = f"Segmentation of {', '.join(dataset.label_names)}"
        bundle = {"name": title, "task": task, "description": description, "data_source": title}
        windows = [{"window": CT_WINDOW} if name == "CT" else None for name in dataset.modalities]
        intensity: Any = windows[0] if len(windows) == 1 else windows
        section = {
            "name": "".join(c if c.isalnum() else "-" for c in title.lower()).strip("-") or "model",
            "title": title,
            "inputs": [one.as_json() for one in dataset.inputs],
            "working_spacing_mm": spacing,
            "input_range": {
                "modality": modality,
                "spacing_mm": [round(0.5 * float(np.min(spacings)), 3), round(2 * float(np.max(spacings)), 3)],
                "extent_mm": [round(0.5 * float(np.min(extents)), 1), round(2 * float(np.max(extents)), 1)],
                **(self._of_pictures() if axes == 2 else {}),
            },
            "labels": label_table(dataset.label_names),
            **({"intensity": intensity} if any(windows) else {}),
            "network": {"inputs": channel_count(dataset.inputs)},
        }
        changes = {"bundle": bundle, "diffusion_segmentation": section, "optimisation": {"shapes": [[edge] * axes]}}
        return merged(defaults.config("folder" if axes == 3 else "pictures"), changes)

    def _of_pictures(self) -> dict[str, str]:
        """The unit of the ranges of pictures, and the plane of slices if all have the same."""
        firsts = [files.first for files in self._files]
        planes = {plane_of_slices(file.direction) for file in firsts if file.size[2] > 1}
        in_pixels = all("spacing" in file.missing for file in firsts)
        return {"unit": "px" if in_pixels else "mm", **({"plane": planes.pop()} if len(planes) == 1 else {})}

    def configure(self, section: dict[str, Any]) -> None:
        """Take working grid, inputs and intensity scales from the model's section.

        Raises InputError where the model has other inputs or another number of axes than the data.
        """
        grid = Grid.of(section)
        if grid.dims != self.dims:
            wanted = "volumes" if grid.dims == 3 else "pictures or, with --slices, slices of volumes"
            raise InputError(f"The model is for {wanted}, and the data set '{self.folder.name}' has others.")
        require_same_inputs(grid.inputs, self.dataset.inputs, self.folder.name)
        self.grid = grid

    def stream(self, optimisation: Optimisation, seed: int) -> torch.utils.data.IterableDataset:
        """Random augmented windows of the training cases."""
        windows = self.windows(self.seen, optimisation, seed, augment=True)
        _require_labels(windows.pairs, self.dataset.label_names)
        if self.dataset.unlabelled:
            logger.info(f"images in imagesTr without a label, left out: {self.dataset.unlabelled}")
        return windows

    def unseen(self, optimisation: Optimisation) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Windows of the held-out cases without augmentation; of the training case if there is only one."""
        return self.some_windows(self.held_out or self.seen, optimisation)

    def some_windows(
        self, cases: Sequence[Case], optimisation: Optimisation, count: int = UNSEEN_WINDOWS
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Windows of some cases without augmentation, with one mask of each."""
        windows = iter(self.windows(cases, optimisation, optimisation.seed, augment=False))
        for _ in range(count):
            image, labels = next(windows)
            yield image[None], labels[None, :1]

    def windows(self, cases: Sequence[Case], optimisation: Optimisation, seed: int, augment: bool) -> Windows:
        """Endless random windows of some cases."""
        pairs = self.prepare(cases)
        return Windows(pairs, optimisation, seed, augment, self._odds(cases, pairs))

    def _odds(self, cases: Sequence[Case], pairs: Sequence[tuple[Path, Path]]) -> list[StoredOdds]:
        return self.odds.of(cases, [image for image, _ in pairs], self.grid) if self.odds is not None else []

    def labelled(self, count: int, seed: int) -> Iterator[tuple[SamplerImage, np.ndarray]]:
        """Whole held-out cases, each with the labels of one rater; the training case if there is only one.

        Of a stack of slices a random one of those with labels.
        """
        rng = np.random.default_rng(seed)
        cases = (self.held_out or self.seen)[:count]
        pairs = self.prepare(cases)
        odds = self._odds(cases, pairs)
        for n, (image_path, masks_path) in enumerate(pairs):
            masks = np.load(masks_path)
            labels = masks[int(rng.integers(len(masks)))]
            values = np.load(image_path).astype(np.float32)
            image: SamplerImage = odds[n].added_to(values) if odds else values
            if self.dims == 3:
                yield image, labels
            else:
                marked = np.flatnonzero(((labels > 0) & (labels != IGNORED)).any((1, 2)))
                at = int(rng.choice(marked if len(marked) else len(labels)))
                yield image.of_slice(at) if isinstance(image, FoldedImage) else image[:, at], labels[at]

    def scans(self, count: int, seed: int) -> Iterator[np.ndarray]:
        """Whole held-out cases, followed by training cases where they are few; of a stack the middle slice."""
        cases = [*self.held_out, *self.seen[: max(0, MIN_HELD_OUT_SCANS - len(self.held_out))]]
        for image_path, _ in self.prepare(cases[:count]):
            image = np.load(image_path).astype(np.float32)
            yield image if self.dims == 3 else image[:, image.shape[1] // 2]

    def order(self, labels: Sequence[dict[str, Any]]) -> list[int]:
        """See `dataset.label_order`."""
        return label_order(self.dataset, labels)

    def facts(self) -> dict[str, Any]:
        """Names of training and held-out cases, so that an evaluation can exclude the former.

        Cases that a frozen model has seen are among the former.
        """
        return {
            "kind": "folder",
            "name": self.dataset.name,
            "cases": [*(case.name for case in self.seen), *self._seen_before],
            "held_out": [case.name for case in self.held_out],
        }

    def prepare(self, cases: Sequence[Case]) -> list[tuple[Path, Path]]:
        """Images and labels on the working grid, see `prepared.prepare`."""
        return prepare(cases, self.dataset, self.grid, self.prepared)


def _require_labels(pairs: list[tuple[Path, Path]], names: Sequence[str]) -> None:
    """Raise InputError where no case has a label, and warn of labels that no case has."""
    counts = np.array([np.bincount(np.load(masks).ravel(), minlength=256) for _, masks in pairs])[:, 1 : len(names) + 1]
    if not counts.any():
        raise InputError(f"None of the {len(pairs)} training cases has a labelled voxel; check the label files.")
    if empty := int((~counts.any(1)).sum()):
        logger.info(f"{empty} of {len(pairs)} training cases have no labelled voxel")
    for name, voxels in zip(names, counts.sum(0), strict=True):
        if not voxels:
            logger.warning(f"No training case has the label '{name}', so the model cannot learn it.")


def _place(case: Case) -> float:
    """Hash of the name in [0, 1): added cases do not move others between training and held-out cases."""
    return int.from_bytes(hashlib.sha256(case.name.encode()).digest()[:4], "big") / 2**32
