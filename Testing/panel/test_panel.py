"""The panel with its .ui file and a real scene: what it shows and what a click does."""

import sys

import numpy as np
import pytest
import slicer
import slicer.util
import slicer_standin

from DiffusionSegmentationLib.scene.display import Overlay

slicer_standin.likePythonQt(__name__)


def test_an_empty_scene_explains_what_to_do(openPanel):
    ui = openPanel().ui
    assert ui.statusLabel.text == "Select the volume to segment."
    for button, words in [
        (ui.segmentButton, "Select the volume"),
        (ui.editButton, "There is no result yet"),
        (ui.overlayCheckBox, "There is no result yet"),
        (ui.opacitySlider, "There is no result yet"),
        (ui.thresholdSlider, "There is no result yet"),
    ]:
        assert not button.enabled and words in button.toolTip
    assert ui.advancedCollapsibleButton.collapsed
    assert not ui.keepButton.visible and not ui.progressBar.visible


def test_the_first_volume_is_preselected_and_can_be_segmented(openPanel, addHead):
    volumeNode = addHead()
    world = openPanel()
    assert world.ui.inputSelector.currentNode() is volumeNode
    assert world.ui.segmentButton.enabled and world.ui.segmentButton.text == "Segment"
    assert world.ui.modelComboBox.currentText == "Brain structures (MR head)"
    assert world.ui.samplesSpinBox.text == "Model default" and world.ui.samplesSpinBox.maximum == 64
    assert world.ui.statusLabel.text.startswith("The run time can be estimated after the first run")


def test_choices_are_kept_in_the_scene_and_settings_are_not(openPanel, addHead, pumpUntil):
    addHead()
    world = openPanel()
    world.ui.samplesSpinBox.value = 5
    world.ui.seedSpinBox.value = 11
    node = slicer.mrmlScene.GetSingletonNode("DiffusionSegmentation", "vtkMRMLScriptedModuleNode")
    assert node.GetParameter("samples") == "5" and node.GetParameter("seed") == "11"
    node.SetParameter("samples", "3")
    assert world.ui.samplesSpinBox.value == 3
    pumpUntil(lambda: world.ui.deviceComboBox.count == 3)
    assert [world.ui.deviceComboBox.itemText(n) for n in range(3)] == ["Automatic", "CPU", "Quick GPU"]
    assert "first supported GPU, otherwise the CPU" in world.ui.deviceComboBox.toolTip
    world.ui.deviceComboBox.currentIndex = 2
    assert world.backend.settings.device == "cuda:0"
    assert "cuda" not in str(node.GetParameterNamesAsCommaSeparatedList())
    world = openPanel()  # another start: the choice is kept, though no worker has named devices yet
    assert world.ui.deviceComboBox.itemData(world.ui.deviceComboBox.currentIndex) == "cuda:0"


def test_the_default_number_of_samples_is_that_of_the_model(openPanel, addHead, run):
    addHead()
    world = openPanel("good", "0.01")
    job = run(world, samples=0)
    assert job.choices.samples is None and job.report["samples"] == 8
    node = slicer.mrmlScene.GetSingletonNode("DiffusionSegmentation", "vtkMRMLScriptedModuleNode")
    node.SetParameter("samples", "8")  # as in every scene of an earlier version
    world = openPanel("good", "0.01")
    assert world.ui.samplesSpinBox.text == "8" and run(world, samples=8).choices.samples == 8


