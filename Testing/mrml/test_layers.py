"""The two overlays of a result: switching between them, shared settings, restored foreground."""

import json

import numpy as np
import pytest
import slicer
import slicer.util
from mrml_cases import MAXIMUM_BITS, addVolume, importJob, segment, showInViews

from DiffusionSegmentationLib.scene import result_nodes
from DiffusionSegmentationLib.scene.display import Overlay
from DiffusionSegmentationLib.scene.label_map import Labels
from DiffusionSegmentationLib.scene.overlays import ResultOverlays
from DiffusionSegmentationLib.scene.result_nodes import DISAGREEMENT_ROLE, ENTROPY_ROLE


@pytest.fixture
def result(views, volumeNode, job):
    """A result whose volume is in the background of all views, with a PET in the foreground of Red."""
    result = importJob(volumeNode, job)
    result.segmentationNode.SetDisplayVisibility(False)
    pet = addVolume("PET", np.eye(4))
    showInViews(views, volumeNode)
    views["Red"].compositeNode.SetForegroundVolumeID(pet.GetID())
    views["Red"].compositeNode.SetForegroundOpacity(0.35)
    return result


def foregrounds(views):
    composites = [view.compositeNode for view in views.values()]
    return [(composite.GetForegroundVolumeID(), composite.GetForegroundOpacity()) for composite in composites]


def test_the_disagreement_is_imported_like_the_entropy(volumeNode, job):
    node = importJob(volumeNode, job).disagreementNode

    assert node.GetName() == "Kopf é 頭 disagreement"
    assert np.array_equal(slicer.util.arrayFromVolume(node), job.disagreement)
    assert json.loads(node.GetAttribute(result_nodes.RUN_ATTRIBUTE)) == job.report
    assert node.GetNodeReference(result_nodes.VOLUME_ROLE) is volumeNode
    displayNode = node.GetScalarVolumeDisplayNode()
    assert displayNode.GetColorNode().GetName() == "Entropy (plasma)"
    assert displayNode.GetWindowLevelMax() == pytest.approx(MAXIMUM_BITS, abs=1e-5)
    assert slicer.modules.colors.logic().GetColorLegendDisplayNode(node).GetTitleText() == "Disagreement (bits)"


def test_a_switch_keeps_opacity_threshold_and_the_stored_foreground(result, views):
    before = foregrounds(views)
    layers = ResultOverlays(result.segmentationNode)
    assert layers.roles == (ENTROPY_ROLE, DISAGREEMENT_ROLE) and layers.chosen == ENTROPY_ROLE
    layers.show()
    views["Green"].compositeNode.SetForegroundVolumeID(None)  # the user removes it
    layers.opacity, layers.threshold = 0.4, 0.3

    layers.chosen = DISAGREEMENT_ROLE

    assert layers.visible and (layers.opacity, layers.threshold) == (0.4, 0.3)
    shown = {name: view.compositeNode.GetForegroundVolumeID() for name, view in views.items()}
    node = result.disagreementNode.GetID()
    assert shown == {"Red": node, "Yellow": node, "Green": None}
    assert views["Red"].compositeNode.GetForegroundOpacity() == 0.4
    layers.threshold = 0.5
    assert Overlay(result.entropyNode).threshold == 0.5  # which review and corrections use
    Overlay(result.disagreementNode).threshold = 0.9  # by hand, in Volumes
    layers.chosen = ENTROPY_ROLE
    assert layers.threshold == 0.9
    layers.hide()
    assert foregrounds(views)[:2] == before[:2] and foregrounds(views)[2][0] is None


def test_selecting_an_overlay_does_not_show_it(result, views):
    before = foregrounds(views)
    layers = ResultOverlays(result.segmentationNode)

    layers.chosen = DISAGREEMENT_ROLE

    assert not layers.visible and foregrounds(views) == before
    layers.show()
    assert views["Red"].compositeNode.GetForegroundVolumeID() == result.disagreementNode.GetID()
    layers.hide()
    assert foregrounds(views) == before


