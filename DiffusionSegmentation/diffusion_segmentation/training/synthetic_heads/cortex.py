"""Cerebral cortex of realistic thickness, with narrow sulci where its banks meet."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .priors import Atlas
from .random_fields import smooth_noise, squared_distance

THICKNESS_MM = (1.5, 4.5)
"""Range of the distance between inner and outer surface of the cortex (Fischl and Dale, PNAS 2000)."""
MEAN_MM = (2.2, 3.3)  # range of a head's mean thickness, from a thin aged cortex to that of a child
GAP_MM = (0.5, 1.7)  # range over heads of the minimum fluid between cortex and skull
REACH = 8  # voxels of 1 mm within which distances are exact


def refine_cortex(tissue: np.ndarray, atlas: Atlas, rng: np.random.Generator) -> None:
    """Redraw fluid and cortex of a tissue map uint8 [z, y, x] of 1 mm by their distance from white matter, in place.

    Where the atlas can have cortex, voxels within the local thickness of white matter (or of hippocampus and amygdala,
    which cortex covers too) become cortex, those beyond fluid. Where two banks meet without fluid between them, the
    middle becomes a narrow sulcus.
    """
    numbers = atlas.numbers
    inner = tissue[atlas.stages.box]
    cortex, fluid, white = (numbers[n] for n in ("cerebral cortex", "csf", "cerebral white matter"))
    possible = atlas.stages.cortex
    thickness = rng.uniform(*MEAN_MM) * np.exp(0.22 * smooth_noise(inner.shape, rng.uniform(5, 10), rng))
    # Distances are between voxel centres, and the surface lies half a voxel from the centre it is measured from.
    thickness = np.clip(thickness, *THICKNESS_MM) + 0.5
    rim = squared_distance(inner < fluid, REACH)
    gap = np.float32(rng.uniform(*GAP_MM))
    inner[possible & (inner == white) & (rim <= (thickness + gap) ** 2)] = cortex
    inner[(inner == cortex) & (~possible | (rim <= gap**2))] = fluid

    _remove_islands(inner, white, cortex)
    below = (inner == white) | (inner == numbers["hippocampus and amygdala"])
    zone = ((inner == cortex) | (inner == fluid)) & possible
    squared = squared_distance(below, REACH)
    near = (squared <= thickness**2) & (rim > gap**2)
    inner[zone & near] = cortex
    inner[zone & ~near] = fluid
    sulci = smooth_noise(inner.shape, rng.uniform(6, 12), rng) < rng.uniform(0.0, 1.5)
    inner[zone & near & sulci & _medial_sheet(squared)] = numbers["narrow sulcus"]


def _remove_islands(inner: np.ndarray, white: int, cortex: int) -> None:
    """Turn small components of white matter into cortex, in place."""
    components, count = ndimage.label(inner == white)
    if count > 1:
        sizes = np.bincount(components.ravel())
        small = sizes < max(sizes[1:].max() // 20, 1)
        small[0] = False
        inner[small[components]] = cortex


def _medial_sheet(squared: np.ndarray) -> np.ndarray:
    """Where the distance bool [z, y, x] falls to both sides along some axis: the sheet half way between two banks."""
    distance = np.sqrt(squared, dtype=np.float32)
    sheet = np.zeros(distance.shape, dtype=bool)
    for axis in range(3):
        line = np.moveaxis(distance, axis, 0)
        if len(line) >= 5:
            falls = np.minimum(line[2:-2] - line[4:], line[2:-2] - line[:-4]) > 0.7
            np.moveaxis(sheet, axis, 0)[2:-2] |= falls
    return sheet & (squared > 2)
