"""The worker's files as nodes of the scene: `<volume> segmentation`, `... entropy`, `... disagreement`, `... samples`,
`... probabilities` and `... regions`.

Works the same in 3D Slicer and on slicer-core. Every node of a result carries the attribute `DiffusionSegmentation.Run`
(the report as JSON) and a reference to its volume, so that a saved scene explains itself. None of them remembers the
file that it was read from: the job folder is temporary, and Slicer would offer to save there.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
import slicer.util
import vtk

from ..i18n import tr as _
from . import display
from . import nrrd_files as nrrd
from . import sequences as samples
from .display import VOLUME_ROLE

RUN_ATTRIBUTE = "DiffusionSegmentation.Run"
ENTROPY_ROLE = "DiffusionSegmentation.Entropy"
DISAGREEMENT_ROLE = "DiffusionSegmentation.Disagreement"
SAMPLES_ROLE = "DiffusionSegmentation.Samples"
REGIONS_ROLE = "DiffusionSegmentation.Regions"
PROBABILITIES_ROLE = "DiffusionSegmentation.Probabilities"

SAME_GRID_MM = 1e-3
"""Two grids are the same if their corners lie no farther apart."""


class SceneError(Exception):
    """Files that do not fit the scene. `str(error)` is a clause, without its full stop."""


@dataclass(frozen=True)
class Result:
    """The nodes of one run; `disagreementNode` is None for files of a version that did not write it."""

    segmentationNode: slicer.vtkMRMLSegmentationNode
    entropyNode: slicer.vtkMRMLScalarVolumeNode
    samplesNode: slicer.vtkMRMLSequenceNode
    regionsNode: slicer.vtkMRMLSequenceNode
    probabilitiesNode: slicer.vtkMRMLSequenceNode
    disagreementNode: slicer.vtkMRMLScalarVolumeNode | None


def importSteps(
    volumeNode: slicer.vtkMRMLScalarVolumeNode, folder: Path, report: Mapping[str, Any]
) -> Iterator[Result | None]:
    """Bring a job's files in `folder` into the scene of `volumeNode`, one slow piece a step: None, at last the Result.

    The nodes come to lie beside the volume: under its transform and its parent in the subject hierarchy. They are
    styled (display.py) but put into no view. Earlier results of the volume are left as they are, only out of sight.
    Who closes the iterator before the Result, or a broken file, leaves nothing behind.
    Raises SceneError or nrrd.NrrdError if a file cannot be read or lies on another grid than the volume.
    """
    segmentation = readSegmentation(folder / "segmentation.seg.nrrd")
    yield None
    parts: dict[str, slicer.vtkMRMLStorableNode] = {}
    for role, name in ((ENTROPY_ROLE, "entropy.nrrd"), (DISAGREEMENT_ROLE, "disagreement.nrrd")):
        if role == ENTROPY_ROLE or (folder / name).exists():  # versions up to 0.3 wrote no disagreement
            parts[role] = readVolume(slicer.vtkMRMLScalarVolumeNode(), folder / name)
            yield None
    # Samples, probabilities and regions are sequences, which no volume selector lists. Hidden nodes would be forgotten
    # when a person saves the scene.
    parts[REGIONS_ROLE] = slicer.vtkMRMLSequenceNode()
    samples.wrap(parts[REGIONS_ROLE], readVolume(slicer.vtkMRMLLabelMapVolumeNode(), folder / "regions.nrrd"))
    yield None
    for role, name, index, kind in (
        (SAMPLES_ROLE, "samples.seq.nrrd", "sample", slicer.vtkMRMLLabelMapVolumeNode),
        (PROBABILITIES_ROLE, "probabilities.seq.nrrd", "class", slicer.vtkMRMLScalarVolumeNode),
    ):
        parts[role] = slicer.vtkMRMLSequenceNode()
        yield from samples.readInto(parts[role], folder / name, index, kind)
    for role in parts.keys() & {ENTROPY_ROLE, DISAGREEMENT_ROLE}:
        _requireSameGrid(volumeNode, parts[role])
    yield from _placeSteps(volumeNode, segmentation, parts, report)


def regionsVolume(segmentationNode: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLLabelMapVolumeNode | None:
    """The label map of the regions of a result, or None where a person has removed it."""
    node = segmentationNode.GetNodeReference(REGIONS_ROLE)
    if node is not None and node.IsA("vtkMRMLSequenceNode"):  # up to version 0.4 it was a volume
        node = node.GetNthDataNode(0) if node.GetNumberOfDataNodes() else None
    return node if node is not None and node.GetImageData() is not None else None


def removeResult(segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
    """Take a result out of the scene, with all nodes that belong to it."""
    for node in _partsOf(segmentationNode):
        display.removeNode(node)
    display.removeNode(segmentationNode)


def resultsOf(volumeNode: slicer.vtkMRMLScalarVolumeNode) -> list[slicer.vtkMRMLSegmentationNode]:
    """The segmentations of the results of a volume, the oldest first."""
    found = display.nodesOfClass(volumeNode.GetScene(), "vtkMRMLSegmentationNode")
    return [
        node for node in found if node.GetAttribute(RUN_ATTRIBUTE) and node.GetNodeReference(VOLUME_ROLE) is volumeNode
    ]


def removeLostParts(scene: slicer.vtkMRMLScene) -> None:
    """Take out the samples, probabilities and regions whose segmentation a person has removed: no list shows them."""
    kept = {
        node.GetID() for owner in display.nodesOfClass(scene, "vtkMRMLSegmentationNode") for node in _partsOf(owner)
    }
    for node in list(display.nodesOfClass(scene, "vtkMRMLSequenceNode")):
        if node.GetAttribute(RUN_ATTRIBUTE) is not None and node.GetID() not in kept:
            scene.RemoveNode(node)


def _partsOf(segmentationNode: slicer.vtkMRMLSegmentationNode) -> list[slicer.vtkMRMLNode]:
    roles: list[str] = []
    segmentationNode.GetNodeReferenceRoles(roles)
    own = [role for role in roles if role.startswith("DiffusionSegmentation.") and role != VOLUME_ROLE]
    return list(filter(None, map(segmentationNode.GetNodeReference, own)))


def readSegmentation(path: Path) -> slicer.vtkSegmentation:
    """The segments in a file of the worker's. Raises SceneError or nrrd.NrrdError."""
    # In a scene of its own: outside of any the reader complains that it cannot make a display node.
    staging = slicer.vtkMRMLScene()
    segmentationNode = staging.AddNode(slicer.vtkMRMLSegmentationNode())
    _read(slicer.vtkMRMLSegmentationStorageNode(), segmentationNode, path)
    return segmentationNode.GetSegmentation()


