"""Training source: a folder of labelled images, of which random windows are drawn."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
)

from ..errors import InputError
from ..images.case_files import CaseFiles
from ..images.dataset import Case, label_order, read_dataset
from ..images.input_names import channel_count, require_same_inputs
from ..images.intensity import CEILING
from ..images.label_file import IGNORED
from ..images.label_table import label_table
from ..images.working_grid import Grid
from . import defaults
from .prepared import prepare
from .settings import Optimisation, merged

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
        self._seen_before: list[str] = []

    def without(self, names: set[str]) -> int:
        """Leave out the cases with these names, which a frozen model has seen; returns how many remain."""
        self._seen_before = sorted(names)
        cases = [case for case in sorted(self.dataset.training, key=_place) if case.name not in names]
        self._divide(cases)
        return len(cases)

    def hold_out(self, facts: Mapping[str, Any]) -> None:
        """Divide the cases as a training on this data set did, by the entry `data` of its record; others are unseen."""
        if facts.get("kind") == "folder" and facts.get("name") == self.dataset.name:
            trained = set(facts.get("cases", ()))
            cases = sorted(self.dataset.training, key=_place)
            self.seen = [case for case in cases if case.name in trained]
            self.held_out = [case for case in cases if case.name not in trained]

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
            },
            "labels": label_table(dataset.label_names),
            **({"intensity": intensity} if any(windows) else {}),
            "network": {"inputs": channel_count(dataset.inputs)},
        }
        changes = {"bundle": bundle, "diffusion_segmentation": section, "optimisation": {"shapes": [[edge] * axes]}}
        return merged(defaults.config("folder" if axes == 3 else "pictures"), changes)

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
        pairs = self.prepare(self.seen)
        _require_labels(pairs, self.dataset.label_names)
        if self.dataset.unlabelled:
            logger.info(f"images in imagesTr without a label, left out: {self.dataset.unlabelled}")
        return Windows(pairs, optimisation, seed, augment=True)

    def unseen(self, optimisation: Optimisation) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Windows of the held-out cases without augmentation; of the training case if there is only one."""
        windows = iter(Windows(self._unseen_pairs(), optimisation, optimisation.seed, augment=False))
        for _ in range(UNSEEN_WINDOWS):
            image, labels = next(windows)
            yield image[None], labels[None, :1]

    def labelled(self, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Whole held-out cases, each with the labels of one rater; the training case if there is only one.

        Of a stack of slices the one with most labelled pixels.
        """
        rng = np.random.default_rng(seed)
        for image_path, masks_path in self._unseen_pairs()[:count]:
            masks = np.load(masks_path)
            labels = masks[int(rng.integers(len(masks)))]
            at = int(np.sum((labels > 0) & (labels != IGNORED), axis=(1, 2)).argmax())
            image = np.load(image_path).astype(np.float32)
            yield (image, labels) if self.dims == 3 else (image[:, at], labels[at])

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

    def prepare(self, cases: list[Case]) -> list[tuple[Path, Path]]:
        """Images and labels on the working grid, see `prepared.prepare`."""
        return prepare(cases, self.dataset, self.grid, self.prepared)

    def _unseen_pairs(self) -> list[tuple[Path, Path]]:
        return self.prepare(self.held_out or self.seen)


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


class Windows(torch.utils.data.IterableDataset):
    """Endless random windows (image float32 [channels, z, y, x], labels uint8 [K, z, y, x]) of prepared cases.

    Windows of two axes lie in a slice, [channels, y, x] and [K, y, x].
    K is 1 for cases of one rater; otherwise a rater is chosen for each draw of noise, so that the model learns the
    raters' spread and not their mean.
    """

    def __init__(self, pairs: list[tuple[Path, Path]], optimisation: Optimisation, seed: int, augment: bool) -> None:
        super().__init__()
        self.pairs, self.optimisation, self.seed, self.augment = pairs, optimisation, seed, augment
        raters = [len(np.load(labels, mmap_mode="r")) for _, labels in pairs]
        self.masks = optimisation.draws if max(raters) > 1 else 1

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed % 2**32, worker.id if worker else 0])
        augment = augmentation(len(self.optimisation.shapes[0])) if self.augment else None
        if augment is not None:  # its truth value would seed the transforms anew
            augment.set_random_state(int(rng.integers(2**31)))
        while True:
            image, labels = (np.load(path, mmap_mode="r") for path in self.pairs[int(rng.integers(len(self.pairs)))])
            plane = self.optimisation.shapes[int(rng.integers(len(self.optimisation.shapes)))]
            shape = (*[1] * (3 - len(plane)), *plane)
            raters = rng.integers(len(labels), size=self.masks)
            start = random_start(labels[raters[0]], shape, self.optimisation.crops == "labels", rng)
            window = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
            windows = {"image": image[(slice(None), *window)].astype(np.float32), "labels": labels[(raters, *window)]}
            case = {key: torch.from_numpy(_padded(part, shape)) for key, part in windows.items()}
            if len(plane) == 2:
                case = {key: part[:, 0] for key, part in case.items()}
            if augment is not None:
                case = augment(case)
            # Not as MetaTensor, MONAI's subclass, which supports fewer operations.
            image, labels = (torch.as_tensor(case[part]).as_subclass(torch.Tensor) for part in ("image", "labels"))
            yield image.float().clamp(0, CEILING), labels.round().to(torch.uint8)


def random_start(labels: np.ndarray, size: Sequence[int], around_labels: bool, rng: np.random.Generator) -> list[int]:
    """First voxel of a random window of `size` in `labels` [*shape], 0 on an axis shorter than the window.

    With `around_labels`, half of the windows are centred on a labelled voxel. That makes rare structures look more
    frequent than they are (selection bias).
    """
    last = [max(0, n - s) for n, s in zip(labels.shape, size, strict=True)]
    if around_labels and rng.random() < 0.5:
        marked = np.flatnonzero((labels > 0) & (labels != IGNORED))
        if len(marked):
            centre = np.unravel_index(marked[rng.integers(len(marked))], labels.shape)
            return [int(np.clip(c - s // 2, 0, n)) for c, s, n in zip(centre, size, last, strict=True)]
    return [int(rng.integers(n + 1)) for n in last]


def _padded(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pads arrays [N, *smaller] with zeros (air, background) at the far ends to [N, *shape]."""
    return np.pad(array, [(0, 0), *((0, n - m) for m, n in zip(array.shape[1:], shape, strict=True))])


def augmentation(axes: int) -> Compose:
    """Mild augmentation, as between scanners and positions; strong augmentation would widen the learnt posterior.

    Pictures are also mirrored and turned by any angle.
    """
    both, sigma = ("image", "labels"), (0.25, 0.8)
    turns = (0.17, 0.17, 0.17) if axes == 3 else math.pi
    return Compose(
        [
            RandFlipd(both, prob=0.5 if axes == 2 else 0.0, spatial_axis=0),
            RandAffined(
                both,
                prob=0.5,
                rotate_range=turns,
                scale_range=(0.1,) * axes,
                mode=("bilinear", "nearest"),
                padding_mode="zeros" if axes == 3 else "reflection",
            ),
            RandBiasFieldd("image", prob=0.3, coeff_range=(0.0, 0.2)),
            RandAdjustContrastd("image", prob=0.3, gamma=(0.8, 1.25)),
            RandGaussianSmoothd("image", prob=0.2, sigma_x=sigma, sigma_y=sigma, sigma_z=sigma),
            RandGaussianNoised("image", prob=0.3, std=0.05),
        ]
    )
