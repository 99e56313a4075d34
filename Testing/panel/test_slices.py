"""Rows of the slice views: entropy profile, most uncertain slice, and class probabilities at the pointer."""

import pytest
import slicer
import slicer.util
import slicer_standin

from DiffusionSegmentationLib.scene.slice_entropy import Profiles

slicer_standin.likePythonQt(__name__)


@pytest.fixture
def views(mrmlScene):
    nodes = []
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(mrmlScene)
    for name, orientation in (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal")):
        node = mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode", name)
        node.SetLayoutName(name)
        assert node.SetOrientation(orientation)
        nodes.append(node)
    return nodes


def test_a_click_shows_the_worst_slice_of_a_view(openPanel, addHead, run, views, pumpUntil, photograph):
    addHead()
    module = openPanel()
    result = run(module).result
    ui = module.ui
    assert [ui.worst1Button.text, ui.worst2Button.text, ui.worst3Button.text] == [
        "Red: worst",
        "Yellow: worst",
        "Green: worst",
    ]
    profiles = Profiles(result.entropyNode)
    for button, view in zip((ui.worst1Button, ui.worst2Button, ui.worst3Button), views, strict=True):
        button.click()
        profile = profiles.of(view)
        index = profiles.position(view) * len(profile) - 0.5
        assert index == pytest.approx(round(index), abs=0.01) and profile[round(index)] == profile.max()
    pumpUntil(lambda: not ui.profile3.pixmap.isNull(), seconds=5)
    before = ui.profile1.pixmap.toImage()
    views[0].SetSliceOffset(views[0].GetSliceOffset() + 30)
    pumpUntil(lambda: ui.profile1.pixmap.toImage() != before, seconds=5)
    photograph("slices", module.widget)


@pytest.mark.slow
def test_the_pointer_shows_class_probabilities(openPanel, addHead, run, views, mrmlScene):
    crosshair = mrmlScene.AddNode(slicer.vtkMRMLCrosshairNode())
    addHead()
    module = openPanel()
    run(module)
    crosshair.SetCursorPositionRAS([78.0, 78.0, 78.0])
    assert "White matter" in module.ui.pointerLabel.text and module.ui.pointerLabel.text.endswith(" bits")
    crosshair.SetCursorPositionRAS([1000.0, 0.0, 0.0])
    assert module.ui.pointerLabel.text.startswith("Point at a voxel")


def test_without_a_result_the_rows_are_hidden(openPanel, views):
    ui = openPanel().ui
    assert not ui.worst1Button.visible and not ui.pointerLabel.visible
