"""The finished cases of a cohort in the order of its triage page, and their volumes and results in the scene.

The engine's command `cohort` writes the folder: `cohort.json` names the files of each case, and `triage.json` has the
order. Independent of Qt.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer.util

from ..i18n import tr as _
from ..scene import display, nrrd_files
from ..scene.result_nodes import Result, importSteps

INDEX, TRIAGE = "cohort.json", "triage.json"


class CohortError(Exception):
    """One sentence for the user."""


@dataclass(frozen=True)
class Case:
    """A finished case. `expectedDice` is None without samples, `unlike` None without an input check."""

    name: str
    folder: Path
    volume: Path
    series: str | None
    expectedDice: float | None
    unlike: bool | None


def readCases(folder: Path) -> list[Case]:
    """The cases in the folder of a cohort, that of the lowest expected Dice first. Raises CohortError."""
    try:
        index = _cases(folder / INDEX)
        rows = _cases(folder / TRIAGE)
        inputs = {(case["key"], case["case"]): Path(case["inputs"][0]) for case in index if case["inputs"]}
        cases = [
            Case(
                row["case"],
                folder / "cases" / row["key"],
                inputs[row["key"], row["case"]],
                row["series_uid"],
                row["expected_dice"],
                row["unlike"],
            )
            for row in rows
            if (row["key"], row["case"]) in inputs  # the page may be older than the index
        ]
    except (OSError, ValueError, LookupError, TypeError) as error:
        text = _("'{name}' is not the folder of a cohort; choose the one where the command cohort wrote cohort.html.")
        raise CohortError(text.format(name=folder.name)) from error
    if not cases:
        raise CohortError(_("The cohort has no finished case yet; open it again later."))
    return cases


def warnedFirst(cases: list[Case]) -> list[Case]:
    """Cases with a warned scan first, otherwise in their order."""
    return sorted(cases, key=lambda case: not case.unlike)


def openSteps(case: Case) -> Iterator[Result | None]:
    """Add the volume of a case, and its result, to the scene; yields None after each step, then the Result.

    All new nodes are removed if it fails or is closed early. Raises CohortError.
    """
    volumeNode = result = None
    try:
        report = json.loads((case.folder / "report.json").read_text(encoding="utf-8"))
        volumeNode = _loadVolume(case)
        yield None
        with tempfile.TemporaryDirectory(prefix="DiffusionSegmentation-") as expanded:  # of the owner alone
            for path in case.folder.glob("*.nrrd"):
                nrrd_files.expand(path, Path(expanded) / path.name)
                yield None
            for result in importSteps(volumeNode, Path(expanded), report):
                if result is None:
                    yield None
    except BaseException as error:
        if volumeNode is not None:
            display.removeNode(volumeNode)
        if isinstance(error, (GeneratorExit, CohortError)):
            raise
        text = _("The case '{name}' cannot be shown ({reason}); the one before it stays.")
        reason = str(error).rstrip(".") or type(error).__name__
        raise CohortError(text.format(name=case.name, reason=reason)) from error
    yield result


def _cases(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cases"]


def _loadVolume(case: Case) -> slicer.vtkMRMLScalarVolumeNode:
    """Load the first input of a case, a file or the folder of a DICOM series, and show it in the slice views."""
    if not case.volume.exists():
        text = _("The volume of '{name}' is not where it was when the cohort was segmented; put it back there.")
        raise CohortError(text.format(name=case.name))
    if case.volume.is_dir():
        volumeNode = _loadSeries(case)
    else:
        # Slicer would take numbered pictures for the slices of one volume.
        volumeNode = slicer.util.loadVolume(str(case.volume), {"singleFile": True})
    volumeNode.SetName(case.name)
    return volumeNode


def _loadSeries(case: Case) -> slicer.vtkMRMLScalarVolumeNode:
    """Load the series of a DICOM folder that the run has read, without adding it to the user's DICOM database."""
    from DICOMLib import DICOMUtils

    with DICOMUtils.TemporaryDICOMDatabase() as database:
        DICOMUtils.importDicom(str(case.volume), database)
        nodes = map(slicer.mrmlScene.GetNodeByID, DICOMUtils.loadSeriesByUID([case.series]))
        volumes = [node for node in nodes if node is not None and node.IsA("vtkMRMLScalarVolumeNode")]
    if not volumes:
        raise CohortError(_("The DICOM series of '{name}' cannot be loaded by Slicer.").format(name=case.name))
    return volumes[0]
