"""Running statistics of joint samples: what is kept does not grow with their number, but for the packed masks."""

from __future__ import annotations

import numpy as np

from .metrics import dice
from .metrics.intervals import predictive_interval
from .packed_mask import PackedMask


class Ensemble:
    """Mean class probabilities, each sample's volumes, and with `keep_masks` its mask.

    Probabilities are float32 [C, z, y, x] on the working grid; masks are uint8 of one shape on the input grid.
    """

    def __init__(self, classes: int, voxel_ml: float, keep_masks: bool = True) -> None:
        self.classes, self.voxel_ml, self.keep_masks = classes, voxel_ml, keep_masks
        self.masks: list[PackedMask] = []
        self._volumes: list[np.ndarray] = []
        self._mean: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._volumes)

    def add(self, probabilities: np.ndarray, mask: np.ndarray) -> None:
        """Take in one sample."""
        if self.keep_masks:
            self.masks.append(PackedMask(mask))
        self._volumes.append(volumes_ml(mask, self.classes, self.voxel_ml))
        if self._mean is None:
            self._mean = probabilities.astype(np.float32, copy=True)
        else:
            self._mean += (probabilities - self._mean) / len(self)

    @property
    def mean(self) -> np.ndarray:
        """Mean class probabilities over the samples so far. Raises ValueError when there are none."""
        if self._mean is None:
            raise ValueError("There is no sample yet.")
        return self._mean

    @property
    def volumes(self) -> np.ndarray:
        """Volumes in ml [samples, C], background included."""
        return np.array(self._volumes).reshape(len(self), self.classes)


def volumes_ml(mask: np.ndarray, classes: int, voxel_ml: float) -> np.ndarray:
    """Volume of each class in ml [C]."""
    return np.bincount(mask.ravel(), minlength=classes)[:classes] * voxel_ml


class Settled:
    """Whether more samples would still change the answer: asked after every few samples, `auto` stops on yes.

    Compared with the last time: the consensus of each class overlaps by Dice > 0.995, total entropy and every bound of
    a volume's 90 % interval move by less than 2 % and 5 %.
    """

    def __init__(self) -> None:
        self._last: tuple[np.ndarray, float, np.ndarray] | None = None

    def ask(self, ensemble: Ensemble) -> bool:
        """Compare with the call before; False at the first."""
        p = ensemble.mean
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
