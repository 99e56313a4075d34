"""The label map of a result: reading, counting of edits, and writing without changes to other segments."""

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from mrml_cases import LABELS, addLinearTransform, addVolume, importJob, obliqueIJKToRAS, segment

from DiffusionSegmentationLib.review import corrections
from DiffusionSegmentationLib.review.review import Review
from DiffusionSegmentationLib.scene.label_map import Labels


@pytest.fixture
def result(volumeNode, job):
    return importJob(volumeNode, job)


def segmentArray(result, segmentID, volumeNode):
    return slicer.util.arrayFromSegmentBinaryLabelmap(result.segmentationNode, segmentID, volumeNode) > 0


def test_consensus_and_segments_are_as_computed(result, job):
    labels = Labels(result.segmentationNode)
    assert np.array_equal(labels.consensus(), job.labels[3:-1, 1:-3, 2:-2])
    assert np.array_equal(labels.current(), labels.consensus())
    assert labels.edited() == 0


def test_edited_voxels_are_counted(result, volumeNode):
    labels = Labels(result.segmentationNode)
    grey = segmentArray(result, "cortical_grey", volumeNode)
    places = np.argwhere(grey[3:-1, 1:-3, 2:-2])[:7] + [3, 1, 2]
    grey[tuple(places.T)] = False
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        grey.astype(np.uint8), result.segmentationNode, "cortical_grey", volumeNode
    )
    assert labels.edited() == 7
    result.segmentationNode.GetSegmentation().RemoveSegment("cortical_grey")
    assert labels.edited() == (labels.consensus() == 1).sum()


def test_copied_segments_stay_as_they_were_and_others_do_not_count(result):
    labels = Labels(result.segmentationNode)
    before, copied = labels.current(), labels.copied()
    assert before.any()
    for image, values in labels._layers().items():
        scalars = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
        scalars[:] = max(values) + 1  # the value of a segment of the user in the same image
        image.Modified()
    assert np.array_equal(copied(), before)
    assert not labels.current().any()


def test_a_sample_replaces_labels_only_inside_the_region(result, job):
    review = Review(result.segmentationNode)
    labels = Labels(result.segmentationNode)
    before = labels.current()
    masks = [corrections.regionMask(result.segmentationNode, region["basin"]) for region in review.regions]
    mask = max(masks, key=lambda mask: (before != job.samples[2])[mask].sum())
    changed = corrections.useSample(result.segmentationNode, 2, mask)
    after = labels.current()
    assert changed == labels.edited() == (before != job.samples[2])[mask].sum() > 0
    assert np.array_equal(after[mask], job.samples[2][mask]) and np.array_equal(after[~mask], before[~mask])


def test_a_sample_may_extend_beyond_a_cropped_segment(result, job):
    labels = Labels(result.segmentationNode)
    everywhere = np.ones(labels.shape, bool)
    expected = np.full(labels.shape, 2, np.uint8)
    for entry in LABELS:  # shrink the images to nearly nothing
        image = result.segmentationNode.GetSegmentation().GetSegment(entry["id"]).GetRepresentation("Binary labelmap")
    image.SetExtent(4, 5, 4, 5, 4, 5)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())[:] = 1
    assert (labels.current() == 1).sum() == 8
    labels.write(expected, everywhere)
    assert (labels.current() == 2).all()


def test_the_users_segments_are_kept(result, volumeNode):
    tumour = np.zeros(slicer.util.arrayFromVolume(volumeNode).shape, np.uint8)
    tumour[5:9, 5:9, 5:9] = 1
    segmentationNode = result.segmentationNode
    segmentationNode.GetSegmentation().AddEmptySegment("tumour", "Tumour")
    slicer.util.updateSegmentBinaryLabelmapFromArray(tumour, segmentationNode, "tumour", volumeNode)
    labels = Labels(segmentationNode)
    labels.write(np.full(labels.shape, 1, np.uint8), np.ones(labels.shape, bool))
    assert np.array_equal(segmentArray(result, "tumour", volumeNode), tumour > 0)


@pytest.mark.parametrize("transformed", [False, True])
def test_a_roi_limits_the_change(application, tmp_path, transformed):
    volumeNode = addVolume("Schief", obliqueIJKToRAS())
    if transformed:
        volumeNode.SetAndObserveTransformNodeID(addLinearTransform().GetID())
    result = importJob(volumeNode, segment(volumeNode, tmp_path))
    labels = Labels(result.segmentationNode)
    centre = np.array([8, 7, 5])  # ijk of the block
    world = [0.0] * 3
    volumeNode.TransformPointToWorld((labels.ijkToRAS @ [*centre, 1.0])[:3], world)
    roiNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    roiNode.SetCenterWorld(world)
    roiNode.SetSizeWorld(4.0, 4.0, 4.0)
    mask = corrections.roiMask(result.segmentationNode, roiNode)
    assert mask[tuple(centre[::-1])] and 0 < mask.sum() < 64 / np.prod([0.9, 1.1, 2.0]) * 2
    for kji in np.argwhere(mask):
        place = [0.0] * 3
        volumeNode.TransformPointToWorld((labels.ijkToRAS @ [*kji[::-1], 1.0])[:3], place)
        assert (np.abs(np.subtract(place, world)) <= 2.0 + 1e-6).all()