def readVolume(node: slicer.vtkMRMLVolumeNode, path: Path) -> slicer.vtkMRMLVolumeNode:
    """Read a file of the worker's into `node`, and return it. Raises SceneError or nrrd.NrrdError."""
    storageNode = slicer.vtkMRMLVolumeArchetypeStorageNode()
    # The grid must stay that of the volume even if that is left-handed; Slicer otherwise flips an axis on reading.
    storageNode.SetForceRightHandedIJKCoordinateSystem(False)
    _read(storageNode, node, path)
    return node


def _read(storageNode: slicer.vtkMRMLStorageNode, node: slicer.vtkMRMLStorableNode, path: Path) -> None:
    nrrd.readHeader(path)
    storageNode.SetFileName(str(path))
    if not storageNode.ReadData(node):
        raise SceneError(_("'{name}' cannot be read").format(name=path.name))


def _requireSameGrid(volumeNode: slicer.vtkMRMLVolumeNode, entropy: slicer.vtkMRMLVolumeNode) -> None:
    dimensions = volumeNode.GetImageData().GetDimensions()
    same = entropy.GetImageData().GetDimensions() == dimensions
    for corner in ((0, 0, 0), (dimensions[0], 0, 0), (0, dimensions[1], 0), (0, 0, dimensions[2])):
        same = same and math.dist(_position(volumeNode, corner), _position(entropy, corner)) < SAME_GRID_MM
    if not same:
        raise SceneError(_("the volume's geometry was changed meanwhile"))


