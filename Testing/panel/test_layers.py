"""The choice between the two overlays, their explanations, and the warnings of a result."""

import pytest
import slicer
import slicer.util
import slicer_standin

from DiffusionSegmentationLib.review.review import Review

slicer_standin.likePythonQt(__name__)


def foregrounds():
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    return {composite.GetForegroundVolumeID() for composite in composites}


def choose(ui, text):
    ui.layerComboBox.currentIndex = [ui.layerComboBox.itemText(n) for n in range(2)].index(text)


@pytest.mark.slow
def test_the_overlay_choice_changes_only_the_overlay(openPanel, addHead, run, pumpUntil, photograph):
    addHead()
    module = openPanel()
    ui = module.ui
    assert not ui.layerComboBox.enabled and "There is no result yet" in ui.layerComboBox.toolTip
    result = run(module, samples=4).result
    review = Review(result.segmentationNode)
    assert ui.layerComboBox.currentText == "predictive entropy"
    ui.opacitySlider.value, ui.thresholdSlider.value = 0.4, 0.7
    pumpUntil(lambda: abs(Review(result.segmentationNode).criteria.bits - 0.7) < 1e-6)
    regions = Review(result.segmentationNode).regions
    choose(ui, "sample disagreement")
    assert foregrounds() == {result.disagreementNode.GetID()} and ui.overlayCheckBox.checked
    assert ui.layerLabel.text == "Entropy of the labels of the 4 samples: where the samples differ from each other."
    assert (ui.opacitySlider.value, ui.thresholdSlider.value) == pytest.approx((0.4, 0.7))
    assert Review(result.segmentationNode).regions == regions != review.regions
    photograph("disagreement", module.widget, part=ui.resultCollapsibleButton)
    ui.thresholdSlider.value = 0.5  # also that of the entropy: the table is updated
    pumpUntil(lambda: abs(Review(result.segmentationNode).criteria.bits - 0.5) < 1e-6)
    ui.overlayCheckBox.click()
    assert foregrounds() == {None}
    choose(ui, "predictive entropy")
    assert foregrounds() == {None} and not ui.overlayCheckBox.checked
    ui.overlayCheckBox.click()
    assert foregrounds() == {result.entropyNode.GetID()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [
        ("good", "Entropy of the average of the 3 samples."),
        ("direct", "Entropy of the model's direct class probabilities; the samples are not used."),
        ("exact", "Entropy of the model's direct class probabilities, which are the exact average of its samples."),
        (
            "both",
            "Entropy of the average of the 3 samples, mixed with the model's direct class probabilities, which are"
            " weighted as 4 samples.",
        ),
    ],
)
def test_the_source_of_the_overlay_is_explained(openPanel, addHead, run, behaviour, sentence):
    addHead()
    module = openPanel(behaviour, "0.01")
    run(module, samples=3)
    assert module.ui.layerLabel.text == sentence


def test_a_result_of_an_earlier_version_offers_the_entropy_alone(openPanel, addHead, run):
    addHead()
    module = openPanel("old", "0.01")
    assert run(module).state == "done"
    assert module.ui.layerComboBox.count == 1 and not module.ui.layerComboBox.enabled
    assert "no other overlay" in module.ui.layerComboBox.toolTip and module.ui.overlayCheckBox.enabled


@pytest.mark.slow
def test_warnings_of_a_result_stay_visible(openPanel, addHead, run, photograph):
    addHead()
    other = addHead("Other")
    module = openPanel("unfitted", "0.01")
    run(module)
    module.ui.inputSelector.setCurrentNode(other)  # the status line now refers to that volume
    assert module.ui.warningsLabel.visible and "not fitted to labelled cases" in module.ui.warningsLabel.text
    photograph("warning", module.widget, part=module.ui.resultCollapsibleButton)
    module = openPanel("unlike", "0.01")
    run(module)
    first = module.ui.warningsLabel.text.splitlines()[0]
    assert module.ui.warningsLabel.visible and first.startswith(
        "⚠ The scan is unlike those that the model was made for"
    )
    photograph("unlike", module.widget, part=module.ui.resultCollapsibleButton)
    tips = [module.ui.regionTable.item(row, 1).toolTip() for row in (0, 1)]
    assert "Unlike the regions that the model was made for (distance 5.0, limit 2.3)." in tips[0]
    assert "Unlike" not in tips[1]
    module = openPanel("good", "0.01")
    run(module)
    assert not module.ui.warningsLabel.visible
