"""The section Results: outlines, removal, and the nodes that selectors of other modules list."""

import pytest
import slicer
import slicer.util
import slicer_standin

slicer_standin.likePythonQt(__name__)


def test_a_key_toggles_the_outlines(openPanel, addHead, run):
    from PySide6.QtTest import QTest

    addHead()
    module = openPanel()
    assert not module.ui.outlinesCheckBox.enabled and not module.ui.outlinesCheckBox.checked
    displayNode = run(module).result.segmentationNode.GetDisplayNode()
    module.root.activateWindow()
    for shown in (False, True):
        slicer.app.processEvents()
        QTest.keyClick(module.ui.segmentButton, "o")
        assert bool(displayNode.GetVisibility2DOutline()) == shown == module.ui.outlinesCheckBox.checked
    displayNode.SetVisibility(False)  # in Data
    module.widget.enter()
    assert not module.ui.outlinesCheckBox.checked
    module.ui.outlinesCheckBox.click()
    assert displayNode.GetVisibility() and displayNode.GetVisibility2DOutline()


@pytest.mark.slow
def test_removing_a_result_removes_all_nodes_and_shows_the_one_before(openPanel, addHead, run, monkeypatch):
    volumeNode, otherNode = addHead(), addHead("Other")
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    for composite in composites:
        composite.SetBackgroundVolumeID(volumeNode.GetID())
        composite.SetForegroundVolumeID(otherNode.GetID())
    module = openPanel("good", "0.01")
    ui = module.ui
    assert not ui.removeResultButton.enabled
    first = run(module).result
    before = {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLNode")}
    run(module)
    ui.nextButton.click()
    ui.sampleCheckBox.click()
    calls, answers = [], [False, True, True]
    monkeypatch.setattr(
        "DiffusionSegmentationLib.panel.dialogs.confirmRemoval", lambda *given: calls.append(given) or answers.pop(0)
    )
    ui.removeResultButton.click()
    assert ui.resultLabel.text.startswith("Head segmentation_1")
    ui.removeResultButton.click()
    assert ui.resultLabel.text.startswith("Head segmentation:") and first.segmentationNode.GetDisplayVisibility()
    assert {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLNode")} <= before
    assert {composite.GetForegroundVolumeID() for composite in composites} == {otherNode.GetID()}
    ui.removeResultButton.click()
    assert not ui.removeResultButton.enabled and calls[-1] == ("Head segmentation", 0)
    assert len(slicer.util.getNodesByClass("vtkMRMLVolumeNode")) == 2


@pytest.mark.slow
def test_several_runs_leave_only_overlays_in_the_volume_selectors(openPanel, addHead, run):
    addHead()
    module = openPanel("good", "0.01")
    for _turn in range(3):
        run(module, samples=1)
    names = [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLVolumeNode")]
    assert len(names) == 7 and not any("region" in name for name in names)
    segmentationNode = module.runner.job.result.segmentationNode
    slicer.mrmlScene.RemoveNode(segmentationNode)  # in Data
    assert len(slicer.util.getNodesByClass("vtkMRMLSequenceNode")) == 6