def test_segment_becomes_cancel_and_progress_is_shown(openPanel, addHead, photograph, pumpUntil):
    volumeNode = addHead()
    world = openPanel("good", "0.3")
    world.ui.samplesSpinBox.value = 6
    world.ui.segmentButton.click()
    assert world.ui.segmentButton.text == "Cancel" and world.ui.progressBar.visible
    assert not world.ui.keepButton.enabled and "first sample" in world.ui.keepButton.toolTip
    pumpUntil(lambda: world.ui.keepButton.enabled)
    assert world.ui.statusLabel.text.startswith("Drawing sample 2 of 6, ")
    assert world.ui.statusLabel.text.endswith(" left")
    assert 0 < world.ui.progressBar.value < world.ui.progressBar.maximum
    photograph("running", world.widget)
    world.ui.segmentButton.click()
    assert world.ui.segmentButton.text == "Segment" and not world.ui.progressBar.visible
    assert world.ui.statusLabel.text == "Cancelled; nothing was changed."
    assert world.ui.inputSelector.currentNode() is volumeNode


def test_stop_and_keep(openPanel, addHead, pumpUntil):
    addHead()
    world = openPanel("good", "0.2")
    world.ui.samplesSpinBox.value = 30
    world.ui.segmentButton.click()
    pumpUntil(lambda: world.ui.keepButton.enabled)
    world.ui.keepButton.click()
    pumpUntil(lambda: not world.runner.busy)
    assert world.runner.job.state == "partial"
    assert world.ui.statusLabel.text.startswith("Stopped after ")


def test_the_overlay_is_shown_and_hiding_it_restores_the_layers(openPanel, addHead, photograph, run):
    volumeNode, otherNode = addHead(), addHead("Other")
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    for composite in composites:
        composite.SetBackgroundVolumeID(volumeNode.GetID())
        composite.SetForegroundVolumeID(otherNode.GetID())
        composite.SetForegroundOpacity(0.25)
    world = openPanel("good", "0.01")
    job = run(world)
    assert job.state == "done", job.message
    ui, overlay = world.ui, Overlay(job.result.entropyNode)
    photograph("done", world.widget)
    assert ui.resultLabel.text.startswith("Head segmentation: 2 samples, seed 0")
    assert ui.overlayCheckBox.enabled and ui.overlayCheckBox.checked and overlay.visible
    assert all(node.GetForegroundVolumeID() == job.result.entropyNode.GetID() for node in composites)
    assert ui.thresholdSlider.maximum == pytest.approx(1.58, abs=0.01)
    ui.opacitySlider.value = 0.4
    ui.thresholdSlider.value = 0.3
    assert overlay.opacity == pytest.approx(0.4) and overlay.threshold == pytest.approx(0.3)
    assert all(node.GetForegroundOpacity() == pytest.approx(0.4) for node in composites)
    ui.overlayCheckBox.click()
    assert all(node.GetForegroundVolumeID() == otherNode.GetID() for node in composites)
    assert all(node.GetForegroundOpacity() == pytest.approx(0.25) for node in composites)
    assert not ui.opacitySlider.enabled and "not shown" in ui.opacitySlider.toolTip
    ui.overlayCheckBox.click()
    assert overlay.visible and ui.opacitySlider.value == pytest.approx(0.4)


def test_the_tooltip_explains_the_number_of_samples(openPanel):
    tip = openPanel().ui.samplesSpinBox.toolTip
    assert "more precise volume intervals" in tip and "if the model computes it from the samples" in tip


def test_edit_opens_segment_editor_with_the_volume_as_source(openPanel, addHead, application, run):
    volumeNode = addHead()
    world = openPanel("good", "0.01")
    job = run(world)
    world.ui.editButton.click()
    assert application.mainWindow.selectedModule == "SegmentEditor"
    editor = slicer.util.getModuleWidget("SegmentEditor").editor
    assert editor.segmentationNode is job.result.segmentationNode
    assert editor.sourceVolumeNode is volumeNode


def test_an_error_is_shown_until_another_volume_is_selected(openPanel, addHead, photograph, run):
    addHead()
    other = addHead("Other")
    world = openPanel("crash")
    run(world)
    assert "ended unexpectedly" in world.ui.statusLabel.text and world.ui.statusIcon.visible
    assert "bad_alloc" in world.ui.logText.plainText
    world.ui.advancedCollapsibleButton.collapsed = False
    photograph("error", world.widget)
    assert world.ui.segmentButton.enabled
    world.ui.inputSelector.setCurrentNode(other)
    assert world.ui.statusLabel.text.startswith("The run time") and not world.ui.statusIcon.visible


