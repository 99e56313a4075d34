"""Picture of the tutorial: an uncertain region, its alternatives, a correction, and what the update changes elsewhere.

    python Testing/run.py bench correction_picture --output FILE.png [--volume VOLUME] [--alternative N]
        [--orientation ORIENTATION]

Segments VOLUME (the head of the demo) with the shipped model and 16 samples. The first uncertain region of the queue
that has three alternatives gets the labels of alternative N (2), which become facts, and the result is updated. All
panels show the slice of one orientation (coronal) with the most corrected voxels and changes elsewhere, in one window.
Printed are the numbers of voxels that were corrected, and that the update changed outside of the region, and where.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from scipy.ndimage import distance_transform_edt

from diffusion_segmentation.model.folder import find
from diffusion_segmentation.model.metadata import read_metadata
from diffusion_segmentation.networks import UNKNOWN
from diffusion_segmentation.segmentation.pipeline import ModelCache, Request, segment
from diffusion_segmentation.segmentation.updating import update_request
from DiffusionSegmentationLib.headless import demo

MODEL = "brain-structures"
SAMPLES = 16
WIDTH, DPI = 1600, 100
TOP, GAP, LEGEND = 52, 8, 76
"""Pixels: height of a caption, gap between panels, height of the legend."""
CLOSE_MM, WIDE_MM = 56.0, 84.0
"""Edges of the panels of the upper and of the lower row."""
REGION, CORRECTED, CHANGED = "#00e5ff", "#ffe100", "#ff2bd6"
BACKGROUND, TEXT = "#16181c", "#f0f0f0"
AXES = {"axial": 0, "coronal": 1, "sagittal": 2}
"""Axis of the voxels [S, A, R] that the slices of an orientation are stacked along."""
SIDES = {"axial": "RA", "coronal": "RS", "sagittal": "AS"}
"""Sides of the patient at the left and at the upper edge of a panel."""


@dataclass
class Case:
    """All arrays are [S, A, R], voxels of `spacing` mm; `alternatives` and `counts` as in the report."""

    image: np.ndarray
    before: np.ndarray
    after: np.ndarray
    region: np.ndarray
    alternatives: Sequence[np.ndarray]
    counts: Sequence[int]
    chosen: int
    spacing: tuple[float, ...]

    @property
    def corrected(self) -> np.ndarray:
        return self.region & (self.alternatives[self.chosen] != self.before)

    @property
    def changed(self) -> np.ndarray:
        return ~self.region & (self.after != self.before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--volume", type=Path, default=None)
    parser.add_argument("--alternative", type=int, choices=(1, 2, 3), default=2)
    parser.add_argument("--orientation", choices=AXES, default="coronal")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        case = correct(options.volume or demo.findHead(), Path(folder), options.alternative - 1)
    away = distance_transform_edt(~case.region, case.spacing)[case.changed]
    print(f"{case.corrected.sum()} voxels corrected, {len(away)} changed outside of the region:")
    print(f"half of them within {np.median(away):.0f} mm of it, none further away than {away.max():.0f} mm")
    compose(case, options.orientation).savefig(options.output, dpi=DPI, facecolor=BACKGROUND)


def correct(volume: Path, folder: Path, chosen: int) -> Case:
    """Segment `volume`, give the region the labels of its alternative `chosen` (from 0), and update the result."""
    cache, image = ModelCache(), sitk.ReadImage(str(volume))
    first, facts, updated = folder / "first", folder / "facts.nrrd", folder / "updated"
    request = Request(volume, first, MODEL, samples=SAMPLES, keep_samples=True, compress=False, device="cpu")
    report = segment(request, models=cache).report
    region = next((one for one in report["regions"] if len(one["alternatives"]) == 3), None)
    if region is None:
        raise SystemExit("No region has three alternatives; choose another volume.")
    inside = on_grid(sitk.ReadImage(str(first / "regions.nrrd")), image) == region["basin"]
    stored = sitk.ReadImage(str(first / "samples.seq.nrrd"), sitk.sitkVectorUInt8)
    samples = [sitk.VectorIndexSelectionCast(stored, one["sample"]) for one in region["alternatives"]]
    masks = [on_grid(sample, image) for sample in samples]
    known = sitk.GetImageFromArray(np.where(inside, masks[chosen], UNKNOWN).astype(np.uint8))
    known.CopyInformation(image)
    sitk.WriteImage(known, str(facts))
    segment(update_request(first, volume, facts, updated, device="cpu", keep_samples=True), models=cache)

    def oriented(voxels: np.ndarray) -> np.ndarray:
        part = sitk.GetImageFromArray(voxels)
        part.CopyInformation(image)
        return sitk.GetArrayFromImage(sitk.DICOMOrient(part, "RAS"))

    labels = [sitk.GetArrayFromImage(sitk.ReadImage(str(f / "segmentation.seg.nrrd"))) for f in (first, updated)]
    return Case(
        oriented(sitk.GetArrayFromImage(image).astype(np.float32)),
        *map(oriented, labels),
        oriented(inside.astype(np.uint8)) > 0,
        [oriented(mask) for mask in masks],
        [one["count"] for one in region["alternatives"]],
        chosen,
        sitk.DICOMOrient(image, "RAS").GetSpacing()[::-1],
    )


def on_grid(part: sitk.Image, image: sitk.Image) -> np.ndarray:
    """A label map on a part of the grid of `image`, on all of it [k, j, i]."""
    return sitk.GetArrayFromImage(sitk.Resample(part, image, sitk.Transform(), sitk.sitkNearestNeighbor))


def compose(case: Case, orientation: str) -> Figure:
    small, large = (WIDTH - 3 * GAP) / 4, (WIDTH - 2 * GAP) / 3
    height = round(2 * TOP + small + large + LEGEND)
    figure = Figure((WIDTH / DPI, height / DPI), facecolor=BACKGROUND)
    section = Section(case, orientation)
    total, taken = sum(case.counts), case.chosen + 1
    titles = ["1   An uncertain region (cyan)"]
    titles += [f"2{'abc'[n]}  Alternative {n + 1}: {count} of {total} samples" for n, count in enumerate(case.counts)]
    upper = [case.before, *(np.where(case.region, mask, case.before) for mask in case.alternatives)]
    for n, (title, labels) in enumerate(zip(titles, upper, strict=True)):
        axes = add_panel(figure, (n * (small + GAP), 0, small), title, height)
        section.draw(axes, labels, CLOSE_MM)
    pasted = np.where(case.region, case.alternatives[case.chosen], case.before)
    lower = [
        ("3   Before the correction", case.before, None, ""),
        (f"4   Correction: alternative {taken} is taken", pasted, case.corrected, CORRECTED),
        ("5   After the update: the rest follows", case.after, case.changed, CHANGED),
    ]
    for n, (title, labels, marked, color) in enumerate(lower):
        axes = add_panel(figure, (n * (large + GAP), TOP + small, large), title, height)
        section.draw(axes, labels, WIDE_MM, marked, color)
    add_legend(figure, height, section.structures)
    return figure


class Section:
    """One slice of a case, with the structures that occur in it."""

    def __init__(self, case: Case, orientation: str) -> None:
        """The slice through the region that shows the most of both, corrected voxels and changes elsewhere."""
        axis, self._sides = AXES[orientation], SIDES[orientation]
        others = tuple(n for n in range(3) if n != axis)
        place = [int(np.median(indices)) for indices in np.nonzero(case.corrected)]
        near = np.zeros(case.region.shape, bool)
        reach = [round(WIDE_MM / 2 / size) for size in case.spacing]
        near[tuple(slice(max(n - r, 0), n + r) for n, r in zip(place, reach, strict=True))] = True
        product = case.corrected.sum(others) * (case.changed & near).sum(others)
        self._axis, self._index = axis, int(product.argmax())
        self._image, self._region = self._cut(case.image), self._cut(case.region)
        self._sizes = [case.spacing[n] for n in others]
        self._center = [(indices.min() + indices.max()) / 2 for indices in np.nonzero(self._region)]
        self._middle = [indices.mean() for indices in np.nonzero(self._cut(case.before))]
        low, high = np.percentile(case.image[case.before > 0], (0.5, 99.5))
        self._window = low, low + 1.25 * (high - low)  # white matter stays darker than its outline
        shown = self._cut(near)
        found = {*np.unique(self._cut(case.before)[shown]), *np.unique(self._cut(case.after)[shown])}
        table = read_metadata(find(MODEL))["diffusion_segmentation"]["labels"]
        self.structures = [entry for entry in table if entry["label"] in found]

    def _cut(self, voxels: np.ndarray) -> np.ndarray:
        return np.take(voxels, self._index, self._axis)

    def draw(
        self, axes: Axes, voxels: np.ndarray, extent_mm: float, marked: np.ndarray | None = None, color: str = ""
    ) -> None:
        """Image, voxels `marked` in `color`, outlines of all structures, and that of the region."""
        low, high = self._window
        axes.imshow(self._image, "gray", vmin=low, vmax=high, interpolation="bicubic", aspect="auto")
        if marked is not None:
            fill = np.zeros((*self._region.shape, 4))
            fill[self._cut(marked)] = to_rgba(color, 0.75)
            axes.imshow(fill, interpolation="nearest", aspect="auto")
        for entry in self.structures:
            outline(axes, self._cut(voxels) == entry["label"], entry["color"], 1.6)
        outline(axes, self._region, REGION, 2.4)
        half = [extent_mm / 2 / size for size in self._sizes]
        # Towards the middle of the head, so that less of the panel is air.
        towards = zip(self._center, self._middle, half, strict=True)
        row, column = (at + np.clip(middle - at, -part / 3, part / 3) for at, middle, part in towards)
        axes.set_xlim(column + half[1], column - half[1])  # the patient's right is at the left
        axes.set_ylim(row - half[0], row + half[0])
        for letter, x, y in zip(self._sides, (0.03, 0.5), (0.5, 0.96), strict=True):
            text = axes.text(x, y, letter, color=TEXT, fontsize=13, ha="center", va="center", transform=axes.transAxes)
            text.set_path_effects([withStroke(linewidth=2.5, foreground="black")])


def outline(axes: Axes, mask: np.ndarray, color: str | Sequence[float], width: float) -> None:
    if mask.any():
        axes.contour(mask.astype(float), [0.5], colors=[color], linewidths=width)


def add_panel(figure: Figure, place: tuple[float, float, float], title: str, height: int) -> Axes:
    """A square panel with a caption above; `place`: left, top of the caption, edge (pixels)."""
    left, top, edge = place
    figure.text(
        (left + 6) / WIDTH, 1 - (top + TOP / 2) / height, title, color=TEXT, fontsize=14.5, va="center", weight="bold"
    )
    box = (left / WIDTH, 1 - (top + TOP + edge) / height, edge / WIDTH, edge / height)
    axes = figure.add_axes(box)
    axes.set_axis_off()
    return axes


def add_legend(figure: Figure, height: int, structures: Sequence[dict]) -> None:
    handles: list[Line2D | Patch] = [Line2D([], [], color=REGION, lw=3, label="uncertain region")]
    handles += [Patch(color=CORRECTED, label="voxels changed by the correction")]
    handles += [Patch(color=CHANGED, label="voxels changed by the update, outside of the region")]
    handles += [Line2D([], [], color=entry["color"], lw=3, label=entry["name"]) for entry in structures]
    where = {"loc": "center", "bbox_to_anchor": (0.5, LEGEND / 2 / height), "frameon": False}
    figure.legend(handles=handles, ncols=3, labelcolor=TEXT, fontsize=13.5, columnspacing=3, **where)


if __name__ == "__main__":
    main()
