"""Random labelling protocols, which model the differences between makers of reference labels.

References differ in the label of voxels that hold two structures, in the smoothness of borders, and in whether dura,
vessels and narrow sulci are fluid. Each head gets a protocol that the image does not reveal, so a model trained on many
has their differences in the spread of its samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .priors import Atlas

BACKGROUND = {"dura": 0.15, "blood": 0.15}
"""Tissue -> probability that a protocol labels it background. Small, because the model's fluid is SAMSEG's class, which
includes both; with larger ones the direct head labels too little fluid on real heads."""
FLUID = {"narrow sulcus": 0.25, "cerebellar fissure": 0.1}  # tissue -> probability that a protocol labels it fluid


@dataclass(frozen=True)
class LabellingProtocol:
    """Class of each tissue int64 [tissues]; weight of each class's share of a voxel [classes]; smoothing in voxels."""

    classes: np.ndarray
    weights: np.ndarray
    smooth: float

    @classmethod
    def draw(cls, atlas: Atlas, rng: np.random.Generator) -> LabellingProtocol:
        """A random protocol: weights within about a third of 1, smooth borders in half of the draws."""
        classes = atlas.classes.copy()
        number = atlas.numbers
        for name, share in BACKGROUND.items():
            if rng.random() < share:
                classes[number[name]] = 0
        for name, share in FLUID.items():
            if rng.random() < share:
                classes[number[name]] = atlas.classes[number["csf"]]
        weights = np.exp(np.clip(rng.normal(0, 0.25, int(classes.max()) + 1), -0.6, 0.6))
        return cls(classes, weights.astype(np.float32), float(rng.choice([0.0, rng.uniform(0.05, 0.25)])))

    def label(self, tissue: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
        """Class labels uint8 at half the tissue map's resolution; background outside `keep` bool.

        A voxel gets the class with the greatest weighted share of its eight fine voxels. Smoothing blends the shares
        of adjacent voxels first.
        """
        fine = self.classes.astype(np.uint8)[tissue]
        if keep is not None:
            fine *= keep
        shape = tuple(n // 2 for n in fine.shape)
        labels, largest = np.zeros(shape, dtype=np.uint8), np.full(shape, -1, dtype=np.float32)
        for label, weight in enumerate(self.weights):
            share = _counts(fine == label).astype(np.float32)
            if self.smooth:
                for axis in range(3):
                    kernel = [self.smooth, 1 - 2 * self.smooth, self.smooth]
                    share = ndimage.correlate1d(share, kernel, axis, mode="nearest")
            share *= weight
            labels[share > largest] = label
            np.maximum(largest, share, out=largest)
        return labels


def _counts(mask: np.ndarray) -> np.ndarray:
    """True voxels among each 2 x 2 x 2: uint8 at half the resolution of a mask [z, y, x]."""
    z, y, x = (2 * (n // 2) for n in mask.shape)
    counts = mask[:z, :y, :x].view(np.uint8)
    counts = counts[::2] + counts[1::2]
    counts = counts[:, ::2] + counts[:, 1::2]
    return counts[..., ::2] + counts[..., 1::2]
