"""Batches: each volume gets a result with its name, and a failure does not stop the others."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import slicer.util
import slicer_standin

from DiffusionSegmentationLib.headless import demo
from DiffusionSegmentationLib.runs.batch import DONE, FAILED, WAITING

slicer_standin.likePythonQt(__name__)


def segmentations():
    return sorted(node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"))


def lines(module):
    listed = module.ui.batchList
    return [listed.item(row).text() for row in range(listed.count)]


@pytest.mark.slow
def test_a_batch_segments_all_volumes_of_the_scene(openPanel, addHead, addVolume, pumpUntil, photograph):
    addHead("One")
    addVolume(np.zeros((1, 8, 8), np.int16), name="Flat")
    addHead("Two")
    module = openPanel("good", "0.1")
    ui = module.ui
    assert not ui.batchButton.enabled and ui.batchButton.toolTip == "The list is empty."
    ui.samplesSpinBox.value = 2
    ui.batchCollapsibleButton.collapsed = False
    ui.addVolumesButton.click()
    assert lines(module) == ["One", "Flat", "Two"]
    ui.batchButton.click()
    assert ui.batchButton.text == "Cancel all" and ui.batchProgressBar.visible and not ui.addFolderButton.enabled
    pumpUntil(lambda: len(segmentations()) == 1 and "▶ Two" in lines(module)[2])
    photograph("batch", module.widget)
    pumpUntil(lambda: ui.batchButton.text == "Segment all")
    assert segmentations() == ["One segmentation", "Two segmentation"]
    first, flat, second = lines(module)
    assert first.startswith("✓ One: Done: 2 samples") and second.startswith("✓ Two: Done")
    assert flat.startswith("✗ Flat: ") and flat.endswith(".")
    assert ui.batchLabel.text == "3 of 3 volumes, 1 failed."
    assert module.widget.logic.getParameterNode().segmentation.GetName() == "Two segmentation"
    assert not ui.batchButton.enabled and "have been processed" in ui.batchButton.toolTip
    ui.clearBatchButton.click()
    ui.addVolumesButton.click()
    assert lines(module) == ["Flat"]  # the others have results


def test_the_list_shows_the_warnings_of_results(openPanel, addHead, pumpUntil):
    addHead("One", size=24)
    module = openPanel("unfitted", "0.01")
    module.ui.addVolumesButton.click()
    module.ui.batchButton.click()
    pumpUntil(lambda: module.ui.batchButton.text == "Segment all")
    (line,) = lines(module)
    assert line.startswith("✓ One: Done: 8 samples") and "not fitted to labelled cases" in line


@pytest.mark.slow
def test_a_cancelled_batch_keeps_finished_results_and_can_be_resumed(openPanel, addHead, pumpUntil):
    for name in ("One", "Two", "Three"):
        addHead(name, size=24)
    module = openPanel("good", "0.2")
    module.ui.samplesSpinBox.value = 2
    module.ui.addVolumesButton.click()
    module.ui.batchButton.click()
    items = module.widget.panel._batch.items
    pumpUntil(lambda: items[0].state == DONE)
    module.ui.batchButton.click()
    assert not module.runner.busy and module.ui.batchButton.text == "Segment all"
    assert [item.state for item in items] == [DONE, WAITING, WAITING]
    module.ui.batchButton.click()
    pumpUntil(lambda: module.ui.batchButton.text == "Segment all")
    assert segmentations() == ["One segmentation", "Three segmentation", "Two segmentation"]


def test_the_files_of_a_folder(openPanel, mrmlScene, pumpUntil, tmp_path, monkeypatch):
    ball = np.linspace(0, 1000, 24**3).reshape(24, 24, 24).astype(np.int16)
    image = sitk.GetImageFromArray(ball)
    image.SetSpacing([6.0, 6.0, 6.0])
    for name in ("b.nii.gz", "a.nrrd"):
        sitk.WriteImage(image, str(tmp_path / name))
    (tmp_path / "c.mha").write_bytes(b"no volume")
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "old.seg.nrrd").write_bytes(b"")

    def load(path, properties):
        assert properties == {"singleFile": True}
        if path.endswith(".mha"):
            raise RuntimeError("Failed to load node from file.")
        return demo.loadVolume(Path(path))

    monkeypatch.setattr(slicer.util, "loadVolume", load, raising=False)
    folders = [str(tmp_path), ""]
    monkeypatch.setattr("DiffusionSegmentationLib.panel.dialogs.selectFolder", lambda *_given: folders.pop(0))
    module = openPanel("good", "0.05")
    module.ui.samplesSpinBox.value = 1
    module.widget.logic.getParameterNode().inputVolume = None
    module.ui.addFolderButton.click()
    module.ui.addFolderButton.click()  # the dialog was cancelled
    assert lines(module) == ["a.nrrd", "b.nii.gz", "c.mha"]
    module.ui.batchButton.click()
    pumpUntil(lambda: module.ui.batchButton.text == "Segment all")
    items = module.widget.panel._batch.items
    assert [item.state for item in items] == [DONE, DONE, FAILED]
    assert len(segmentations()) == 2 and segmentations()[0].startswith("a")


def test_the_frames_of_a_sequence(openPanel, mrmlScene, addHead, pumpUntil):
    frame = addHead("Frame", size=24)
    sequence = mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Cine")
    for value in ("0", "1.5"):
        sequence.SetDataNodeAtValue(frame, value)
    mrmlScene.RemoveNode(frame)
    module = openPanel("good", "0.05")
    module.ui.samplesSpinBox.value = 1
    module.ui.addSequenceButton.click()
    assert lines(module) == ["Cine 0", "Cine 1.5"]
    module.ui.batchButton.click()
    pumpUntil(lambda: module.ui.batchButton.text == "Segment all")
    assert segmentations() == ["Cine 0 segmentation", "Cine 1.5 segmentation"]
    module.ui.clearBatchButton.click()
    module.ui.addSequenceButton.click()
    assert len(lines(module)) == 2  # samples and probabilities of results are not offered


@pytest.mark.parametrize("button", ["addVolumesButton", "addSequenceButton"])
def test_an_empty_scene_has_nothing_to_add(openPanel, button):
    ui = openPanel().ui
    getattr(ui, button).click()
    assert ui.batchLabel.text.endswith(".") and not ui.batchButton.enabled


def test_closing_the_scene_ends_the_batch(openPanel, addHead, application):
    for name in ("One", "Two"):
        addHead(name, size=24)
    module = openPanel("good", "0.3")
    module.ui.addVolumesButton.click()
    module.ui.batchButton.click()
    slicer.mrmlScene.Clear()
    assert not module.runner.busy and lines(module) == [] and segmentations() == []
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []


def test_missing_packages_stop_the_batch_once(openPanel, addHead, monkeypatch):
    from DiffusionSegmentationLib.runs.dependencies import DependencyError

    for name in ("One", "Two"):
        addHead(name, size=24)
    module = openPanel()
    calls = []

    def refuse(*_given):
        calls.append(1)
        raise DependencyError("Install the extension 'PyTorch'.")

    monkeypatch.setattr(module.backend, "submit", refuse)
    module.ui.addVolumesButton.click()
    module.ui.batchButton.click()
    assert len(calls) == 1 and module.ui.batchLabel.text == "Install the extension 'PyTorch'."
    assert module.ui.batchButton.enabled and [item.state for item in module.widget.panel._batch.items] == [WAITING] * 2
