"""The worker's files as MRML nodes: `<volume> segmentation`, `... entropy`, `... disagreement`, `... samples`,
`... probabilities` and `... regions`, and after an update `... facts`.

Works in 3D Slicer and on slicer-core. Every node of a result has the attribute `DiffusionSegmentation.Run` (the report
as JSON) and a reference to its volume. No node stores the file it was read from: the job folder is temporary, and
Slicer would offer to save there.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer.util

from ..i18n import tr as _
from . import display, nrrd_files, sequences, voxel_grids
from .display import VOLUME_ROLE

RUN_ATTRIBUTE = "DiffusionSegmentation.Run"
ENTROPY_ROLE = "DiffusionSegmentation.Entropy"
DISAGREEMENT_ROLE = "DiffusionSegmentation.Disagreement"
INFORMATION_ROLE = "DiffusionSegmentation.MutualInformation"
OVERLAY_FILES = {
    ENTROPY_ROLE: "entropy.nrrd",
    DISAGREEMENT_ROLE: "disagreement.nrrd",
    INFORMATION_ROLE: "mutual_information.nrrd",
}
"""Files of the overlays by role; results without samples, or of version 0.3 and older, have the first only."""
SAMPLES_ROLE = "DiffusionSegmentation.Samples"
REGIONS_ROLE = "DiffusionSegmentation.Regions"
PROBABILITIES_ROLE = "DiffusionSegmentation.Probabilities"
FACTS_ROLE = "DiffusionSegmentation.Facts"

SAME_GRID_MM = 1e-3
"""Tolerance at the corners of two equal grids."""


@dataclass(frozen=True)
class Result:
    """The nodes of one run; without samples, `samplesNode` and `disagreementNode` are None.

    `disagreementNode` is also None for files of versions up to 0.3.
    """

    segmentationNode: slicer.vtkMRMLSegmentationNode
    entropyNode: slicer.vtkMRMLScalarVolumeNode
    samplesNode: slicer.vtkMRMLSequenceNode | None
    regionsNode: slicer.vtkMRMLSequenceNode
    probabilitiesNode: slicer.vtkMRMLSequenceNode
    disagreementNode: slicer.vtkMRMLScalarVolumeNode | None


def importSteps(
    volumeNode: slicer.vtkMRMLScalarVolumeNode, folder: Path, report: Mapping[str, Any]
) -> Iterator[Result | None]:
    """Import the result files in `folder` into the scene of `volumeNode`; yields None after each step, then the Result.

    The nodes get the volume's transform and its parent in the subject hierarchy. They are styled (see display.py) but
    not shown in any view. Earlier results of the volume are hidden. If the iterator is closed early or a file is
    broken, all new nodes are removed.
    Raises ResultFileError if a file cannot be read or its grid differs from the volume's.
    """
    segmentation = readSegmentation(folder / "segmentation.seg.nrrd")
    yield None
    parts: dict[str, slicer.vtkMRMLStorableNode] = {}
    for role, name in OVERLAY_FILES.items():
        if role == ENTROPY_ROLE or (folder / name).exists():
            parts[role] = readVolume(slicer.vtkMRMLScalarVolumeNode(), folder / name)
            yield None
    # Sequences, because no volume selector lists them. Hidden nodes would not be saved with the scene.
    for role, name in ((REGIONS_ROLE, "regions.nrrd"), *([(FACTS_ROLE, "facts.nrrd")] if "facts" in report else [])):
        parts[role] = slicer.vtkMRMLSequenceNode()
        sequences.wrap(parts[role], readVolume(slicer.vtkMRMLLabelMapVolumeNode(), folder / name))
        yield None
    for role, name, index, nodeClass in (
        (SAMPLES_ROLE, "samples.seq.nrrd", "sample", slicer.vtkMRMLLabelMapVolumeNode),
        (PROBABILITIES_ROLE, "probabilities.seq.nrrd", "class", slicer.vtkMRMLScalarVolumeNode),
    ):
        if role == SAMPLES_ROLE and not report["samples"]:
            continue
        parts[role] = slicer.vtkMRMLSequenceNode()
        yield from sequences.readInto(parts[role], folder / name, index, nodeClass)
    for role in parts.keys() & OVERLAY_FILES.keys():
        _requireSameGrid(volumeNode, parts[role])
    yield from _addSteps(volumeNode, segmentation, parts, report)


def reportOf(node: slicer.vtkMRMLNode) -> dict[str, Any]:
    """The report of the run that made `node`."""
    return json.loads(node.GetAttribute(RUN_ATTRIBUTE))


def regionsVolume(segmentationNode: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLLabelMapVolumeNode | None:
    """The label map of the uncertain regions, or None if the user has removed it."""
    node = segmentationNode.GetNodeReference(REGIONS_ROLE)
    if node is not None and node.IsA("vtkMRMLSequenceNode"):  # a volume in versions up to 0.4
        node = node.GetNthDataNode(0) if node.GetNumberOfDataNodes() else None
    return node if node is not None and node.GetImageData() is not None else None


def removeResult(segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
    for node in [*_partsOf(segmentationNode), segmentationNode]:
        display.removeNode(node)


def resultsOf(volumeNode: slicer.vtkMRMLScalarVolumeNode) -> list[slicer.vtkMRMLSegmentationNode]:
    """The segmentations of a volume's results, oldest first."""
    return [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        if node.GetAttribute(RUN_ATTRIBUTE) and node.GetNodeReference(VOLUME_ROLE) is volumeNode
    ]


