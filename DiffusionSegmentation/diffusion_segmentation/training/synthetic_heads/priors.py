"""Tissue priors of an atlas, and tissue maps with these priors as their marginals.

A tissue map is drawn in three stages, each with a random field of its own: what lies outside the brain's fluid and
what inside; inside, where fluid, cortex and the white core border on each other; within the core, which structure.
So the skull is as smooth as a skull, the cortex folds, and the deep nuclei do not fold with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.special import ndtr

from .folds import FoldGrid
from .random_fields import smooth_noise

# Tissues that are found in a drawn map, not in the atlas: name -> the tissue of the atlas whose class they share.
DIVIDED = {
    "soft tissue, fat": "soft tissue",
    "soft tissue, skin": "soft tissue",
    "skull, marrow": "skull",
    "skull, air": "skull",
    "narrow sulcus": "cerebral cortex",
    "cerebellar fissure": "cerebellar cortex",
    "dura": "csf",
    "blood": "csf",
}
# Tissues of the neck alone: below the atlas, and background.
NECK = ("muscle", "spinal cord", "spinal fluid")
# What lies within the skull starts with this tissue in the atlas's order, outside inwards.
FIRST_INSIDE = "csf"
SHEETS = ("csf", "cerebellar cortex", "cerebral cortex")
"""Tissues of the second stage, outside inwards; every tissue after them belongs to the core."""


@dataclass(frozen=True)
class Atlas:
    """Tissue priors uint8 [tissues, z, y, x] (255 = 1), and of each tissue, divided ones included, name and class."""

    priors: np.ndarray
    tissues: tuple[str, ...]
    classes: np.ndarray
    inside: np.ndarray
    stages: Stages = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> Atlas:
        """Read what `training/atlas.py` wrote. Raises OSError or KeyError when the file is missing or another."""
        with np.load(path, allow_pickle=False) as file:
            priors, names, classes = file["priors"], [str(n) for n in file["tissues"]], list(file["classes"])
        stages = Stages.of(priors, names)
        inside = [names.index(n) >= names.index(FIRST_INSIDE) for n in names]
        for whole in DIVIDED.values():
            classes.append(classes[names.index(whole)])
            inside.append(inside[names.index(whole)])
        names += [*DIVIDED, *NECK]
        classes += [0] * len(NECK)
        inside += [False] * len(NECK)
        return cls(priors, tuple(names), np.array(classes, dtype=np.int64), np.array(inside), stages)

    @property
    def numbers(self) -> dict[str, int]:
        """The number of each tissue in a tissue map, by its name."""
        return {name: number for number, name in enumerate(self.tissues)}


@dataclass(frozen=True)
class Stages:
    """What `draw_tissues` compares its fields with; `box` is the part of the atlas that can hold anything inside.

    Thresholds are uint8 (255 = 1), cumulative from outside inwards: `outer` [tissues outside, z, y, x]; `sheets`
    [3, box], given that a voxel is inside; `core` [tissues of the core - 1, box], given that it is in the core.
    `folding` float32 [box] is the share of the second stage's variance that the folds have, `cortex` bool [box] where
    a cerebral cortex can be.
    """

    box: tuple[slice, slice, slice]
    outer: np.ndarray
    sheets: np.ndarray
    core: np.ndarray
    folding: np.ndarray
    cortex: np.ndarray
    grid: FoldGrid

    @classmethod
    def of(cls, priors: np.ndarray, names: Sequence[str]) -> Stages:
        """From priors uint8 [tissues, z, y, x] in nesting order."""
        first = names.index(FIRST_INSIDE)
        outer = np.minimum(np.cumsum(priors[:first], axis=0, dtype=np.uint16), 255).astype(np.uint8)
        box = ndimage.find_objects((outer[-1] < 253).astype(np.uint8))[0]
        within = priors[(slice(first, None), *box)]
        last = len(SHEETS)
        sheets = _conditional(within[:last], within.sum(0, dtype=np.uint16))
        core = _conditional(within[last:-1], within[last:].sum(0, dtype=np.uint16))
        cerebral = within[SHEETS.index("cerebral cortex")]
        folding = np.clip(ndimage.gaussian_filter(cerebral.astype(np.float32) / 255, 3) * 3, 0, 1)
        allowed = ndimage.maximum_filter(cerebral, 3) > 20
        return cls(box, outer, sheets, core, folding, allowed, FoldGrid.around(cerebral))


def _conditional(priors: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Cumulative shares uint8 (255 = 1) of `priors` [tissues, z, y, x] in `whole` [z, y, x]."""
    found = np.empty(priors.shape, dtype=np.uint8)
    running = np.zeros(whole.shape, dtype=np.uint32)
    divisor = np.maximum(whole, 1)
    for prior, share in zip(priors, found, strict=True):
        running += prior
        share[...] = np.minimum(running * 255 // divisor, 255)
    return found


def draw_tissues(atlas: Atlas, rng: np.random.Generator, deeper: float = 1.0, thinner: float = 0.0) -> np.ndarray:
    """A tissue map uint8 [z, y, x] whose marginals are the atlas's priors.

    With `deeper` above 1 sulci reach deeper than the blurred atlas lets them, and gyri farther out; with `thinner`
    above 0, in standard deviations, blades of white matter are thinner. Both leave the atlas's marginals.

    In each stage a Gaussian field, turned into uniforms u, picks the tissue at each voxel: the first whose cumulative
    prior, summed outside inwards, exceeds u. So each tissue appears with its prior's probability, and because the
    order is that of anatomy, tissues come out as sheets about each other and not as salt and pepper.
    """
    stages = atlas.stages
    shape = atlas.priors.shape[1:]
    tissue = _first_above(stages.outer, _mixture(shape, (rng.uniform(5, 9), rng.uniform(12, 30)), rng))
    inner = tissue[stages.box]
    inside = _largest(inner == len(stages.outer))
    inner[(inner == len(stages.outer)) & ~inside] = atlas.numbers["skull"]

    smooth = _mixture(inner.shape, (rng.uniform(2.5, 4), rng.uniform(5, 9), rng.uniform(12, 30)), rng)
    folds = stages.grid.draw(inner.shape, rng)
    sheet = _first_above(
        stages.sheets, np.sqrt(stages.folding) * (deeper * folds - thinner) + np.sqrt(1 - stages.folding) * smooth
    )
    core = _first_above(stages.core, _mixture(inner.shape, (rng.uniform(4, 8), rng.uniform(12, 30)), rng))
    found = np.where(sheet < len(SHEETS), sheet, len(SHEETS) + core) + np.uint8(len(stages.outer))
    inner[inside] = found[inside]
    return tissue


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest piece of a mask that hangs together."""
    pieces, count = ndimage.label(mask)
    return mask if count < 2 else pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])


def _mixture(shape: tuple[int, ...], scales: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """A Gaussian field float32 of unit variance, of several correlation lengths in voxels."""
    weights = rng.dirichlet([2.0] * len(scales))
    return sum(np.float32(np.sqrt(w)) * smooth_noise(shape, s, rng) for w, s in zip(weights, scales, strict=True))


def _first_above(thresholds: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Number uint8 of the first threshold above the field's uniform, or len(thresholds)."""
    uniform = (ndtr(field) * 255).astype(np.uint8)
    found = np.zeros(field.shape, dtype=np.uint8)
    for threshold in thresholds:
        found += threshold <= uniform
    return found
