"""Accuracy and uncertainty on a head with a reference segmentation.

    python Testing/benchmarks/accuracy.py VOLUME REFERENCE [--model NAME|DIR] [--json FILE]

REFERENCE is a label map with FreeSurfer's numbers on the grid of VOLUME, such as the `seg.nii.gz` that
`python Testing/run.py reference VOLUME DIR` makes with SAMSEG. SAMSEG is not the truth (about 0.87 Dice on cortical
grey matter against surface-based references), and the shipped model is trained on SAMSEG's atlas, so agreement with it
flatters: read the numbers as agreement with a silver reference.

Printed for each structure: Dice of the consensus of the samples, of the direct head, and the ceiling, which is the Dice
that the reference itself reaches after a trip to the working grid and back. Then, for both as source of the maps and
within 10 mm of the brain: how well entropy finds wrong voxels (area under the ROC curve), the expected calibration
error, and the share of wrong voxels at each level of entropy. The model's `map_source` is chosen by the second.

The JSON holds 95 % intervals, too. One head is one case, so they can only say how much hangs on which parts of this
head there are: cubes of 30 mm are resampled (a block bootstrap), not persons.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from diffusion_segmentation.images.resampling import Projection, working_image
from diffusion_segmentation.images.volume import read_volume
from diffusion_segmentation.metrics import calibration_table, dice, error_auroc, interval, table_ece, within
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.segmentation.pipeline import Request, segment

SOURCES = ("samples", "direct")
NEAR_BRAIN_MM = 10.0
ENTROPY_EDGES = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 3.0)
LEVELS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5)
LEVEL_REACH = 0.1
"""Voxels within so many bits of a level count for it."""
BLOCK_MM = 30.0
BINS = 15
FINE = 200
"""Levels of entropy in which the AUROC is resampled; the estimate itself is exact."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("volume", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--model", default="brain-structures")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    folder = models.find(options.model)
    labels = models.read_metadata(folder)["diffusion_segmentation"]["labels"]
    image = read_volume(options.volume)
    reference = by_class(options.reference, image, labels)
    scores = {}
    for source in SOURCES:
        with tempfile.TemporaryDirectory() as temporary:
            model = with_source(folder, source, Path(temporary) / "model")
            request = Request(
                options.volume,
                Path(temporary) / "result",
                str(model),
                options.samples,
                seed=options.seed,
                device="cpu",
                keep_samples=True,
                compress=False,
            )
            report = segment(request).report
            scores[source] = score(reference, request.output, image, report["classes"])
    spacing, classes = report["working_spacing_mm"], report["classes"]
    scores["dice_ceiling"] = dice(ceiling(reference, image, spacing, classes), reference, classes).tolist()
    scores["report"] = report
    print(table(scores, labels))
    if options.json:
        options.json.write_text(json.dumps(scores, indent=2), encoding="utf-8")


def with_source(folder: Path, source: str, copy: Path) -> Path:
    """A copy of a model folder whose consensus and entropy come from `source`."""
    shutil.copytree(folder, copy)
    metadata = models.read_metadata(copy)
    metadata["diffusion_segmentation"].pop("map_prior", None)
    metadata["diffusion_segmentation"]["map_source"] = source
    (copy / models.METADATA).write_text(json.dumps(metadata), encoding="utf-8")
    return copy


