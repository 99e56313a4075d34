"""The button "Update the rest from my corrections": the samples are drawn again given what the reviewer has settled."""

import json
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer.util
import slicer_standin
from update_bench import paint

from DiffusionSegmentationLib.review.review import Review
from DiffusionSegmentationLib.review.updates import formerOf, roundsOf
from DiffusionSegmentationLib.runs import updating
from DiffusionSegmentationLib.scene import voxel_grids
from DiffusionSegmentationLib.scene.facts import UNKNOWN
from DiffusionSegmentationLib.scene.label_map import Labels
from DiffusionSegmentationLib.scene.result_nodes import (
    ENTROPY_ROLE,
    FACTS_ROLE,
    PROBABILITIES_ROLE,
    REGIONS_ROLE,
    RUN_ATTRIBUTE,
    VOLUME_ROLE,
    regionsVolume,
    reportOf,
)

slicer_standin.likePythonQt(__name__)

NOTHING = "Nothing was corrected yet: edit voxels, or mark regions as done, first."


def entropy(node):
    return slicer.util.arrayFromVolume(node.GetNodeReference(ENTROPY_ROLE))


def state(node):
    """What an undo has to bring back: labels, entropy, review, report and names of the parts."""
    attributes = [node.GetAttribute(name) for name in node.GetAttributeNames()]
    return Labels(node).current().tobytes(), entropy(node).tobytes(), attributes, node.GetDisplayVisibility()


@pytest.mark.slow
def test_one_region_is_corrected_updated_and_undone(first, update, settle, pumpUntil, photograph):
    module, node = first
    ui = module.ui
    assert not ui.updateButton.enabled and ui.updateButton.toolTip == NOTHING
    assert not ui.undoUpdateButton.visible
    node.GetSegmentation().GetSegment("white_matter").SetName("Marklager")
    painted = paint(node, (4, 5, 6), 2)
    extra = node.GetSegmentation().AddEmptySegment("mine", "Mine")
    before, count = Labels(node).current(), Labels(node).edited()
    settle(module)
    assert ui.updateLabel.text == (
        f"Facts for an update: {count} edited voxels and 0 done regions, {Labels(node).countText(count)} in all. "
        "An update draws 3 samples in about 10 s on 'auto', estimated from the last run. "
        "Facts are never changed. The rest follows them only roughly, so check it."
    )
    photograph("update-before", module.widget, part=ui.correctCollapsibleButton)
    kept = state(node)
    updated = update(module)
    assert formerOf(updated) is node and not node.GetDisplayVisibility()
    after = Labels(updated)
    assert (after.current()[painted] == 2).all() and not entropy(updated)[painted].any()
    assert (after.current() != before)[~painted].any(), "the rest follows"
    facts = slicer.util.arrayFromVolume(updated.GetNodeReference(FACTS_ROLE).GetNthDataNode(0))
    assert np.array_equal(facts != UNKNOWN, before != Labels(node).consensus())
    assert updated.GetSegmentation().GetSegment("white_matter").GetName() == "Marklager"
    assert updated.GetSegmentation().GetSegment(extra).GetName() == "Mine"
    assert roundsOf(updated) == [{"edited_voxels": count, "done_regions": 0, "voxels": count}]
    assert module.widget.logic.getParameterNode().segmentation is updated
    assert ui.updateLabel.text.startswith("The samples were drawn given") and not ui.updateButton.enabled
    photograph("update-after", module.widget, part=ui.correctCollapsibleButton)

    ui.undoUpdateButton.click()
    assert module.widget.logic.getParameterNode().segmentation is node
    assert updated.GetScene() is None and slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
    assert state(node) == kept
    settle(module)
    assert ui.updateButton.enabled and not ui.undoUpdateButton.visible and ui.overlayCheckBox.checked


@pytest.mark.slow
def test_done_regions_are_facts_and_open_decisions_stay(first, update, settle):
    module, node = first
    ui = module.ui
    ui.nextButton.click()
    regions = Review(node).regions
    ui.doneButton.click()
    for region in regions[1:]:
        Review(node).mark(region, "flagged")
    settle(module)
    assert " 0 edited voxels and 1 done regions" in ui.updateLabel.text
    done = slicer.util.arrayFromVolume(regionsVolume(node)) == regions[0]["basin"]
    labels = Labels(node).current()
    updated = update(module)
    assert (Labels(updated).current() == labels)[done].all() and not entropy(updated)[done].any()
    review = Review(updated)
    flagged = [region for region in review.regions if review.state(region) == "flagged"]
    inFlagged = np.isin(slicer.util.arrayFromVolume(regionsVolume(node)), [one["basin"] for one in regions[1:]])
    assert flagged == [region for region in review.regions if inFlagged[index(node, region)]] != []
    assert "done" not in map(review.state, review.regions)


def index(node, region):
    matrix = Labels(node).ijkToRAS
    return tuple(np.rint(np.linalg.solve(matrix, [*region["peak_ras_mm"], 1.0])[:3]).astype(int)[::-1])


