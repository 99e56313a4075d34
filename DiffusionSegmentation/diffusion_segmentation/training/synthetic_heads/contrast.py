"""How bright each tissue is, and how that changes within it."""

from __future__ import annotations

import numpy as np

from .priors import Atlas
from .random_fields import enlarged, smooth_noise
from .shares import USUAL

# Mean and spread of each tissue's intensity in a T1-weighted image, on a scale where white matter is near 0.9. Read by
# name, so that the atlas file decides which tissues there are.
T1: dict[str, tuple[float, float]] = {
    "air": (0.02, 0.02),
    "soft tissue": (0.40, 0.12),
    "soft tissue, fat": (1.05, 0.25),
    "soft tissue, skin": (0.60, 0.20),
    "eye fluid": (0.22, 0.08),
    "skull": (0.08, 0.06),
    "skull, marrow": (0.60, 0.25),
    "skull, air": (0.03, 0.03),
    "optic chiasm": (0.75, 0.08),
    "csf": (0.24, 0.10),
    "cerebellar cortex": (0.59, 0.06),
    "cerebral cortex": (0.59, 0.06),
    "narrow sulcus": (0.40, 0.08),
    "hippocampus and amygdala": (0.61, 0.06),
    "cerebellar white matter": (0.86, 0.05),
    "cerebellar fissure": (0.38, 0.08),
    "dura": (0.42, 0.12),
    "blood": (0.45, 0.35),
    "vessel": (0.45, 0.30),
    "cerebral white matter": (0.90, 0.04),
    "brainstem": (0.83, 0.06),
    "ventral diencephalon": (0.78, 0.06),
    "pallidum": (0.80, 0.06),
    "putamen": (0.66, 0.06),
    "thalamus": (0.72, 0.06),
    "caudate and accumbens": (0.61, 0.06),
    "choroid plexus": (0.40, 0.12),
    "ventricles": (0.21, 0.09),
    "muscle": (0.50, 0.10),
    "spinal cord": (0.82, 0.07),
    "spinal fluid": (0.20, 0.08),
}
FAMILIES = (
    ("csf", "ventricles", "eye fluid", "spinal fluid"),
    (
        "cerebral cortex",
        "cerebellar cortex",
        "hippocampus and amygdala",
        "caudate and accumbens",
        "putamen",
        "thalamus",
    ),
    (
        "cerebral white matter",
        "cerebellar white matter",
        "brainstem",
        "ventral diencephalon",
        "spinal cord",
        "optic chiasm",
        "pallidum",
    ),
    ("skull", "skull, air", "air"),
    ("soft tissue", "muscle", "soft tissue, skin", "dura"),
    ("soft tissue, fat", "skull, marrow"),
)
"""Tissues that a sequence shows much alike."""
LEAST_SPREAD = 0.12
"""Standard deviation of the means of fluid, grey and white matter below which a contrast is drawn again, thrice at
most: scans without contrast are rare, and little is learnt from them."""
PARTLY_FLUID = {"narrow sulcus": "cerebral cortex", "cerebellar fissure": "cerebellar cortex"}
"""Tissues that fluid shares with another: the fluid is thinner than a voxel."""


def intensities(atlas: Atlas, rng: np.random.Generator, any_contrast: float = USUAL.any_contrast) -> np.ndarray:
    """A mean intensity float32 for each tissue: of any contrast in a share `any_contrast` of draws, else T1-like."""
    number = atlas.numbers
    main = [number[name] for name in ("csf", "cerebral cortex", "cerebral white matter")]
    means, spreads = np.array([T1[name] for name in atlas.tissues], dtype=np.float32).T
    if rng.random() >= any_contrast:
        # Scanners differ most in how far grey and white matter stand apart: all tissues move along that line together.
        means = 0.9 - (0.9 - means) * rng.uniform(0.6, 1.25)
        means = np.maximum(means + spreads * rng.standard_normal(len(means), dtype=np.float32), 0)
    else:
        for _ in range(4):
            means = _any(number, rng)
            if means[main].std() > LEAST_SPREAD:
                break
    for name, solid in PARTLY_FLUID.items():
        share = rng.uniform(0.2, 0.8)
        means[number[name]] = share * means[number["csf"]] + (1 - share) * means[number[solid]]
    return means


def _any(number: dict[str, int], rng: np.random.Generator) -> np.ndarray:
    """A mean float32 for each tissue: all at random, or, more often, those of a family alike; air is mostly dark."""
    means = rng.uniform(0, 1, len(number)).astype(np.float32)
    if rng.random() < 0.7:
        spread = rng.uniform(0, 0.08)
        for family in FAMILIES:
            here = [number[name] for name in family if name in number]
            means[here] = np.abs(rng.uniform(0, 1) + spread * rng.standard_normal(len(here)))
    if rng.random() < 0.9:
        means[[number["air"], number["skull, air"]]] = rng.uniform(0, 0.05, 2)
    return means


def painted(tissue: np.ndarray, means: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image float32 [z, y, x] of a tissue map: its means, with slopes and texture within the tissues.

    Two wide fields are shared by all tissues, and each tissue follows them by amounts of its own: so cortex is not
    equally bright everywhere, nor is white matter, and their contrast changes over the head.
    """
    spread = 0.06 * rng.random() ** 2
    image = means[tissue]
    for _ in range(2):
        loads = (spread * rng.standard_normal(len(means)) * np.minimum(4 * means, 1)).astype(np.float32)
        quarter = tuple(-(-n // 4) for n in tissue.shape)
        image += loads[tissue] * enlarged(smooth_noise(quarter, rng.uniform(3, 10), rng), tissue.shape)
    texture = np.exp(rng.uniform(np.log(0.004), np.log(0.08)))
    image *= 1 + np.float32(texture) * smooth_noise(tissue.shape, rng.uniform(2, 6), rng)
    return np.maximum(image, 0)