def test_finished_samples_of_a_dead_run_are_one_click_away(openPanel, addHead, photograph, pumpUntil):
    volumeNode = addHead()
    world = openPanel("late-crash", "0.02")
    world.ui.samplesSpinBox.value = 8
    world.ui.segmentButton.click()
    pumpUntil(lambda: not world.runner.busy)
    assert "2 samples were finished" in world.ui.statusLabel.text and world.ui.statusIcon.visible
    assert world.ui.keepButton.visible and world.ui.keepButton.text == "Show the finished samples (2)"
    assert world.runner.job.result is None and world.ui.segmentButton.enabled
    photograph("finished", world.widget)
    world.ui.keepButton.click()
    pumpUntil(lambda: not world.runner.busy)
    assert world.ui.resultLabel.text.startswith(f"{volumeNode.GetName()} segmentation: 2 samples")
    assert world.ui.statusLabel.text.startswith("Stopped after 2 ") and not world.ui.keepButton.visible


def test_if_gpu_memory_is_insufficient_the_cpu_is_one_click_away(openPanel, addHead, photograph, pumpUntil):
    addHead()
    world = openPanel("short", "0.1")
    world.ui.samplesSpinBox.value = 2
    assert not world.ui.cpuButton.visible
    world.ui.segmentButton.click()
    pumpUntil(lambda: "fewer samples are drawn at a time" in world.ui.statusLabel.text)
    photograph("short-of-memory", world.widget)
    pumpUntil(lambda: not world.runner.busy)
    assert "did not suffice" in world.ui.statusLabel.text and world.ui.cpuButton.visible
    photograph("full-gpu", world.widget)
    world.ui.cpuButton.click()
    assert not world.ui.cpuButton.visible
    pumpUntil(lambda: not world.runner.busy)
    assert world.ui.statusLabel.text.startswith("Done: 2 samples") and not world.ui.cpuButton.visible
    assert world.runner.job.choices.device == "cpu" and world.backend.settings.device == "auto"


def test_a_missing_python_interpreter_is_reported(openPanel, addHead, run, tmp_path):
    addHead()
    world = openPanel("real")
    python = tmp_path / "python"
    python.write_text("")
    world.ui.pythonPathLineEdit.currentPath = str(python)
    assert world.backend.settings.workerPython == str(python)
    python.unlink()  # after it was chosen
    run(world)
    assert "could not be started" in world.ui.statusLabel.text


def test_a_cleared_python_path_is_not_used(openPanel):
    world = openPanel()
    for typed in (sys.executable[:5], sys.executable):
        world.ui.pythonPathLineEdit.currentPath = typed
    assert world.backend.settings.workerPython == sys.executable
    world.ui.pythonPathLineEdit.currentPath = f"{sys.executable}-half-typed"
    assert world.backend.settings.workerPython == sys.executable
    world.ui.pythonPathLineEdit.currentPath = ""
    assert world.backend.settings.workerPython == ""


def test_steps_are_the_model_default_or_at_least_two(openPanel):
    ui = openPanel().ui
    assert ui.stepsSpinBox.minimum == 1 and ui.stepsSpinBox.text == "Model default"
    ui.stepsSpinBox.value = 2
    assert ui.stepsSpinBox.text == "2"


def flat(addVolume):
    return addVolume(np.zeros((1, 8, 8), np.int16), name="Slice")


def colour(_addVolume):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Photo")
    slicer.util.updateVolumeFromArray(node, np.zeros((3, 4, 5, 3), np.uint8))
    return node