def test_only_the_selected_overlay_and_its_legend_are_drawn(result, views):
    layers = ResultOverlays(result.segmentationNode)
    layers.show()
    entropy = views["Red"].render()

    layers.chosen = DISAGREEMENT_ROLE
    switched = views["Red"].render()
    layers.hide()
    layers.show()  # as if it had been the first
    assert np.array_equal(switched, views["Red"].render())
    assert not np.array_equal(switched, entropy)

    layers.chosen = ENTROPY_ROLE
    assert np.array_equal(views["Red"].render(), entropy)


def test_no_legend_of_the_previous_overlay_is_drawn(result, views, volumeNode, tmp_path):
    Overlay(result.entropyNode).show()
    second = importJob(volumeNode, segment(volumeNode, tmp_path))
    second.segmentationNode.SetDisplayVisibility(False)
    Overlay(second.entropyNode).threshold = MAXIMUM_BITS
    Overlay(second.entropyNode).show()
    after = views["Red"].render()
    slicer.modules.colors.logic().GetColorLegendDisplayNode(result.entropyNode).SetVisibility(False)
    assert np.array_equal(views["Red"].render(), after)


def test_a_result_of_an_earlier_version_has_only_the_entropy(volumeNode, job):
    (job.folder / "disagreement.nrrd").unlink()

    result = importJob(volumeNode, job)

    assert result.disagreementNode is None
    assert ResultOverlays(result.segmentationNode).roles == (ENTROPY_ROLE,)
    assert not [n for n in slicer.util.getNodesByClass("vtkMRMLVolumeNode") if "disagreement" in n.GetName()]


@pytest.mark.parametrize("gone", [ENTROPY_ROLE, DISAGREEMENT_ROLE])
def test_the_other_overlay_replaces_a_removed_one(result, views, gone):
    before = foregrounds(views)
    layers = ResultOverlays(result.segmentationNode)
    layers.chosen = gone
    layers.show()
    slicer.mrmlScene.RemoveNode(result.segmentationNode.GetNodeReference(gone))

    layers = ResultOverlays(result.segmentationNode)

    assert layers.roles == (layers.chosen,) != (gone,) and not layers.visible
    layers.show()
    layers.hide()
    assert foregrounds(views) == before


def test_overlays_are_removed_with_their_result(volumeNode, job):
    before = slicer.mrmlScene.GetNumberOfNodes()
    result_nodes.removeResult(importJob(volumeNode, job).segmentationNode)
    left = slicer.mrmlScene.GetNumberOfNodes() - before
    assert left <= 1  # the colours stay


def test_the_selection_is_saved_with_the_scene(application, result, views, job, tmp_path):
    layers = ResultOverlays(result.segmentationNode)
    layers.show()
    layers.opacity, layers.threshold = 0.4, 0.3
    layers.chosen = DISAGREEMENT_ROLE
    path = tmp_path / "Szene é.mrb"
    assert slicer.mrmlScene.WriteToMRB(str(path))

    application.scene.Clear(False)
    assert application.logic.OpenSlicerDataBundle(str(path), str(tmp_path))

    segmentationNode = application.scene.GetFirstNodeByName("Kopf é 頭 segmentation")
    layers = ResultOverlays(segmentationNode)
    assert layers.chosen == DISAGREEMENT_ROLE and layers.visible
    assert layers.opacity == 0.4 and layers.threshold == pytest.approx(0.3)
    node = segmentationNode.GetNodeReference(DISAGREEMENT_ROLE)
    assert np.array_equal(slicer.util.arrayFromVolume(node), job.disagreement)
    assert Labels(segmentationNode).edited() == 0
    layers.hide()
    pet = application.scene.GetFirstNodeByName("PET")
    assert views["Red"].compositeNode.GetForegroundVolumeID() == pet.GetID()
