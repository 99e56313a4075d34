"""Alternatives in the section Review: keys show one in the region and put it into the segmentation."""

import numpy as np
import pytest
import slicer
import slicer.util
import slicer_standin
from test_review import press

from DiffusionSegmentationLib.review.corrections import regionMask
from DiffusionSegmentationLib.review.region_alternatives import alternativesIn
from DiffusionSegmentationLib.review.review import Review
from DiffusionSegmentationLib.scene.label_map import Labels
from DiffusionSegmentationLib.scene.sample_browser import SAMPLE_ROLE, Browser

slicer_standin.likePythonQt(__name__)


class Story:
    """The panel after a run on a head, and what its user sees of the current region."""

    def __init__(self, module, result):
        self.module, self.ui, self.result = module, module.ui, result
        self.node = result.segmentationNode
        self.browser = Browser(self.node)
        self.buttons = [getattr(module.ui, f"alternative{n}Button") for n in (1, 2, 3)]
        self.editor = slicer.util.getModuleWidget("SegmentEditor").editor

    def press(self, *keys):
        for key in keys:
            press(self.module, key)

    @property
    def mask(self):
        return regionMask(self.node, Review(self.node).current["basin"])

    @property
    def found(self):
        return alternativesIn(self.node, self.mask)

    def sample(self, index):
        return slicer.util.arrayFromVolume(self.result.samplesNode.GetNthDataNode(index))

    def filled(self):
        """The labels that the views fill, or None."""
        shown = self.node.GetNodeReference(SAMPLE_ROLE)
        if shown is None:
            return None
        volumeNode, labels = slicer.util.getNode("Head"), np.zeros(self.mask.shape, np.uint8)
        for label, segmentID in Labels(self.node).segmentIDs.items():
            labels[slicer.util.arrayFromSegmentBinaryLabelmap(shown, segmentID, volumeNode) > 0] = label
        return labels


@pytest.fixture
def story(openPanel, addHead, run):
    addHead()
    module = openPanel()
    return Story(module, run(module, samples=8).result)


@pytest.mark.slow
def test_a_key_shows_an_alternative_in_the_region_only(story, photograph):
    ui = story.ui
    assert not story.buttons[0].enabled and story.buttons[0].toolTip == "Go to a region first."
    story.press("n")
    found = story.found
    assert 1 < len(found) <= 3 and sum(one.count for one in found) == 8
    assert [button.text for button in story.buttons[: len(found)]] == [
        f"{n}: {one.count}/8" for n, one in enumerate(found, 1)
    ]
    assert not ui.useAlternativeButton.enabled and ui.useAlternativeButton.toolTip == "Show an alternative first."
    story.press("2")
    assert np.array_equal(story.filled(), np.where(story.mask, story.sample(found[1].sample), 0))
    assert [button.checked for button in story.buttons] == [False, True, False]
    assert ui.alternativesLabel.text.startswith(f"Alternative 2: sample {found[1].sample + 1}; ")
    assert ui.sampleSlider.value == found[1].sample and "only in the region under review" in ui.sampleText.text
    photograph("alternatives", story.module.widget)
    story.press("1")
    assert np.array_equal(story.filled(), np.where(story.mask, story.sample(found[0].sample), 0))
    story.press("1")  # again: hidden
    assert story.filled() is None and not any(button.checked for button in story.buttons)
    assert Labels(story.node).edited() == 0, "keys that show change nothing"


@pytest.mark.slow
def test_using_an_alternative_is_one_undo_step(story):
    story.press("n", "2")
    before, chosen, undo = Labels(story.node).current(), story.found[1].sample, story.editor.undoStates
    story.press("u")
    after = Labels(story.node).current()
    assert np.array_equal(after, np.where(story.mask, story.sample(chosen), before)) and (after != before).any()
    assert story.editor.undoStates == undo + 1 and story.filled() is None
    text = "Alternative 2 was put into the segmentation. Undo in Segment Editor takes it back."
    assert story.ui.alternativesLabel.text == text
    story.editor.undo()
    assert np.array_equal(Labels(story.node).current(), before)


@pytest.mark.slow
def test_what_is_there_already_is_not_put_there_again(story):
    story.press("n", "1", "u", "1", "u")
    assert story.ui.alternativesLabel.text == (
        "The sample is identical to the result in this area; nothing was changed."
    )


@pytest.mark.slow
def test_the_next_region_has_its_own_alternatives(story):
    story.press("n", "1", "d")
    assert Review(story.node).current["rank"] == 2 and story.filled() is None
    assert story.buttons[0].text == f"1: {story.found[0].count}/8"
    story.press("1")
    assert np.array_equal(story.filled(), np.where(story.mask, story.sample(story.found[0].sample), 0))
    story.press("l")
    assert story.browser.shown is None and not story.buttons[0].enabled


@pytest.mark.slow
def test_the_slider_shows_samples_as_a_whole_again(story):
    story.press("n", "1")
    story.ui.sampleSlider.value = (story.browser.position + 1) % 8
    assert np.array_equal(story.filled(), story.sample(story.browser.shown))
    assert not story.buttons[0].checked and not story.ui.useAlternativeButton.enabled


@pytest.mark.slow
def test_a_digit_typed_into_a_number_is_not_a_key(story):
    from PySide6.QtTest import QTest

    story.press("n")
    box = story.ui.minimumSizeSpinBox
    box.setFocus()
    box.selectAll()
    QTest.keyClick(box, "2")
    assert story.filled() is None and box.text.startswith("2")


@pytest.mark.slow
def test_without_samples_or_regions_there_are_no_alternatives(story, mrmlScene):
    mrmlScene.RemoveNode(story.node.GetNodeReference("DiffusionSegmentation.Regions"))
    story.press("n", "1")
    assert story.filled() is None and story.buttons[0].toolTip == "The regions of this result were removed."
    mrmlScene.RemoveNode(story.result.samplesNode)
    story.module.widget.panel.refresh()
    assert story.buttons[0].toolTip == "The samples of this result were removed." and story.buttons[0].text == "1"


def test_a_removed_result_leaves_no_alternatives(story, monkeypatch):
    monkeypatch.setattr("DiffusionSegmentationLib.panel.dialogs.confirmRemoval", lambda *_given: True)
    story.press("n", "1")
    story.ui.removeResultButton.click()
    assert [button.text for button in story.buttons] == ["1", "2", "3"] and not story.ui.alternativesLabel.visible
    assert "There is no result yet" in story.buttons[0].toolTip and not any(one.checked for one in story.buttons)
