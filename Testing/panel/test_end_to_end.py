"""The panel with the real worker and a model with random weights; only Slicer's Qt side is replaced."""

import json
import sys
import unittest

import numpy as np
import pytest
import slicer
import slicer.util
import slicer_standin

from DiffusionSegmentationLib.headless import demo
from DiffusionSegmentationLib.review.review import REGIONS_ATTRIBUTE, Review
from DiffusionSegmentationLib.runs import models
from DiffusionSegmentationLib.scene import result_nodes
from DiffusionSegmentationLib.scene.contours import CONTOURS_ROLE
from DiffusionSegmentationLib.scene.label_map import Labels

slicer_standin.likePythonQt(__name__)

SHIPPED = models.SHIPPED


@pytest.fixture
def module(openRealPanel, addHead, fittedModel):
    addHead(size=44)
    return openRealPanel()


@pytest.mark.slow
def test_from_click_to_overlay(module, run, photograph):
    job = run(module, samples=2)
    assert job.state == "done", (job.message, list(module.runner.client.log)[-20:])
    segmentation = job.result.segmentationNode.GetSegmentation()
    assert [segmentation.GetNthSegment(n).GetName() for n in range(2)] == ["Structure 1", "Structure 2"]
    entropy = slicer.util.arrayFromVolume(job.result.entropyNode)
    assert 0 <= entropy.min() and 0 < entropy.max() <= np.log2(3) + 1e-3
    assert job.result.samplesNode.GetNumberOfDataNodes() == 2
    assert job.result.segmentationNode.GetAttribute(result_nodes.RUN_ATTRIBUTE)
    assert module.ui.overlayCheckBox.checked
    assert module.ui.deviceComboBox.count >= 2
    assert "torch" not in sys.modules
    photograph("real", module.widget)


@pytest.mark.slow
def test_from_click_to_a_scene_that_was_saved_and_opened_again(
    module, fittedModel, run, pumpUntil, application, tmp_path, photograph, capfd
):
    """Segment with the model's defaults, use both overlays, volumes and corrections, save, load and continue."""
    ui = module.ui
    module.widget.enter()
    ui.modelComboBox.currentIndex = ui.modelComboBox.findData(str(fittedModel))
    job = run(module, samples=0)
    assert job.state == "done", (job.message, list(module.runner.client.log)[-20:])
    report = job.report
    assert (report["samples"], report["kept_samples"], report["map_source"]) == (64, 16, "exact")
    photograph("fitted", module.widget)
    table = shownVolumes(ui)
    assert [row[0] for row in table] == ["Structure 1", "Structure 2"]
    for _name, expected, _mask, intervals in table:
        low, high = map(float, intervals.split("–"))
        assert low <= float(expected) <= high

    ui.layerComboBox.currentIndex = 1
    ui.opacitySlider.value = 0.45
    ui.thresholdSlider.value = 0.55
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    assert {node.GetForegroundVolumeID() for node in composites} == {job.result.disagreementNode.GetID()}
    ui.nextButton.click()
    ui.sampleCheckBox.click()
    for position in range(ui.sampleSlider.maximum + 1):
        ui.sampleSlider.value = position
        ui.useSampleButton.click()
        pumpUntil(lambda: "Counting" not in ui.editedLabel.text)
        if "have been edited" in ui.editedLabel.text:
            break
    corrected, text = Labels(job.result.segmentationNode).current(), ui.editedLabel.text
    assert text.split(" voxels")[0].isdecimal()
    ui.sampleCheckBox.click()
    ui.contoursCheckBox.click()
    pumpUntil(lambda: len(contoursOf(job.result.segmentationNode)) == 2, seconds=10)  # the outer ones, in steps
    before, contours = lookOf(ui), contoursOf(job.result.segmentationNode)
    disagreement = slicer.util.arrayFromVolume(job.result.disagreementNode).copy()
    assert disagreement.max() > 0.5
    path = tmp_path / "Fall ü.mrb"
    assert slicer.mrmlScene.WriteToMRB(str(path))

    capfd.readouterr()
    slicer.mrmlScene.Clear(False)
    assert ui.volumesTable.rowCount == 0 and not ui.layerComboBox.enabled
    assert application.headless.logic.OpenSlicerDataBundle(str(path), str(tmp_path))  # while the module is open
    pumpUntil(lambda: "Counting" not in ui.editedLabel.text)
    assert lookOf(ui) == before and ui.editedLabel.text == text
    segmentationNode = slicer.util.getNode("Head segmentation")
    assert np.array_equal(Labels(segmentationNode).current(), corrected)
    pumpUntil(lambda: contoursOf(segmentationNode) == contours, seconds=10)
    node = segmentationNode.GetNodeReference(result_nodes.DISAGREEMENT_ROLE)
    assert np.array_equal(slicer.util.arrayFromVolume(node), disagreement)
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    assert {node.GetForegroundVolumeID() for node in composites} == {node.GetID()}
    ui.overlayCheckBox.click()
    assert {node.GetForegroundVolumeID() for node in composites} == {None}
    ui.sampleCheckBox.click()
    assert ui.sampleText.text.startswith("Sample ") and "of the 16 kept (64 drawn)" in ui.sampleText.text
    ui.alternative1Button.click()
    assert ui.alternative1Button.checked and ui.alternative1Button.text.endswith("/16")
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_returning_to_a_threshold_restores_the_regions_of_the_report(module, run, pumpUntil):
    ui = module.ui
    result = run(module, samples=3).result
    reported = {key: module.runner.job.report[key] for key in ("regions", "expected_error_ml", "reviewable_ml")}
    # Alternatives do not depend on the threshold.
    assert all(sum(one["count"] for one in region.pop("alternatives")) == 3 for region in reported["regions"])
    assert len(reported["regions"]) > 3
    shown = shownRegions(ui), ui.reviewLabel.text
    for bits in (0.4, 0.8):
        ui.thresholdSlider.value = bits
        pumpUntil(lambda bits=bits: Review(result.segmentationNode).criteria.bits == bits, seconds=10)
        assert (shownRegions(ui) == shown[0]) == (bits == 0.8)
    regions = json.loads(result.segmentationNode.GetAttribute(REGIONS_ATTRIBUTE))
    assert {key: regions[key] for key in reported} == reported and ui.reviewLabel.text == shown[1]