@pytest.mark.slow
def test_rounds_add_facts_and_the_report_lists_them(first, update, settle, pumpUntil, tmp_path, monkeypatch):
    module, node = first
    ui = module.ui
    one = paint(node, (4, 5, 6), 2)
    updated = update(module)
    two, again = paint(updated, (20, 5, 6), 1), paint(updated, (4, 5, 6), 0, width=2)
    last = update(module)
    labels = Labels(last).current()
    assert (labels[one & ~again] == 2).all() and (labels[again] == 0).all() and (labels[two] == 1).all()
    assert reportOf(last)["facts"]["rounds"] == 2 and len(roundsOf(last)) == 2
    path = tmp_path / "report.html"
    monkeypatch.setattr("DiffusionSegmentationLib.panel.dialogs.selectFileToSave", lambda *_given: str(path))
    ui.reportButton.click()
    pumpUntil(lambda: ui.reportButton.enabled, seconds=60)
    stored = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert stored["facts"] == {**reportOf(last)["facts"], "updates": roundsOf(last)}
    assert "update DIR VOLUME --facts FACTS" in stored["command"]
    page = path.read_text(encoding="utf-8")
    assert "in 2 rounds of updates" in page and "only roughly" in page
    ui.undoUpdateButton.click()
    assert module.widget.logic.getParameterNode().segmentation is updated
    settle(module)
    asked = []
    confirm = lambda name: asked.append(name) or len(asked) > 1  # noqa: E731
    monkeypatch.setattr("DiffusionSegmentationLib.panel.dialogs.confirmUndo", confirm)
    name = updated.GetName()
    ui.undoUpdateButton.click()
    assert module.widget.logic.getParameterNode().segmentation is updated, "its edits would be lost"
    ui.undoUpdateButton.click()
    assert asked == [name, name]
    assert module.widget.logic.getParameterNode().segmentation is node


@pytest.mark.slow
def test_edits_of_an_own_segment_after_an_update_are_not_lost_without_a_question(first, update, settle, monkeypatch):
    module, node = first
    mask = paint(node, (4, 5, 6), 2)
    image = voxel_grids.croppedImage(mask, Labels(node).ijkToRAS)
    node.GetSegmentation().AddSegment(voxel_grids.segment("Mine", (0.1, 0.9, 0.1), image), "mine")
    updated = update(module)
    own = updated.GetSegmentation().GetSegment("mine").GetRepresentation(voxel_grids.BINARY_LABELMAP)
    voxel_grids.imageArray(own)[0, 0, 0] = 0
    own.Modified()
    asked = []
    monkeypatch.setattr("DiffusionSegmentationLib.panel.dialogs.confirmUndo", asked.append)
    module.ui.undoUpdateButton.click()
    assert asked == [updated.GetName()] and module.widget.logic.getParameterNode().segmentation is updated
    voxel_grids.imageArray(own)[0, 0, 0] = 1
    module.ui.undoUpdateButton.click()
    assert len(asked) == 1 and module.widget.logic.getParameterNode().segmentation is node


@pytest.mark.slow
def test_marks_copy_no_label_map_and_edits_do(first, settle, monkeypatch):
    module, node = first
    copies, copy = [], Labels.currentOn
    monkeypatch.setattr(Labels, "currentOn", lambda *given: copies.append(1) or copy(*given))
    ui = module.ui
    ui.nextButton.click()
    for button, regions in ((ui.doneButton, 1), (ui.flagButton, 1), (ui.doneButton, 2)):
        button.click()
        settle(module)
        assert f"and {regions} done regions" in ui.updateLabel.text
    assert not copies
    paint(node, (4, 5, 6), 2)
    settle(module)
    assert len(copies) == 1 and "64 edited voxels and 2 done" in ui.updateLabel.text


@pytest.mark.slow
def test_a_cancelled_update_changes_nothing(first, settle, pumpUntil):
    module, node = first
    paint(node, (4, 5, 6), 2)
    settle(module)
    kept = state(node)
    module.runner.client.stop()
    module.ui.updateButton.click()
    pumpUntil(lambda: module.runner.job.state != "queued" or "Starting" in module.ui.updateLabel.text)
    module.ui.updateButton.click()
    pumpUntil(lambda: not module.runner.busy)
    assert module.runner.job.state == "cancelled" and state(node) == kept
    assert module.ui.updateButton.enabled and module.ui.updateButton.text.startswith("Update the rest")


@pytest.mark.slow
def test_edits_during_an_update_are_kept_and_told(first, settle, pumpUntil):
    module, node = first
    paint(node, (4, 5, 6), 2)
    settle(module)
    module.ui.updateButton.click()
    late = paint(node, (20, 5, 6), 1)
    pumpUntil(lambda: not module.runner.busy)
    assert "was edited during the update" in module.ui.updateLabel.text
    module.ui.undoUpdateButton.click()
    assert (Labels(node).current()[late] == 1).all()


