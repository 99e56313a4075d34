"""Tissue priors of an atlas, and random tissue maps with these priors as their marginals.

A tissue map is drawn in three stages, each with a random field of its own: the tissues outside the brain's fluid;
inside it, fluid, cortex and the white core; within the core, its structures. So the skull is smooth, the cortex folds,
and the deep nuclei do not fold with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.special import ndtr

from .cortical_folding import FoldGrid
from .random_fields import smooth_noise

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
"""Tissues of a drawn map that the atlas does not have -> tissue of the atlas whose class they share."""
NECK = (
    "muscle",
    "spinal cord",
    "spinal fluid",
)  # tissues of the neck, which lies below the atlas and is background in the labels
FIRST_INSIDE = "csf"  # first tissue inside the skull in the atlas's order, which runs inwards
SHEETS = ("csf", "cerebellar cortex", "cerebral cortex")
"""Tissues of the second stage in the same order; all tissues after them belong to the core."""


@dataclass(frozen=True)
class Atlas:
    """Priors uint8 [tissues of the atlas, z, y, x] (255 = 1), and tables of all tissues: names, class labels int64, and
    whether they are inside the skull. The tables include the divided tissues and those of the neck.
    """

    priors: np.ndarray
    tissues: tuple[str, ...]
    classes: np.ndarray
    inside: np.ndarray
    stages: Stages = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> Atlas:
        """Read the output of `atlas.py`. Raises OSError or KeyError for a missing or other file."""
        with np.load(path, allow_pickle=False) as file:
            priors, names, classes = file["priors"], [str(n) for n in file["tissues"]], list(file["classes"])
        stages = Stages.of(priors, names)
        wholes = [names.index(whole) for whole in DIVIDED.values()]
        inside = [n >= names.index(FIRST_INSIDE) for n in (*range(len(names)), *wholes)] + [False] * len(NECK)
        classes += [classes[n] for n in wholes] + [0] * len(NECK)
        tissues = (*names, *DIVIDED, *NECK)
        return cls(priors, tissues, np.array(classes, dtype=np.int64), np.array(inside), stages)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Number of each tissue in a tissue map, by its name."""
        return {name: number for number, name in enumerate(self.tissues)}


@dataclass(frozen=True)
class Stages:
    """Thresholds with which `draw_tissues` compares its fields; `box` is the part of the atlas inside the skull.

    They are uint8 (255 = 1), cumulative inwards: `outer` [tissues outside, z, y, x]; `sheets` [3, box], given that a
    voxel is inside; `core` [tissues of the core - 1, box], given that it is in the core. `folding` float32 [box] is
    the share of the folds in the second stage's variance, `cortex` bool [box] where a cerebral cortex can be.
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
        possible = ndimage.maximum_filter(cerebral, 3) > 20
        return cls(box, outer, sheets, core, folding, possible, FoldGrid.around(cerebral))


def _conditional(priors: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Cumulative shares uint8 (255 = 1) of `priors` [tissues, z, y, x] in `whole` [z, y, x]."""
    shares = np.empty(priors.shape, dtype=np.uint8)
    running = np.zeros(whole.shape, dtype=np.uint32)
    divisor = np.maximum(whole, 1)
    for prior, share in zip(priors, shares, strict=True):
        running += prior
        share[...] = np.minimum(running * 255 // divisor, 255)
    return shares


def draw_tissues(atlas: Atlas, rng: np.random.Generator, deeper: float = 1.0, thinner: float = 0.0) -> np.ndarray:
    """Random tissue map uint8 [z, y, x] with the atlas's priors as marginals.

    `deeper` above 1 extends sulci and gyri beyond the blurred atlas; `thinner` above 0, in standard deviations, thins
    the blades of white matter. Both change the marginals.

    In each stage a Gaussian field, mapped to uniforms u, picks at each voxel the first tissue whose cumulative prior,
    summed inwards, exceeds u. So each tissue has its prior's probability, and because the order is that of anatomy,
    tissues are nested sheets.
    """
    stages = atlas.stages
    shape = atlas.priors.shape[1:]
    tissue = _first_above(stages.outer, _mixture(shape, (rng.uniform(5, 9), rng.uniform(12, 30)), rng))
    inner = tissue[stages.box]
    inside = _largest_component(inner == len(stages.outer))
    inner[(inner == len(stages.outer)) & ~inside] = atlas.numbers["skull"]

    smooth = _mixture(inner.shape, (rng.uniform(2.5, 4), rng.uniform(5, 9), rng.uniform(12, 30)), rng)
    folds = stages.grid.draw(inner.shape, rng)
    sheet = _first_above(
        stages.sheets, np.sqrt(stages.folding) * (deeper * folds - thinner) + np.sqrt(1 - stages.folding) * smooth
    )
    core = _first_above(stages.core, _mixture(inner.shape, (rng.uniform(4, 8), rng.uniform(12, 30)), rng))
    number = np.where(sheet < len(SHEETS), sheet, len(SHEETS) + core) + np.uint8(len(stages.outer))
    inner[inside] = number[inside]
    return tissue


def _largest_component(mask: np.ndarray) -> np.ndarray:
    components, count = ndimage.label(mask)
    return mask if count < 2 else components == 1 + np.argmax(np.bincount(components.ravel())[1:])


def _mixture(shape: tuple[int, ...], scales: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Gaussian field float32 of unit variance with several correlation lengths in voxels, randomly weighted."""
    weights = rng.dirichlet([2.0] * len(scales))
    parts = (np.float32(np.sqrt(w)) * smooth_noise(shape, s, rng) for w, s in zip(weights, scales, strict=True))
    return reduce(np.add, parts)


def _first_above(thresholds: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Index uint8 of the first threshold above the field's uniform, or len(thresholds)."""
    uniform = (ndtr(field) * 255).astype(np.uint8)
    index = np.zeros(field.shape, dtype=np.uint8)
    for threshold in thresholds:
        index += threshold <= uniform
    return index
