"""Accuracy and entropy of one head that is rotated, cropped, resampled or disturbed.

    python Testing/benchmarks/robustness.py VOLUME REFERENCE [--model NAME|DIR] [--samples N] [--only NAME]
    python Testing/benchmarks/robustness.py --again VOLUME VOLUME

The first form takes a head and its reference as `accuracy.py` does, makes variants of both and prints for each the mean
Dice over the structures against the variant's own reference, its difference to the head as it is, and the mean entropy
within 10 mm of the brain. Only headers change where a head is turned, so the reference loses nothing. The second form
segments two scans of one person and prints each structure's two volumes, their difference, and that in units of the
mean width of the two 90 % intervals.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from accuracy import NEAR_BRAIN_MM, array, by_class
from scipy import ndimage

from diffusion_segmentation.images.volume import read_volume
from diffusion_segmentation.metrics import dice, within
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.segmentation.pipeline import Request, segment

NOISE = (0.02, 0.04, 0.06, 0.09, 0.12)
"""Standard deviations of the added Rician noise, as shares of the image's 99th percentile."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("volume", type=Path)
    parser.add_argument("reference", type=Path, help="with --again the second scan")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--model", default="brain-structures")
    parser.add_argument("--samples", type=int, default=2, help="default: %(default)s; with --again 8")
    parser.add_argument("--only", action="append")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = repeatability(options) if options.again else robustness(options)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")


def robustness(options: argparse.Namespace) -> list[dict]:
    labels = models.read_metadata(models.find(options.model))["diffusion_segmentation"]["labels"]
    image = read_volume(options.volume)
    reference = sitk.GetImageFromArray(by_class(options.reference, image, labels))
    reference.CopyInformation(image)
    rows, first = [], None
    print(f"{'variant':<24}{'Dice':>8}{'change':>9}{'entropy, bits':>15}")
    for name, changed, truth in variants(image, reference, len(labels) + 1):
        if options.only and name not in options.only and name != "as it is":
            continue
        scored = score(changed, truth, options.model, options.samples, len(labels) + 1)
        first = scored["mean_dice"] if first is None else first
        rows.append({"variant": name, **scored, "change": scored["mean_dice"] - first})
        print(
            f"{name:<24}{scored['mean_dice']:>8.3f}{rows[-1]['change']:>+9.3f}{scored['entropy_bits']:>15.3f}",
            flush=True,
        )
    return rows


def variants(image: sitk.Image, reference: sitk.Image, classes: int) -> Iterator[tuple[str, sitk.Image, sitk.Image]]:
    """(name, image, class labels) of the head in other guises."""
    yield "as it is", image, reference
    yield "flipped left-right", mirrored(image), mirrored(reference)
    for axis, name in enumerate(("left-right", "front-back", "head-foot")):
        yield f"20 degrees, {name}", *(turned(part, axis, np.deg2rad(20)) for part in (image, reference))
    yield "axes permuted", *(sitk.PermuteAxes(part, [2, 0, 1]) for part in (image, reference))
    yield "neck cropped", *cropped(image, reference)
    for name, spacing in (("2 mm", (2, 2, 2)), ("0.7 mm", (0.7, 0.7, 0.7)), ("1 x 1 x 5 mm", (1, 1, 5))):
        yield name, resampled(image, spacing), relabelled(reference, spacing, classes)
    yield "brain extracted", extracted(image, reference), reference
    for level in NOISE:
        yield f"noise {level:.0%}", noisy(image, level), reference


def mirrored(image: sitk.Image) -> sitk.Image:
    """The head's mirror image: voxels reversed along the axis nearest to left-right, the header as it was."""
    axis = int(np.argmax(np.abs(np.reshape(image.GetDirection(), (3, 3))[0])))
    flipped = sitk.GetImageFromArray(np.flip(sitk.GetArrayViewFromImage(image), 2 - axis).copy())
    flipped.CopyInformation(image)
    return flipped