def shownRegions(ui):
    return [[ui.regionTable.item(row, column).text() for column in range(5)] for row in range(ui.regionTable.rowCount)]


def shownVolumes(ui):
    """Texts of the volumes table, without the column of plots."""
    return [
        [ui.volumesTable.item(row, column).text() for column in range(4)] for row in range(ui.volumesTable.rowCount)
    ]


def contoursOf(segmentationNode):
    """Voxels of each contour that is drawn, by the ID of its segment."""
    node, volumeNode = segmentationNode.GetNodeReference(CONTOURS_ROLE), slicer.util.getNode("Head")
    return {
        segmentID: int(slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentID, volumeNode).sum())
        for segmentID in node.GetSegmentation().GetSegmentIDs()
    }


def lookOf(ui):
    """State of the sections that show the result."""
    sliders = round(ui.opacitySlider.value, 6), round(ui.thresholdSlider.value, 6)
    choice = ui.contoursCheckBox.checked, ui.overlayCheckBox.checked, ui.layerComboBox.currentText, ui.layerLabel.text
    return shownVolumes(ui), sliders, choice, ui.resultLabel.text, ui.volumesLabel.text, ui.reviewLabel.text


@pytest.mark.slow
def test_the_same_seed_gives_the_same_and_another_seed_other_samples(module, run):
    def draw(seed):
        module.ui.seedSpinBox.value = seed
        result = run(module, samples=1).result
        return slicer.util.arrayFromVolume(result.samplesNode.GetNthDataNode(0)).copy()

    first, again, other = draw(1), draw(1), draw(2)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.slow
def test_input_refused_by_the_worker_is_reported_in_one_sentence(module, run, addVolume):
    noise = np.random.default_rng(0).random((24, 24, 24), dtype=np.float32)
    hole = noise.copy()
    hole[3, 4, 5] = np.nan
    for voxels, spacing in [(hole, 6.0), (np.ones_like(noise), 6.0), (noise, 0.5)]:
        module.ui.inputSelector.setCurrentNode(addVolume(voxels, name="Bad", spacing=spacing))
        job = run(module)
        assert job.state == "failed"
        assert job.message.endswith(".") and "\n" not in job.message and "unexpected" not in job.message
        assert module.ui.statusLabel.text == job.message and module.ui.statusIcon.visible
    assert slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None


@pytest.mark.slow
def test_a_model_with_another_checksum_is_refused(module, run, randomModel):
    weights = randomModel / "model.safetensors"
    data = weights.read_bytes()
    try:
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        job = run(module)
        assert job.state == "failed" and "checksum" in job.message
    finally:
        weights.write_bytes(data)


@pytest.mark.slow
@pytest.mark.skipif(not (SHIPPED / "brain-structures").is_dir(), reason="the model is not in this checkout")
def test_a_head_has_many_regions_and_none_holds_most_of_the_error(
    openPanel, mrmlScene, pumpUntil, photograph, monkeypatch
):
    """With --screenshots, also writes the README's pictures of the panel's sections in both colour schemes."""
    addSliceViews(mrmlScene)
    monkeypatch.setattr(models, "SHIPPED", SHIPPED)
    head = demo.loadVolume(demo.findHead())
    head.SetName("MRHead")
    module = openPanel("real")
    if not photograph.wanted:  # the pictures show the default number
        module.ui.samplesSpinBox.value = 8
    module.ui.segmentButton.click()
    pumpUntil(lambda: not module.runner.busy, seconds=300, describe=lambda: module.runner.job)
    review = Review(module.runner.job.result.segmentationNode)
    assert len(review.regions) >= 20 and review.regions[0]["share"] < 0.15
    module.ui.nextButton.click()
    assert review.current["rank"] == 1
    module.ui.sampleCheckBox.click()
    module.ui.orderComboBox.currentIndex = module.ui.orderComboBox.findData("ventricles")
    for button in (module.ui.worst1Button, module.ui.worst2Button, module.ui.worst3Button):
        button.click()
    pumpUntil(lambda: not module.ui.profile3.pixmap.isNull(), seconds=5)
    asked = (("asymmetry", ""), ("centroid_distance", ""), ("volume", ">"))
    askAboutVentricles(module, pumpUntil, asked if photograph.wanted else asked[2:])
    photograph("head", module.widget)
    for section in ("inputs", "result", "review", "samples", "measurements", "correct", "report"):
        photograph(section, module.widget, part=getattr(module.ui, f"{section}CollapsibleButton"))


