"""The section Review: buttons and keys to go through the uncertain regions."""

import pytest
import slicer
import slicer.util
import slicer_standin

from DiffusionSegmentationLib.review.review import DONE, FLAGGED, SKIPPED, Review
from DiffusionSegmentationLib.scene.units import sizeText

slicer_standin.likePythonQt(__name__)


@pytest.fixture
def reviewed(openPanel, addHead, run):
    """The panel after a run on a head, and the review of its result."""
    addHead()
    module = openPanel()
    job = run(module)
    return module, Review(job.result.segmentationNode)


def press(module, key):
    """Press `key` in the active window of the panel."""
    from PySide6.QtTest import QTest

    module.root.activateWindow()
    slicer.app.processEvents()
    QTest.keyClick(module.ui.segmentButton, key)
    slicer.app.processEvents()


def test_without_a_result_the_section_is_disabled(openPanel):
    ui = openPanel().ui
    assert ui.reviewLabel.text == "There is no result yet; segment a volume first."
    for widget in (ui.nextButton, ui.doneButton, ui.flagButton, ui.skipButton, ui.regionTable):
        assert not widget.enabled and "There is no result yet" in widget.toolTip


def test_next_goes_to_the_worst_region(reviewed, photograph):
    module, review = reviewed
    ui = module.ui
    total = len(review.regions)
    assert ui.regionTable.rowCount == total > 10
    assert ui.reviewLabel.text.startswith(f"{total} of {total} regions left, with ")
    assert not ui.doneButton.enabled and "Go to a region first" in ui.doneButton.toolTip
    ui.nextButton.click()
    assert review.current["rank"] == 1
    assert ui.regionTable.currentRow() == 0 and ui.doneButton.enabled
    assert "matter" in ui.regionTable.item(0, 1).text() and "%" in ui.regionTable.item(0, 1).text()
    photograph("review", module.widget)


@pytest.mark.slow
def test_ten_keys_confirm_ten_regions(reviewed):
    module, review = reviewed
    module.ui.nextButton.click()
    for rank in range(1, 11):
        assert review.current["rank"] == rank
        press(module, "d")
    assert [review.state(region) for region in review.regions[:10]] == [DONE] * 10
    assert module.ui.reviewLabel.text.startswith(f"{len(review.regions) - 10} of {len(review.regions)} regions left")
    assert module.ui.regionTable.item(9, 4).text() == "✓" and module.ui.regionTable.item(10, 4).text() == ""


def test_each_key_sets_its_state(reviewed):
    module, review = reviewed
    press(module, "n")
    press(module, "f")
    press(module, "s")
    press(module, "n")
    assert [review.state(region) for region in review.regions[:3]] == [FLAGGED, SKIPPED, "open"]
    assert review.current["rank"] == 4


@pytest.mark.slow
def test_leaving_the_review_restores_the_views(openPanel, addHead, run, mrmlScene):
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(mrmlScene)
    view = mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
    view.SetFieldOfView(300.0, 240.0, 1.0)
    addHead()
    module = openPanel()
    review = Review(run(module).result.segmentationNode)
    assert not module.ui.leaveButton.enabled
    press(module, "n")
    press(module, "d")
    assert view.GetFieldOfView()[0] < 150 and review.current["rank"] == 2
    press(module, "l")
    assert view.GetFieldOfView() == (300.0, 240.0, 1.0) and view.GetSliceOffset() == 0
    assert review.current is None and not module.ui.leaveButton.enabled
    press(module, "n")
    run(module)  # another result is displayed
    assert view.GetFieldOfView() == (300.0, 240.0, 1.0)


@pytest.mark.slow
def test_the_remaining_share_refers_to_the_reviewable_error(reviewed):
    module, review = reviewed
    count, share = review.remaining()
    assert 0 < review.reviewable < review.expectedError and 0.3 < share < 1.001
    assert module.ui.reviewLabel.text.startswith(
        f"{count} of {count} regions left, with {100 * share:.0f} % of the {sizeText(review.reviewable)} ml"
    )
    shown = [float(module.ui.regionTable.item(row, 2).text()) for row in range(count)]
    assert shown == sorted(shown, reverse=True) and shown[0] > 0


def test_regions_of_thin_boundary_layers_are_in_brackets(openPanel, addHead, run):
    addHead()
    module = openPanel("seams", "0.01")
    review = Review(run(module).result.segmentationNode)
    assert review.reviewable == 0 and len(review.regions) > 10
    assert module.ui.reviewLabel.text.startswith(
        f"{len(review.regions)} of {len(review.regions)} regions left. A further "
    )
    assert module.ui.regionTable.item(0, 2).text() == f"({review.regions[0]['expected_error_ml']:.2f})"


def test_a_click_on_a_row_goes_there(reviewed):
    module, review = reviewed
    module.ui.regionTable.cellClicked.emit(4, 1)
    assert review.current["rank"] == 5 and module.ui.regionTable.currentRow() == 4


@pytest.mark.slow
def test_the_end_of_the_review_is_reported_and_the_outline_removed(reviewed):
    module, review = reviewed
    for region in review.regions[1:]:
        review.mark(region, DONE)
    module.ui.nextButton.click()
    module.ui.doneButton.click()
    assert module.ui.reviewLabel.text == f"All {len(review.regions)} regions have been reviewed."
    assert not module.ui.nextButton.enabled and "All regions" in module.ui.nextButton.toolTip
    assert review.segmentationNode.GetNodeReference("DiffusionSegmentation.RegionOutline") is None


def test_the_threshold_updates_the_table(reviewed, pumpUntil):
    module, review = reviewed
    ui, before = module.ui, review.regions
    ui.thresholdSlider.value = 0.95
    pumpUntil(lambda: Review(review.segmentationNode).criteria.bits == 0.95, seconds=10)
    fewer = Review(review.segmentationNode).regions
    assert 0 < ui.regionTable.rowCount == len(fewer)
    assert fewer[0]["expected_error_ml"] < before[0]["expected_error_ml"]
    ui.minimumSizeSpinBox.value = 10000
    pumpUntil(lambda: ui.regionTable.rowCount < len(fewer), seconds=10)
    assert module.widget.logic.getParameterNode().smallestRegion == 10000


@pytest.mark.slow
def test_only_regions_of_the_displayed_result_are_outlined(reviewed, run):
    module, review = reviewed
    module.ui.nextButton.click()
    assert review.segmentationNode.GetNodeReference("DiffusionSegmentation.RegionOutline")
    run(module)
    assert review.segmentationNode.GetNodeReference("DiffusionSegmentation.RegionOutline") is None
    module.widget.logic.getParameterNode().segmentation = review.segmentationNode
    assert review.segmentationNode.GetNodeReference("DiffusionSegmentation.RegionOutline")
    assert review.current["rank"] == 1