def turned(image: sitk.Image, axis: int, angle: float) -> sitk.Image:
    """The head turned about an LPS axis through the image's centre: only its header changes."""
    c, s = np.cos(angle), np.sin(angle)
    turn = np.eye(3)
    a, b = [n for n in range(3) if n != axis]
    turn[a, a], turn[a, b], turn[b, a], turn[b, b] = c, -s, s, c
    centre = np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))
    result = sitk.Image(image)
    result.SetDirection((turn @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
    result.SetOrigin((centre + turn @ (np.array(image.GetOrigin()) - centre)).tolist())
    return result


def cropped(image: sitk.Image, reference: sitk.Image) -> tuple[sitk.Image, sitk.Image]:
    """What lies more than 5 mm below the brain is cut off."""
    axis = int(np.argmax(np.abs(np.reshape(image.GetDirection(), (3, 3))[2])))
    up = np.reshape(image.GetDirection(), (3, 3))[2, axis] > 0
    where = np.nonzero((sitk.GetArrayViewFromImage(reference) > 0).any(tuple(n for n in range(3) if n != 2 - axis)))[0]
    margin = round(5 / image.GetSpacing()[axis])
    size, start = list(image.GetSize()), [0, 0, 0]
    if up:
        start[axis] = max(0, int(where[0]) - margin)
        size[axis] -= start[axis]
    else:
        size[axis] = min(size[axis], int(where[-1]) + margin + 1)
    return tuple(sitk.RegionOfInterest(part, size, start) for part in (image, reference))


def grid(image: sitk.Image, spacing_mm: tuple[float, float, float]) -> sitk.ResampleImageFilter:
    """Resampling to another spacing along the image's own axes, over the same field of view."""
    old, size = np.array(image.GetSpacing()), np.array(image.GetSize())
    new = np.array(spacing_mm, float)
    resample = sitk.ResampleImageFilter()
    resample.SetSize([int(n) for n in np.maximum(1, np.round(size * old / new))])
    resample.SetOutputSpacing(new.tolist())
    resample.SetOutputDirection(image.GetDirection())
    resample.SetOutputOrigin(image.TransformContinuousIndexToPhysicalPoint(((new / old - 1) / 2).tolist()))
    resample.SetInterpolator(sitk.sitkLinear)
    return resample


def blurred(image: sitk.Image, spacing_mm: tuple[float, float, float]) -> sitk.Image:
    """Averaged along each axis over the new voxel where it is the wider, as a scanner would."""
    width = [max(1, round(new / old)) for new, old in zip(spacing_mm, image.GetSpacing(), strict=True)]
    values = ndimage.uniform_filter(sitk.GetArrayFromImage(image).astype(np.float32), width[::-1], mode="nearest")
    result = sitk.GetImageFromArray(values)
    result.CopyInformation(image)
    return result


def resampled(image: sitk.Image, spacing_mm: tuple[float, float, float]) -> sitk.Image:
    return grid(image, spacing_mm).Execute(blurred(image, spacing_mm))


def relabelled(reference: sitk.Image, spacing_mm: tuple[float, float, float], classes: int) -> sitk.Image:
    """The class that fills most of each new voxel."""
    labels = sitk.GetArrayViewFromImage(reference)
    shares = []
    for c in range(classes):
        part = sitk.GetImageFromArray((labels == c).astype(np.float32))
        part.CopyInformation(reference)
        shares.append(sitk.GetArrayFromImage(resampled(part, spacing_mm)))
    result = sitk.GetImageFromArray(np.argmax(shares, 0).astype(np.uint8))
    result.CopyInformation(grid(reference, spacing_mm).Execute(reference))
    return result


def extracted(image: sitk.Image, reference: sitk.Image) -> sitk.Image:
    """What is more than 2 mm away from the brain is set to 0."""
    near = within(sitk.GetArrayViewFromImage(reference) > 0, 2.0, image.GetSpacing()[::-1])
    result = sitk.GetImageFromArray(sitk.GetArrayFromImage(image) * near)
    result.CopyInformation(image)
    return result


def noisy(image: sitk.Image, level: float) -> sitk.Image:
    """Rician noise, the same draw at every level."""
    values = sitk.GetArrayFromImage(image).astype(np.float32)
    sd = level * np.percentile(values, 99)
    rng = np.random.default_rng(0)
    real, imaginary = (sd * rng.standard_normal(values.shape, dtype=np.float32) for _ in range(2))
    result = sitk.GetImageFromArray(np.hypot(values + real, imaginary))
    result.CopyInformation(image)
    return result


def score(image: sitk.Image, reference: sitk.Image, model: str, samples: int, classes: int) -> dict:
    """Dice of the consensus for each structure and in the mean, and the mean entropy near the brain."""
    truth = sitk.GetArrayFromImage(reference)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "head.nrrd"
        sitk.WriteImage(image, str(path))
        output = Path(temporary) / "result"
        segment(Request(path, output, model, samples, device="cpu", compress=False))
        overlap = dice(array(output / "segmentation.seg.nrrd"), truth, classes)[1:]
        near = within(truth > 0, NEAR_BRAIN_MM, image.GetSpacing()[::-1])
        bits = float(array(output / "entropy.nrrd")[near].mean())
    return {"dice": overlap.tolist(), "mean_dice": float(overlap.mean()), "entropy_bits": bits}


def repeatability(options: argparse.Namespace) -> list[dict]:
    reports = []
    for path in (options.volume, options.reference):
        with tempfile.TemporaryDirectory() as temporary:
            request = Request(path, Path(temporary) / "result", options.model, max(8, options.samples), device="cpu")
            reports.append(segment(request).report["volumes"])
    rows = []
    print(f"{'volume, ml':<24}{'first':>9}{'second':>9}{'change':>9}{'in widths':>11}")
    for one, two in zip(*reports, strict=True):
        a, b = one["consensus_ml"], two["consensus_ml"]
        width = np.mean([np.ptp(entry["interval90_ml"]) for entry in (one, two)])
        rows.append({"id": one["id"], "ml": [a, b], "relative": (b - a) / ((a + b) / 2), "widths": (b - a) / width})
        print(f"{one['name']:<24}{a:>9.1f}{b:>9.1f}{rows[-1]['relative']:>+9.1%}{rows[-1]['widths']:>+11.2f}")
    return rows


if __name__ == "__main__":
    main()