def askAboutVentricles(module, pumpUntil, asked):
    ui = module.ui
    ui.structureAComboBox.currentIndex = ui.structureAComboBox.findData("ventricles")
    ui.structureBComboBox.currentIndex = ui.structureBComboBox.findData("brainstem")
    for name, comparison in asked:
        ui.measurementComboBox.currentIndex = ui.measurementComboBox.findData(name)
        ui.comparisonComboBox.currentIndex = ui.comparisonComboBox.findData(comparison)
        ui.thresholdSpinBox.value = 38
        ui.askButton.click()
        pumpUntil(lambda: not module.backend.asker.busy)
    assert ui.answersTable.rowCount == len(asked)
    assert ui.answersTable.item(0, 0).text() == "Volume of Ventricles >\u00a038\u00a0ml"
    assert "samples" in ui.answersTable.item(0, 1).text()


def addSliceViews(scene):
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
    for name, orientation in (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal")):
        node = scene.AddNewNodeByClass("vtkMRMLSliceNode", name)
        node.SetLayoutName(name)
        assert node.SetOrientation(orientation)


@pytest.mark.slow
@pytest.mark.skipif(not (SHIPPED / "brain-structures").is_dir(), reason="the model is not in this checkout")
def test_the_self_test_of_the_module_with_the_shipped_model(openPanel, monkeypatch):
    monkeypatch.setattr(models, "SHIPPED", SHIPPED)
    openPanel("real")
    result = unittest.TestResult()
    sys.modules["DiffusionSegmentation"].DiffusionSegmentationTest("test_segmentVolume").run(result)
    assert not result.skipped and not result.errors and not result.failures, result.errors + result.failures


@pytest.mark.slow
@pytest.mark.parametrize("story", ["test_reviewAndCorrect", "test_manyVolumes"])
def test_the_self_test_of_the_module_with_a_random_model(module, story, monkeypatch):
    """The scene is not cleared, because it holds the choice of the model with random weights."""
    monkeypatch.setattr(slicer.mrmlScene, "Clear", lambda *_given: None, raising=False)
    slicer.mrmlScene.RemoveNode(slicer.util.getNode("Head"))
    addSliceViews(slicer.mrmlScene)
    case = sys.modules["DiffusionSegmentation"].DiffusionSegmentationTest(story)
    result = unittest.TestResult()
    case.run(result)
    assert not result.skipped and not result.errors and not result.failures, result.errors + result.failures


@pytest.mark.slow
def test_a_question_is_asked_of_more_samples_than_the_result_keeps(
    module, fittedModel, run, pumpUntil, photograph, monkeypatch
):
    ui = module.ui
    module.widget.enter()
    ui.modelComboBox.currentIndex = ui.modelComboBox.findData(str(fittedModel))
    node = run(module, samples=20).result.segmentationNode

    def ask(count):
        assert ui.askSamplesComboBox.findData(count) >= 0
        ui.askSamplesComboBox.currentIndex = ui.askSamplesComboBox.findData(count)
        ui.askButton.click()
        pumpUntil(lambda: not module.backend.asker.busy, describe=lambda: list(module.runner.client.log)[-20:])
        return ui.measuredLabel.text

    assert [ui.askSamplesComboBox.itemText(n) for n in range(ui.askSamplesComboBox.count)] == [
        "the 16 kept",
        "draw 32",
        "draw 64",
    ]
    assert ask(0).endswith("in the 16 samples that were kept of 20.")
    (kept,) = result_nodes.reportOf(node)["answers"]
    text = ask(32)
    (drawn,) = result_nodes.reportOf(node)["answers"]
    assert drawn["samples"][:16] == kept["samples"] and len(drawn["samples"]) == 32 and drawn["value"] == kept["value"]
    assert "Answers from 32 samples: these were drawn again with the same seed" in text
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1
    photograph("more-samples", module.widget, part=ui.measurementsCollapsibleButton)

    volume = node.GetNodeReference(result_nodes.VOLUME_ROLE)
    slicer.util.arrayFromVolume(volume)[5, 5, 5] += 1
    slicer.util.arrayFromVolumeModified(volume)
    assert ask(64).startswith("The volume was changed since this result")
    assert result_nodes.reportOf(node)["answers"] == [drawn]

    monkeypatch.setattr(type(module.backend), "models", lambda self: [])
    slicer.mrmlScene.RemoveNode(node.GetNodeReference(result_nodes.SAMPLES_ROLE))
    module.widget.enter()
    assert ui.askSamplesComboBox.count == 0 and ui.measuredLabel.text == "The samples of this result were removed."
