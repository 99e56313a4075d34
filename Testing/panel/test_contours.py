"""The switch of the inner and outer contours, and their distance in the table of volumes."""

import pytest
import slicer_standin

from DiffusionSegmentationLib.scene.contours import CONTOURS_ROLE
from DiffusionSegmentationLib.scene.result_nodes import PROBABILITIES_ROLE

slicer_standin.likePythonQt(__name__)


@pytest.fixture
def shown(openPanel, addHead, run):
    addHead()
    module = openPanel()
    return module, run(module).result.segmentationNode


def test_the_switch_shows_and_hides_two_contours_of_each_structure(shown, photograph, pumpUntil):
    module, node = shown
    ui = module.ui
    assert ui.contoursCheckBox.enabled and not ui.contoursCheckBox.checked
    ui.contoursCheckBox.click()
    segmentation = node.GetNodeReference(CONTOURS_ROLE).GetSegmentation()
    assert not segmentation.GetNumberOfSegments(), "drawn in steps"
    pumpUntil(lambda: segmentation.GetNumberOfSegments() == 4, seconds=10)
    assert list(segmentation.GetSegmentIDs()) == [
        f"{name}_{contour}" for name in ("grey_matter", "white_matter") for contour in ("inner", "outer")
    ]
    ui.detailsCheckBox.click()
    photograph("contours", module.widget)
    node.GetDisplayNode().SetSegmentVisibility("grey_matter", False)
    drawn = node.GetNodeReference(CONTOURS_ROLE).GetDisplayNode()
    assert [drawn.GetSegmentVisibility(f"{name}_outer") for name in ("grey_matter", "white_matter")] == [False, True]
    ui.contoursCheckBox.click()
    assert node.GetNodeReference(CONTOURS_ROLE) is None


def test_only_contours_of_the_displayed_result_are_drawn(shown, run):
    module, node = shown
    module.ui.contoursCheckBox.click()
    other = run(module).result.segmentationNode
    assert node.GetNodeReference(CONTOURS_ROLE) is None and other.GetNodeReference(CONTOURS_ROLE) is None
    assert not module.ui.contoursCheckBox.checked
    module.widget.logic.getParameterNode().segmentation = node
    assert module.ui.contoursCheckBox.checked and node.GetNodeReference(CONTOURS_ROLE) is not None


def test_without_probabilities_the_switch_says_why(shown, mrmlScene):
    module, node = shown
    mrmlScene.RemoveNode(node.GetNodeReference(PROBABILITIES_ROLE))
    module.widget.panel.refresh()
    assert not module.ui.contoursCheckBox.enabled
    assert module.ui.contoursCheckBox.toolTip == "The class probabilities of this result were removed."


def test_the_distance_is_below_the_size_of_the_mask(shown):
    table, ui = shown[0].ui.volumesTable, shown[0].ui
    ui.detailsCheckBox.click()
    assert table.horizontalHeaderItem(2).text() == "Mask\n(ml)\nGap\n(mm)"
    assert [table.item(row, 2).text().split("\n")[1] for row in range(2)] == ["4.00", "8.00"]
    assert "Gap: mean distance between the contours of 95 % and 5 % probability." in ui.volumesLabel.text


def test_a_result_of_an_earlier_version_has_no_distance(openPanel, addHead, run):
    addHead()
    module = openPanel("old", "0.01")
    run(module)
    module.ui.detailsCheckBox.click()
    assert module.ui.volumesTable.horizontalHeaderItem(2).text() == "Mask\n(ml)"
    assert "\n" not in module.ui.volumesTable.item(0, 2).text() and "Gap:" not in module.ui.volumesLabel.text
