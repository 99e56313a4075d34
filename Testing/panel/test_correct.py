"""Corrections: mask of Segment Editor, samples in place of the result, segment of uncertain voxels, manual edits."""

import numpy as np
import pytest
import slicer
import slicer.util
import slicer_standin

from DiffusionSegmentationLib.review.review import Review
from DiffusionSegmentationLib.scene.label_map import Labels
from DiffusionSegmentationLib.scene.result_nodes import regionsVolume

slicer_standin.likePythonQt(__name__)

UNTOUCHED = "No voxel has been edited."


@pytest.fixture
def corrected(openPanel, addHead, run, pumpUntil):
    addHead()
    module = openPanel()
    job = run(module, samples=3)
    pumpUntil(lambda: module.ui.editedLabel.text == UNTOUCHED, seconds=10)
    return module, job.result


def editor():
    return slicer.util.getModuleWidget("SegmentEditor").editor


def test_editing_is_restricted_to_uncertain_voxels(corrected):
    module, result = corrected
    ui = module.ui
    ui.uncertainOnlyCheckBox.click()
    ui.editButton.click()
    node = editor().mrmlSegmentEditorNode()
    assert slicer.app.mainWindow.selectedModule == "SegmentEditor"
    assert editor().segmentationNode is result.segmentationNode and editor().sourceVolumeNode is result.entropyNode
    assert node.GetSourceVolumeIntensityMask()
    ui.thresholdSlider.value = 0.7
    assert node.GetSourceVolumeIntensityMaskRange() == pytest.approx((0.7, 2.585), abs=1e-3)
    ui.uncertainOnlyCheckBox.click()  # and back
    assert not node.GetSourceVolumeIntensityMask() and editor().sourceVolumeNode.GetName() == "Head"


def test_without_the_mask_the_editor_uses_the_volume(corrected):
    module, result = corrected
    module.ui.editButton.click()
    assert editor().sourceVolumeNode.GetName() == "Head"
    assert not editor().mrmlSegmentEditorNode().GetSourceVolumeIntensityMask()


def test_the_shown_sample_replaces_the_result_in_the_current_region(corrected, pumpUntil, photograph):
    module, result = corrected
    ui = module.ui
    assert not ui.useSampleButton.enabled and ui.useSampleButton.toolTip == "Show a sample first."
    ui.sampleCheckBox.click()
    ui.sampleSlider.value = 1
    assert not ui.useSampleButton.enabled and ui.useSampleButton.toolTip == "Go to a region first."
    ui.nextButton.click()
    assert ui.useSampleButton.enabled
    undo = editor().undoStates
    ui.useSampleButton.click()
    labels = Labels(result.segmentationNode)
    assert editor().undoStates == undo + 1 and labels.edited() > 0
    inside = (
        slicer.util.arrayFromVolume(regionsVolume(result.segmentationNode))
        == Review(result.segmentationNode).current["basin"]
    )
    sample = slicer.util.arrayFromVolume(result.samplesNode.GetNthDataNode(1))
    assert np.array_equal(labels.current()[inside], sample[inside])
    pumpUntil(lambda: ui.editedLabel.text.startswith(f"{labels.edited()} voxels ("), seconds=10)
    photograph("correct", module.widget)


def test_a_sample_can_replace_the_result_in_a_roi_and_in_a_segment(corrected, mrmlScene):
    module, result = corrected
    ui = module.ui
    roiNode = mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    roiNode.SetCenterWorld(78.0, 78.0, 78.0)
    roiNode.SetSizeWorld(60.0, 60.0, 60.0)
    result.segmentationNode.GetSegmentation().AddEmptySegment("mine", "Mine")
    ui.sampleCheckBox.click()
    ui.sampleSlider.value = 2
    texts = [ui.areaComboBox.itemText(n) for n in range(ui.areaComboBox.count)]
    assert texts == ["current region", "ROI Box", "segment Mine"]
    ui.areaComboBox.currentIndex = 2
    ui.useSampleButton.click()
    assert Labels(result.segmentationNode).edited() == 0  # nothing was painted
    ui.areaComboBox.currentIndex = 1
    ui.useSampleButton.click()
    assert Labels(result.segmentationNode).edited() > 0


def test_creating_a_segment_of_uncertain_voxels_is_one_undo_step(corrected):
    module, result = corrected
    undo = editor().undoStates
    module.ui.reviewSegmentButton.click()
    assert editor().undoStates == undo + 1
    array = slicer.util.arrayFromSegmentBinaryLabelmap(
        result.segmentationNode, "to_review", slicer.util.getNode("Head")
    )
    assert np.array_equal(array > 0, slicer.util.arrayFromVolume(result.entropyNode) >= 0.8)
    module.ui.thresholdSlider.value = 1.58
    module.ui.reviewSegmentButton.click()
    assert "lower the threshold" in module.ui.editedLabel.text