def removeOrphans() -> None:
    """Remove nodes whose segmentation was removed: sequences, which no node selector lists, and temporary ones."""
    segmentations = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    referenced = {node.GetID() for owner in segmentations for node in _partsOf(owner)}
    parts = [node for node in segmentations if node.GetAttribute(display.OWNER_ATTRIBUTE)]
    parts += [node for node in slicer.util.getNodesByClass("vtkMRMLSequenceNode") if node.GetAttribute(RUN_ATTRIBUTE)]
    for node in parts:
        if node.GetID() not in referenced:
            display.removeNode(node)


def _partsOf(segmentationNode: slicer.vtkMRMLSegmentationNode) -> list[slicer.vtkMRMLNode]:
    roles: list[str] = []
    segmentationNode.GetNodeReferenceRoles(roles)
    parts = [role for role in roles if role.startswith("DiffusionSegmentation.") and role != VOLUME_ROLE]
    return list(filter(None, map(segmentationNode.GetNodeReference, parts)))


def readSegmentation(path: Path) -> slicer.vtkSegmentation:
    """Read a segmentation file of the worker. Raises ResultFileError."""
    scene = slicer.vtkMRMLScene()  # temporary: the reader reports an error if it cannot create a display node
    segmentationNode = scene.AddNode(slicer.vtkMRMLSegmentationNode())
    _read(slicer.vtkMRMLSegmentationStorageNode(), segmentationNode, path)
    return segmentationNode.GetSegmentation()


def readVolume(node: slicer.vtkMRMLVolumeNode, path: Path) -> slicer.vtkMRMLVolumeNode:
    """Read a volume file of the worker into `node` and return it. Raises ResultFileError."""
    storageNode = slicer.vtkMRMLVolumeArchetypeStorageNode()
    # Otherwise Slicer flips an axis of left-handed grids, and the grid differs from the volume's.
    storageNode.SetForceRightHandedIJKCoordinateSystem(False)
    _read(storageNode, node, path)
    return node


def _read(storageNode: slicer.vtkMRMLStorageNode, node: slicer.vtkMRMLStorableNode, path: Path) -> None:
    nrrd_files.readHeader(path)
    storageNode.SetFileName(str(path))
    if not storageNode.ReadData(node):
        raise nrrd_files.ResultFileError(_("'{name}' cannot be read").format(name=path.name))


def _requireSameGrid(volumeNode: slicer.vtkMRMLVolumeNode, entropyNode: slicer.vtkMRMLVolumeNode) -> None:
    dimensions = volumeNode.GetImageData().GetDimensions()
    difference = voxel_grids.ijkToRAS(volumeNode) - voxel_grids.ijkToRAS(entropyNode)
    corners = np.vstack([np.c_[np.zeros(3), np.diag(dimensions)], np.ones(4)])  # the origin, and the end of each axis
    sameCorners = np.linalg.norm(difference @ corners, axis=0).max() < SAME_GRID_MM
    if entropyNode.GetImageData().GetDimensions() != dimensions or not sameCorners:
        raise nrrd_files.ResultFileError(_("the volume's geometry was changed during the run"))


