"""Synthetic heads for training: label maps drawn from a probabilistic atlas, and images drawn from label maps.

The recipe is SynthSeg's (Billot et al., "SynthSeg: Segmentation of brain MRI scans of any contrast and resolution
without retraining", Medical Image Analysis 2023): deform a label map, draw an intensity for every tissue, simulate the
scanner. SynthSeg starts from label maps of people, this from an atlas of probabilities, so an anatomy is drawn first
(`draw_anatomy`).

Arrays are [z, y, x], z to S, y to P, x to L. Anatomies have the atlas's 1 mm; they are deformed onto a grid of half
the model's working spacing, and results have the working spacing. All randomness comes from the numpy generator
passed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from ...images.intensity import normalise
from .cerebellum import add_folia
from .contrast import draw_intensities, paint
from .cortex import refine_cortex
from .labelling_protocol import LabellingProtocol
from .masking import draw_mask
from .meninges import add_meninges
from .neck import DEPTH, add_muscles, add_neck
from .priors import Atlas, draw_tissues
from .random_fields import resized, smooth_noise
from .scalp_and_skull import layer_scalp_and_skull
from .scan_probabilities import TRAINING_SCANS, ScanProbabilities
from .scanner import draw_voxel_size, nearest, scan_grid, simulate_scan
from .ventricles import VentricleWall

SPACING_MM = 2.0  # working spacing of the shipped model
DEEPER, THINNER = (1.6, 2.4), (0.3, 0.65)
"""Ranges of the arguments of `draw_tissues`, chosen so that the shares of cortex, white matter and sulcal fluid, and
the border of grey and white matter, are about those of real heads (`bench synthetic_heads`)."""
CALIBRATION, EVALUATION, SCANS = 7, 11, 13  # random streams of `unseen_heads`


def draw_anatomy(atlas: Atlas, rng: np.random.Generator) -> np.ndarray:
    """A head with its neck, a tissue map uint8 [DEPTH + z, y, x] of 1 mm."""
    tissue = draw_tissues(atlas, rng, deeper=rng.uniform(*DEEPER), thinner=rng.uniform(*THINNER))
    refine_cortex(tissue, atlas, rng)
    add_folia(tissue, atlas, rng)
    add_meninges(tissue, atlas, rng)
    whole = add_neck(tissue, atlas, rng)
    layer_scalp_and_skull(whole, atlas, rng)
    if rng.random() < 0.8:
        add_muscles(whole, atlas.numbers, rng)
    return whole


def deform(
    tissue: np.ndarray,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    step_mm: float = SPACING_MM / 2,
    wall: VentricleWall | None = None,
) -> np.ndarray:
    """A tissue map with its neck under a random affine and elastic deformation: uint8 of `shape`, nearest neighbour.

    Voxels of the result have `step_mm`; with `wall` the size of the ventricles is random too. Windows lie around the
    head, three in ten of them lower, at the neck. Beyond the map its edge voxels are repeated.
    """
    angles = rng.normal(0, np.deg2rad(rng.choice([8, 20], p=[0.6, 0.4])), 3)
    scale, shear = np.diag(np.exp(rng.normal(0, 0.08, 3))), np.eye(3) + rng.normal(0, 0.03, (3, 3))
    matrix = Rotation.from_euler("xyz", angles).as_matrix() @ scale @ shear
    head = np.array(tissue.shape) - [DEPTH, 0, 0]
    slack = np.maximum(0, head - np.array(shape) * step_mm) / 2
    centre = (head - 1) / 2 + [DEPTH, 0, 0] + rng.uniform(-1, 1, 3) * slack + rng.normal(0, [14, 9, 7]) + [-8, 0, 0]
    if rng.random() < 0.3:
        centre[0] -= rng.uniform(0, 60)
    mirror = rng.random() < 0.5
    large, small = rng.uniform(1, 5), rng.uniform(0, 1.8)
    quarter = tuple(-(-n // 4) for n in shape)
    mm = 4 * step_mm
    elastic = [large * smooth_noise(quarter, 30 / mm, rng) + small * smooth_noise(quarter, 11 / mm, rng) for _ in "zyx"]
    shift = np.stack(elastic)
    if wall is not None:
        coarse = [
            np.linspace(-(n - 1) / 2, (n - 1) / 2, q, dtype=np.float32) for n, q in zip(shape, quarter, strict=True)
        ]
        points = _affine(matrix * step_mm, centre, coarse) + shift
        shift = shift + wall.shift(points - np.array([DEPTH, 0, 0], dtype=np.float32)[:, None, None, None], rng)
    where = _affine(matrix * step_mm, centre, [np.arange(n, dtype=np.float32) - (n - 1) / 2 for n in shape])
    flat = np.zeros(shape, dtype=np.int32)
    strides = (tissue.shape[1] * tissue.shape[2], tissue.shape[2], 1)
    for row in range(3):
        last = tissue.shape[row] - 1
        index = np.clip(np.rint(where[row] + resized(shift[row], shape)), 0, last).astype(np.int32)
        flat += (last - index if mirror and row == 2 else index) * strides[row]
    return tissue.ravel()[flat]


def _affine(matrix: np.ndarray, centre: np.ndarray, axes: list[np.ndarray]) -> np.ndarray:
    """Points float32 [3, z, y, x]: `matrix` times the grid of `axes`, plus `centre`."""
    m = matrix.astype(np.float32)
    shifted = [m[:, 0, None] * axes[0] + centre.astype(np.float32)[:, None], *(m[:, n, None] * axes[n] for n in (1, 2))]
    return shifted[0][:, :, None, None] + shifted[1][:, None, :, None] + shifted[2][:, None, None]


def render_scan(
    tissue: np.ndarray,
    atlas: Atlas,
    rng: np.random.Generator,
    step_mm: float,
    probabilities: ScanProbabilities = TRAINING_SCANS,
) -> tuple[np.ndarray, np.ndarray]:
    """A random scan of a deformed tissue map (voxels of `step_mm`) and its labels by a random protocol.

    Normalised image float32 and labels uint8, both at half the tissue map's resolution. Voxels zeroed by skull
    stripping or cutting are background in the labels.
    """
    shape = tuple(n // 2 for n in tissue.shape)
    grid = scan_grid(tissue.shape, step_mm, draw_voxel_size(rng, probabilities.slices))
    keep = draw_mask(tissue, atlas, step_mm, rng, probabilities)
    if keep is not None:
        keep = resized(keep, grid) > 0.5
    visible = None if keep is None else nearest(keep, tissue.shape)
    labels = LabellingProtocol.draw(atlas, rng).label(tissue, visible)
    means = draw_intensities(atlas, rng, probabilities.any_contrast)
    image = simulate_scan(paint(tissue, means, rng), grid, shape, keep, rng, probabilities)
    return normalise(image), labels


def unseen_heads(
    priors: Path,
    shape: tuple[int, ...],
    count: int,
    seed: int,
    stream: int = CALIBRATION,
    spacing_mm: float = SPACING_MM,
    probabilities: ScanProbabilities = TRAINING_SCANS,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`count` heads (image float32, labels uint8, both [z, y, x] of `shape`), each of a new anatomy.

    Their seeds have three parts, those of training two, so none is a training head; the streams CALIBRATION,
    EVALUATION and SCANS have no head in common.
    """
    atlas = Atlas.load(priors)
    wall = VentricleWall.of(atlas)
    for index in range(count):
        rng = np.random.default_rng([seed, index, stream])
        tissue = draw_anatomy(atlas, rng)
        tissue = deform(tissue, tuple(2 * n for n in shape), rng, spacing_mm / 2, wall)
        yield render_scan(tissue, atlas, rng, spacing_mm / 2, probabilities)


