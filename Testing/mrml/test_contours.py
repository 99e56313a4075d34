"""Inner and outer contours in the scene: what they surround, how they are drawn, and a reopened scene."""

import numpy as np
import pytest
import slicer.util
from mrml_cases import LABELS, importJob, showInViews

from DiffusionSegmentationLib.headless import session
from DiffusionSegmentationLib.scene import display, result_nodes, voxel_grids
from DiffusionSegmentationLib.scene.contours import CONTOURS_ROLE, Contours


@pytest.fixture
def result(volumeNode, job):
    return importJob(volumeNode, job)


def requireContours(node, volumeNode, probabilities, levels):
    """The contours surround exactly the stored probabilities from their level on, at their place in the volume."""
    shown = node.GetNodeReference(CONTOURS_ROLE)
    block = node.GetNodeReference(result_nodes.PROBABILITIES_ROLE).GetNthDataNode(0)
    start = voxel_grids.offset(voxel_grids.ijkToRAS(block), voxel_grids.ijkToRAS(volumeNode))
    expected = {
        f"{entry['id']}_{contour}": probabilities[entry["label"]] >= 255 * level
        for entry in LABELS
        for contour, level in levels.items()
    }
    expected = {segmentID: part for segmentID, part in expected.items() if part.any()}
    assert list(shown.GetSegmentation().GetSegmentIDs()) == list(expected)
    for segmentID, part in expected.items():
        array = slicer.util.arrayFromSegmentBinaryLabelmap(shown, segmentID, volumeNode) > 0
        assert array.sum() == part.sum() and np.array_equal(voxel_grids.block(array, start, part.shape), part)


def test_contours_surround_what_reaches_their_level(result, volumeNode, job):
    node = result.segmentationNode
    contours = Contours(node)
    assert not contours.chosen and contours.missing is None
    contours.chosen = True
    contours.draw()
    shown = node.GetNodeReference(CONTOURS_ROLE)
    requireContours(node, volumeNode, job.probabilities, job.report["contours"])
    segment = shown.GetSegmentation().GetSegment(f"{LABELS[0]['id']}_outer")
    assert segment.GetName() == f"{LABELS[0]['name']}, possibly"
    assert segment.GetColor() == pytest.approx(node.GetSegmentation().GetSegment(LABELS[0]["id"]).GetColor())


def test_both_contours_are_drawn_and_the_inner_is_filled(result, views, volumeNode):
    showInViews(views, volumeNode)
    node, view, first = result.segmentationNode, views["Red"], LABELS[0]["id"]
    display.showOutlines(node, False)
    plain = view.render().astype(int)
    Contours(node).chosen = True
    Contours(node).draw()
    displayNode = node.GetNodeReference(CONTOURS_ROLE).GetDisplayNode()
    drawn = {}
    for contour in ("inner", "outer"):
        displayNode.SetAllSegmentsVisibility(False)
        displayNode.SetSegmentVisibility(f"{first}_{contour}", True)
        drawn[contour] = np.abs(view.render() - plain).max(-1)
    lines, changed = ({name: (change > limit).sum() for name, change in drawn.items()} for limit in (60, 8))
    assert min(lines.values()) > 50
    assert changed["inner"] > 3 * lines["inner"] and changed["outer"] < 3 * lines["outer"]
    Contours(node).chosen = False
    assert np.array_equal(view.render(), plain)


def test_a_structure_that_is_hidden_has_no_contours(result):
    node = result.segmentationNode
    node.GetDisplayNode().SetSegmentVisibility(LABELS[0]["id"], False)
    Contours(node).chosen = True
    Contours(node).draw()
    segmentIDs = node.GetNodeReference(CONTOURS_ROLE).GetSegmentation().GetSegmentIDs()
    assert list(segmentIDs) == [f"{LABELS[1]['id']}_outer"]


def test_contours_hide_and_come_with_their_structure(result):
    node, names = result.segmentationNode, [entry["id"] for entry in LABELS]
    contours, display = Contours(node), node.GetDisplayNode()
    contours.chosen = True
    steps = contours.drawSteps()
    assert next(steps) is None and node.GetNodeReference(CONTOURS_ROLE) is not None
    display.SetSegmentVisibility(names[0], False)  # while its contours wait
    contours.draw()
    drawn = node.GetNodeReference(CONTOURS_ROLE)
    assert [f"{names[0]}_" in segmentID for segmentID in drawn.GetSegmentation().GetSegmentIDs()] == [False]
    display.SetSegmentVisibility(names[0], True)
    contours.draw()
    shown = {one: drawn.GetDisplayNode().GetSegmentVisibility(one) for one in drawn.GetSegmentation().GetSegmentIDs()}
    assert all(shown.values()) and any(names[0] in one for one in shown)
    display.SetSegmentVisibility(names[0], False)
    contours.draw()
    assert all(drawn.GetDisplayNode().GetSegmentVisibility(one) == (names[0] not in one) for one in shown)
    display.SetVisibility(False)
    contours.draw()
    assert not drawn.GetDisplayNode().GetVisibility()


def test_a_structure_that_is_nowhere_sure_has_an_outer_contour_only(volumeNode, job):
    job.report["contours"] = {"inner": 0.99, "outer": 0.05}
    node = importJob(volumeNode, job).segmentationNode
    Contours(node).chosen = True
    Contours(node).draw()
    segmentIDs = node.GetNodeReference(CONTOURS_ROLE).GetSegmentation().GetSegmentIDs()
    assert list(segmentIDs) == [f"{entry['id']}_outer" for entry in LABELS]


def test_the_choice_is_saved_with_the_scene_and_the_contours_are_not(application, result, job, tmp_path):
    Contours(result.segmentationNode).chosen = True
    Contours(result.segmentationNode).draw()
    path = tmp_path / "scene.mrb"
    assert slicer.mrmlScene.WriteToMRB(str(path))
    application.close()
    other = session.boot()
    try:
        assert other.logic.OpenSlicerDataBundle(str(path), str(tmp_path))
        volumeNode = other.scene.GetFirstNodeByName("Kopf é 頭")
        assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1
        (node,) = result_nodes.resultsOf(volumeNode)
        Contours(node).draw()
        requireContours(node, volumeNode, job.probabilities, job.report["contours"])
        Contours(node).hide()
        assert Contours(node).chosen and node.GetNodeReference(CONTOURS_ROLE) is None
    finally:
        other.close()


def test_contours_are_removed_with_their_result(result):
    Contours(result.segmentationNode).chosen = True
    Contours(result.segmentationNode).draw()
    result_nodes.removeResult(result.segmentationNode)
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []


def test_contours_of_a_result_without_probabilities_are_missing(result):
    node = result.segmentationNode
    Contours(node).chosen = True
    Contours(node).draw()
    Contours(node).hide()
    display.removeNode(result.probabilitiesNode)
    Contours(node).draw()
    assert node.GetNodeReference(CONTOURS_ROLE) is None
    assert Contours(node).missing == "The class probabilities of this result were removed."
