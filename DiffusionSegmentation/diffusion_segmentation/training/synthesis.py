"""Heads that never were: label maps drawn from a probabilistic atlas, and images drawn from label maps.

The recipe is SynthSeg's (Billot et al., "SynthSeg: Segmentation of brain MRI scans of any contrast and resolution
without retraining", Medical Image Analysis 2023): deform a label map, give every tissue an intensity of its own, then
spoil the image as scanners do. Where SynthSeg starts from label maps of people, this starts from an atlas of
probabilities, so a label map must be drawn first (`draw_tissues`).

Arrays are [z, y, x], z to S, y to P, x to L. Label maps have the atlas's 1 mm; what is handed out has the model's
working spacing, 2 mm. All randomness comes from the numpy generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from scipy.special import ndtr
from torch.nn import functional

from ..intensity import normalise
from .fields import smooth_noise
from .neck import DEPTH, muscles, neck

# Mean and spread of each tissue's intensity in a T1-weighted image, on a scale where white matter is near 0.9. Read by
# name, so that the atlas file decides which tissues there are.
T1: dict[str, tuple[float, float]] = {
    "air": (0.02, 0.02),
    "soft tissue": (0.40, 0.12),
    "soft tissue, fat": (1.05, 0.25),
    "soft tissue, skin": (0.60, 0.20),
    "eye fluid": (0.22, 0.08),
    "skull": (0.08, 0.06),
    "skull, marrow": (0.70, 0.25),
    "skull, air": (0.03, 0.03),
    "optic chiasm": (0.75, 0.08),
    "csf": (0.20, 0.08),
    "cerebellar cortex": (0.56, 0.06),
    "cerebral cortex": (0.56, 0.06),
    "hippocampus and amygdala": (0.59, 0.06),
    "cerebellar white matter": (0.86, 0.05),
    "vessel": (0.45, 0.30),
    "cerebral white matter": (0.90, 0.04),
    "brainstem": (0.83, 0.06),
    "ventral diencephalon": (0.78, 0.06),
    "pallidum": (0.80, 0.06),
    "putamen": (0.66, 0.06),
    "thalamus": (0.72, 0.06),
    "caudate and accumbens": (0.61, 0.06),
    "choroid plexus": (0.40, 0.12),
    "ventricles": (0.17, 0.06),
    "muscle": (0.50, 0.10),
    "spinal cord": (0.82, 0.07),
    "spinal fluid": (0.20, 0.08),
}
# Tissues that the atlas does not divide but every scan shows divided: patches of each take the place of the whole.
PATCHES = {"soft tissue": ("soft tissue, fat", "soft tissue, skin"), "skull": ("skull, marrow", "skull, air")}
# Tissues of the neck alone: below the atlas, and background.
NECK = ("muscle", "spinal cord", "spinal fluid")
# What is left of a head after skull stripping starts with this tissue in the atlas's order, outside inwards.
FIRST_INSIDE = "csf"


@dataclass(frozen=True)
class Atlas:
    """Tissue priors uint8 [tissues, z, y, x] (255 = 1), and of each tissue, patches included, name and class label."""

    priors: np.ndarray
    tissues: tuple[str, ...]
    classes: np.ndarray
    inside: np.ndarray

    @classmethod
    def load(cls, path: Path) -> Atlas:
        """Read what `training/atlas.py` wrote. Raises OSError or KeyError when the file is missing or another."""
        with np.load(path, allow_pickle=False) as file:
            priors, names, classes = file["priors"], [str(n) for n in file["tissues"]], list(file["classes"])
        inside = [names.index(n) >= names.index(FIRST_INSIDE) for n in names]
        for whole, patches in PATCHES.items():
            for patch in patches:
                names.append(patch)
                classes.append(classes[names.index(whole)])
                inside.append(inside[names.index(whole)])
        names += NECK
        classes += [0] * len(NECK)
        inside += [False] * len(NECK)
        return cls(priors, tuple(names), np.array(classes, dtype=np.int64), np.array(inside))

    @property
    def numbers(self) -> dict[str, int]:
        """The number of each tissue in a tissue map, by its name."""
        return {name: number for number, name in enumerate(self.tissues)}


def draw_tissues(atlas: Atlas, rng: np.random.Generator) -> np.ndarray:
    """A tissue map uint8 [z, y, x] whose marginals are the atlas's priors.

    One Gaussian field, turned into uniforms u, picks the tissue at each voxel: the first whose cumulative prior, summed
    outside inwards, exceeds u. So each tissue appears with its prior's probability, and because the order is that of
    anatomy, the cortex comes out as a folded sheet between fluid and white matter and not as salt and pepper.
    """
    shape = atlas.priors.shape[1:]
    weights = rng.dirichlet([2.0, 2.0, 1.0])
    scales = (rng.uniform(2.0, 3.5), rng.uniform(4.0, 8.0), rng.uniform(12.0, 30.0))
    field = sum(np.sqrt(w) * smooth_noise(shape, s, rng) for w, s in zip(weights, scales, strict=True))
    threshold = (ndtr(field) * 255).astype(np.float32)
    tissue = np.zeros(shape, dtype=np.uint8)
    cumulative = np.zeros(shape, dtype=np.uint16)
    for prior in atlas.priors[:-1]:
        cumulative += prior
        tissue += cumulative <= threshold
    for whole, patches in PATCHES.items():
        patch = smooth_noise(shape, rng.uniform(4, 10), rng)
        here = tissue == atlas.tissues.index(whole)
        thick, thin = (atlas.tissues.index(name) for name in patches)
        tissue[here & (patch > rng.uniform(-0.5, 1.0))] = thick
        tissue[here & (patch < -rng.uniform(0.5, 1.5))] = thin
    return tissue


def with_neck(tissue: np.ndarray, atlas: Atlas, rng: np.random.Generator) -> np.ndarray:
    """A tissue map uint8 [z, y, x] with a neck of DEPTH slices below, and with muscles in its soft tissue."""
    numbers = atlas.numbers
    low = tissue[: max(1, len(tissue) // 12)]
    bottom = ndimage.binary_opening(np.median(low != numbers["air"], axis=0) > 0.5, iterations=2)
    stem = low == numbers["brainstem"]
    cord = ndimage.center_of_mass(stem)[1:] if stem.any() else ((tissue.shape[1] - 1) / 2, (tissue.shape[2] - 1) / 2)
    whole = np.concatenate([neck(bottom, cord, numbers, rng), tissue])
    if rng.random() < 0.8:
        muscles(whole, numbers, rng)
    return whole


def deform(tissue: np.ndarray, shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """A tissue map with its neck, at random affine + elastic positions: uint8 of `shape`, 1 mm, nearest neighbour.

    Windows lie about the head, three in ten of them lower, at the neck. Beyond the map its edge goes on.
    """
    angles = rng.normal(0, np.deg2rad(rng.choice([8, 20], p=[0.6, 0.4])), 3)
    matrix = _rotation(angles) @ np.diag(np.exp(rng.normal(0, 0.08, 3))) @ (np.eye(3) + rng.normal(0, 0.03, (3, 3)))
    head = np.array(tissue.shape) - [DEPTH, 0, 0]
    slack = np.maximum(0, head - shape) / 2
    centre = (head - 1) / 2 + [DEPTH, 0, 0] + rng.uniform(-1, 1, 3) * slack + rng.normal(0, [14, 9, 7]) + [-8, 0, 0]
    if rng.random() < 0.3:
        centre[0] -= rng.uniform(0, 60)
    mirror = rng.random() < 0.5
    axes = [np.arange(n, dtype=np.float32) - (n - 1) / 2 for n in shape]
    flat = np.zeros(shape, dtype=np.int32)
    strides = (tissue.shape[1] * tissue.shape[2], tissue.shape[2], 1)
    large, small = rng.uniform(1, 5), rng.uniform(0, 1.8)
    quarter = tuple(-(-n // 4) for n in shape)
    for row in range(3):
        where = (
            (matrix[row, 0] * axes[0] + centre[row])[:, None, None]
            + (matrix[row, 1] * axes[1])[:, None]
            + matrix[row, 2] * axes[2]
        ).astype(np.float32)
        elastic = large * smooth_noise(quarter, 30 / 4, rng) + small * smooth_noise(quarter, 11 / 4, rng)
        elastic = torch.from_numpy(elastic)[None, None]
        where += functional.interpolate(elastic, size=shape, mode="trilinear")[0, 0].numpy()
        last = tissue.shape[row] - 1
        index = np.clip(np.rint(where), 0, last).astype(np.int32)
        flat += (last - index if mirror and row == 2 else index) * strides[row]
    return tissue.ravel()[flat]


def _rotation(angles: np.ndarray) -> np.ndarray:
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return z @ y @ x


def intensities(atlas: Atlas, rng: np.random.Generator) -> np.ndarray:
    """A mean intensity float32 for each tissue: T1-like in seven of eight draws, any contrast in the eighth."""
    means, spreads = np.array([T1[name] for name in atlas.tissues], dtype=np.float32).T
    if rng.random() < 0.125:
        return rng.uniform(0, 1, len(means)).astype(np.float32)
    # Scanners differ most in how far grey and white matter stand apart: all tissues move along that line together.
    means = 0.9 - (0.9 - means) * rng.uniform(0.6, 1.25)
    return np.maximum(means + spreads * rng.standard_normal(len(means), dtype=np.float32), 0)


def render(tissue: np.ndarray, atlas: Atlas, rng: np.random.Generator) -> np.ndarray:
    """An image float32 at half the tissue map's resolution, as a scanner might have taken it, not yet normalised."""
    means = intensities(atlas, rng)
    if rng.random() < 0.12:
        means = np.where(atlas.inside, means, 0)  # skull-stripped
        if rng.random() < 0.5:
            means[atlas.tissues.index(FIRST_INSIDE)] = 0
    image = means[tissue]
    image *= 1 + _log_uniform(rng, 0.004, 0.1) * smooth_noise(tissue.shape, rng.uniform(2, 6), rng)
    image = torch.from_numpy(image)[None, None]
    if rng.random() < 0.35:
        image = _thick_slices(image, int(rng.integers(3)), int(rng.integers(2, 7)))
    image = functional.avg_pool3d(image, 2)[0, 0].numpy()
    if rng.random() < 0.4:
        image = ndimage.gaussian_filter(image, rng.uniform(0.2, 0.8))
    image = image * np.exp(rng.uniform(0, 0.35) * smooth_noise(image.shape, rng.uniform(25, 50), rng))
    noise = _log_uniform(rng, 0.002, 0.08)
    real = image + noise * rng.standard_normal(image.shape, dtype=np.float32)
    image = np.hypot(real, noise * rng.standard_normal(image.shape, dtype=np.float32))  # Rician, as magnitudes are
    return image ** np.float32(np.exp(rng.normal(0, 0.15)))


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Clean images as often as spoilt ones: only then does the model learn that a clean one leaves less in doubt."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _thick_slices(image: torch.Tensor, axis: int, thickness: int) -> torch.Tensor:
    """Average over `thickness` voxels along one axis and interpolate back, as a 2-D acquisition is resampled."""
    kernel = [1, 1, 1]
    kernel[axis] = thickness
    thick = functional.avg_pool3d(image, kernel, ceil_mode=True)
    return functional.interpolate(thick, size=image.shape[2:], mode="trilinear")


