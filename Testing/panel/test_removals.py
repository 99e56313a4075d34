"""Nodes that are removed while they are shown cause no traceback, and no control acts on them."""

import pytest
import slicer
import slicer.util
import slicer_standin

from DiffusionSegmentationLib.review.review import OUTLINE_ROLE
from DiffusionSegmentationLib.scene import result_nodes
from DiffusionSegmentationLib.scene.sample_browser import SAMPLE_ROLE

slicer_standin.likePythonQt(__name__)

ROLES = [
    result_nodes.ENTROPY_ROLE,
    result_nodes.DISAGREEMENT_ROLE,
    result_nodes.SAMPLES_ROLE,
    result_nodes.REGIONS_ROLE,
    result_nodes.PROBABILITIES_ROLE,
    result_nodes.VOLUME_ROLE,
    SAMPLE_ROLE,
    OUTLINE_ROLE,
    "segmentation",
    "everything",
]


@pytest.fixture
def busyPanel(openPanel, addHead, run, mrmlScene):
    """A panel that shows a region, a sample, both views side by side, and an overlay."""
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(mrmlScene)
    for name in ("Red", "Yellow", "Green"):
        mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode", name).SetLayoutName(name)
    mrmlScene.AddNode(slicer.vtkMRMLCrosshairNode())
    addHead(size=32)
    module = openPanel()
    result = run(module, samples=3).result
    module.ui.nextButton.click()
    module.ui.sampleCheckBox.click()
    module.ui.sideBySideCheckBox.click()
    module.ui.playButton.click()
    module.ui.layerComboBox.currentIndex = 1
    return module, result.segmentationNode


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
def test_a_removed_node_leaves_no_traceback(busyPanel, role, capfd, pumpUntil, application):
    module, segmentationNode = busyPanel
    ui = module.ui
    node = segmentationNode if role == "segmentation" else segmentationNode.GetNodeReference(role)
    if role == "everything":
        slicer.mrmlScene.Clear()
        module.widget.onSceneReady(None, None)
    else:
        slicer.mrmlScene.RemoveNode(node)
    module.widget.panel.refresh()
    view = next(iter(slicer.util.getNodesByClass("vtkMRMLSliceNode")), None)
    if view is not None:
        view.Modified()
    for crosshair in slicer.util.getNodesByClass("vtkMRMLCrosshairNode"):
        crosshair.SetCursorPositionRAS([80.0, 80.0, 80.0])
    module.widget.panel._samples._timer.timeout.emit()
    for button in (
        ui.nextButton,
        ui.doneButton,
        ui.worst1Button,
        ui.playButton,
        ui.useSampleButton,
        ui.reviewSegmentButton,
        ui.copyVolumesButton,
        ui.uncertainOnlyCheckBox,
        ui.sideBySideCheckBox,
        ui.sampleCheckBox,
        ui.overlayCheckBox,
    ):
        button.click()  # one that is disabled does nothing
        application.processEvents()
    if ui.thresholdSlider.enabled:
        ui.thresholdSlider.value = 0.6
    ui.minimumSizeSpinBox.value = 60
    for _turn in range(20):
        application.processEvents()
        module.widget.panel._review._onTimer()
        module.widget.panel._corrections._onTimer()
    output = "".join(capfd.readouterr())
    assert "Traceback" not in output and "Error:" not in output, output[-3000:]
