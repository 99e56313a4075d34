"""Cerebellar folia: sheets of cortex on thin white laminae, with fissures between them."""

from __future__ import annotations

import numpy as np

from .priors import Atlas
from .random_fields import smooth_noise


def add_folia(tissue: np.ndarray, atlas: Atlas, rng: np.random.Generator) -> None:
    """Draw fissures and white laminae into the cerebellar cortex of a tissue map uint8 [z, y, x] of 1 mm, in place.

    Folia run from left to right and fan out around the fourth ventricle, so that a sagittal slice shows a tree and a
    coronal one stripes. Fissures are cerebellum in the labels unless a head's labelling protocol differs.
    """
    numbers = atlas.numbers
    white, grey = numbers["cerebellar white matter"], numbers["cerebellar cortex"]
    places = np.nonzero((tissue == white) | (tissue == grey))
    if not len(places[0]):
        return
    box = tuple(slice(p.min(), p.max() + 1) for p in places)
    inner = tissue[box]
    z, y = (np.arange(n, dtype=np.float32) - c * n for n, c in zip(inner.shape[:2], (0.55, 0.15), strict=True))
    # The angle about a left-right axis anterior to the cerebellum, in mm of arc at its posterior border.
    radius = 0.75 * inner.shape[1]
    arc = np.arctan2(z[:, None], y)[..., None] * np.float32(radius)
    arc = arc + rng.uniform(2, 4) * smooth_noise(inner.shape, rng.uniform(12, 20), rng)
    leaf = np.sin(arc * np.float32(2 * np.pi / rng.uniform(4.5, 7.5)))
    leaf += rng.uniform(0.2, 0.6) * smooth_noise(inner.shape, 3, rng)
    cortex = inner == grey
    inner[cortex & (leaf > rng.uniform(0.6, 1.1))] = numbers["cerebellar fissure"]
    inner[cortex & (leaf < -rng.uniform(0.7, 1.1))] = white
