"""By which rule a head is labelled: whoever makes reference labels draws the line elsewhere.

References differ in what they call a voxel that holds two structures, in how smooth their borders are, and in whether
dura, vessels and narrow sulci are fluid. A rule is drawn for every head, and nothing in the image tells which: a model
that is trained on many rules shows their differences in the spread of its samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .priors import Atlas

BACKGROUND = {"dura": 0.4, "blood": 0.3}
"""Tissue -> probability that a rule calls it background."""
FLUID = {"narrow sulcus": 0.25, "cerebellar fissure": 0.1}
"""Tissue -> probability that a rule calls it fluid."""


@dataclass(frozen=True)
class Protocol:
    """Class of each tissue int64 [tissues]; weight of each class's share of a voxel [classes]; smoothing in voxels."""

    classes: np.ndarray
    weights: np.ndarray
    smooth: float

    @classmethod
    def draw(cls, atlas: Atlas, rng: np.random.Generator) -> Protocol:
        """A rule at random: weights within about a third of 1, borders smoothed in half of the draws."""
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
        """Class labels uint8 at half the tissue map's resolution; what `keep` bool leaves out is background.

        Of the classes that share a voxel the one with the greatest weighted share gets it. With smoothing each voxel
        first takes some of its neighbours' shares.
        """
        fine = self.classes.astype(np.uint8)[tissue]
        if keep is not None:
            fine *= keep
        shape = tuple(n // 2 for n in fine.shape)
        found, most = np.zeros(shape, dtype=np.uint8), np.full(shape, -1, dtype=np.float32)
        for label, weight in enumerate(self.weights):
            votes = _counted(fine == label).astype(np.float32)
            if self.smooth:
                votes = _blurred(votes, self.smooth)
            votes *= weight
            more = votes > most
            found[more] = label
            np.maximum(most, votes, out=most)
        return found


def _counted(mask: np.ndarray) -> np.ndarray:
    """How many of eight voxels are True: uint8 at half the resolution of a mask [z, y, x]."""
    z, y, x = (2 * (n // 2) for n in mask.shape)
    counts = mask[:z, :y, :x].view(np.uint8)
    counts = counts[::2] + counts[1::2]
    counts = counts[:, ::2] + counts[:, 1::2]
    return counts[..., ::2] + counts[..., 1::2]


def _blurred(votes: np.ndarray, share: float) -> np.ndarray:
    """Votes float32 [z, y, x], of which each voxel gives `share` to either neighbour along each axis."""
    for axis in range(3):
        votes = ndimage.correlate1d(votes, [share, 1 - 2 * share, share], axis, mode="nearest")
    return votes
