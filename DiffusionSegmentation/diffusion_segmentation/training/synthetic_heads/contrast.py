"""Random intensities of the tissues, and their variation within a tissue."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .priors import Atlas
from .random_fields import coarse_noise, smooth_noise
from .scan_probabilities import TRAINING_SCANS

TABLES = json.loads((Path(__file__).parents[1] / "configs" / "tissue-contrast.json").read_text(encoding="utf-8"))
T1: dict[str, tuple[float, float]] = TABLES["t1_mean_and_spread"]
"""Mean and spread of each tissue's intensity in a T1-weighted image, on a scale with white matter near 0.9."""
FAMILIES: list[list[str]] = TABLES["families"]  # tissues of similar intensity in most sequences
MIN_CONTRAST = 0.12
"""Standard deviation of the means of fluid, grey and white matter below which a contrast is drawn again, at most three
times: scans without contrast are rare and teach little."""
PARTLY_FLUID = {"narrow sulcus": "cerebral cortex", "cerebellar fissure": "cerebellar cortex"}
"""Tissue of voxels that are only partly fluid -> tissue that fills the rest of them."""


def draw_intensities(
    atlas: Atlas, rng: np.random.Generator, any_contrast: float = TRAINING_SCANS.any_contrast
) -> np.ndarray:
    """Mean intensity float32 of each tissue: of random contrast with probability `any_contrast`, else T1-like."""
    number = atlas.numbers
    main = [number[name] for name in ("csf", "cerebral cortex", "cerebral white matter")]
    means, spreads = np.array([T1[name] for name in atlas.tissues], dtype=np.float32).T
    if rng.random() >= any_contrast:
        # Scanners differ most in the contrast of grey and white matter: all tissues move along that line together.
        means = 0.9 - (0.9 - means) * rng.uniform(0.6, 1.25)
        means = np.maximum(means + spreads * rng.standard_normal(len(means), dtype=np.float32), 0)
    else:
        for _ in range(4):
            means = _random_contrast(number, rng)
            if means[main].std() > MIN_CONTRAST:
                break
    for name, solid in PARTLY_FLUID.items():
        share = rng.uniform(0.2, 0.8)
        means[number[name]] = share * means[number["csf"]] + (1 - share) * means[number[solid]]
    return means


def _random_contrast(number: dict[str, int], rng: np.random.Generator) -> np.ndarray:
    """Mean float32 of each tissue: independent, or, more often, similar within a family; air is mostly dark."""
    means = rng.uniform(0, 1, len(number)).astype(np.float32)
    if rng.random() < 0.7:
        spread = rng.uniform(0, 0.08)
        for family in FAMILIES:
            members = [number[name] for name in family if name in number]
            means[members] = np.abs(rng.uniform(0, 1) + spread * rng.standard_normal(len(members)))
    if rng.random() < 0.9:
        means[[number["air"], number["skull, air"]]] = rng.uniform(0, 0.05, 2)
    return means


def paint(tissue: np.ndarray, means: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Image float32 [z, y, x] of a tissue map: its means, with gradients and texture within the tissues.

    All tissues share two smooth fields, with a weight per tissue: neither cortex nor white matter is uniform, and their
    contrast varies over the head.
    """
    spread = 0.06 * rng.random() ** 2
    image = means[tissue]
    for _ in range(2):
        loads = (spread * rng.standard_normal(len(means)) * np.minimum(4 * means, 1)).astype(np.float32)
        image += loads[tissue] * coarse_noise(tissue.shape, rng.uniform(3, 10), rng)
    texture = np.exp(rng.uniform(np.log(0.004), np.log(0.08)))
    image *= 1 + np.float32(texture) * smooth_noise(tissue.shape, rng.uniform(2, 6), rng)
    return np.maximum(image, 0)