@pytest.mark.parametrize(("answer", "left"), [("keep", 2), ("replace", 1), ("cancel", 1)])
def test_an_edited_result_is_replaced_only_after_confirmation(corrected, run, monkeypatch, answer, left):
    module, result = corrected
    calls = []
    monkeypatch.setattr(
        "DiffusionSegmentationLib.panel.dialogs.keepReplaceOrCancel", lambda *given: calls.append(given) or answer
    )
    result.segmentationNode.GetSegmentation().RemoveSegment("grey_matter")
    run(module)
    assert len(calls) == 1 and calls[0][0] == "Head segmentation" and calls[0][1] > 1000
    names = [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")]
    assert len(names) == left
    assert ("Head segmentation" in names) == (answer != "replace")
    assert len(slicer.util.getNodesByClass("vtkMRMLSequenceNode")) == 3 * left
    # No display node is left of what was removed.
    shown = {
        node.GetNthDisplayNode(n).GetID()
        for node in slicer.util.getNodesByClass("vtkMRMLDisplayableNode")
        for n in range(node.GetNumberOfDisplayNodes())
    }
    displays = slicer.util.getNodesByClass("vtkMRMLSegmentationDisplayNode")
    assert {node.GetID() for node in displays} <= shown


@pytest.mark.slow
def test_an_unedited_result_is_kept_without_a_dialog(corrected, run, monkeypatch):
    monkeypatch.setattr(
        "DiffusionSegmentationLib.panel.dialogs.keepReplaceOrCancel", lambda *_given: pytest.fail("asked")
    )
    run(corrected[0])
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 2


def test_edits_are_counted_again_only_after_an_edit(corrected, monkeypatch, pumpUntil):
    """Counting blocks the windows, so a click on Segment takes the number that the panel shows."""
    module, result = corrected
    count, counted = Labels.edited, []
    monkeypatch.setattr(Labels, "edited", lambda *given: counted.append(given) or count(*given))
    section = module.widget.panel._corrections
    assert section.countEdited(result.segmentationNode) == 0 and not counted
    result.segmentationNode.GetSegmentation().RemoveSegment("grey_matter")
    edited = section.countEdited(result.segmentationNode)  # the panel has not counted it yet
    assert edited > 1000
    module.widget.panel.refresh()  # as when the module is shown again
    pumpUntil(lambda: module.ui.editedLabel.text.startswith(f"{edited} voxels ("), seconds=10)
    counted.clear()
    assert section.countEdited(result.segmentationNode) == edited and not counted


def test_a_run_that_fails_replaces_nothing(corrected, openPanel, monkeypatch, pumpUntil):
    module, result = corrected
    monkeypatch.setattr("DiffusionSegmentationLib.panel.dialogs.keepReplaceOrCancel", lambda *_given: "replace")
    result.segmentationNode.GetSegmentation().RemoveSegment("grey_matter")
    module.ui.segmentButton.click()
    module.ui.segmentButton.click()  # cancel
    pumpUntil(lambda: not module.runner.busy)
    assert result.segmentationNode.GetScene() is not None


def test_a_removed_area_is_reported_and_adds_no_undo_step(corrected, mrmlScene, pumpUntil):
    module, result = corrected
    ui = module.ui
    roiNode = mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    assert ui.areaComboBox.count == 2  # listed as soon as it was added
    ui.sampleCheckBox.click()
    ui.areaComboBox.currentIndex = 1
    mrmlScene.RemoveNode(roiNode)
    assert ui.areaComboBox.count == 1
    ui.nextButton.click()
    ui.minimumSizeSpinBox.value = 10000  # the current region is no longer listed
    pumpUntil(lambda: Review(result.segmentationNode).current is None, seconds=10)
    pumpUntil(lambda: not ui.useSampleButton.enabled, seconds=5)
    assert ui.useSampleButton.toolTip == "Go to a region first."


def test_an_area_in_which_sample_and_result_agree_is_reported(corrected):
    module, _result = corrected
    ui = module.ui
    ui.sampleCheckBox.click()  # the first sample of the fake worker is the result
    ui.nextButton.click()
    ui.useSampleButton.click()
    assert ui.editedLabel.text == "The sample is identical to the result in this area; nothing was changed."


@pytest.mark.slow
def test_the_editor_mask_is_cleared_for_another_result(corrected, run, addHead):
    module, _result = corrected
    module.ui.uncertainOnlyCheckBox.click()
    module.ui.editButton.click()
    node = editor().mrmlSegmentEditorNode()
    assert node.GetSourceVolumeIntensityMask() and editor().sourceVolumeNode.GetName() == "Head entropy"
    run(module)  # another result is displayed
    assert not node.GetSourceVolumeIntensityMask() and editor().sourceVolumeNode.GetName() == "Head"


@pytest.mark.slow
def test_a_mask_of_an_earlier_panel_is_cleared(corrected, openPanel):
    """For example after a reload, or in a saved scene with the mask."""
    module, result = corrected
    module.ui.uncertainOnlyCheckBox.click()
    module.ui.editButton.click()
    node = editor().mrmlSegmentEditorNode()
    module.widget.panel._corrections._maskedEditorNode = None
    module.ui.uncertainOnlyCheckBox.click()
    assert not node.GetSourceVolumeIntensityMask() and editor().sourceVolumeNode.GetName() == "Head"


def test_the_effect_of_the_mask_on_other_tools_is_explained(corrected):
    ui = corrected[0].ui
    assert not ui.maskLabel.visible
    ui.uncertainOnlyCheckBox.click()
    assert ui.maskLabel.visible and "use the entropy (in bits)" in ui.maskLabel.text
    ui.uncertainOnlyCheckBox.click()
    assert not ui.maskLabel.visible


@pytest.mark.slow
def test_each_result_has_its_own_count(corrected, run, pumpUntil):
    module, first = corrected
    second = run(module).result
    pumpUntil(lambda: module.ui.editedLabel.text == UNTOUCHED, seconds=10)
    removed = first.segmentationNode.GetSegmentation().GetSegment("grey_matter")
    first.segmentationNode.GetSegmentation().RemoveSegment("grey_matter")
    count = module.widget.panel._corrections.countEdited
    assert count(second.segmentationNode) == 0 and count(first.segmentationNode) > 1000
    first.segmentationNode.GetSegmentation().AddSegment(removed, "grey_matter")
    slicer.mrmlScene.RemoveNode(second.probabilitiesNode)
    assert "were removed" in module.ui.editedLabel.text
    module.widget.logic.getParameterNode().segmentation = first.segmentationNode
    pumpUntil(lambda: module.ui.editedLabel.text == UNTOUCHED, seconds=10)
