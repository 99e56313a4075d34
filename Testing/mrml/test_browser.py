"""The sample browser: voxels, position and order of the samples."""

import numpy as np
import pytest
import slicer
import slicer.util
from mrml_cases import LABELS, addLinearTransform, addVolume, importJob, obliqueIJKToRAS, segment

from DiffusionSegmentationLib.scene.sample_browser import AS_DRAWN, MOST_SIMILAR, Browser


@pytest.fixture
def result(volumeNode, job):
    job.report["samples_dice"] = [0.7, 0.9, 0.8]
    return importJob(volumeNode, job)


def shown(browser, volumeNode):
    """The labels [k, j, i] of the shown sample on the grid of the volume."""
    node = browser.segmentationNode.GetNodeReference("DiffusionSegmentation.ShownSample")
    labels = np.zeros(slicer.util.arrayFromVolume(volumeNode).shape, np.uint8)
    for entry in LABELS:
        labels[slicer.util.arrayFromSegmentBinaryLabelmap(node, entry["id"], volumeNode) > 0] = entry["label"]
    return labels


@pytest.mark.parametrize("transformed", [False, True])
def test_each_sample_is_shown_as_it_was_drawn(application, tmp_path, transformed):
    volumeNode = addVolume("Schief", obliqueIJKToRAS())
    if transformed:
        volumeNode.SetAndObserveTransformNodeID(addLinearTransform().GetID())
    job = segment(volumeNode, tmp_path)
    browser = Browser(importJob(volumeNode, job).segmentationNode)
    assert browser.count == 3 and browser.shown is None
    for position in (0, 2, 1):
        browser.show(position)
        assert browser.shown == position
        assert np.array_equal(shown(browser, volumeNode)[3:-1, 1:-3, 2:-2], job.samples[position])
    node = browser.segmentationNode.GetNodeReference("DiffusionSegmentation.ShownSample")
    assert node.GetName() == "Schief sample" and node.GetTransformNodeID() == volumeNode.GetTransformNodeID()
    assert slicer.mrmlScene.GetNodesByClass("vtkMRMLSegmentationNode").GetNumberOfItems() == 2
    browser.hide()
    assert browser.shown is None and browser.position == 1
    assert slicer.mrmlScene.GetNodesByClass("vtkMRMLSegmentationNode").GetNumberOfItems() == 1


def test_a_part_of_a_sample_is_shown_in_any_order(result, job, volumeNode):
    browser = Browser(result.segmentationNode)
    browser.order = MOST_SIMILAR
    mask = np.zeros(job.samples[2].shape, bool)
    mask[1:4, 2:9, 3:8] = True
    browser.showPart(2, 7, mask)
    assert (browser.shown, browser.position, browser.part) == (2, 1, 7)
    assert np.array_equal(shown(browser, volumeNode)[3:-1, 1:-3, 2:-2], np.where(mask, job.samples[2], 0))
    browser.show(1)
    assert (browser.shown, browser.part) == (2, None)
    assert np.array_equal(shown(browser, volumeNode)[3:-1, 1:-3, 2:-2], job.samples[2])


def test_samples_are_sorted_by_the_selected_order(result, job):
    browser = Browser(result.segmentationNode)
    assert list(browser.orders()) == [AS_DRAWN, MOST_SIMILAR, *(entry["id"] for entry in LABELS)]
    assert [browser.index(n) for n in range(3)] == [0, 1, 2]
    browser.order = MOST_SIMILAR
    assert [browser.index(n) for n in range(3)] == [1, 2, 0]
    assert [browser.dice[browser.index(n)] for n in range(3)] == [0.9, 0.8, 0.7]
    for entry in LABELS:
        browser.order = entry["id"]
        volumes = [(job.samples[browser.index(n)] == entry["label"]).sum() for n in range(3)]
        assert volumes == sorted(volumes)
    assert Browser(result.segmentationNode).order == LABELS[-1]["id"]


def test_older_reports_have_no_order_by_similarity(volumeNode, job):
    browser = Browser(importJob(volumeNode, job).segmentationNode)
    assert MOST_SIMILAR not in browser.orders() and not browser.dice
    browser.order = MOST_SIMILAR
    assert browser.index(2) == 2


def test_removed_samples_cannot_be_browsed(result):
    slicer.mrmlScene.RemoveNode(result.samplesNode)
    assert Browser(result.segmentationNode).count == 0


def test_painting_on_the_shown_sample_does_not_change_the_stored_one(result, job):
    browser = Browser(result.segmentationNode)
    browser.show(0)
    node = browser.segmentationNode.GetNodeReference("DiffusionSegmentation.ShownSample")
    image = node.GetSegmentation().GetSegment(LABELS[0]["id"]).GetRepresentation("Binary labelmap")
    image.GetPointData().GetScalars().Fill(1)
    assert np.array_equal(slicer.util.arrayFromVolume(result.samplesNode.GetNthDataNode(0)), job.samples[0])
