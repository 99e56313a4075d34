"""Training from a folder of labelled images: prepared once, then random windows of them without end."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandGaussianNoised,
    RandGaussianSmoothd,
)

from ..errors import InputError
from ..images.dataset import Case, label_order, read_dataset
from ..images.label_file import IGNORED
from ..images.volume import VolumeFile, warn
from .defaults import BUNDLE, labels
from .prepared import prepare
from .settings import Optimisation

UNSEEN_SHARE = 0.2
"""Share of the cases that training never sees: the step grid is measured on them."""
UNSEEN_WINDOWS = 16
FEW_SCANS = 20
"""Held-out cases from which on the model is told what scans are like by them alone."""


class Folder:
    """Source of training windows: cases of a data set on the model's grid, kept as .npy files in `prepared`."""

    def __init__(self, folder: Path, prepared: Path) -> None:
        """Read the listing. Raises InputError, one sentence, where the folder is no data set."""
        self.folder, self.prepared = folder, prepared
        self.dataset = read_dataset(folder)
        cases = sorted(self.dataset.training, key=_place)
        # Of a small data set the first is held out in any case, and never more than half.
        held_out = [case for n, case in enumerate(cases) if _place(case) < UNSEEN_SHARE or n == 0]
        self.held_out = held_out[: len(cases) // 2]
        self.seen = [case for case in cases if case not in self.held_out]
        self.spacing = 1.0
        self.intensity: dict[str, Any] | None = None

    def settings(self) -> dict[str, Any]:
        """The configuration for this data set: its median voxel spacing, windows that its smallest image fills."""
        spacings, extents = [], []
        for case in self.dataset.training:
            file = VolumeFile(case.image)
            spacings.append(file.spacing)
            extents.append([n * s for n, s in zip(file.size, file.spacing, strict=True)])
        spacing = float(np.round(np.clip(np.median(spacings), 0.4, 4.0), 2))
        shortest = min(min(extent) for extent in extents) / spacing
        edge = int(np.clip(16 * (shortest // 16), 32, 96))
        name = "".join(c if c.isalnum() else "-" for c in self.dataset.name.lower()).strip("-") or "model"
        bundle = {
            **BUNDLE,
            "name": self.dataset.name,
            "task": f"Segmentation of {', '.join(self.dataset.label_names)}",
            "description": f"Trained on {len(self.seen)} cases of {self.dataset.name}.",
            "data_source": self.dataset.name,
            "data_type": "nifti",
        }
        section = {
            "schema": 1,
            "name": name,
            "title": self.dataset.name,
            "map_source": "samples",
            "working_spacing_mm": spacing,
            "window": [128, 128, 128],
            "steps": {"cpu": 5, "gpu": 10},
            "input_range": {
                "modality": self.dataset.modality,
                "spacing_mm": [round(0.5 * float(np.min(spacings)), 3), round(2 * float(np.max(spacings)), 3)],
                "extent_mm": [round(0.5 * float(np.min(extents)), 1), round(2 * float(np.max(extents)), 1)],
            },
            "labels": labels(self.dataset.label_names),
            "network": {
                "encoder": {"channels": [64, 64, 96, 96], "blocks": [2, 2, 2, 2]},
                "denoiser": {"channels": [16, 48], "blocks": 3, "strata": 8, "gain": 8},
            },
            "process": {"input_scale": 0.5},
        }
        if section["input_range"]["modality"] == "CT":
            section["intensity"] = {"window": [-200.0, 300.0]}
        return {
            "bundle": bundle,
            "diffusion_segmentation": section,
            "optimisation": {"iterations": 20_000, "shapes": [[edge] * 3], "density": "adapted"},
        }

    def configure(self, section: dict[str, Any]) -> None:
        """Take from the model's section what preparing needs: working spacing and intensity scale."""
        self.spacing, self.intensity = section["working_spacing_mm"], section.get("intensity")

    def stream(self, optimisation: Optimisation, seed: int) -> torch.utils.data.IterableDataset:
        """Random windows of the cases that training may see, augmented."""
        pairs = self.prepare(self.seen)
        _require_labels(pairs, self.dataset.label_names)
        if self.dataset.unlabelled:
            print(f"left out of imagesTr for want of a label: {self.dataset.unlabelled}", file=sys.stderr)
        return Windows(pairs, optimisation, seed, augment=True)

    def unseen(self, optimisation: Optimisation) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Windows of the cases held out, as they are; of the training cases if there is but one."""
        windows = iter(
            Windows(self.prepare(self.held_out or self.seen), optimisation, optimisation.seed, augment=False)
        )
        for _ in range(UNSEEN_WINDOWS):
            image, labels = next(windows)
            yield image[None], labels[None, :1]

    def labelled(self, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The held-out cases, whole, each with the labels of one rater; of the training cases if there is but one."""
        rng = np.random.default_rng(seed)
        for image_path, masks_path in self.prepare(self.held_out or self.seen)[:count]:
            masks = np.load(masks_path)
            yield np.load(image_path).astype(np.float32), masks[int(rng.integers(len(masks)))]

    def scans(self, count: int, seed: int) -> Iterator[np.ndarray]:
        """The held-out cases, whole, and where they are few, training cases after them."""
        cases = [*self.held_out, *self.seen[: max(0, FEW_SCANS - len(self.held_out))]]
        for image_path, _ in self.prepare(cases[:count]):
            yield np.load(image_path).astype(np.float32)

    def order(self, labels: Sequence[dict[str, Any]]) -> list[int]:
        """See `dataset.label_order`."""
        return label_order(self.dataset, labels)

    def facts(self) -> dict[str, Any]:
        """Names of the cases, so that nobody evaluates on what was trained on without knowing."""
        return {
            "kind": "folder",
            "name": self.dataset.name,
            "cases": [case.name for case in self.seen],
            "held_out": [case.name for case in self.held_out],
        }

    def prepare(self, cases: list[Case]) -> list[tuple[Path, Path]]:
        """Images and labels on the working grid, see `prepared.prepare`."""
        return prepare(cases, self.dataset, self.spacing, self.intensity, self.prepared)


def _require_labels(pairs: list[tuple[Path, Path]], names: Sequence[str]) -> None:
    """Raise InputError where no case has a label, and say which labels no case has."""
    counts = np.array([np.bincount(np.load(masks).ravel(), minlength=256) for _, masks in pairs])[:, 1 : len(names) + 1]
    if not counts.any():
        raise InputError(f"None of the {len(pairs)} training cases has a labelled voxel; look at the label files.")
    empty = int((~counts.any(1)).sum())
    if empty:
        print(f"{empty} of {len(pairs)} training cases have no labelled voxel", file=sys.stderr)
    for name, voxels in zip(names, counts.sum(0), strict=True):
        if not voxels:
            warn(f"No training case has the label '{name}', so the model cannot learn it.")


def _place(case: Case) -> float:
    """A number in [0, 1) that belongs to the name: cases that are added move none of the others to the other side."""
    return int.from_bytes(hashlib.sha256(case.name.encode()).digest()[:4], "big") / 2**32


class Windows(torch.utils.data.IterableDataset):
    """Endless random windows (image float32 [1, z, y, x], labels uint8 [K, z, y, x]) of prepared cases.

    K is 1 for cases of one rater; otherwise a rater is drawn for each of the draws of noise, so that the model learns
    the raters' spread and not their mean.
    """

    def __init__(self, pairs: list[tuple[Path, Path]], optimisation: Optimisation, seed: int, augment: bool) -> None:
        super().__init__()
        self.pairs, self.optimisation, self.seed, self.augment = pairs, optimisation, seed, augment
        raters = [len(np.load(labels, mmap_mode="r")) for _, labels in pairs]
        self.masks = optimisation.draws if max(raters) > 1 else 1

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed % 2**32, worker.id if worker else 0])
        spoil = augmentation() if self.augment else None
        if spoil:
            spoil.set_random_state(int(rng.integers(2**31)))
        while True:
            image, labels = (np.load(path, mmap_mode="r") for path in self.pairs[int(rng.integers(len(self.pairs)))])
            shape = self.optimisation.shapes[int(rng.integers(len(self.optimisation.shapes)))]
            drawn = rng.integers(len(labels), size=self.masks)
            start = random_start(labels[drawn[0]], shape, self.optimisation.crops == "labels", rng)
            window = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
            case = {
                "image": torch.from_numpy(_padded(image[window].astype(np.float32), shape))[None],
                "labels": torch.from_numpy(np.stack([_padded(labels[(r, *window)], shape) for r in drawn])),
            }
            if spoil:
                case = spoil(case)
            image, labels = torch.as_tensor(case["image"]), torch.as_tensor(case["labels"])
            yield image.float().clamp(0, 1.5), labels.round().to(torch.uint8)


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
    """Zeros (air, background) at the far ends of an image smaller than the window."""
    return np.pad(array, [(0, n - m) for m, n in zip(array.shape, shape, strict=True)])


def augmentation() -> Compose:
    """Mild: what a scanner or another person's position would change. Wide changes would widen what is learnt."""
    both = ("image", "labels")
    return Compose(
        [
            RandAffined(
                both,
                prob=0.5,
                rotate_range=(0.17, 0.17, 0.17),
                scale_range=(0.1, 0.1, 0.1),
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandBiasFieldd("image", prob=0.3, coeff_range=(0.0, 0.2)),
            RandAdjustContrastd("image", prob=0.3, gamma=(0.8, 1.25)),
            RandGaussianSmoothd("image", prob=0.2, sigma_x=(0.25, 0.8), sigma_y=(0.25, 0.8), sigma_z=(0.25, 0.8)),
            RandGaussianNoised("image", prob=0.3, std=0.05),
        ]
    )
