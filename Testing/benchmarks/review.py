"""Response times of a review: import, threshold, ranking, sample, region and report.

    python Testing/benchmarks/review.py [--size I J K] [--samples N]

On a synthetic volume of 256 x 256 x 200 voxels, with Slicer's own libraries and three slice views of 400 x 400 pixels
drawn in software, whose drawing counts. Medians of several times, in milliseconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "mrml"))

from mrml_cases import addVolume, segment

from DiffusionSegmentationLib.headless import session
from DiffusionSegmentationLib.report.page import Report
from DiffusionSegmentationLib.review import corrections
from DiffusionSegmentationLib.review.facts import FactsSource
from DiffusionSegmentationLib.review.ranking import Ranker, RegionCriteria
from DiffusionSegmentationLib.review.review import Review
from DiffusionSegmentationLib.scene import offscreen, result_nodes
from DiffusionSegmentationLib.scene.display import Overlay
from DiffusionSegmentationLib.scene.label_map import Labels
from DiffusionSegmentationLib.scene.sample_browser import Browser
from DiffusionSegmentationLib.scene.slice_entropy import Profiles
from DiffusionSegmentationLib.scene.voxel_probe import VoxelProbe

TIMES = 7
POLL_SECONDS = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", nargs=3, type=int, default=(256, 256, 200), metavar=("I", "J", "K"))
    parser.add_argument("--samples", type=int, default=16)
    options = parser.parse_args()
    application = session.boot()
    volumeNode = addVolume("Head", np.eye(4), shape=tuple(options.size[::-1]))
    with tempfile.TemporaryDirectory() as folder:
        job = segment(volumeNode, Path(folder), samples=options.samples)
        report = Path(folder) / "report.html"
        busy, longest, result = 0.0, 0.0, None
        steps = result_nodes.importSteps(volumeNode, job.folder, job.report)
        while result is None:
            began = time.perf_counter()
            result = next(steps)
            busy, longest = busy + time.perf_counter() - began, max(longest, time.perf_counter() - began)
            time.sleep(POLL_SECONDS)  # as the panel's timer does
        steps.close()
        tell("import, in all", busy)
        tell("import, longest step", longest)

        node, overlay = result.segmentationNode, Overlay(result.entropyNode)
        offscreen.SUPERSAMPLING = 1  # as on a screen
        application.addSliceViews((400, 400))
        views = list(application.sliceViews.values())
        for view in views:
            view.compositeNode.SetBackgroundVolumeID(volumeNode.GetID())
            view.logic.FitSliceToBackground()
        overlay.show()

        def draw() -> None:
            for view in views:
                view.redraw()

        for view in views:
            view.render()
        tell("the three views, all over again", median(lambda n: [view.render() for view in views]))
        tell("threshold moved, drawn", median(lambda n: setattr(overlay, "threshold", 0.3 + 0.1 * n), draw))
        ranker = Ranker(node)
        tell("queue for a first threshold", median(lambda n: rank(ranker, RegionCriteria(0.5)), times=1))
        tell("queue for another threshold", median(lambda n: rank(ranker, RegionCriteria(0.3 + 0.1 * n))))
        review, browser = Review(node), Browser(node)
        tell("next region, drawn", median(lambda n: review.goTo(review.regions[n]), draw))
        tell("another sample, drawn", median(lambda n: browser.show(n % browser.count), draw))
        browser.hide()
        mask = corrections.regionMask(node, review.regions[0]["basin"])
        tell("a sample used in a region", median(lambda n: corrections.useSample(node, n % 2, mask)))
        tell("facts collected after an edit", median(lambda n: FactsSource(node)))
        source = FactsSource(node)
        tell("facts collected after a mark", median(lambda n: FactsSource(node, source)))
        tell("voxels changed by hand counted", median(lambda n: Labels(node).edited()))
        tell("profiles of the slices", median(lambda n: Profiles(result.entropyNode)))
        pointer = VoxelProbe(node)
        tell("classes under the mouse", median(lambda n: pointer.textAt((20.0 + n, 30.0, 40.0))))
        longest, began = 0.0, time.perf_counter()
        for _step in Report(node).writeSteps(report):
            longest, began = max(longest, time.perf_counter() - began), time.perf_counter()
        tell("report, longest step", max(longest, time.perf_counter() - began))
    application.close()


def rank(ranker: Ranker, criteria: RegionCriteria) -> None:
    """Wait for the regions for `criteria`, as the panel's timer does."""
    ranker.ask(criteria)
    while ranker.poll() is None:
        time.sleep(0.001)


def median(act: Callable[[int], object], then: Callable[[], None] | None = None, times: int = TIMES) -> float:
    """Seconds that `act`, given the number of the turn, and `then` take together."""
    seconds = []
    for n in range(times):
        began = time.perf_counter()
        act(n)
        if then is not None:
            then()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def tell(what: str, seconds: float) -> None:
    print(f"{what:<34}{1000 * seconds:8.1f} ms", flush=True)


if __name__ == "__main__":
    main()