class SyntheticHeads(torch.utils.data.IterableDataset):
    """Endless stream of (image float32 [1, z, y, x], labels uint8 [1, z, y, x]), each in one of several `shapes`.

    Small windows show more heads per hour, large ones the whole head; training on both keeps the group norms from
    depending on one field of view. Drawing an anatomy takes longer than deforming and rendering it, so each worker
    keeps `bank` anatomies, replaces one at every fourth use, and renders two scans of every deformed map.
    """

    def __init__(
        self, priors: Path, shapes: list[tuple[int, ...]], seed: int, bank: int = 24, spacing_mm: float = SPACING_MM
    ) -> None:
        super().__init__()
        self.priors, self.shapes, self.seed, self.bank = Path(priors), shapes, seed, bank
        self.spacing_mm = spacing_mm

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        atlas = Atlas.load(self.priors)
        wall = VentricleWall.of(atlas)
        step_mm = self.spacing_mm / 2
        bank: list[np.ndarray] = []
        for count in range(2**62):
            if len(bank) < self.bank:
                bank.append(draw_anatomy(atlas, rng))
            elif count % 4 == 0:
                bank[int(rng.integers(self.bank))] = draw_anatomy(atlas, rng)
            tissue = bank[-1] if len(bank) < self.bank else bank[int(rng.integers(self.bank))]
            shape = self.shapes[int(rng.integers(len(self.shapes)))]
            tissue = deform(tissue, tuple(2 * n for n in shape), rng, step_mm, wall)
            for _ in range(2):
                image, labels = render_scan(tissue, atlas, rng, step_mm)
                yield torch.from_numpy(image)[None], torch.from_numpy(labels)[None]
