"""Running statistics of joint samples and the convergence test of `samples` "auto"."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..images.compressed_mask import CompressedMask
from ..metrics import dice, expected_dice
from ..metrics.intervals import predictive_interval
from .own_cases import tempered

MAX_MASKS = 16  # the first masks are stored, up to this number; a mask of a head at 1 mm takes 7 MB in Slicer


class Ensemble:
    """Mean class probabilities, votes for each class, and volumes of the samples of a run.

    Probabilities are float32 [C, z, y, x] on the working grid, masks uint8 on the input grid. Apart from the first
    `max_masks` masks, stored compressed, the memory does not grow with the number of samples.

    `direct` are the probabilities of the direct head, `prior` is the k of `map`. With `exact`, `direct` is the exact
    mean of the samples, as for copula masks, and takes the place of their running mean. `measure` returns measurements
    of a mask, which `measured` keeps. `temperature` is that of the map.
    """

    def __init__(
        self,
        direct: np.ndarray,
        prior: float,
        voxel_size: float,
        max_masks: int = MAX_MASKS,
        exact: bool = False,
        measure: Callable[[np.ndarray], list[float]] = lambda mask: [],
        temperature: float = 1.0,
    ) -> None:
        self.classes, self.voxel_size, self.max_masks, self.exact = len(direct), voxel_size, max_masks, exact
        self.direct, self.prior = direct, prior
        self.masks: list[CompressedMask] = []
        self.measured: list[list[float]] = []
        self._measure, self.temperature = measure, temperature
        self._volumes: list[np.ndarray] = []
        self._mean = direct if exact else np.zeros_like(direct, np.float32)
        self._votes = np.zeros((self.classes, direct[0].size), np.uint16)
        self._voxels = np.arange(direct[0].size)

    def __len__(self) -> int:
        return len(self._volumes)

    def add(self, sample: np.ndarray, mask: np.ndarray) -> None:
        """Add a sample: probabilities [C, z, y, x] (`exact`: labels uint8 [z, y, x]), and mask on the input grid."""
        if len(self.masks) < self.max_masks:
            self.masks.append(CompressedMask(mask))
        self._volumes.append(class_sizes(mask, self.classes, self.voxel_size))
        self.measured.append(self._measure(mask))
        labels = sample if self.exact else sample.argmax(0)
        self._votes[labels.ravel(), self._voxels] += 1
        if not self.exact:
            self._mean += (sample - self._mean) / len(self)

    @property
    def mean(self) -> np.ndarray:
        """Mean class probabilities [C, z, y, x] of the samples. Raises ValueError if there are none."""
        if not self.exact and not len(self):
            raise ValueError("There is no sample yet.")
        return self._mean

    @property
    def map(self) -> np.ndarray:
        """Class probabilities [C, z, y, x] of the result: (n * mean of n samples + k * direct head) / (n + k).

        The mean of few samples is noisy; k is the number of samples that the direct head is worth, fitted by log score
        (`calibration`). Without samples it is the direct head. A `temperature` other than 1 divides the map's logits.
        """
        n = len(self)
        if n == 0 or self.exact or math.isinf(self.prior):
            p = self.direct
        else:
            p = self.mean if self.prior == 0 else (n * self.mean + self.prior * self.direct) / (n + self.prior)
        return tempered(p, self.temperature)

    @property
    def map_source(self) -> str:
        """Source of `map`: "samples", "direct", "both", or "exact" (the direct head, which is the exact mean)."""
        if self.exact:
            return "exact"
        return "direct" if math.isinf(self.prior) else "samples" if self.prior == 0 else "both"

    @property
    def vote_shares(self) -> np.ndarray:
        """Share of the samples that chose each class, float32 [C, z, y, x]."""
        return (self._votes / np.float32(max(1, len(self)))).reshape(self.direct.shape)

    @property
    def expected_dice(self) -> list[float | None]:
        """Mean Dice of two stored masks for each class but background; None for all with fewer than two masks."""
        slices = (np.stack([mask[k] for mask in self.masks]) for k in range(len(self.masks[0]) if self.masks else 0))
        scores = expected_dice(slices, self.classes)
        return [None if math.isnan(score) else round(float(score), 5) for score in scores]

    @property
    def volumes(self) -> np.ndarray:
        """Volumes or areas [samples, C] in the unit of `voxel_size`, background included."""
        return np.array(self._volumes).reshape(len(self), self.classes)


def class_sizes(mask: np.ndarray, classes: int, voxel_size: float) -> np.ndarray:
    """Volume or area of each class [C], in the unit of `voxel_size`."""
    # By parts, because `bincount` converts labels to 64-bit integers, which should stay in the processor's cache.
    return np.sum([np.bincount(part.ravel(), minlength=classes)[:classes] for part in mask], 0) * voxel_size


class Convergence:
    """Convergence of an ensemble between two checks.

    Criteria: Dice of each class of the consensus > 0.995, change of the map's total entropy < 2 %, change of each bound
    of the 90 % volume intervals < 5 % of the mean volume.
    """

    def __init__(self) -> None:
        self._last: tuple[np.ndarray, float, np.ndarray] | None = None

    def reached(self, ensemble: Ensemble) -> bool:
        """Whether the criteria hold since the previous call; False at the first call."""
        p = ensemble.map
        labels = p.argmax(0).astype(np.uint8)
        entropy = float(-(p * np.log2(np.maximum(p, 1e-12))).sum())
        bounds = np.array([predictive_interval(v, 0.9) for v in ensemble.volumes.T[1:]])
        last, self._last = self._last, (labels, entropy, bounds)
        if last is None:
            return False
        means = np.maximum(ensemble.volumes.mean(0)[1:, None], 1e-3)
        return (
            bool((dice(labels, last[0], ensemble.classes)[1:] > 0.995).all())
            and abs(entropy - last[1]) < 0.02 * max(entropy, 1e-9)
            and bool((np.abs(bounds - last[2]) < 0.05 * means).all())
        )
