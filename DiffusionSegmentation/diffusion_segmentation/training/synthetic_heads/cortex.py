"""A cerebral cortex as thick as a cortex, with narrow sulci where its banks meet."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .priors import Atlas
from .random_fields import smooth_noise, squared_distance

THICKNESS_MM = (1.5, 4.5)
"""Least and greatest distance of the cortex's outer from its inner surface (Fischl and Dale, PNAS 2000)."""
MEAN_MM = (2.2, 3.3)
"""Range of a head's mean thickness, from a thin old cortex to that of a child."""
GAP_MM = (0.5, 1.7)
"""Least fluid between cortex and skull, range over heads."""
REACH = 8
"""Voxels of 1 mm within which distances are known."""


def give_cortex(tissue: np.ndarray, atlas: Atlas, rng: np.random.Generator) -> None:
    """Redraw fluid and cortex of a tissue map uint8 [z, y, x] of 1 mm by their distance from white matter, in place.

    Where the atlas has a cortex at all, what lies within the local thickness of white matter (or of hippocampus and
    amygdala, on which cortex lies too) is cortex, and what lies beyond is fluid. Where two banks meet without fluid in
    between, their middle becomes a narrow sulcus.
    """
    numbers = atlas.numbers
    inner = tissue[atlas.stages.box]
    cortex, fluid, white = (numbers[n] for n in ("cerebral cortex", "csf", "cerebral white matter"))
    here = atlas.stages.cortex
    thickness = rng.uniform(*MEAN_MM) * np.exp(0.22 * smooth_noise(inner.shape, rng.uniform(5, 10), rng))
    # Between voxel centres lies half a voxel that belongs to what the distance is from.
    thickness = np.clip(thickness, *THICKNESS_MM) + 0.5
    rim = squared_distance(inner < fluid, REACH)
    gap = np.float32(rng.uniform(*GAP_MM))
    inner[here & (inner == white) & (rim <= (thickness + gap) ** 2)] = cortex
    inner[(inner == cortex) & (~here | (rim <= gap**2))] = fluid

    _drop_islands(inner, white, cortex)
    below = (inner == white) | (inner == numbers["hippocampus and amygdala"])
    zone = ((inner == cortex) | (inner == fluid)) & here
    squared = squared_distance(below, REACH)
    near = squared <= thickness**2
    near &= rim > gap**2
    inner[zone & near] = cortex
    inner[zone & ~near] = fluid
    open_here = smooth_noise(inner.shape, rng.uniform(6, 12), rng) < rng.uniform(0.0, 1.5)
    inner[zone & near & open_here & _middle(squared)] = numbers["narrow sulcus"]


def _drop_islands(inner: np.ndarray, white: int, cortex: int) -> None:
    """White matter that hangs together with no other becomes cortex, in place."""
    pieces, count = ndimage.label(inner == white)
    if count > 1:
        sizes = np.bincount(pieces.ravel())
        small = sizes < max(sizes[1:].max() // 20, 1)
        small[0] = False
        inner[small[pieces]] = cortex


def _middle(squared: np.ndarray) -> np.ndarray:
    """Where the distance bool [z, y, x] falls to both sides along some axis: the sheet half way between two banks."""
    distance = np.sqrt(squared, dtype=np.float32)
    found = np.zeros(distance.shape, dtype=bool)
    for axis in range(3):
        line = np.moveaxis(distance, axis, 0)
        if len(line) < 5:
            continue
        falls = np.minimum(line[2:-2] - line[4:], line[2:-2] - line[:-4]) > 0.7
        np.moveaxis(found, axis, 0)[2:-2] |= falls
    return found & (squared > 2)
