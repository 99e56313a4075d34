"""Accuracy and uncertainty on a head with a reference segmentation.

    python Testing/benchmarks/accuracy.py VOLUME REFERENCE [--model NAME|DIR] [--json FILE]

REFERENCE is a label map with FreeSurfer's numbers on the grid of VOLUME, such as the `seg.nii.gz` that
`python Testing/run.py reference VOLUME DIR` makes with SAMSEG. SAMSEG is not the truth (about 0.87 Dice on cortical
grey matter against surface-based references), and the shipped model is trained on SAMSEG's atlas, so agreement with it
flatters: read the numbers as agreement with a silver reference.

Printed for each structure: Dice of the consensus, of the direct head alone, and the ceiling, which is the Dice that the
reference itself reaches after a trip to the working grid and back. Then how well entropy finds wrong voxels: the area
under the ROC curve within 10 mm of the brain, and the share of wrong voxels at each level of entropy.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from diffusion_segmentation import model as models
from diffusion_segmentation.metrics import dice, error_auroc, within
from diffusion_segmentation.segment import Request, segment
from diffusion_segmentation.volume import Projection, read_volume, working_image

NEAR_BRAIN_MM = 10.0
ENTROPY_EDGES = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 3.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("volume", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--model", default="brain-structures")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    labels = models.read_metadata(models.find(options.model))["diffusion_segmentation"]["labels"]
    image = read_volume(options.volume)
    reference = by_class(options.reference, image, labels)
    with tempfile.TemporaryDirectory() as folder:
        request = Request(
            options.volume,
            Path(folder),
            options.model,
            options.samples,
            seed=options.seed,
            device="cpu",
            previews=True,
            compress=False,
        )
        report = segment(request).report
        consensus = array(Path(folder) / "segmentation.seg.nrrd")
        direct = array(Path(folder) / "preview-0.seg.nrrd")
        entropy = array(Path(folder) / "entropy.nrrd")
    scores = score(reference, consensus, direct, entropy, image, report["working_spacing_mm"], labels)
    scores["report"] = report
    print(table(scores, labels))
    if options.json:
        options.json.write_text(json.dumps(scores, indent=2), encoding="utf-8")


def array(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def by_class(path: Path, image: sitk.Image, labels: list[dict]) -> np.ndarray:
    """The reference as class labels uint8 [k, j, i]. Ends the program where it lies on another grid."""
    reference = sitk.ReadImage(str(path))
    same = reference.GetSize() == image.GetSize() and np.allclose(reference.GetOrigin(), image.GetOrigin(), atol=0.01)
    if not same or not np.allclose(reference.GetDirection(), image.GetDirection(), atol=1e-3):
        raise SystemExit("The reference does not lie on the volume's grid; make it from this very volume.")
    numbers = sitk.GetArrayFromImage(reference).round().astype(np.int64)
    found = np.zeros(numbers.shape, np.uint8)
    for entry in labels:
        found[np.isin(numbers, entry["freesurfer"])] = entry["label"]
    return found


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


def score(reference, consensus, direct, entropy, image, spacing_mm, labels) -> dict:
    classes = len(labels) + 1
    near = within(reference > 0, NEAR_BRAIN_MM, image.GetSpacing()[::-1])
    wrong, bits = (consensus != reference)[near], entropy[near]
    levels = []
    for low, high in pairwise(ENTROPY_EDGES):
        here = (bits >= low) & (bits < high)
        levels.append(
            {"bits": [low, high], "voxels": int(here.sum()), "wrong": float(wrong[here].mean()) if here.any() else None}
        )
    return {
        "dice": dice(consensus, reference, classes).tolist(),
        "dice_direct": dice(direct, reference, classes).tolist(),
        "dice_ceiling": dice(ceiling(reference, image, spacing_mm, classes), reference, classes).tolist(),
        "error_auroc": error_auroc(bits, wrong),
        "wrong": float(wrong.mean()),
        "levels": levels,
    }


def table(scores: dict, labels: list[dict]) -> str:
    lines = [f"{'structure':<24}{'Dice':>8}{'direct':>8}{'ceiling':>9}"]
    for entry in labels:
        values = (scores[key][entry["label"]] for key in ("dice", "dice_direct", "dice_ceiling"))
        lines.append("{:<24}{:>8.3f}{:>8.3f}{:>9.3f}".format(entry["name"], *values))
    means = (float(np.mean(scores[key][1:])) for key in ("dice", "dice_direct", "dice_ceiling"))
    lines.append("{:<24}{:>8.3f}{:>8.3f}{:>9.3f}".format("mean", *means))
    lines.append(
        f"within {NEAR_BRAIN_MM:.0f} mm of the brain: {scores['wrong']:.1%} of voxels differ; "
        f"entropy finds them with AUROC {scores['error_auroc']:.3f}"
    )
    lines.append(f"{'entropy, bits':<24}{'voxels':>10}{'wrong':>8}")
    for level in scores["levels"]:
        wrong = "-" if level["wrong"] is None else f"{level['wrong']:.1%}"
        lines.append(f"{level['bits'][0]:.1f} to {level['bits'][1]:<17.1f}{level['voxels']:>10}{wrong:>8}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