def _addSteps(
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentation: slicer.vtkSegmentation,
    parts: Mapping[str, slicer.vtkMRMLStorableNode],
    report: Mapping[str, Any],
) -> Iterator[Result | None]:
    """Add a segmentation and its `parts` (by role) to the scene of the volume.

    Removes them again if it fails or is closed early. Report and volume reference, by which other code recognizes a
    result, are set last.
    """
    scene = volumeNode.GetScene()
    added: list[slicer.vtkMRMLNode] = []
    try:
        segmentationNode = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", _name(volumeNode, "segmentation"))
        added.append(segmentationNode)
        segmentationNode.CreateDefaultDisplayNodes()
        segmentationNode.SetDisplayVisibility(False)
        segmentationNode.SetAndObserveSegmentation(segmentation)
        segmentationNode.StorableModified()  # otherwise Slicer closes without asking to save it
        # The transform first: the reference geometry is relative to it, and saving resamples to that geometry.
        segmentationNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
        segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        # DICOM SEG export finds patient and study through this reference.
        role = segmentationNode.GetReferenceImageGeometryReferenceRole()
        segmentationNode.SetNodeReferenceID(role, volumeNode.GetID())
        display.styleSegmentation(segmentationNode)
        _setHierarchyParent(volumeNode, segmentationNode)
        yield None
        for role, node in parts.items():
            suffix = OVERLAY_FILES.get(role, role.rpartition(".")[2].lower()).removesuffix(".nrrd").replace("_", " ")
            node.SetName(_name(volumeNode, suffix))
            added.append(scene.AddNode(node))
            segmentationNode.SetNodeReferenceID(role, node.GetID())
            # Sequence nodes cannot have a transform.
            if node.IsA("vtkMRMLVolumeNode"):
                node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
                yield None
                titles = {ENTROPY_ROLE: _("Entropy (bits)"), DISAGREEMENT_ROLE: _("Disagreement (bits)")}
                title = titles.get(role, _("Mutual information (bits)"))
                display.styleEntropy(node, report["max_entropy_bits"], title)
            _setHierarchyParent(volumeNode, node)
            yield None
        run = json.dumps(_withSeries(report, volumeNode), ensure_ascii=False)
        for node in added:
            node.SetAttribute(RUN_ATTRIBUTE, run)
        for earlier in resultsOf(volumeNode):
            earlier.SetDisplayVisibility(False)
        for node in added:
            node.SetNodeReferenceID(VOLUME_ROLE, volumeNode.GetID())
        segmentationNode.SetDisplayVisibility(True)
    except BaseException:
        for node in added:
            display.removeNode(node)
        raise
    roles = ENTROPY_ROLE, SAMPLES_ROLE, REGIONS_ROLE, PROBABILITIES_ROLE, DISAGREEMENT_ROLE
    yield Result(segmentationNode, *map(parts.get, roles))


def _name(volumeNode: slicer.vtkMRMLVolumeNode, suffix: str) -> str:
    return volumeNode.GetScene().GenerateUniqueName(f"{volumeNode.GetName()} {suffix}")


def _withSeries(report: Mapping[str, Any], volumeNode: slicer.vtkMRMLVolumeNode) -> Mapping[str, Any]:
    """The report with the UID of the DICOM series from which the volume was loaded, as Slicer's DICOM module notes it.

    The worker read the volume from a file of the job folder and knows no series.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volumeNode.GetScene())
    item = hierarchy.GetItemByDataNode(volumeNode)
    series = hierarchy.GetItemUID(item, "DICOM") if item else ""
    return {**report, "input": {**report.get("input", {}), "series_uid": series}} if series else report


def _setHierarchyParent(volumeNode: slicer.vtkMRMLVolumeNode, node: slicer.vtkMRMLNode) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volumeNode.GetScene())
    volumeItem, item = hierarchy.GetItemByDataNode(volumeNode), hierarchy.GetItemByDataNode(node)
    if volumeItem and item:  # sequences have no item
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(volumeItem))
