"""Estimated run time, and previews during a run, whose nodes are removed."""

import numpy as np
import pytest
import slicer
import slicer.util
import slicer_standin

from DiffusionSegmentationLib.runs.estimate import RunMeasurement

slicer_standin.likePythonQt(__name__)


def names(kind="vtkMRMLSegmentationNode"):
    return [node.GetName() for node in slicer.util.getNodesByClass(kind)]


def layers():
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    return [(node.GetForegroundVolumeID(), node.GetForegroundOpacity()) for node in composites]


def test_the_estimate_follows_volume_samples_and_steps(openPanel, addHead, run):
    addHead()
    module = openPanel()
    ui = module.ui
    run(module, samples=2)
    ui.inputSelector.setCurrentNode(None)
    ui.inputSelector.setCurrentNode(slicer.util.getNode("Head"))
    ui.samplesSpinBox.value = 0  # model default: as many as in the last run
    assert ui.statusLabel.text.startswith("Estimated from the last run: a few seconds, ")
    ui.samplesSpinBox.value = 8
    assert ui.statusLabel.text == "Estimated from the last run: about 25 s, about 1.6 GB of memory."
    ui.stepsSpinBox.value = 10  # twice the model default
    assert ui.statusLabel.text.startswith("Estimated from the last run: about 50 s")
    addHead("Large", size=50)  # the same size in mm, smaller voxels
    ui.inputSelector.setCurrentNode(slicer.util.getNode("Large"))
    assert ui.statusLabel.text.startswith("Estimated from the last run: about 50 s")


def test_an_estimate_of_another_version_is_ignored():
    assert RunMeasurement.fromText("") is None and RunMeasurement.fromText('{"a": 1}') is None
    measured = RunMeasurement(8.0, 3.0, 0.6, 5, 1.6e9, 64)
    assert RunMeasurement.fromText(measured.asText()) == measured


def test_samples_without_steps_are_estimated_by_their_number(openPanel, addHead, run):
    addHead()
    module = openPanel("exact", "0.001")
    run(module, samples=4)
    module.ui.inputSelector.setCurrentNode(None)
    module.ui.inputSelector.setCurrentNode(slicer.util.getNode("Head"))
    module.ui.samplesSpinBox.value = 8
    assert module.ui.statusLabel.text.startswith(
        "Estimated from the last run: about 25 s"
    )  # 3 s per sample and 3 s in addition
    module.ui.stepsSpinBox.value = 10
    assert module.ui.statusLabel.text.startswith("Estimated from the last run: about 25 s")


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["done", "cancelled"])
def test_previews_are_shown_and_removed(openPanel, addHead, addVolume, pumpUntil, ending):
    volumeNode = addHead()
    other = addVolume(np.ones((8, 8, 8), np.int16), name="Other")
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        composite.SetBackgroundVolumeID(volumeNode.GetID())
        composite.SetForegroundVolumeID(other.GetID())
        composite.SetForegroundOpacity(0.3)
    before, nodes = layers(), slicer.mrmlScene.GetNumberOfNodes()
    module = openPanel("good", "0.3")
    module.ui.samplesSpinBox.value = 4
    module.ui.segmentButton.click()
    pumpUntil(lambda: "Head preview" in names())
    assert layers() != before and "Head preview entropy" in names("vtkMRMLScalarVolumeNode")
    assert not any(n.GetSaveWithScene() for n in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"))
    pumpUntil(lambda: "the uncertainty changed by 0.0 %" in module.ui.statusLabel.text)
    if ending == "cancelled":
        module.ui.segmentButton.click()
        assert layers() == before
    pumpUntil(lambda: not module.runner.busy)
    assert "Head preview" not in names() and "Head preview entropy" not in names("vtkMRMLScalarVolumeNode")
    if ending == "done":
        module.ui.overlayCheckBox.click()
        assert layers() == before
    else:
        # The module's own node and the colours of the entropy stay.
        assert slicer.mrmlScene.GetNumberOfNodes() <= nodes + 3


@pytest.mark.slow
def test_an_earlier_result_is_shown_again_when_a_run_is_cancelled(openPanel, addHead, run, pumpUntil):
    addHead()
    module = openPanel("good", "0.2")
    earlier = run(module, samples=1).result.segmentationNode
    module.ui.samplesSpinBox.value = 4
    module.ui.segmentButton.click()
    pumpUntil(lambda: "Head preview" in names())
    assert not earlier.GetDisplayVisibility()
    module.ui.segmentButton.click()
    assert earlier.GetDisplayVisibility()


@pytest.mark.slow
def test_a_volume_that_is_removed_meanwhile_has_no_preview(openPanel, addHead, pumpUntil):
    volumeNode = addHead()
    module = openPanel("good", "0.2")
    module.ui.samplesSpinBox.value = 4
    module.ui.segmentButton.click()
    pumpUntil(lambda: "Head preview" in names())
    slicer.mrmlScene.RemoveNode(volumeNode)
    pumpUntil(lambda: not module.runner.busy)
    assert "Head preview" not in names() and "no longer in the scene" in module.ui.statusLabel.text


@pytest.mark.slow
def test_only_the_new_result_is_visible_after_a_second_run(openPanel, addHead, run):
    addHead()
    module = openPanel("good", "0.1")
    earlier = run(module, samples=2).result.segmentationNode
    later = run(module, samples=2).result.segmentationNode
    assert later.GetDisplayVisibility() and not earlier.GetDisplayVisibility()


@pytest.mark.slow
def test_an_earlier_overlay_is_shown_again_when_a_run_is_cancelled(openPanel, addHead, run, pumpUntil):
    volumeNode = addHead()
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        composite.SetBackgroundVolumeID(volumeNode.GetID())
    module = openPanel("good", "0.2")
    run(module, samples=1)
    before = layers()
    module.ui.samplesSpinBox.value = 4
    module.ui.segmentButton.click()
    pumpUntil(lambda: layers() != before)
    module.ui.segmentButton.click()
    assert layers() == before
