"""Geometry: a result matches its volume for any grid and transform."""

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from mrml_cases import addLinearTransform, addVolume, importJob, obliqueIJKToRAS, segment

from DiffusionSegmentationLib.runs.handover import Handover, HandoverError
from DiffusionSegmentationLib.scene import nrrd_files

GRIDS = {
    "as scanned": np.diag([-1.0, -1.0, 1.0, 1.0]),
    "oblique": obliqueIJKToRAS(),
    "sagittal slices": np.array([[0, 0, 3.0, 5], [-0.8, 0, 0, 6], [0, -0.8, 0, 7], [0, 0, 0, 1]]),
    "left-handed": np.diag([-1.0, 1.0, 1.5, 1.0]),
    "left-handed, oblique": obliqueIJKToRAS() @ np.diag([1.0, 1.0, -1.0, 1.0]),
}


def ijkToRAS(node: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def voxelsInWorld(node: slicer.vtkMRMLVolumeNode, mask: np.ndarray) -> np.ndarray:
    """Mean position in world RAS of the voxels in `mask` [k, j, i]."""
    center = np.append(np.argwhere(mask)[:, ::-1].mean(axis=0), 1.0)
    toWorld = vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(node.GetParentTransformNode(), None, toWorld)
    return (slicer.util.arrayFromVTKMatrix(toWorld) @ ijkToRAS(node) @ center)[:3]


@pytest.mark.parametrize("grid", GRIDS)
def test_voxel_positions_are_kept(application, tmp_path, grid):
    volumeNode = addVolume("T1", GRIDS[grid])
    job = segment(volumeNode, tmp_path)

    result = importJob(volumeNode, job)

    assert np.allclose(ijkToRAS(result.entropyNode), GRIDS[grid], atol=1e-6)
    assert np.array_equal(slicer.util.arrayFromVolume(result.entropyNode), job.entropy)
    for label, segmentID in ((1, "cortical_grey"), (2, "white_matter")):
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(result.segmentationNode, segmentID, volumeNode)
        assert np.array_equal(mask, job.labels == label)


@pytest.mark.parametrize("grid", GRIDS)
def test_samples_are_at_their_block_of_the_volume(application, tmp_path, grid):
    volumeNode = addVolume("T1", GRIDS[grid])
    job = segment(volumeNode, tmp_path)

    sequence = importJob(volumeNode, job).samplesNode

    sample = sequence.GetNthDataNode(0)
    assert np.allclose(voxelsInWorld(sample, job.samples[0] == 2), voxelsInWorld(volumeNode, inBlock(job)), atol=1e-6)


def inBlock(job) -> np.ndarray:
    """The white matter of the first sample on the whole grid."""
    mask = np.zeros_like(job.labels)
    k, j, i = job.samples[0].shape
    mask[3 : 3 + k, 1 : 1 + j, 2 : 2 + i] = job.samples[0]
    return mask == 2


def test_result_follows_the_transform_of_its_volume(volumeNode, job):
    volumeNode.SetAndObserveTransformNodeID(addLinearTransform().GetID())

    result = importJob(volumeNode, job)

    for node in (result.segmentationNode, result.entropyNode, result.disagreementNode):
        assert node.GetTransformNodeID() == volumeNode.GetTransformNodeID()
    bright = job.entropy > 1
    assert np.allclose(voxelsInWorld(result.entropyNode, bright), voxelsInWorld(volumeNode, bright))


def test_segment_under_transforms_of_transforms(volumeNode, job):
    outer, inner = addLinearTransform("outer"), addLinearTransform("inner")
    inner.SetAndObserveTransformNodeID(outer.GetID())
    volumeNode.SetAndObserveTransformNodeID(inner.GetID())

    segmentationNode = importJob(volumeNode, job).segmentationNode

    mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentationNode, "white_matter", volumeNode)
    assert np.array_equal(mask, job.labels == 2)


def test_volume_under_a_non_linear_transform_is_refused_in_one_sentence(volumeNode):
    grid = slicer.vtkOrientedGridTransform()
    displacement = vtk.vtkImageData()
    displacement.SetDimensions(2, 2, 2)
    displacement.AllocateScalars(vtk.VTK_DOUBLE, 3)
    grid.SetDisplacementGridData(displacement)
    transformNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Warp é")
    transformNode.SetAndObserveTransformToParent(grid)
    volumeNode.SetAndObserveTransformNodeID(transformNode.GetID())

    with pytest.raises(HandoverError) as refusal:
        Handover(volumeNode)

    sentence = str(refusal.value)
    assert "Warp é" in sentence and sentence.endswith(".") and sentence.count(". ") == 0


def test_the_result_of_a_volume_moved_during_the_run_is_refused(volumeNode, job):
    volumeNode.SetOrigin(0, 0, 5)
    before = slicer.mrmlScene.GetNumberOfNodes()

    with pytest.raises(nrrd_files.ResultFileError, match="geometry"):
        importJob(volumeNode, job)

    assert slicer.mrmlScene.GetNumberOfNodes() == before


def test_reference_geometry_is_the_volume(volumeNode, job):
    segmentationNode = importJob(volumeNode, job).segmentationNode

    role = segmentationNode.GetReferenceImageGeometryReferenceRole()
    assert segmentationNode.GetNodeReference(role) is volumeNode
