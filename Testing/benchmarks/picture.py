"""Picture for README: panel, slice views and alternatives of one place.

    python Testing/run.py bench picture VOLUME --panel FOLDER --output FILE.png

Segments VOLUME with the shipped model, draws it with Slicer's slice views off-screen and puts these together with two
sections of the panel. FOLDER holds panel-result-light.png and panel-review-light.png, which

    QT_SCALE_FACTOR=1.5 .venv/bin/python -m pytest Testing/panel/test_end_to_end.py -k many_regions --screenshots FOLDER

draws. The outlines are those of closed surfaces, and the threshold of the overlay is lower than in the panel.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

import numpy as np
import slicer.util
from matplotlib import image as image_files
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from diffusion_segmentation.segmentation.pipeline import segment
from diffusion_segmentation.segmentation.request import Request
from DiffusionSegmentationLib.headless import demo, session
from DiffusionSegmentationLib.review.review import Review
from DiffusionSegmentationLib.scene import display, result_nodes
from DiffusionSegmentationLib.scene.sample_browser import SAMPLE_ROLE, Browser

DPI = 100
VIEW, ALTERNATIVE, GAP, STRIP, CAPTION = 690, 452, 24, 120, 44
"""Pixels: edges of the views and alternatives, gap between parts, height of the legend and of a caption."""
ALTERNATIVE_MM = 70.0
THRESHOLD_BITS = 0.55
OPACITY = 0.75
FILL_OPACITY = 0.5
BACKGROUND, TEXT = "#16181c", "#e8e8e8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("volume", type=Path)
    parser.add_argument("--panel", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    panel = [image_files.imread(options.panel / f"panel-{name}-light.png") for name in ("result", "review")]
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(session.boot()) as application:
        request = Request(options.volume, Path(folder), keep_samples=True, compress=False, device="cpu")
        report = segment(request).report
        application.addSliceViews((VIEW, VIEW))
        volumeNode = demo.loadVolume(options.volume)
        *_, result = result_nodes.importSteps(volumeNode, Path(folder), report)
        views = overviews(result, application)
        place, alternatives = samples(result, application, report)
        colors = {entry["name"]: color(result, entry["id"]) for entry in report["volumes"]}
    figure = compose(panel, views, alternatives, place, report, colors)
    figure.savefig(options.output, dpi=DPI, facecolor=BACKGROUND)


def overviews(result: result_nodes.Result, application: session.Application) -> list[np.ndarray]:
    """Axial and coronal view of the result with outlines and overlay, uint8 [row, column, RGB]."""
    demo.show(result, application.sliceViews)
    smooth(result.segmentationNode)
    result.segmentationNode.GetDisplayNode().SetSliceIntersectionThickness(2)
    overlay = display.Overlay(result.entropyNode)
    overlay.threshold, overlay.opacity = THRESHOLD_BITS, OPACITY
    for legend in slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode"):
        legend.SetVisibility(False)
    return [application.sliceViews[name].render() for name in ("Red", "Green")]


def smooth(segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
    """Draw the segments in slice views from their smoothed closed surfaces."""
    segmentationNode.CreateClosedSurfaceRepresentation()
    segmentationNode.GetDisplayNode().SetPreferredDisplayRepresentationName2D("Closed surface")


def color(result: result_nodes.Result, segmentID: str) -> tuple[float, float, float]:
    return result.segmentationNode.GetSegmentation().GetSegment(segmentID).GetColor()


def samples(
    result: result_nodes.Result, application: session.Application, report: dict
) -> tuple[str, list[np.ndarray]]:
    """The region with the largest expected error: its classes, and three samples there, uint8 [row, column, RGB]."""
    region = Review(result.segmentationNode).regions[0]
    display.Overlay(result.entropyNode).hide()
    view = application.sliceViews["Red"]
    view.frame(region["peak_ras_mm"], ALTERNATIVE_MM)
    result.segmentationNode.GetDisplayNode().SetVisibility(False)
    browser = Browser(result.segmentationNode)
    browser.order = next(entry["id"] for entry in report["volumes"] if entry["name"] == region["classes"][0]["name"])
    pictures = []
    for position in (0, browser.count // 2, browser.count - 1):
        browser.hide()
        browser.show(position)
        sampleNode = result.segmentationNode.GetNodeReference(SAMPLE_ROLE)
        smooth(sampleNode)
        sampleNode.GetDisplayNode().SetOpacity2DFill(FILL_OPACITY)
        pictures.append(view.render())
    return " or ".join(part["name"].lower() for part in region["classes"][:2]), pictures


def compose(
    panel: list[np.ndarray],
    views: list[np.ndarray],
    alternatives: list[np.ndarray],
    place: str,
    report: dict,
    colors: dict[str, tuple[float, float, float]],
) -> Figure:
    """All parts on one canvas, one pixel of a picture a pixel of the canvas, but for the alternatives."""
    left = max(part.shape[1] for part in panel) + 2 * GAP
    width = left + 2 * VIEW + 2 * GAP
    height = max(sum(part.shape[0] for part in panel) + 3 * GAP, 2 * CAPTION + VIEW + STRIP + ALTERNATIVE + GAP)
    figure = Figure((width / DPI, height / DPI))

    def place_picture(picture: np.ndarray, x: int, y: int, w: int, h: int) -> None:
        axes = figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))
        axes.imshow(picture, interpolation="antialiased", aspect="auto")
        axes.set_axis_off()

    def write(text: str, x: int, y: int, size: float = 17, **options: str) -> None:
        figure.text(x / width, 1 - y / height, text, color=TEXT, fontsize=size, va="center", **options)

    y = GAP
    for part in panel:
        place_picture(part, GAP, y, part.shape[1], part.shape[0])
        y += part.shape[0] + GAP
    for n, (view, title) in enumerate(zip(views, ("axial", "coronal"), strict=True)):
        x = left + n * (VIEW + GAP)
        write(f"Outlines and entropy, {title}", x, CAPTION // 2 + 4)
        place_picture(view, x, CAPTION, VIEW, VIEW)
    y = CAPTION + VIEW
    bar = figure.add_axes((left / width, 1 - (y + 52) / height, 420 / width, 22 / height))
    bits = report["max_entropy_bits"]
    ramp = LinearSegmentedColormap.from_list("entropy", display.COLORS)
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=ramp, aspect="auto", extent=(0, bits, 0, 1))
    bar.set(yticks=[], xticks=range(int(bits) + 1))
    bar.tick_params(colors=TEXT, labelsize=15)
    write("Entropy (bits)", left, y + 96, 16)
    for n, (name, rgb) in enumerate(colors.items()):
        x, middle = left + 490 + (n % 3) * 310, y + 30 + (n // 3) * 34
        swatch = Rectangle((x / width, 1 - (middle + 9) / height), 26 / width, 18 / height, color=rgb)
        figure.add_artist(swatch)
        write(name, x + 38, middle, 15)
    y += STRIP
    write(f"Three of {report['samples']} samples at the most uncertain region: {place}", left, y + CAPTION // 2 - 4)
    step = (2 * VIEW + GAP - 3 * ALTERNATIVE) // 2 + ALTERNATIVE
    for n, picture in enumerate(alternatives):
        place_picture(picture, left + n * step, y + CAPTION, ALTERNATIVE, ALTERNATIVE)
    return figure


if __name__ == "__main__":
    main()