def test_a_voxel_painted_outside_of_the_segmented_part_is_a_fact(first, settle):
    from DiffusionSegmentationLib.review.facts import FactsSource

    module, node = first
    probabilities = node.GetNodeReference(PROBABILITIES_ROLE)
    for index in range(probabilities.GetNumberOfDataNodes()):  # as if only a part, from i = 2 on, had been segmented
        part = probabilities.GetNthDataNode(index)
        matrix = voxel_grids.ijkToRAS(part)
        matrix[:3, 3] += matrix[:3, 0] * 2
        voxels = slicer.util.arrayFromVolume(part)[..., 2:].copy()
        part.SetAndObserveImageData(None)
        slicer.util.updateVolumeFromArray(part, voxels)
        part.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    node.RemoveNodeReferenceIDs(REGIONS_ROLE)
    assert FactsSource(node).settled().voxels == 0
    image = node.GetSegmentation().GetSegment("white_matter").GetRepresentation(voxel_grids.BINARY_LABELMAP)
    labels = Labels(node)
    labels.write(np.full(labels.shape, 2, np.uint8), np.ones(labels.shape, bool))
    extent = [*image.GetExtent()]
    painted = slicer.vtkOrientedImageData()
    painted.DeepCopy(image)
    extent[0] = 1
    slicer.vtkOrientedImageDataResample.PadImageToContainImage(image, resized(image, extent), painted)
    image.DeepCopy(painted)
    voxel_grids.imageArray(image)[:, :, 0] = node.GetSegmentation().GetSegment("white_matter").GetLabelValue()
    facts = FactsSource(node).settled().facts.labels
    assert (facts[:, :, 1] == 2).any() and (facts[:, :, 0] == UNKNOWN).all()


def resized(image, extent):
    """An image on the grid of `image` with another extent."""
    other = slicer.vtkOrientedImageData()
    other.DeepCopy(image)
    other.SetExtent(*extent)
    other.AllocateScalars(image.GetScalarType(), 1)
    return other


@pytest.mark.slow
def test_a_removed_segment_is_no_correction_and_stays_removed(first, update, settle):
    module, node = first
    node.GetSegmentation().RemoveSegment("grey_matter")
    settle(module)
    assert module.ui.updateButton.toolTip == NOTHING
    paint(node, (4, 5, 6), 2)
    updated = update(module)
    assert updated.GetSegmentation().GetSegment("grey_matter") is None
    assert roundsOf(updated)[0]["voxels"] < 100


def test_a_removed_volume_is_one_sentence(first, settle):
    module, node = first
    paint(node, (4, 5, 6), 2)
    slicer.mrmlScene.RemoveNode(node.GetNodeReference(VOLUME_ROLE))
    settle(module)
    assert module.ui.updateButton.toolTip == "The volume of this result was removed."


@pytest.mark.slow
def test_more_samples_of_an_updated_result_are_drawn_given_its_facts(first, update, pumpUntil, monkeypatch):
    module, node = first
    paint(node, (4, 5, 6), 2)
    updated = update(module)
    report = reportOf(updated)
    report["device"] = "cuda:0"
    updated.SetAttribute(RUN_ATTRIBUTE, json.dumps(report))
    module.backend.settings.device = "cpu"
    module.widget.enter()
    ui, sent, send = module.ui, [], module.runner.client.send

    def note(message):
        if message["type"] == "update":
            facts = Path(message["facts"]).read_bytes()
            sent.append((message, facts.count(bytes([2])), len(facts)))
        send(message)

    monkeypatch.setattr(module.runner.client, "send", note)
    ui.askSamplesComboBox.currentIndex = ui.askSamplesComboBox.findData(16)
    ui.askButton.click()
    pumpUntil(lambda: not module.backend.asker.busy, describe=lambda: list(module.runner.client.log)[-20:])
    message, known, _size = sent[0]
    assert (
        message["ask"]
        and message["rounds"] == 1
        and message["sha256"] == report["input"]["sha256"]
        and message["device"] == "cuda:0"
    )
    assert known >= 60

    slicer.mrmlScene.RemoveNode(updated.GetNodeReference(FACTS_ROLE))
    ui.askButton.click()
    assert ui.measuredLabel.text == "The facts of this result were removed, so its samples cannot be drawn again."


@pytest.mark.slow
def test_a_run_behind_questions_tells_that_it_waits(first, pumpUntil):
    module, _node = first
    ui = module.ui
    ui.askSamplesComboBox.currentIndex = ui.askSamplesComboBox.findData(16)
    ui.askButton.click()
    ui.segmentButton.click()
    assert ui.statusLabel.text == "Waiting until the questions are answered"
    ui.askButton.click()
    ui.segmentButton.click()
    pumpUntil(lambda: not module.runner.busy and not module.backend.asker.busy)


def test_the_expected_time_is_that_of_what_is_drawn_again():
    """Noise of copula masks is kept; a denoiser takes its steps again, and the last update took what the next takes."""
    times = {"timings_s": {"encoding": 8.0, "writing": 2.0}}
    assert updating.secondsOf({**times, "steps": 0}) == 4
    assert updating.secondsOf({**times, "steps": 5}) == 10
    assert updating.secondsOf({**times, "steps": 0, "facts": {"rounds": 1}}) == 10
    assert updating.secondsOf({"steps": 0}) is None
