"""The review of a result: navigation through uncertain regions, views, and stored decisions."""

import json
import math
import time

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from mrml_cases import addLinearTransform, addVolume, importJob, obliqueIJKToRAS, segment

from DiffusionSegmentationLib.review import review
from DiffusionSegmentationLib.review.ranking import Ranker, RegionCriteria
from DiffusionSegmentationLib.review.review import DONE, FLAGGED, OPEN, SKIPPED, Review
from DiffusionSegmentationLib.scene.result_nodes import regionsVolume

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
    """RAS of the voxels of the outlined region, [n, 3]."""
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


def test_regions_are_those_of_the_report_worst_first(result, job):
    regions = Review(result.segmentationNode).regions
    assert len(regions) == len(job.report["regions"]) > 3
    assert [region["rank"] for region in regions] == list(range(1, len(regions) + 1))
    errors = [region["expected_error_ml"] for region in regions]
    assert errors == sorted(errors, reverse=True)
    assert regions[0]["classes"][0]["name"] in ("background", "Cortical grey matter", "Weiße Substanz")


def test_next_goes_through_open_regions_and_starts_again(result):
    queue = Review(result.segmentationNode)
    first, second, third = queue.regions[:3]
    assert queue.current is None and queue.next() is first
    queue.goTo(first)
    queue.mark(second, DONE)
    assert queue.next() is third
    queue.goTo(queue.regions[-1])
    assert queue.next() is first  # after the last one it starts again
    for region in queue.regions:
        queue.mark(region, SKIPPED)
    assert queue.next() is None


def test_remaining_regions_and_their_share_are_counted(result):
    queue = Review(result.segmentationNode)
    whole = sum(region["share"] for region in queue.regions)
    assert queue.remaining() == (len(queue.regions), pytest.approx(whole))
    queue.mark(queue.regions[0], DONE)
    queue.mark(queue.regions[1], FLAGGED)
    gone = queue.regions[0]["share"] + queue.regions[1]["share"]
    assert queue.remaining() == (len(queue.regions) - 2, pytest.approx(whole - gone))
    queue.mark(queue.regions[1], OPEN)
    assert queue.remaining()[0] == len(queue.regions) - 1


@pytest.mark.parametrize("transformed", [False, True])
def test_all_views_are_centered_on_a_region(tmp_path, transformed, application):
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
    volumeNode.TransformPointToWorld(region["peak_ras_mm"], world)
    assert np.allclose([node.GetSliceToRAS().GetElement(n, 3) for n in range(3)], world, atol=1e-3)
    assert np.allclose(cameraNode.GetFocalPoint(), world, atol=1e-3)
    assert np.allclose(np.subtract(cameraNode.GetPosition(), world), side, atol=1e-3)
    # The worst voxel lies inside the outline, whatever the volume's axes and transform are.
    places = outlined(result)
    assert np.linalg.norm(places - region["peak_ras_mm"], axis=1).min() < 2.5
    assert result.segmentationNode.GetNodeReference(OUTLINE).GetTransformNodeID() == volumeNode.GetTransformNodeID()


def test_views_zoom_to_a_region_and_are_restored(result, sliceNodes):
    sliceNodes[0].SetFieldOfView(500.0, 250.0, 1.0)
    sliceNodes[1].JumpSlice(3.0, 4.0, 5.0)
    before = [(node.GetFieldOfView(), slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())) for node in sliceNodes]
    queue = Review(result.segmentationNode)
    for region in queue.regions[:2]:
        queue.goTo(region)
        for node in sliceNodes:
            rasToSlice = np.linalg.inv(slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS()))
            across = (np.c_[outlined(result), np.ones(len(outlined(result)))] @ rasToSlice.T)[:, :2]
            half = np.array(node.GetFieldOfView()[:2]) / 2
            assert (np.abs(across) < half).all() and half.min() < 40  # the whole region, and not much more
        ratio = sliceNodes[0].GetFieldOfView()
        assert ratio[0] / ratio[1] == pytest.approx(2)
    Review(result.segmentationNode).leave()  # as after a scene was saved and opened
    after = [(node.GetFieldOfView(), slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())) for node in sliceNodes]
    for (fieldOfView, matrix), (wantedField, wantedMatrix) in zip(after, before, strict=True):
        assert fieldOfView == pytest.approx(wantedField) and np.allclose(matrix, wantedMatrix)


def test_views_are_restored_undistorted_at_another_size(result, sliceNodes):
    viewNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLViewNode")
    viewNode.SetLayoutName("1")
    cameraNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCameraNode")
    cameraNode.SetLayoutName("1")
    cameraNode.SetPosition(0, 400, 0)
    cameraNode.SetViewUp(0, 0, 1)
    view = sliceNodes[0]
    view.SetDimensions(400, 200, 1)
    view.SetFieldOfView(300.0, 150.0, 1.0)
    queue = Review(result.segmentationNode)
    queue.goTo(queue.regions[0])
    view.SetDimensions(200, 400, 1)  # another layout
    cameraNode.SetPosition(0, 0, 400)  # rotated by the user
    cameraNode.SetViewUp(0, 1, 0)
    queue.leave()
    assert view.GetFieldOfView() == pytest.approx((150.0, 300.0, 1.0)), "0.75 mm a pixel, across and up"
    assert cameraNode.GetPosition() == pytest.approx((0, 400, 0))
    assert cameraNode.GetViewUp() == pytest.approx((0, 0, 1))


