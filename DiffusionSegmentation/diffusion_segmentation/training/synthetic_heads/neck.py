"""The neck below the atlas, so that a model learns to label its muscles and spine as background.

The atlas ends below the chin, scans of 25 cm do not. Muscles have the intensity of cortex, and the fat between them
folds like white matter: a network trained without them labels them as brain, and the tongue, a textured mass with a
dark rim, as cerebellum. Neck and tongue are not anatomically accurate.

Arrays are [z, y, x] at 1 mm, z to S, y to P, x to L.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from .priors import Atlas
from .random_fields import smooth_noise

DEPTH = 96  # slices added below the atlas, in mm: with the atlas's 181 more than a scan of 256 mm shows


def add_neck(tissue: np.ndarray, atlas: Atlas, rng: np.random.Generator) -> np.ndarray:
    """A tissue map uint8 [z, y, x] with a neck of DEPTH slices below, into which its brainstem continues."""
    numbers = atlas.numbers
    low = tissue[: max(1, len(tissue) // 12)]
    bottom = ndimage.binary_opening(np.median(low != numbers["air"], axis=0) > 0.5, iterations=2)
    stem = low == numbers["brainstem"]
    cord = ndimage.center_of_mass(stem)[1:] if stem.any() else ((tissue.shape[1] - 1) / 2, (tissue.shape[2] - 1) / 2)
    whole = np.concatenate([draw_neck(bottom, cord, numbers, rng), tissue])
    end_brainstem(whole, numbers, rng)
    add_tongue(whole, cord, numbers, rng)
    return whole


def add_tongue(
    tissue: np.ndarray, cord: tuple[float, float], tissues: Mapping[str, int], rng: np.random.Generator
) -> None:
    """Put a tongue into the soft tissue of a tissue map with its neck, in place: muscle with fat, under air or fluid.

    `cord` is (y, x) where the brainstem leaves the head; the tongue lies ahead of it, about where head and neck meet.
    """
    z, y, x = (np.arange(n, dtype=np.float32) for n in tissue.shape)
    centre = rng.uniform(DEPTH - 35, DEPTH + 10), cord[0] - rng.uniform(55, 85), cord[1] + rng.normal(0, 3)
    radii = rng.uniform(13, 26), rng.uniform(20, 34), rng.uniform(14, 26)
    parts = [((axis - c) / r) ** 2 for axis, c, r in zip((z, y, x), centre, radii, strict=True)]
    squared = parts[0][:, None, None] + parts[1][:, None] + parts[2]
    soft = tissue == tissues["soft tissue"]
    inside = soft & (squared < 1)
    rim = rng.choice(["skull, air", "spinal fluid", "soft tissue, fat"])
    width = rng.uniform(0, 4) / min(radii)
    tissue[soft & ~inside & (squared < (1 + width) ** 2) & (z > centre[0])[:, None, None]] = tissues[rim]
    tissue[inside] = tissues["muscle"]
    sheets = smooth_noise(tissue.shape, rng.uniform(2.5, 7), rng)
    tissue[inside & (np.abs(sheets) < rng.uniform(0.02, 0.4))] = tissues["soft tissue, fat"]


def draw_neck(
    bottom: np.ndarray, cord: tuple[float, float], tissues: Mapping[str, int], rng: np.random.Generator
) -> np.ndarray:
    """DEPTH slices uint8 [DEPTH, y, x] below a head whose lowest outline is `bottom` bool [y, x].

    `cord` is (y, x) where the brainstem leaves the head; `tissues` gives the number of each tissue by name.
    """
    shape = (DEPTH, *bottom.shape)
    down = np.arange(DEPTH - 1, -1, -1, dtype=np.float32)[:, None, None]  # mm below the atlas
    lean = rng.normal(0, 0.15, 2)
    y = np.arange(bottom.shape[0], dtype=np.float32)[:, None] - cord[0] - lean[0] * down
    x = np.arange(bottom.shape[1], dtype=np.float32) - cord[1] - 0.3 * lean[1] * down

    deep = _depth(bottom, y, x, down, rng) + rng.uniform(0, 3) * smooth_noise(shape, 12, rng)
    neck = np.full(shape, tissues["air"], dtype=np.uint8)
    neck[deep > 0] = tissues["soft tissue"]

    def place(where: np.ndarray, name: str) -> None:
        neck[where & (deep > 2)] = tissues[name]

    def within(ahead: float, depth: float, width: float) -> np.ndarray:
        return ((y + ahead) / depth) ** 2 + (x / width) ** 2

    airway = within(rng.uniform(38, 55), rng.uniform(4, 10), rng.uniform(5, 12))
    place(airway < 1, "skull, air")
    bone = within(ahead := rng.uniform(17, 25), rng.uniform(8, 13), rng.uniform(10, 17))
    place(bone < 1.4, "skull")
    disc = np.broadcast_to((down + rng.uniform(0, 20)) % rng.uniform(15, 21) < rng.uniform(2, 6), shape)
    place(bone < 1, "skull, marrow")
    place((bone < 1.2) & disc, "soft tissue, skin")
    arch = within(0, 1, 1) ** 0.5
    canal, cord_radius = rng.uniform(8, 11), rng.uniform(3.5, 6)
    spine = (np.abs(x) < rng.uniform(2, 5)) & (y > 0) & (y < rng.uniform(20, 40)) & ~disc
    place(spine | ((arch < canal + rng.uniform(1, 4)) & (y > -ahead) & ~disc), "skull, marrow")
    place(arch < canal, "spinal fluid")
    place(arch < cord_radius, "spinal cord")
    return neck


def _depth(bottom: np.ndarray, y: np.ndarray, x: np.ndarray, down: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Approximate depth in mm below the skin, negative outside: from the head's outline over a neck to shoulders."""
    head = ndimage.distance_transform_edt(bottom) - ndimage.distance_transform_edt(~bottom)
    radii = rng.uniform(48, 68, 2)
    shoulders = 1 + (np.maximum(down - rng.uniform(40, 110), 0) / rng.uniform(25, 50)) ** 2
    round_ = np.sqrt(((y + rng.uniform(5, 20)) / radii[0]) ** 2 + (x / (radii[1] * shoulders)) ** 2)
    blend = np.clip(down / rng.uniform(15, 60), 0, 1)
    return ((1 - blend) * head + blend * (1 - round_) * radii.min()).astype(np.float32)


