"""Dura, falx, tentorium, venous sinuses and vessels in the fluid around the brain."""

from __future__ import annotations

import numpy as np

from .priors import Atlas
from .random_fields import smooth_noise, squared_distance


def add_meninges(tissue: np.ndarray, atlas: Atlas, rng: np.random.Generator) -> None:
    """Put dura and blood into the fluid of a tissue map uint8 [z, y, x] of 1 mm, in place.

    Dura lies along the skull, in the midline and over the cerebellum; the sinuses where these sheets meet the skull.
    Vessels are lines along which two random fields are both zero.
    """
    numbers = atlas.numbers
    inner = tissue[atlas.stages.box]
    fluid = inner == numbers["csf"]
    covers = [number for name, number in numbers.items() if name.split(",")[0] in ("air", "soft tissue", "skull")]
    skull = squared_distance(_any_of(inner, covers), 8)
    parts = ("cerebellar cortex", "cerebellar white matter", "cerebellar fissure")
    cerebellum = squared_distance(_any_of(inner, [numbers[name] for name in parts]), 6)
    cerebrum = squared_distance(_any_of(inner, [numbers["cerebral cortex"], numbers["narrow sulcus"]]), 6)

    across = np.arange(inner.shape[2], dtype=np.float32) - (inner.shape[2] - 1) / 2
    across = np.abs(across + 0.7 * smooth_noise((*inner.shape[:2], 1), 20, rng))
    near = (cerebellum < 26) & (cerebrum < 26)
    tentorium = near & (np.maximum(cerebellum, cerebrum) - np.minimum(cerebellum, cerebrum) < 4)
    # The tentorial notch around the midbrain.
    tentorium &= (across > 14) | (np.arange(inner.shape[1]) > 0.72 * inner.shape[1])[:, None]
    # No falx below the hemispheres.
    high = (np.arange(inner.shape[0]) > 0.5 * inner.shape[0])[:, None, None]
    falx = (across < 0.8) & (high | (cerebellum < 37))
    lining = skull <= rng.choice([0, 1, 2, 4], p=[0.2, 0.3, 0.3, 0.2])
    inner[fluid & (lining | tentorium | (falx & (rng.random() < 0.8)))] = numbers["dura"]

    width = rng.uniform(3, 6)
    narrows = np.float32(width) * (1 - np.sqrt(np.arange(256, dtype=np.float32)) / 9)
    sagittal = (across < narrows[skull]) & (skull < 50) & (cerebellum > 36) & high
    transverse = (skull < rng.uniform(12, 30)) & (cerebellum < 30) & (cerebrum < 37)
    inner[fluid & (sagittal | transverse)] = numbers["blood"]
    # Thin winding tubes, few or many.
    scale = rng.uniform(7, 14)
    first, second = (smooth_noise(inner.shape, scale, rng) for _ in range(2))
    inner[fluid & (first**2 + second**2 < (rng.uniform(0.5, 1.6) / scale) ** 2)] = numbers["blood"]


def _any_of(tissue: np.ndarray, numbers: list[int]) -> np.ndarray:
    """Where a tissue map uint8 has one of `numbers`: a lookup table, 3 times as fast as numpy's isin."""
    table = np.zeros(256, dtype=bool)
    table[numbers] = True
    return table[tissue]