def array(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def mean_dice(a: np.ndarray, b: np.ndarray, classes: int) -> float:
    """Dice of two label maps, the mean of the structures."""
    return float(dice(a, b, classes)[1:].mean())


def by_class(path: Path, image: sitk.Image, labels: list[dict]) -> np.ndarray:
    """The reference as class labels uint8 [k, j, i]. Ends the program where it lies on another grid."""
    reference = sitk.ReadImage(str(path))
    same = reference.GetSize() == image.GetSize() and np.allclose(reference.GetOrigin(), image.GetOrigin(), atol=0.01)
    if not same or not np.allclose(reference.GetDirection(), image.GetDirection(), atol=1e-3):
        raise SystemExit("The reference does not lie on the volume's grid; make it from this very volume.")
    numbers = sitk.GetArrayFromImage(reference).round().astype(np.int64)
    classes_of = np.zeros(numbers.shape, np.uint8)
    for entry in labels:
        classes_of[np.isin(numbers, entry["freesurfer"])] = entry["label"]
    return classes_of


def ceiling(reference: np.ndarray, image: sitk.Image, spacing_mm: float, classes: int) -> np.ndarray:
    """The reference after a trip to the working grid and back, uint8 [k, j, i]."""
    parts = []
    for c in range(classes):
        part = sitk.GetImageFromArray((reference == c).astype(np.float32))
        part.CopyInformation(image)
        working = working_image(part, spacing_mm)
        parts.append(sitk.GetArrayFromImage(working))
    p = np.stack(parts)
    projection = Projection(working, image)
    index, size = projection.box
    there = np.zeros(reference.shape, np.uint8)
    there[tuple(slice(a, a + n) for a, n in zip(index[::-1], size[::-1], strict=True))] = projection.labels(
        p / p.sum(0)
    )
    return there


def score(reference: np.ndarray, folder: Path, image: sitk.Image, classes: int) -> dict:
    """Scores of the result files in `folder`; `reference` uint8 [k, j, i] by class."""
    consensus, entropy = array(folder / "segmentation.seg.nrrd"), array(folder / "entropy.nrrd")
    near = within(reference > 0, NEAR_BRAIN_MM, image.GetSpacing()[::-1])
    wrong, bits = (consensus != reference)[near], entropy[near]
    levels = []
    for low, high in pairwise(ENTROPY_EDGES):
        here = (bits >= low) & (bits < high)
        share = float(wrong[here].mean()) if here.any() else None
        levels.append({"bits": [low, high], "voxels": int(here.sum()), "wrong": share})
    at_levels = [wrong[np.abs(bits - level) <= LEVEL_REACH] for level in LEVELS]
    confidences = confidence(folder, image)[near]
    table = calibration_table(confidences, ~wrong, BINS)
    counts, *sums = (np.where(table[0] > 0, row, np.nan) for row in table)
    return {
        "dice": dice(consensus, reference, classes).tolist(),
        "error_auroc": error_auroc(bits, wrong),
        "ece": table_ece(table),
        "wrong": float(wrong.mean()),
        "entropy_bits": float(bits.mean()),
        "levels": levels,
        "at_levels": [float(part.mean()) if part.size else None for part in at_levels],
        "intervals": intervals(reference, consensus, near, bits, confidences, image.GetSpacing()[::-1], classes),
        "reliability": {
            "counts": table[0].astype(int).tolist(),
            **{
                key: np.where(np.isfinite(counts), row / counts, None).tolist()
                for key, row in zip(("confidence", "accuracy"), sums, strict=True)
            },
        },
    }


def intervals(
    reference: np.ndarray,
    consensus: np.ndarray,
    near: np.ndarray,
    bits: np.ndarray,
    sure: np.ndarray,
    spacing_mm: tuple[float, float, float],
    classes: int,
) -> dict:
    """95 % intervals [low, high] over blocks of each class's Dice, their mean, the AUROC and the calibration error."""
    block = np.zeros(reference.shape, np.int64)
    for axis, mm in enumerate(spacing_mm):
        at = (np.arange(reference.shape[axis]) * mm // BLOCK_MM).astype(np.int64)
        block = block * (at[-1] + 1) + at.reshape(-1, *[1] * (2 - axis))
    numbers, block = np.unique(block, return_inverse=True)
    block = block.reshape(reference.shape)

    def sums(key: np.ndarray, where: np.ndarray, kinds: int, weights: np.ndarray | None = None) -> np.ndarray:
        """Counts, or sums of the weights, float64 [blocks, kinds]."""
        flat = block[where] * kinds + key
        return np.bincount(flat, weights, len(numbers) * kinds).reshape(len(numbers), kinds)

    everywhere = np.ones_like(near)
    hits = sums(reference.ravel(), everywhere, classes, (reference == consensus).ravel())
    sizes = sum(sums(part.ravel(), everywhere, classes) for part in (reference, consensus))

    def overlaps(resampled: np.ndarray) -> np.ndarray:
        both, size = resampled.sum(0)
        return 2 * both[1:] / np.maximum(size[1:], 1)

    wrong = (consensus != reference)[near]
    edges = np.unique(np.quantile(bits, np.linspace(0, 1, FINE)))
    level = np.searchsorted(edges, bits)
    ranked = np.stack([sums(level, near, FINE + 1, part) for part in (wrong, ~wrong)], 1)
    bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    held = np.stack([sums(bins, near, BINS, part) for part in (np.ones_like(sure), sure, ~wrong)], 1)

    def auroc(resampled: np.ndarray) -> float:
        errors, rights = resampled.sum(0)
        below = np.cumsum(rights) - rights / 2
        return float((errors * below).sum() / (errors.sum() * rights.sum()))

    def calibration(resampled: np.ndarray) -> float:
        count, predicted, right = resampled.sum(0)
        return float(np.abs(predicted - right).sum() / count.sum())

    def bounds(values: np.ndarray, statistic: Callable[[np.ndarray], float]) -> list[float]:
        result = interval(values, 0.95, np.random.default_rng(0), 500, statistic)
        return [result.low, result.high]

    both = np.stack([hits, sizes], 1)
    return {
        "dice": [bounds(both, lambda resampled, c=c: overlaps(resampled)[c]) for c in range(classes - 1)],
        "mean_dice": bounds(both, lambda resampled: overlaps(resampled).mean()),
        "error_auroc": bounds(ranked, auroc),
        "ece": bounds(held, calibration),
    }


def confidence(folder: Path, image: sitk.Image) -> np.ndarray:
    """Probability of the most probable class, float32 [k, j, i]; 1 outside the body, where all is background."""
    stored = sitk.ReadImage(str(folder / "probabilities.seq.nrrd"))
    highest = sitk.GetArrayFromImage(stored).max(-1).astype(np.float32) / 255
    start = image.TransformPhysicalPointToIndex(stored.GetOrigin())[::-1]
    everywhere = np.ones(image.GetSize()[::-1], np.float32)
    everywhere[tuple(slice(a, a + n) for a, n in zip(start, highest.shape, strict=True))] = highest
    return everywhere


def table(scores: dict, labels: list[dict]) -> str:
    """Everything as text."""
    columns = [scores["samples"]["dice"], scores["direct"]["dice"], scores["dice_ceiling"]]
    lines = [f"{'Dice':<24}{'samples':>9}{'direct':>9}{'ceiling':>9}"]
    for entry in labels:
        lines.append(f"{entry['name']:<24}" + "".join(f"{column[entry['label']]:>9.3f}" for column in columns))
    lines.append(f"{'mean':<24}" + "".join(f"{np.mean(column[1:]):>9.3f}" for column in columns))
    lines += ["", f"within {NEAR_BRAIN_MM:.0f} mm of the brain"]
    for key, what in (("wrong", "wrong voxels"), ("error_auroc", "AUROC of entropy"), ("ece", "calibration error")):
        lines.append(f"{what:<24}" + "".join(f"{scores[source][key]:>9.3f}" for source in SOURCES))
    lines += ["", "wrong voxels at entropy, bits"]
    for rows in zip(*(scores[source]["levels"] for source in SOURCES), strict=True):
        low, high = rows[0]["bits"]
        shares = ("-" if row["wrong"] is None else f"{row['wrong']:.1%}" for row in rows)
        lines.append(f"{f'{low:.1f} to {high:.1f}':<24}" + "".join(f"{share:>9}" for share in shares))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