def majority(tissue: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Class labels uint8 at half the tissue map's resolution: the commonest class among eight voxels."""
    labels = classes.astype(np.uint8)[tissue]
    z, y, x = (n // 2 for n in labels.shape)
    cells = labels.reshape(z, 2, y, 2, x, 2).transpose(0, 2, 4, 1, 3, 5).reshape(z, y, x, 8)
    votes = np.zeros((int(classes.max()) + 1, z, y, x), dtype=np.uint8)
    for label in range(len(votes)):
        votes[label] = (cells == label).sum(-1, dtype=np.uint8)
    return votes.argmax(0).astype(np.uint8)


CALIBRATION, EVALUATION = 7, 11


def unseen_heads(
    priors: Path, shape: tuple[int, ...], count: int, seed: int, stream: int = CALIBRATION
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`count` heads (image float32, labels uint8, both [z, y, x] of `shape` at 2 mm), each from its own tissue map.

    Their seeds have three parts and those of training two, so that none of them is trained on; of another `stream`
    (CALIBRATION, EVALUATION) none is the same either.
    """
    atlas = Atlas.load(priors)
    for index in range(count):
        rng = np.random.default_rng([seed, index, stream])
        tissue = with_neck(draw_tissues(atlas, rng), atlas, rng)
        tissue = deform(tissue, tuple(2 * n for n in shape), rng)
        yield normalise(render(tissue, atlas, rng)), majority(tissue, atlas.classes)


class SyntheticHeads(torch.utils.data.IterableDataset):
    """An endless stream of (image float32 [1, z, y, x], labels uint8 [1, z, y, x]) at 2 mm, in one of several `shapes`.

    Small windows show more heads an hour, large ones the whole head; training on both keeps the group norms from
    relying on one field of view.

    Drawing and deforming a tissue map takes longer than rendering it, so each worker keeps `bank` maps of which it
    replaces one at every fourth use, and gives every deformed map two faces.
    """

    def __init__(self, priors: Path, shapes: list[tuple[int, int, int]], seed: int, bank: int = 24) -> None:
        super().__init__()
        self.priors, self.shapes, self.seed, self.bank = Path(priors), shapes, seed, bank

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        atlas = Atlas.load(self.priors)
        maps: list[np.ndarray] = []
        for count in range(2**62):
            if len(maps) < self.bank:
                maps.append(with_neck(draw_tissues(atlas, rng), atlas, rng))
            elif count % 4 == 0:
                maps[int(rng.integers(self.bank))] = with_neck(draw_tissues(atlas, rng), atlas, rng)
            tissue = maps[-1] if len(maps) < self.bank else maps[int(rng.integers(self.bank))]
            shape = self.shapes[int(rng.integers(len(self.shapes)))]
            tissue = deform(tissue, tuple(2 * n for n in shape), rng)
            labels = torch.from_numpy(majority(tissue, atlas.classes))[None]
            for _ in range(2):
                yield torch.from_numpy(normalise(render(tissue, atlas, rng)))[None], labels