@pytest.mark.parametrize(("make", "words"), [(flat, "'Slice' is a single slice"), (colour, "'Photo' has several")])
def test_an_unsupported_volume_disables_the_button(openPanel, addVolume, make, words):
    node = make(addVolume)
    ui = openPanel().ui
    ui.inputSelector.setCurrentNode(node)
    assert not ui.segmentButton.enabled
    assert words in ui.segmentButton.toolTip and words in ui.statusLabel.text


def test_a_missing_model_is_reported(openPanel, addHead):
    addHead()
    world = openPanel()
    node = slicer.mrmlScene.GetSingletonNode("DiffusionSegmentation", "vtkMRMLScriptedModuleNode")
    node.SetParameter("model", "from-a-colleague")
    assert not world.ui.segmentButton.enabled
    assert "'from-a-colleague' is not installed" in world.ui.segmentButton.toolTip
    world.ui.modelComboBox.currentIndex = 0
    assert node.GetParameter("model") == "brain-structures" and world.ui.segmentButton.enabled


def test_the_absence_of_models_is_reported(openPanel, addHead, modelFolder):
    (modelFolder / "metadata.json").unlink()
    addHead()
    ui = openPanel().ui
    assert not ui.segmentButton.enabled and not ui.modelComboBox.enabled
    assert "No model is installed" in ui.segmentButton.toolTip and "No model is installed" in ui.modelComboBox.toolTip


def test_missing_packages_are_reported_and_nothing_is_started(openPanel, addHead, monkeypatch):
    from DiffusionSegmentationLib.runs import dependencies

    addHead()
    world = openPanel()
    world.ui.pythonPathLineEdit.currentPath = ""
    monkeypatch.setattr(dependencies, "isInstalled", lambda requirement: requirement.name != "torch")
    world.ui.segmentButton.click()
    assert world.ui.statusLabel.text == "These Python packages are missing: torch."
    assert not world.runner.busy


def test_closing_the_scene_cancels_the_run(openPanel, addHead, pumpUntil, run):
    addHead()
    world = openPanel("good", "0.3")
    world.ui.segmentButton.click()
    pumpUntil(lambda: world.runner.job.state == "running")
    slicer.mrmlScene.Clear(False)
    assert world.runner.job.state == "cancelled"
    assert not world.ui.segmentButton.enabled
    again = addHead("Again")
    world.widget.enter()
    assert world.ui.inputSelector.currentNode() is again and world.ui.segmentButton.enabled
    assert run(world, samples=1).state == "done"


def test_removing_a_result_disables_the_controls(openPanel, addHead, run):
    addHead()
    world = openPanel("good", "0.01")
    job = run(world)
    slicer.mrmlScene.RemoveNode(job.result.entropyNode)
    world.widget.enter()
    assert world.ui.overlayCheckBox.enabled and world.ui.layerComboBox.currentText == "sample disagreement"
    slicer.mrmlScene.RemoveNode(job.result.disagreementNode)
    world.widget.enter()
    assert not world.ui.overlayCheckBox.enabled and "was removed" in world.ui.overlayCheckBox.toolTip
    assert not world.ui.layerComboBox.enabled and not world.ui.layerLabel.visible
    assert world.ui.editButton.enabled
    slicer.mrmlScene.RemoveNode(job.result.segmentationNode)
    assert not world.ui.editButton.enabled


def test_torch_is_not_imported(openPanel, addHead, run):
    addHead()
    run(openPanel("good", "0.01"))
    assert "torch" not in sys.modules


def test_everything_fits_into_400_pixels(openPanel, addHead, photograph, pumpUntil):
    world = openPanel()
    photograph("empty", world.widget)
    addHead("MRHead")
    world.widget.enter()
    pumpUntil(lambda: world.ui.deviceComboBox.count == 3)
    photograph("idle", world.widget)
    world.ui.advancedCollapsibleButton.collapsed = False
    photograph("advanced", world.widget)
    assert world.root.minimumSizeHint.width() <= 400
