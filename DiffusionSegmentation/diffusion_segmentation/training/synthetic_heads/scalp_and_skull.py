"""Layers of scalp and skull: skin, fat and muscle; two tables of compact bone with marrow between them."""

from __future__ import annotations

import numpy as np

from .priors import Atlas
from .random_fields import smooth_noise, squared_distance

REACH = 7  # depth in voxels of 1 mm below the air to which distances are computed; there is no subcutaneous fat deeper


def layer_scalp_and_skull(tissue: np.ndarray, atlas: Atlas, rng: np.random.Generator) -> None:
    """Divide soft tissue and skull of a tissue map uint8 [z, y, x] of 1 mm into layers, in place.

    Skin and fat are set by depth below the air, marrow by depth below the bone's surface. Thicknesses vary within and
    between heads; some heads have hardly any fat, some skulls no marrow.
    """
    numbers = atlas.numbers
    soft, bone = tissue == numbers["soft tissue"], tissue == numbers["skull"]
    depth = squared_distance(tissue == numbers["air"], REACH)
    varies = np.exp(0.35 * smooth_noise(tissue.shape, rng.uniform(12, 30), rng))
    skin = rng.uniform(1.0, 2.5)
    fat = np.minimum(skin + rng.uniform(0.5, 5.0) * varies, REACH)
    tissue[soft & (depth <= fat**2)] = numbers["soft tissue, fat"]
    tissue[soft & (depth <= skin**2)] = numbers["soft tissue, skin"]
    lumps = smooth_noise(tissue.shape, rng.uniform(4, 10), rng)
    deep = tissue == numbers["soft tissue"]
    tissue[deep & (lumps > rng.uniform(0.3, 1.5))] = numbers["soft tissue, fat"]

    # Marrow tapers off towards bone without it, instead of ending at an edge.
    kind = smooth_noise(tissue.shape, rng.uniform(8, 20), rng)
    table = np.maximum(rng.uniform(1.0, 2.2) * varies, 1) + 1.5 * np.maximum(rng.uniform(-1.5, 0.8) - kind, 0)
    tissue[bone & (squared_distance(~bone, 4) > table**2)] = numbers["skull, marrow"]
    tissue[bone & (lumps < -rng.uniform(0.9, 2.0))] = numbers["skull, air"]
