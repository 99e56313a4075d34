"""Atlases as `training/synthetic_heads/atlas.py` writes them, small and of simple shapes."""

from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import ndimage

from diffusion_segmentation.training.synthetic_heads.atlas import TISSUES

NAMES = list(TISSUES)
CLASSES = np.array([label for _, label in TISSUES.values()], np.uint8)


def shells(path: Path) -> Path:
    """A head of shells, one for each tissue, whose borders are uncertain by some voxels."""
    z, y, x = np.ogrid[:40, :44, :40]
    radius = np.sqrt((z - 20) ** 2 + (y - 22) ** 2 + (x - 20) ** 2)
    borders = np.linspace(19, 3, len(NAMES) - 1)
    inside = [np.ones_like(radius)] + [1 / (1 + np.exp((radius - b) / 0.5)) for b in borders] + [np.zeros_like(radius)]
    priors = np.stack([np.round(255 * (a - b)) for a, b in pairwise(inside)]).clip(0, 255).astype(np.uint8)
    np.savez(path, priors=priors, tissues=np.array(NAMES), classes=CLASSES)
    return path


def brain(path: Path) -> Path:
    """A head with a cerebrum, ventricles with a caudate about them, a cerebellum and a brainstem, blurred by 2 mm."""
    z, y, x = np.ogrid[:104, :112, :96]
    z, y, x = z - 52, y - 56, x - 47.5
    radius = np.sqrt(z**2 + (y / 1.1) ** 2 + x**2)
    ahead = np.sqrt((z + 22) ** 2 + (y - 26) ** 2 + (x / 1.3) ** 2)
    named = np.full(radius.shape, NAMES.index("air"), np.uint8)
    for name, where in (
        ("soft tissue", radius < 46),
        ("skull", radius < 41),
        ("csf", radius < 37),
        ("cerebral cortex", radius < 34),
        ("cerebral white matter", radius < 27),
        ("csf", (radius < 37) & (ahead < 18)),
        ("cerebellar cortex", (radius < 37) & (ahead < 15)),
        ("cerebellar white matter", (radius < 37) & (ahead < 7)),
        ("csf", (z < -8) & (z > -40) & (np.hypot(y, x) < 10)),
        ("soft tissue", (z < -40) & (np.hypot(y, x) < 12)),
        ("brainstem", (z < -5) & (np.hypot(y, x) < 7)),
        ("caudate and accumbens", (radius < 13) & (z > -5)),
        ("ventricles", radius < 10),
    ):
        named[np.broadcast_to(where, named.shape)] = NAMES.index(name)
    shares = np.stack([ndimage.gaussian_filter((named == n).astype(np.float32), 2.0) for n in range(len(NAMES))])
    np.savez(path, priors=np.round(255 * shares).astype(np.uint8), tissues=np.array(NAMES), classes=CLASSES)
    return path