def test_exactly_the_current_region_is_outlined(result, sliceNodes):
    queue = Review(result.segmentationNode)
    basins = slicer.util.arrayFromVolume(regionsVolume(result.segmentationNode))
    for region in queue.regions[:3]:
        queue.goTo(region)
        assert len(outlined(result)) == (basins == region["basin"]).sum() > 0
        assert result.segmentationNode.GetNodeReference(OUTLINE).GetSegmentation().GetNumberOfSegments() == 1
    names = [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")]
    assert sum("region" in name for name in names) == 1
    queue.leave()
    assert queue.current is None and result.segmentationNode.GetNodeReference(OUTLINE) is None


def test_decisions_are_stored_with_the_segmentation(result):
    queue = Review(result.segmentationNode)
    queue.mark(queue.regions[2], FLAGGED)
    queue.goTo(queue.regions[1])
    again = Review(result.segmentationNode)  # as after a scene was saved and opened
    assert again.state(again.regions[2]) == FLAGGED and again.state(again.regions[0]) == OPEN
    assert again.current["rank"] == 2
    json.loads(result.segmentationNode.GetAttribute("DiffusionSegmentation.Review"))


def ranked(result, criteria):
    """The review with the regions that a Ranker computes for `criteria`."""
    ranker = Ranker(result.segmentationNode)
    ranker.ask(criteria)
    deadline = time.monotonic() + 20
    while (regions := ranker.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert not ranker.busy
    return Review(result.segmentationNode).replaceRegions(*regions)


def test_the_default_criteria_give_the_regions_of_the_report(result, job):
    again = ranked(result, RegionCriteria())
    reported = [entry["expected_error_ml"] for entry in job.report["regions"]]
    assert [region["expected_error_ml"] for region in again.regions] == reported
    assert [region["basin"] for region in again.regions] == [entry["basin"] for entry in job.report["regions"]]
    assert (again.expectedError, again.reviewable) == (job.report["expected_error_ml"], job.report["reviewable_ml"])
    # Positions refer to the volume, although the arrays cover only a block of it.
    for region, entry in zip(again.regions, job.report["regions"], strict=True):
        assert math.dist(region["peak_ras_mm"], entry["peak_ras_mm"]) < 0.02
        low, high = bounds(result, region["basin"])
        assert (np.array(region["peak_ras_mm"]) > low - 0.1).all() and (
            np.array(region["peak_ras_mm"]) < high + 0.1
        ).all()


def bounds(result, basin):
    """RAS bounds of the voxels of a region."""
    kji = np.argwhere(slicer.util.arrayFromVolume(regionsVolume(result.segmentationNode)) == basin)
    matrix = vtk.vtkMatrix4x4()
    regionsVolume(result.segmentationNode).GetIJKToRASMatrix(matrix)
    places = np.array([matrix.MultiplyPoint((*map(float, index[::-1]), 1.0))[:3] for index in kji])
    return places.min(0), places.max(0)


def test_another_threshold_gives_other_regions_and_keeps_decisions(result):
    queue = Review(result.segmentationNode)
    queue.mark(queue.regions[1], FLAGGED)
    queue.goTo(queue.regions[1])
    basin = queue.regions[1]["basin"]
    smaller = ranked(result, RegionCriteria(0.5, 200))
    assert 0 < len(smaller.regions) < len(queue.regions)
    assert all(region["volume_ml"] >= 0.2 for region in smaller.regions)
    inside = [region for region in smaller.regions if region["basin"] == basin]
    assert inside and smaller.state(inside[0]) == FLAGGED and smaller.current == inside[0]
    nothing = ranked(result, RegionCriteria(1.5, 1))
    assert nothing.regions == [] and nothing.criteria == RegionCriteria(1.5, 1) and nothing.current is None
    assert result.segmentationNode.GetNodeReference(OUTLINE) is None
    back = ranked(result, RegionCriteria())
    assert back.state(next(region for region in back.regions if region["basin"] == basin)) == FLAGGED


def test_only_the_latest_criteria_are_computed(result):
    ranker = Ranker(result.segmentationNode)
    for bits in (0.1, 0.2, 0.3, 0.4):
        ranker.ask(RegionCriteria(bits))
    regions = []
    while ranker.busy:
        regions += filter(None, [ranker.poll()])
    assert regions[-1][0] == RegionCriteria(0.4) and len(regions) < 4


def test_regions_cannot_be_updated_without_probabilities(result):
    slicer.mrmlScene.RemoveNode(result.probabilitiesNode)
    with pytest.raises(LookupError, match="cannot be updated"):
        Ranker(result.segmentationNode)


def test_without_the_region_map_only_the_outline_is_missing(result, sliceNodes):
    slicer.mrmlScene.RemoveNode(result.regionsNode)
    queue = Review(result.segmentationNode)
    queue.goTo(queue.regions[0])
    place = [sliceNodes[0].GetSliceToRAS().GetElement(n, 3) for n in range(3)]
    assert np.allclose(place, queue.regions[0]["peak_ras_mm"], atol=1e-3)
    assert result.segmentationNode.GetNodeReference(OUTLINE) is None


def test_a_result_of_an_earlier_version_has_no_regions(result):
    report = json.loads(result.segmentationNode.GetAttribute("DiffusionSegmentation.Run"))
    del report["regions"]
    result.segmentationNode.SetAttribute("DiffusionSegmentation.Run", json.dumps(report))
    queue = Review(result.segmentationNode)
    assert queue.regions == [] and queue.next() is None and queue.remaining() == (0, 0)
