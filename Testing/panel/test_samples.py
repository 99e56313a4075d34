"""The section Samples: shown, sorted, played, and side by side with the result."""

import pytest
import slicer
import slicer.util
import slicer_standin

from DiffusionSegmentationLib.scene.sample_browser import Browser
from DiffusionSegmentationLib.scene.side_by_side import SideBySide

slicer_standin.likePythonQt(__name__)


@pytest.fixture
def browsed(openPanel, addHead, run, mrmlScene):
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(mrmlScene)
    for name in ("Red", "Green", "Yellow"):
        node = mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode", name)
        node.SetLayoutName(name)
        assert node.SetOrientation({"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}[name])
    addHead()
    module = openPanel()
    job = run(module, samples=4)
    return module, Browser(job.result.segmentationNode)


def sliceNode(name):
    return next(node for node in slicer.util.getNodesByClass("vtkMRMLSliceNode") if node.GetLayoutName() == name)


def test_without_a_result_there_is_nothing_to_browse(openPanel):
    ui = openPanel().ui
    for widget in (ui.sampleCheckBox, ui.orderComboBox, ui.sampleSlider, ui.playButton, ui.sideBySideCheckBox):
        assert not widget.enabled and "There is no result yet" in widget.toolTip


def test_the_slider_goes_through_the_samples(browsed, photograph):
    module, browser = browsed
    ui = module.ui
    assert not ui.sampleSlider.enabled and ui.sampleSlider.toolTip == "No sample is shown."
    ui.sampleCheckBox.click()
    assert browser.shown == 0 and ui.sampleSlider.maximum == 3
    assert ui.sampleText.text.startswith("Sample 1 of 4, Dice 1.000")
    ui.sampleSlider.value = 2
    assert browser.shown == 2 and ui.sampleText.text.startswith("Sample 3 of 4, Dice 0.98")
    photograph("samples", module.widget)
    ui.sampleCheckBox.click()
    assert browser.shown is None and not ui.sampleText.visible


def test_a_sample_is_filled_and_the_result_outlined(browsed):
    module, browser = browsed
    module.ui.sampleCheckBox.click()
    sample = browser.segmentationNode.GetNodeReference("DiffusionSegmentation.ShownSample").GetDisplayNode()
    result = browser.segmentationNode.GetDisplayNode()
    assert sample.GetVisibility2DFill() and not sample.GetVisibility2DOutline()
    assert result.GetVisibility2DOutline() and not result.GetVisibility2DFill()


@pytest.mark.slow
def test_the_sample_is_hidden_in_segment_editor(browsed, mrmlScene):
    module, browser = browsed
    layoutNode = mrmlScene.AddNewNodeByClass("vtkMRMLLayoutNode")
    layoutNode.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    module.ui.sampleCheckBox.click()
    module.ui.sideBySideCheckBox.click()
    module.ui.editButton.click()
    assert browser.shown is None and not module.ui.sampleCheckBox.checked
    assert layoutNode.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView


@pytest.mark.slow
def test_only_the_kept_samples_are_browsed(openPanel, addHead, run, photograph):
    addHead()
    module = openPanel("exact", "0.001")
    job = run(module, samples=0)
    assert (job.report["samples"], job.report["kept_samples"]) == (64, 16)
    ui, browser = module.ui, Browser(job.result.segmentationNode)
    ui.sampleCheckBox.click()
    assert ui.sampleSlider.maximum == 15
    ui.sampleSlider.value = 2
    assert ui.sampleText.text.startswith("Sample 3 of the 16 kept (64 drawn), Dice 0.9")
    ui.orderComboBox.currentIndex = ui.orderComboBox.findData("white_matter")
    indices = [browser.index(position) for position in range(16)]
    volumes = [browser.sizes["white_matter"][index] for index in indices]
    assert sorted(indices) == list(range(16)) and volumes == sorted(volumes)
    photograph("kept", module.widget)


@pytest.mark.slow
def test_an_order_by_volume_shows_the_volume(browsed):
    module, browser = browsed
    ui = module.ui
    ui.sampleCheckBox.click()
    ui.orderComboBox.currentIndex = ui.orderComboBox.findData("white_matter")
    volumes = []
    for position in range(4):
        ui.sampleSlider.value = position
        volumes.append(browser.sizes["white_matter"][browser.shown])
        assert ui.sampleText.text.endswith(" ml.")
    assert volumes == sorted(volumes) and volumes[0] < volumes[-1]


def test_play_shows_the_samples_in_a_loop(browsed):
    module, browser = browsed
    ui = module.ui
    ui.sampleCheckBox.click()
    ui.playButton.click()
    assert ui.playButton.text == "Stop"
    for position in (1, 2, 3, 0):
        module.widget.panel._samples._timer.timeout.emit()
        assert browser.position == position == ui.sampleSlider.value
    ui.playButton.click()
    assert ui.playButton.text == "Play"


def test_side_by_side_shows_one_slice_twice_and_restores_the_views(browsed, mrmlScene):
    module, browser = browsed
    ui = module.ui
    layoutNode = mrmlScene.AddNewNodeByClass("vtkMRMLLayoutNode")
    layoutNode.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    red, yellow = sliceNode("Red"), sliceNode("Yellow")
    before = [yellow.GetSliceToRAS().GetElement(r, c) for r in range(4) for c in range(4)]
    ui.sampleCheckBox.click()
    ui.sideBySideCheckBox.click()
    assert layoutNode.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView
    for r in range(4):
        for c in range(4):
            assert yellow.GetSliceToRAS().GetElement(r, c) == red.GetSliceToRAS().GetElement(r, c)
    sample = browser.segmentationNode.GetNodeReference("DiffusionSegmentation.ShownSample")
    assert browser.segmentationNode.GetDisplayNode().GetViewNodeIDs() == (red.GetID(),)
    assert sample.GetDisplayNode().GetViewNodeIDs() == (yellow.GetID(),)
    ui.sideBySideCheckBox.click()
    assert layoutNode.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
    assert [yellow.GetSliceToRAS().GetElement(r, c) for r in range(4) for c in range(4)] == before
    assert browser.segmentationNode.GetDisplayNode().GetViewNodeIDs() == ()
    ui.sideBySideCheckBox.click()
    ui.sampleCheckBox.click()  # without a sample there is nothing to show on the right
    assert not SideBySide(browser.segmentationNode).active


@pytest.mark.slow
def test_a_new_result_hides_the_old_sample(browsed, run):
    module, browser = browsed
    module.ui.sampleCheckBox.click()
    run(module)
    assert browser.shown is None and not module.ui.sampleCheckBox.checked


@pytest.mark.parametrize("lost", ["result", "samples"])
def test_removing_nodes_restores_the_layout(browsed, mrmlScene, lost):
    module, browser = browsed
    ui = module.ui
    layoutNode = mrmlScene.AddNewNodeByClass("vtkMRMLLayoutNode")
    layoutNode.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    ui.nextButton.click()
    ui.sampleCheckBox.click()
    ui.sideBySideCheckBox.click()
    node = browser.segmentationNode
    mrmlScene.RemoveNode(node if lost == "result" else node.GetNodeReference("DiffusionSegmentation.Samples"))
    assert layoutNode.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
    names = [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")]
    assert "Head sample" not in names and ("Head region" in names) == (lost == "samples")
    assert not ui.sampleCheckBox.checked and not ui.sideBySideCheckBox.checked
