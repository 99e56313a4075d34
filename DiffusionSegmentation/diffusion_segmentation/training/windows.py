"""Random windows of prepared cases, of which training draws its images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

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

from ..images.intensity import CEILING
from ..images.label_file import IGNORED
from .case_odds import StoredOdds
from .settings import Optimisation


class Windows(torch.utils.data.IterableDataset):
    """Endless random windows (image float32 [channels, z, y, x], labels uint8 [K, z, y, x]) of prepared cases.

    Windows of two axes lie in a slice, [channels, y, x] and [K, y, x].
    K is 1 for cases of one rater; otherwise a rater is chosen for each draw of noise, so that the model learns the
    raters' spread and not their mean. The channels of `odds`, one entry for each case or none at all, follow those of
    the image.
    """

    def __init__(
        self,
        pairs: list[tuple[Path, Path]],
        optimisation: Optimisation,
        seed: int,
        augment: bool,
        odds: Sequence[StoredOdds] = (),
    ) -> None:
        super().__init__()
        self.odds = odds
        self.pairs, self.optimisation, self.seed, self.augment = pairs, optimisation, seed, augment
        raters = [len(np.load(labels, mmap_mode="r")) for _, labels in pairs]
        self.masks = optimisation.draws if max(raters) > 1 else 1

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed % 2**32, worker.id if worker else 0])
        augment = augmentation(len(self.optimisation.shapes[0]), bool(self.odds)) if self.augment else None
        if augment is not None:  # its truth value would seed the transforms anew
            augment.set_random_state(int(rng.integers(2**31)))
        while True:
            number = int(rng.integers(len(self.pairs)))
            image, labels = (np.load(path, mmap_mode="r") for path in self.pairs[number])
            plane = self.optimisation.shapes[int(rng.integers(len(self.optimisation.shapes)))]
            shape = (*[1] * (3 - len(plane)), *plane)
            raters = rng.integers(len(labels), size=self.masks)
            start = random_start(labels[raters[0]], shape, self.optimisation.crops == "labels", rng)
            window = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
            windows = {"image": image[(slice(None), *window)].astype(np.float32), "labels": labels[(raters, *window)]}
            if self.odds:
                windows["odds"] = self.odds[number].channels(window, rng)
            case = {key: torch.from_numpy(_padded(part, shape)) for key, part in windows.items()}
            if len(plane) == 2:
                case = {key: part[:, 0] for key, part in case.items()}
            if augment is not None:
                case = augment(case)
            # Not as MetaTensor, MONAI's subclass, which supports fewer operations.
            case = {key: torch.as_tensor(part).as_subclass(torch.Tensor) for key, part in case.items()}
            image = case["image"].float().clamp(0, CEILING)
            image = torch.cat([image, case["odds"].float()]) if self.odds else image
            yield image, case["labels"].round().to(torch.uint8)


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


def augmentation(axes: int, with_odds: bool = False) -> Compose:
    """Mild augmentation, as between scanners and positions; strong augmentation would widen the learnt posterior.

    Pictures are also mirrored and turned by any angle. Log-odds are moved with the image and change in nothing else.
    """
    both, sigma = ("image", "labels", *["odds"] * with_odds), (0.25, 0.8)
    turns = (0.17, 0.17, 0.17) if axes == 3 else math.pi
    return Compose(
        [
            RandFlipd(both, prob=0.5 if axes == 2 else 0.0, spatial_axis=0),
            RandAffined(
                both,
                prob=0.5,
                rotate_range=turns,
                scale_range=(0.1,) * axes,
                mode=("bilinear", "nearest", *["bilinear"] * with_odds),
                padding_mode="zeros" if axes == 3 else "reflection",
            ),
            RandBiasFieldd("image", prob=0.3, coeff_range=(0.0, 0.2)),
            RandAdjustContrastd("image", prob=0.3, gamma=(0.8, 1.25)),
            RandGaussianSmoothd("image", prob=0.2, sigma_x=sigma, sigma_y=sigma, sigma_z=sigma),
            RandGaussianNoised("image", prob=0.3, std=0.05),
        ]
    )
