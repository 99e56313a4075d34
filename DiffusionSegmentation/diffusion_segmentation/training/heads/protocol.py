"""By which rule a head is labelled: whoever makes reference labels draws the line elsewhere.

References differ in what they call a voxel that holds two structures, in how smooth their borders are, and in whether
dura, vessels and narrow sulci are fluid. A rule is drawn for every head, and nothing in the image tells which: a model
that is trained on many rules shows their differences in the spread of its samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from .priors import Atlas

EITHER = {"dura": 0.5, "blood": 0.3, "optic chiasm": 0.0}
"""Tissue -> probability that a rule calls it background."""
FLUID = {"narrow sulcus": 0.35, "cerebellar fissure": 0.1}
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
        for name, share in EITHER.items():
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
            fine = fine * keep
        z, y, x = (n // 2 for n in fine.shape)
        cells = fine.reshape(z, 2, y, 2, x, 2)
        shares = np.stack([(cells == c).sum((1, 3, 5), dtype=np.uint8) for c in range(len(self.weights))])
        votes = torch.from_numpy(shares.astype(np.float32))
        if self.smooth:
            votes = _blurred(votes, self.smooth)
        return (votes * torch.from_numpy(self.weights)[:, None, None, None]).argmax(0).numpy().astype(np.uint8)


def _blurred(votes: torch.Tensor, share: float) -> torch.Tensor:
    """Votes [classes, z, y, x], of which each voxel gives `share` to either neighbour along each axis."""
    kernel = torch.tensor([share, 1 - 2 * share, share])
    votes = votes[:, None]
    for axis in range(3):
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]
        shape[2 + axis] = 3
        padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = 1
        votes = functional.conv3d(functional.pad(votes, padding, mode="replicate"), kernel.reshape(shape))
    return votes[:, 0]