def _position(volumeNode: slicer.vtkMRMLVolumeNode, ijk: tuple[int, int, int]) -> tuple[float, ...]:
    """The place of voxel `ijk` in mm, RAS of the volume, without its parent transforms."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return matrix.MultiplyPoint((*ijk, 1.0))[:3]


def _placeSteps(
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentation: slicer.vtkSegmentation,
    parts: Mapping[str, slicer.vtkMRMLStorableNode],
    report: Mapping[str, Any],
) -> Iterator[Result | None]:
    """Put a segmentation and its `parts`, which have no scene yet, into that of the volume. A part's role names it.

    Takes everything out again if it fails or is closed before the Result. What other code knows a result by, its report
    and its volume, is written last.
    """
    scene = volumeNode.GetScene()
    placed: list[slicer.vtkMRMLNode] = []
    try:
        segmentationNode = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", _name(volumeNode, "segmentation"))
        placed.append(segmentationNode)
        segmentationNode.CreateDefaultDisplayNodes()
        segmentationNode.SetDisplayVisibility(False)
        segmentationNode.SetAndObserveSegmentation(segmentation)
        segmentationNode.StorableModified()  # else Slicer takes it for saved, and closes without asking
        # The transform first: the reference geometry is taken relative to it, and saving resamples to that geometry.
        segmentationNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
        segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        # DICOM SEG export finds patient and study through this reference.
        role = segmentationNode.GetReferenceImageGeometryReferenceRole()
        segmentationNode.SetNodeReferenceID(role, volumeNode.GetID())
        display.styleSegmentation(segmentationNode)
        _placeBeside(volumeNode, segmentationNode)
        yield None
        for role, node in parts.items():
            node.SetName(_name(volumeNode, role.rpartition(".")[2].lower()))
            placed.append(scene.AddNode(node))
            segmentationNode.SetNodeReferenceID(role, node.GetID())
            # A sequence cannot lie under a transform; whoever shows one of its volumes puts that under the volume's.
            if node.IsA("vtkMRMLVolumeNode"):
                node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
                yield None
                title = _("Entropy (bits)") if role == ENTROPY_ROLE else _("Disagreement (bits)")
                display.styleEntropy(node, report["max_entropy_bits"], title)
            _placeBeside(volumeNode, node)
            yield None
        for node in placed:
            node.SetAttribute(RUN_ATTRIBUTE, json.dumps(report, ensure_ascii=False))
        for earlier in resultsOf(volumeNode):
            earlier.SetDisplayVisibility(False)
        for node in placed:
            node.SetNodeReferenceID(VOLUME_ROLE, volumeNode.GetID())
        segmentationNode.SetDisplayVisibility(True)
    except BaseException:
        for node in placed:
            display.removeNode(node)
        raise
    roles = ENTROPY_ROLE, SAMPLES_ROLE, REGIONS_ROLE, PROBABILITIES_ROLE, DISAGREEMENT_ROLE
    yield Result(segmentationNode, *map(parts.get, roles))


def _name(volumeNode: slicer.vtkMRMLVolumeNode, what: str) -> str:
    return volumeNode.GetScene().GenerateUniqueName(f"{volumeNode.GetName()} {what}")


def _placeBeside(volumeNode: slicer.vtkMRMLVolumeNode, node: slicer.vtkMRMLNode) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volumeNode.GetScene())
    volumeItem, item = hierarchy.GetItemByDataNode(volumeNode), hierarchy.GetItemByDataNode(node)
    if volumeItem and item:  # a sequence has none
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(volumeItem))