def test_a_painted_segment_limits_the_change(result, volumeNode):
    painted = np.zeros(slicer.util.arrayFromVolume(volumeNode).shape, np.uint8)
    painted[3:6, 4:8, 5:9] = 1
    result.segmentationNode.GetSegmentation().AddEmptySegment("mine", "Mine")
    slicer.util.updateSegmentBinaryLabelmapFromArray(painted, result.segmentationNode, "mine", volumeNode)
    mask = corrections.segmentMask(result.segmentationNode, "mine")
    assert np.array_equal(mask, painted[3:-1, 1:-3, 2:-2] > 0)


def test_a_review_segment_contains_the_uncertain_voxels_and_keeps_the_others(result, job, volumeNode):
    segmentationNode = result.segmentationNode
    for _again in range(2):
        segmentID = corrections.makeReviewSegment(segmentationNode, 0.5)
        assert np.array_equal(segmentArray(result, segmentID, volumeNode), job.entropy >= 0.5)
    assert Labels(segmentationNode).edited() == 0
    assert segmentationNode.GetSegmentation().GetNumberOfSegments() == len(LABELS) + 1
    with pytest.raises(LookupError, match="lower the threshold"):
        corrections.makeReviewSegment(segmentationNode, 1.5)


def test_removed_nodes_are_named_in_the_error(result):
    slicer.mrmlScene.RemoveNode(result.samplesNode)
    with pytest.raises(LookupError, match="samples"):
        corrections.useSample(result.segmentationNode, 0, np.ones((2, 2, 2), bool))
    slicer.mrmlScene.RemoveNode(result.regionsNode)
    with pytest.raises(LookupError, match="regions"):
        corrections.regionMask(result.segmentationNode, 1)
    slicer.mrmlScene.RemoveNode(result.probabilitiesNode)
    with pytest.raises(LookupError, match="probabilities"):
        Labels(result.segmentationNode)


def test_a_segment_in_the_models_labelmap_can_limit_the_change(result, job):
    """As Segment Editor does it: the new segment overwrites the model's voxels in a shared labelmap."""
    segmentationNode = result.segmentationNode
    segmentation = segmentationNode.GetSegmentation()
    segmentation.AddEmptySegment("mine", "Mine")
    userSegment = segmentation.GetSegment("mine")
    image = segmentation.GetSegment(LABELS[0]["id"]).GetRepresentation("Binary labelmap")
    userSegment.AddRepresentation("Binary labelmap", image)
    userSegment.SetLabelValue(9)
    voxels = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    voxels.reshape(image.GetDimensions()[::-1])[4:8, 4:9, 4:9] = 9
    image.Modified()
    mask = corrections.segmentMask(segmentationNode, "mine")
    assert mask.sum() == 100
    segmentationNode.GetSegmentation().SeparateSegmentLabelmap("mine")
    assert corrections.useSample(segmentationNode, 1, mask) > 0
    assert np.array_equal(Labels(segmentationNode).current()[mask], job.samples[1][mask])
    assert np.array_equal(corrections.segmentMask(segmentationNode, "mine"), mask)


def test_segments_without_a_label_map_are_reported(result):
    for entry in LABELS:
        segment = result.segmentationNode.GetSegmentation().GetSegment(entry["id"])
        segment.RemoveRepresentation("Binary labelmap")
    with pytest.raises(LookupError, match="no binary labelmap"):
        Labels(result.segmentationNode).stamp()


def test_a_users_segment_in_the_models_labelmap_is_kept(result):
    segmentation = result.segmentationNode.GetSegmentation()
    segmentation.AddEmptySegment("mine", "Mine")
    userSegment, image = (
        segmentation.GetSegment("mine"),
        segmentation.GetNthSegment(0).GetRepresentation("Binary labelmap"),
    )
    userSegment.AddRepresentation("Binary labelmap", image)
    userSegment.SetLabelValue(9)
    voxels = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    voxels.reshape(image.GetDimensions()[::-1])[4:8, 4:9, 4:9] = 9
    before = corrections.segmentMask(result.segmentationNode, "mine")
    labels = Labels(result.segmentationNode)
    labels.write(np.full(labels.shape, 1, np.uint8), np.ones(labels.shape, bool))
    assert before.sum() == 100 and np.array_equal(corrections.segmentMask(result.segmentationNode, "mine"), before)
