"""Facts of a result in the scene: collected from edits and decisions, stored, and carried to the updated result."""

import json
import threading

import numpy as np
import pytest
import slicer
import slicer.util
from mrml_cases import LABELS, importJob

from DiffusionSegmentationLib.review.corrections import hasEdits
from DiffusionSegmentationLib.review.facts import FactsSource
from DiffusionSegmentationLib.review.review import DONE, SKIPPED, Review
from DiffusionSegmentationLib.review.updates import carryOver, formerOf, roundsOf
from DiffusionSegmentationLib.scene import nrrd_files, voxel_grids
from DiffusionSegmentationLib.scene.display import removeNode
from DiffusionSegmentationLib.scene.facts import UNKNOWN, storedFacts
from DiffusionSegmentationLib.scene.label_map import Labels
from DiffusionSegmentationLib.scene.result_nodes import FACTS_ROLE, regionsVolume, removeResult

NUMBERS = {"edited_voxels": 1, "done_regions": 0, "voxels": 1}


@pytest.fixture
def result(volumeNode, job):
    return importJob(volumeNode, job)


def edit(node, label, count=5):
    """Give the first voxels of the block another label; returns their mask."""
    labels = Labels(node)
    mask = np.zeros(labels.shape, bool)
    mask.reshape(-1)[:count] = True
    mask &= labels.consensus() != label
    labels.write(np.full(labels.shape, label, np.uint8), mask)
    return mask


def voxelsOf(node):
    """Number of labelled voxels in the block of the result."""
    return np.count_nonzero(Labels(node).current())


def test_edits_and_done_regions_are_facts_with_the_labels_of_now(result, job, tmp_path):
    node = result.segmentationNode
    outside = FactsSource(node).settled()
    inBlock = voxelsOf(node)
    assert outside.voxels == outside.edited == np.count_nonzero(job.labels) - inBlock > 0, (
        "painted outside of the block"
    )
    mask, review = edit(node, 2), Review(node)
    review.mark(review.regions[0], DONE)
    review.mark(review.regions[1], SKIPPED)
    done = slicer.util.arrayFromVolume(regionsVolume(node)) == review.regions[0]["basin"]
    settled = FactsSource(node).settled()
    known = settled.facts.labels != UNKNOWN
    assert known.sum() == settled.voxels == settled.fresh == (mask | done).sum() + outside.voxels
    assert settled.edited - outside.edited == mask.sum() > 0 and settled.regions == 1 and settled.facts.rounds == 1
    assert np.count_nonzero(settled.facts.labels == 2) >= mask.sum()
    settled.facts.write(tmp_path / "facts.nrrd", threading.Event())
    header = nrrd_files.readHeader(tmp_path / "facts.nrrd")
    assert header.sizes == settled.facts.labels.shape[::-1] and np.allclose(header.ijkToRAS(), settled.facts.ijkToRAS)


def test_facts_are_read_stored_and_added_to(volumeNode, job):
    first = importJob(volumeNode, job).segmentationNode
    edit(first, 1)
    before = FactsSource(first).settled()
    facts = before.facts
    facts.write(job.folder / "facts.nrrd", threading.Event())
    job.report["facts"] = {"voxels": before.voxels, "rounds": 1, "labels": {}}
    job.report["input"] = {}
    updated = importJob(volumeNode, job).segmentationNode
    stored = storedFacts(updated)
    assert np.array_equal(stored.labels, facts.labels) and stored.rounds == 1
    settled = FactsSource(updated).settled()
    assert settled.voxels == before.voxels and settled.fresh == settled.edited == 0 and settled.facts.rounds == 2
    removeNode(updated.GetNodeReference(FACTS_ROLE))
    with pytest.raises(LookupError, match="The facts of this result were removed"):
        storedFacts(updated)


