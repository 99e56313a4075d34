"""Running statistics of joint samples: what is kept does not grow with their number, but for the packed masks."""

from __future__ import annotations

import math

import numpy as np

from ..images.compressed_mask import CompressedMask
from ..metrics import dice
from ..metrics.intervals import predictive_interval

KEPT_MASKS = 16
"""Masks that are stored at most, the first ones: of a head at 1 mm each takes 7 MB in Slicer."""


class Ensemble:
    """Mean class probabilities of the samples, how often they chose each class, and each sample's volumes.

    Probabilities are float32 [C, z, y, x] on the working grid; masks are uint8 of one shape on the input grid, of which
    the first KEPT_MASKS are stored if `keep_masks`.

    `direct` are the direct head's probabilities and `prior` the k of the map. `exact` says that `direct` is the exact
    mean of the samples, as it is for masks of the copula: then no mean of samples is taken.
    """

    def __init__(
        self, direct: np.ndarray, prior: float, voxel_ml: float, keep_masks: bool = True, exact: bool = False
    ) -> None:
        self.classes, self.voxel_ml, self.keep_masks, self.exact = len(direct), voxel_ml, keep_masks, exact
        self.direct, self.prior = direct, prior
        self.masks: list[CompressedMask] = []
        self._volumes: list[np.ndarray] = []
        self._mean: np.ndarray | None = direct if exact else None
        self._votes = np.zeros((self.classes, direct[0].size), np.uint16)
        self._all = np.arange(direct[0].size)

    def __len__(self) -> int:
        return len(self._volumes)

    def add(self, drawn: np.ndarray, mask: np.ndarray) -> None:
        """Take in one sample: probabilities [C, z, y, x], or labels uint8 [z, y, x]; and its mask on the input grid."""
        if self.keep_masks and len(self.masks) < KEPT_MASKS:
            self.masks.append(CompressedMask(mask))
        self._volumes.append(volumes_ml(mask, self.classes, self.voxel_ml))
        labels = drawn if self.exact else drawn.argmax(0)
        self._votes[labels.ravel(), self._all] += 1
        if self.exact:
            return
        if self._mean is None:
            self._mean = drawn.astype(np.float32, copy=True)
        else:
            self._mean += (drawn - self._mean) / len(self)

    @property
    def mean(self) -> np.ndarray:
        """Mean class probabilities over the samples so far. Raises ValueError when there are none."""
        if self._mean is None:
            raise ValueError("There is no sample yet.")
        return self._mean

    @property
    def map(self) -> np.ndarray:
        """Class probabilities [C, z, y, x] of the result: (n * mean of n samples + k * direct head) / (n + k).

        The mean of few samples is noisy and the direct head is not; k says how many samples it is worth, and was fitted
        by log score (`calibration`). From no sample it is the direct head.
        """
        n = len(self)
        if n == 0 or self.exact or math.isinf(self.prior):
            return self.direct
        return self.mean if self.prior == 0 else (n * self.mean + self.prior * self.direct) / (n + self.prior)

    @property
    def map_source(self) -> str:
        """Where `map` comes from: "samples", "direct", "both", or "exact" (the direct head, the exact mean)."""
        if self.exact:
            return "exact"
        return "direct" if math.isinf(self.prior) else "samples" if self.prior == 0 else "both"

    @property
    def shares(self) -> np.ndarray:
        """Share of the samples that chose each class, float32 [C, z, y, x]: where they alone differ."""
        return (self._votes / np.float32(max(1, len(self)))).reshape(self.direct.shape)

    @property
    def volumes(self) -> np.ndarray:
        """Volumes in ml [samples, C], background included."""
        return np.array(self._volumes).reshape(len(self), self.classes)


def volumes_ml(mask: np.ndarray, classes: int, voxel_ml: float) -> np.ndarray:
    """Volume of each class in ml [C]."""
    return np.bincount(mask.ravel(), minlength=classes)[:classes] * voxel_ml


class Settled:
    """Whether more samples would still change the answer: asked after every few samples, `auto` stops on yes.

    Compared with the last time: the segmentation of each class overlaps by Dice > 0.995, total entropy of the map and
    every bound of a volume's 90 % interval move by less than 2 % and 5 %.
    """

    def __init__(self) -> None:
        self._last: tuple[np.ndarray, float, np.ndarray] | None = None

    def ask(self, ensemble: Ensemble) -> bool:
        """Compare with the call before; False at the first."""
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
