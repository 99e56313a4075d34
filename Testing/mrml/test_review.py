"""The review of a result: every uncertain region in turn, at its place in the views, and nothing said is lost."""

import json

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from mrml_cases import addLinearTransform, addVolume, importJob, obliqueIJKToRAS, segment

from DiffusionSegmentationLib import review
from DiffusionSegmentationLib.review import DONE, FLAGGED, OPEN, SKIPPED, Review

OUTLINE = "DiffusionSegmentation.RegionOutline"


@pytest.fixture
def result(volumeNode, job):
    return importJob(volumeNode, job)


@pytest.fixture
def sliceNodes(result):
    nodes = []
    for name in ("Red", "Green", "Yellow"):
        node = slicer.vtkMRMLSliceNode()
        node.SetLayoutName(name)
        node.SetOrientation({"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}[name])
        nodes.append(slicer.mrmlScene.AddNode(node))
    return nodes


def outlined(result):
    """RAS of the voxels of the outlined region, [n, 3], and its segment."""
    outlineNode = result.segmentationNode.GetNodeReference(OUTLINE)
    image = slicer.vtkOrientedImageData()
    outlineNode.GetBinaryLabelmapRepresentation(review.OUTLINE_SEGMENT, image)
    extent = image.GetExtent()
    array = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    shape = (extent[5] - extent[4] + 1, extent[3] - extent[2] + 1, extent[1] - extent[0] + 1)
    kji = np.argwhere(array.reshape(shape)) + [extent[4], extent[2], extent[0]]
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return np.array([matrix.MultiplyPoint((*map(float, index[::-1]), 1.0))[:3] for index in kji])


def test_the_regions_are_those_of_the_report_worst_first(result, job):
    regions = Review(result.segmentationNode).regions
    assert len(regions) == len(job.report["regions"]) > 3
    assert [region.rank for region in regions] == list(range(1, len(regions) + 1))
    errors = [region.expectedErrorMl for region in regions]
    assert errors == sorted(errors, reverse=True)
    assert regions[0].classes[0][0] in ("background", "Cortical grey matter", "Weiße Substanz")


def test_next_goes_down_the_ranks_over_open_regions_and_starts_again(result):
    queue = Review(result.segmentationNode)
    first, second, third = queue.regions[:3]
    assert queue.current is None and queue.next() is first
    queue.goTo(first)
    queue.mark(second, DONE)
    assert queue.next() is third
    queue.goTo(queue.regions[-1])
    assert queue.next() is first  # behind the last it begins again
    for region in queue.regions:
        queue.mark(region, SKIPPED)
    assert queue.next() is None


def test_what_is_left_is_counted_with_the_error_it_holds(result):
    queue = Review(result.segmentationNode)
    whole = sum(region.share for region in queue.regions)
    assert queue.left() == (len(queue.regions), pytest.approx(whole))
    queue.mark(queue.regions[0], DONE)
    queue.mark(queue.regions[1], FLAGGED)
    gone = queue.regions[0].share + queue.regions[1].share
    assert queue.left() == (len(queue.regions) - 2, pytest.approx(whole - gone))
    queue.mark(queue.regions[1], OPEN)
    assert queue.left()[0] == len(queue.regions) - 1


@pytest.mark.parametrize("transformed", [False, True])
def test_going_to_a_region_centres_every_slice_view_on_it(tmp_path, transformed, application):
    volumeNode = addVolume("Schief", obliqueIJKToRAS())
    if transformed:
        volumeNode.SetAndObserveTransformNodeID(addLinearTransform().GetID())
    result = importJob(volumeNode, segment(volumeNode, tmp_path))
    node = slicer.mrmlScene.AddNode(slicer.vtkMRMLSliceNode())
    viewNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLViewNode")
    viewNode.SetLayoutName("1")
    cameraNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCameraNode")
    cameraNode.SetLayoutName("1")
    side = np.subtract(cameraNode.GetPosition(), cameraNode.GetFocalPoint())
    queue = Review(result.segmentationNode)
    region = queue.regions[1]
    queue.goTo(region)
    world = [0.0] * 3
    volumeNode.TransformPointToWorld(region.peakRAS, world)
    assert np.allclose([node.GetSliceToRAS().GetElement(n, 3) for n in range(3)], world, atol=1e-3)
    assert np.allclose(cameraNode.GetFocalPoint(), world, atol=1e-3)
    assert np.allclose(np.subtract(cameraNode.GetPosition(), world), side, atol=1e-3)
    # The worst voxel lies inside the outline, whatever the volume's axes and transform are.
    places = outlined(result)
    assert np.linalg.norm(places - region.peakRAS, axis=1).min() < 2.5
    assert result.segmentationNode.GetNodeReference(OUTLINE).GetTransformNodeID() == volumeNode.GetTransformNodeID()


def test_the_outline_is_that_of_the_region_and_there_is_one_at_a_time(result, sliceNodes):
    queue = Review(result.segmentationNode)
    basins = slicer.util.arrayFromVolume(result.regionsNode)
    for region in queue.regions[:3]:
        queue.goTo(region)
        assert len(outlined(result)) == (basins == region.basin).sum() > 0
        assert result.segmentationNode.GetNodeReference(OUTLINE).GetSegmentation().GetNumberOfSegments() == 1
    names = [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")]
    assert sum("region" in name for name in names) == 1
    queue.leave()
    assert queue.current is None and result.segmentationNode.GetNodeReference(OUTLINE) is None


def test_what_was_said_is_kept_with_the_segmentation(result):
    queue = Review(result.segmentationNode)
    queue.mark(queue.regions[2], FLAGGED)
    queue.goTo(queue.regions[1])
    again = Review(result.segmentationNode)  # as after a scene was saved and opened
    assert again.state(again.regions[2]) == FLAGGED and again.state(again.regions[0]) == OPEN
    assert again.current.rank == 2
    json.loads(result.segmentationNode.GetAttribute("DiffusionSegmentation.Review"))


def test_a_removed_region_map_costs_the_outline_only(result, sliceNodes):
    slicer.mrmlScene.RemoveNode(result.regionsNode)
    queue = Review(result.segmentationNode)
    queue.goTo(queue.regions[0])
    place = [sliceNodes[0].GetSliceToRAS().GetElement(n, 3) for n in range(3)]
    assert np.allclose(place, queue.regions[0].peakRAS, atol=1e-3)
    assert result.segmentationNode.GetNodeReference(OUTLINE) is None


def test_a_result_of_an_earlier_version_has_no_regions(result):
    report = json.loads(result.segmentationNode.GetAttribute("DiffusionSegmentation.Run"))
    del report["regions"]
    result.segmentationNode.SetAttribute("DiffusionSegmentation.Run", json.dumps(report))
    queue = Review(result.segmentationNode)
    assert queue.regions == [] and queue.next() is None and queue.left() == (0, 0)