def test_an_update_takes_over_looks_segments_and_decisions_and_leaves_the_former(volumeNode, job):
    former, updated = (importJob(volumeNode, job).segmentationNode for _result in range(2))
    review = Review(former)
    review.mark(review.regions[0], SKIPPED)
    review.mark(review.regions[1], DONE)
    former.GetSegmentation().GetSegment(LABELS[0]["id"]).SetColor(0.1, 0.2, 0.3)
    former.GetSegmentation().RemoveSegment(LABELS[1]["id"])
    former.GetSegmentation().AddEmptySegment("mine", "Mine")
    before = [former.GetAttribute(name) for name in former.GetAttributeNames()]
    carryOver(former, updated, NUMBERS)
    assert [former.GetAttribute(name) for name in former.GetAttributeNames()] == before
    assert list(updated.GetSegmentation().GetSegmentIDs()) == [LABELS[0]["id"], "mine"]
    assert updated.GetSegmentation().GetSegment(LABELS[0]["id"]).GetColor() == pytest.approx((0.1, 0.2, 0.3))
    states = [Review(updated).state(region) for region in Review(updated).regions[:3]]
    assert states == [SKIPPED, "open", "open"] and Review(updated).current is None
    assert formerOf(updated) is former and roundsOf(updated) == [NUMBERS]
    third = importJob(volumeNode, job).segmentationNode
    carryOver(updated, third, NUMBERS)
    assert roundsOf(third) == json.loads(json.dumps([NUMBERS, NUMBERS]))
    removeResult(third)
    assert updated.GetScene() is not None and former.GetScene() is not None


@pytest.fixture
def updated(volumeNode, job):
    """A result with two own segments, one of them empty, and an update of it."""
    former = importJob(volumeNode, job).segmentationNode
    former.GetSegmentation().RemoveSegment(LABELS[1]["id"])
    addOwn(former)
    former.GetSegmentation().AddEmptySegment("empty", "Empty")
    node = importJob(volumeNode, job).segmentationNode
    carryOver(former, node, NUMBERS)
    return node


def addOwn(node, name="mine"):
    """Add a segment of 3 x 3 x 3 voxels."""
    mask = np.zeros(Labels(node).shape, bool)
    mask[4:7, 5:8, 6:9] = True
    image = voxel_grids.croppedImage(mask, Labels(node).ijkToRAS)
    node.GetSegmentation().AddSegment(voxel_grids.segment(name, (0.1, 0.9, 0.1), image), name)


def ownVoxels(node):
    return voxel_grids.imageArray(node.GetSegmentation().GetSegment("mine").GetRepresentation("Binary labelmap"))


@pytest.mark.parametrize(
    "change",
    [
        lambda node: edit(node, 1),
        lambda node: ownVoxels(node).__setitem__((1, 1, 1), 0),
        lambda node: addOwn(node, "another"),
        lambda node: node.GetSegmentation().RemoveSegment("mine"),
        lambda node: node.GetSegmentation().RemoveSegment(LABELS[0]["id"]),
    ],
    ids=["voxels of the model", "voxels of an own segment", "added", "own removed", "model's removed"],
)
def test_every_change_after_an_update_is_an_edit(updated, change):
    assert not hasEdits(updated, formerOf(updated)), "also not the segment that was removed before the update"
    change(updated)
    assert hasEdits(updated, formerOf(updated))


def test_an_own_segment_is_the_same_in_a_larger_image_and_in_a_reopened_scene(updated, application, tmp_path):
    segment = updated.GetSegmentation().GetSegment("mine")
    image, larger = segment.GetRepresentation("Binary labelmap"), slicer.vtkOrientedImageData()
    extent = [bound + 2 * (n % 2) - 1 for n, bound in enumerate(image.GetExtent())]
    slicer.vtkOrientedImageDataResample.CopyImage(image, larger, extent)
    image.DeepCopy(larger)
    assert image.GetExtent() == tuple(extent) and not hasEdits(updated, formerOf(updated))
    name = updated.GetName()
    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(False)
    assert application.logic.OpenSlicerDataBundle(str(tmp_path / "scene.mrb"), str(tmp_path))
    again = slicer.util.getNode(name)
    assert again.GetSegmentation().GetSegment("mine") and not hasEdits(again, formerOf(again))
    ownVoxels(again)[:] = 0
    assert hasEdits(again, formerOf(again))


def test_the_label_map_is_copied_again_only_after_edits(result):
    node = result.segmentationNode
    first = FactsSource(node)
    review = Review(node)
    review.mark(review.regions[0], DONE)
    second = FactsSource(node, first)
    assert second._current is first._current and second.settled().regions == 1
    mask = edit(node, 2)
    third = FactsSource(node, second)
    assert third._current is not second._current
    assert np.count_nonzero(third._current != second._current) == mask.sum() > 0
    assert third.settled().edited == FactsSource(node).settled().edited > second.settled().edited
    node.GetSegmentation().RemoveSegment(LABELS[0]["id"])
    assert (FactsSource(node, third)._current == 1).sum() == 0