def add_muscles(tissue: np.ndarray, tissues: Mapping[str, int], rng: np.random.Generator) -> None:
    """Divide the soft tissue of a tissue map into muscles with sheets of fat between them, in place."""
    soft = tissue == tissues["soft tissue"]
    kind = smooth_noise(tissue.shape, rng.uniform(8, 20), rng)
    muscle = soft & (kind > rng.uniform(-1.2, 0.3))
    tissue[muscle] = tissues["muscle"]
    sheets = smooth_noise(tissue.shape, rng.uniform(4, 10), rng)
    tissue[muscle & (np.abs(sheets) < rng.uniform(0.02, 0.3))] = tissues["soft tissue, fat"]


def end_brainstem(tissue: np.ndarray, tissues: Mapping[str, int], rng: np.random.Generator) -> None:
    """Turn the brainstem below a tilted plane into spinal cord, in a tissue map with its neck, in place.

    References end it where the atlas does, at the foramen magnum, or a centimetre higher or lower.
    """
    stem = tissue == tissues["brainstem"]
    rows = np.flatnonzero(stem.any((1, 2)))
    if not len(rows):
        return
    tilt = rng.normal(0, 0.25)
    middle = np.nonzero(stem[rows[0] : rows[0] + 20])[1].mean()
    plane = rows[0] + rng.uniform(-2, 14) + tilt * (np.arange(tissue.shape[1]) - middle)
    low = np.arange(rows[0], min(rows[0] + 40, len(tissue)))
    part = slice(low[0], low[-1] + 1)
    tissue[part][stem[part] & (low[:, None, None] < plane[:, None])] = tissues["spinal cord"]
