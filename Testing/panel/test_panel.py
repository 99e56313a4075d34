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
    module = openPanel()
    assert module.ui.inputSelector.currentNode() is volumeNode
    assert module.ui.segmentButton.enabled and module.ui.segmentButton.text == "Segment"
    assert module.ui.modelComboBox.currentText == "Brain structures (MR head)"
    assert module.ui.samplesSpinBox.text == "Model default" and module.ui.samplesSpinBox.maximum == 64
    assert module.ui.statusLabel.text.startswith("The run time can be estimated after the first run")


def test_choices_are_kept_in_the_scene_and_settings_are_not(openPanel, addHead, pumpUntil):
    addHead()
    module = openPanel()
    module.ui.samplesSpinBox.value = 5
    module.ui.seedSpinBox.value = 11
    node = slicer.mrmlScene.GetSingletonNode("DiffusionSegmentation", "vtkMRMLScriptedModuleNode")
    assert node.GetParameter("samples") == "5" and node.GetParameter("seed") == "11"
    node.SetParameter("samples", "3")
    assert module.ui.samplesSpinBox.value == 3
    pumpUntil(lambda: module.ui.deviceComboBox.count == 3)
    assert [module.ui.deviceComboBox.itemText(n) for n in range(3)] == ["Automatic", "CPU", "Quick GPU"]
    assert "first supported GPU, otherwise the CPU" in module.ui.deviceComboBox.toolTip
    module.ui.deviceComboBox.currentIndex = 2
    assert module.backend.settings.device == "cuda:0"
    assert "cuda" not in str(node.GetParameterNamesAsCommaSeparatedList())
    module = openPanel()  # another start: the choice is kept, although no worker has reported devices yet
    assert module.ui.deviceComboBox.itemData(module.ui.deviceComboBox.currentIndex) == "cuda:0"


def test_widgets_are_bound_to_one_parameter_node(openPanel):
    module = openPanel()
    module.widget.enter()  # wraps the node again
    node = slicer.mrmlScene.GetSingletonNode("DiffusionSegmentation", "vtkMRMLScriptedModuleNode")
    modifications = []
    tag = node.AddObserver("ModifiedEvent", lambda _caller, _event: modifications.append(node.GetParameter("seed")))
    module.ui.seedSpinBox.value = 5
    assert modifications == ["5"]
    module.widget.panel.setParameterNode(None)
    module.ui.seedSpinBox.value = 6
    node.RemoveObserver(tag)
    assert modifications == ["5"] and node.GetParameter("seed") == "5"


@pytest.mark.slow
def test_the_default_number_of_samples_is_that_of_the_model(openPanel, addHead, run):
    addHead()
    module = openPanel("good", "0.01")
    job = run(module, samples=0)
    assert job.choices.samples is None and job.report["samples"] == 8
    node = slicer.mrmlScene.GetSingletonNode("DiffusionSegmentation", "vtkMRMLScriptedModuleNode")
    node.SetParameter("samples", "8")  # as in every scene of an earlier version
    module = openPanel("good", "0.01")
    assert module.ui.samplesSpinBox.text == "8" and run(module, samples=8).choices.samples == 8


def test_segment_becomes_cancel_and_progress_is_shown(openPanel, addHead, photograph, pumpUntil):
    volumeNode = addHead()
    module = openPanel("good", "0.3")
    module.ui.samplesSpinBox.value = 6
    module.ui.segmentButton.click()
    assert module.ui.segmentButton.text == "Cancel" and module.ui.progressBar.visible
    assert not module.ui.keepButton.enabled and "first sample" in module.ui.keepButton.toolTip
    pumpUntil(lambda: module.ui.keepButton.enabled)
    assert module.ui.statusLabel.text.startswith("Drawing sample 2 of 6, ")
    assert module.ui.statusLabel.text.endswith(" left")
    assert 0 < module.ui.progressBar.value < module.ui.progressBar.maximum
    photograph("running", module.widget)
    module.ui.segmentButton.click()
    assert module.ui.segmentButton.text == "Segment" and not module.ui.progressBar.visible
    assert module.ui.statusLabel.text == "Cancelled; nothing was changed."
    assert module.ui.inputSelector.currentNode() is volumeNode


def test_stop_and_keep(openPanel, addHead, pumpUntil):
    addHead()
    module = openPanel("good", "0.2")
    module.ui.samplesSpinBox.value = 30
    module.ui.segmentButton.click()
    pumpUntil(lambda: module.ui.keepButton.enabled)
    module.ui.keepButton.click()
    pumpUntil(lambda: not module.runner.busy)
    assert module.runner.job.state == "partial"
    assert module.ui.statusLabel.text.startswith("Stopped after ")


def test_the_overlay_is_shown_and_hiding_it_restores_the_layers(openPanel, addHead, photograph, run):
    volumeNode, otherNode = addHead(), addHead("Other")
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    for composite in composites:
        composite.SetBackgroundVolumeID(volumeNode.GetID())
        composite.SetForegroundVolumeID(otherNode.GetID())
        composite.SetForegroundOpacity(0.25)
    module = openPanel("good", "0.01")
    job = run(module)
    assert job.state == "done", job.message
    ui, overlay = module.ui, Overlay(job.result.entropyNode)
    photograph("done", module.widget)
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
    assert "more precise intervals" in tip and "if the model computes it from the samples" in tip


def test_edit_opens_segment_editor_with_the_volume_as_source(openPanel, addHead, application, run):
    volumeNode = addHead()
    module = openPanel("good", "0.01")
    job = run(module)
    module.ui.editButton.click()
    assert application.mainWindow.selectedModule == "SegmentEditor"
    editor = slicer.util.getModuleWidget("SegmentEditor").editor
    assert editor.segmentationNode is job.result.segmentationNode
    assert editor.sourceVolumeNode is volumeNode


def test_an_error_is_shown_until_another_volume_is_selected(openPanel, addHead, photograph, run):
    addHead()
    other = addHead("Other")
    module = openPanel("crash")
    run(module)
    assert "ended unexpectedly" in module.ui.statusLabel.text and module.ui.statusIcon.visible
    assert "bad_alloc" in module.ui.logText.plainText
    module.ui.advancedCollapsibleButton.collapsed = False
    photograph("error", module.widget)
    assert module.ui.segmentButton.enabled
    module.ui.inputSelector.setCurrentNode(other)
    assert module.ui.statusLabel.text.startswith("The run time") and not module.ui.statusIcon.visible


@pytest.mark.slow
def test_finished_samples_of_a_crashed_run_can_be_shown_with_one_click(openPanel, addHead, photograph, pumpUntil):
    volumeNode = addHead()
    module = openPanel("late-crash", "0.02")
    module.ui.samplesSpinBox.value = 8
    module.ui.segmentButton.click()
    pumpUntil(lambda: not module.runner.busy)
    assert "2 samples were finished" in module.ui.statusLabel.text and module.ui.statusIcon.visible
    assert module.ui.keepButton.visible and module.ui.keepButton.text == "Show the finished samples (2)"
    assert module.runner.job.result is None and module.ui.segmentButton.enabled
    photograph("finished", module.widget)
    module.ui.keepButton.click()
    pumpUntil(lambda: not module.runner.busy)
    assert module.ui.resultLabel.text.startswith(f"{volumeNode.GetName()} segmentation: 2 samples")
    assert module.ui.statusLabel.text.startswith("Stopped after 2 ") and not module.ui.keepButton.visible


@pytest.mark.slow
def test_if_gpu_memory_is_insufficient_one_click_starts_the_run_on_the_cpu(openPanel, addHead, photograph, pumpUntil):
    addHead()
    module = openPanel("short", "0.1")
    module.ui.samplesSpinBox.value = 2
    assert not module.ui.cpuButton.visible
    module.ui.segmentButton.click()
    pumpUntil(lambda: "fewer samples are drawn at a time" in module.ui.statusLabel.text)
    photograph("short-of-memory", module.widget)
    pumpUntil(lambda: not module.runner.busy)
    assert "did not suffice" in module.ui.statusLabel.text and module.ui.cpuButton.visible
    photograph("full-gpu", module.widget)
    module.ui.cpuButton.click()
    assert not module.ui.cpuButton.visible
    pumpUntil(lambda: not module.runner.busy)
    assert module.ui.statusLabel.text.startswith("Done: 2 samples") and not module.ui.cpuButton.visible
    assert module.runner.job.choices.device == "cpu" and module.backend.settings.device == "auto"


def test_a_missing_python_interpreter_is_reported(openPanel, addHead, run, tmp_path):
    addHead()
    module = openPanel("real")
    python = tmp_path / "python"
    python.write_text("")
    module.ui.pythonPathLineEdit.currentPath = str(python)
    assert module.backend.settings.workerPython == str(python)
    python.unlink()  # after it was chosen
    run(module)
    assert "could not be started" in module.ui.statusLabel.text


def test_a_cleared_python_path_is_not_used(openPanel):
    module = openPanel()
    for typed in (sys.executable[:5], sys.executable):
        module.ui.pythonPathLineEdit.currentPath = typed
    assert module.backend.settings.workerPython == sys.executable
    module.ui.pythonPathLineEdit.currentPath = f"{sys.executable}-half-typed"
    assert module.backend.settings.workerPython == sys.executable
    module.ui.pythonPathLineEdit.currentPath = ""
    assert module.backend.settings.workerPython == ""


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
    module = openPanel()
    node = slicer.mrmlScene.GetSingletonNode("DiffusionSegmentation", "vtkMRMLScriptedModuleNode")
    node.SetParameter("model", "from-a-colleague")
    assert not module.ui.segmentButton.enabled
    assert "'from-a-colleague' is not installed" in module.ui.segmentButton.toolTip
    module.ui.modelComboBox.currentIndex = 0
    assert node.GetParameter("model") == "brain-structures" and module.ui.segmentButton.enabled


def test_the_absence_of_models_is_reported(openPanel, addHead, modelFolder):
    (modelFolder / "metadata.json").unlink()
    addHead()
    ui = openPanel().ui
    assert not ui.segmentButton.enabled and not ui.modelComboBox.enabled
    assert "No model is installed" in ui.segmentButton.toolTip and "No model is installed" in ui.modelComboBox.toolTip


def test_missing_packages_are_reported_and_nothing_is_started(openPanel, addHead, monkeypatch):
    from DiffusionSegmentationLib.runs import dependencies

    addHead()
    module = openPanel()
    module.ui.pythonPathLineEdit.currentPath = ""
    monkeypatch.setattr(dependencies, "isInstalled", lambda requirement: requirement.name != "torch")
    module.ui.segmentButton.click()
    assert module.ui.statusLabel.text == "These Python packages are missing: torch."
    assert not module.runner.busy


@pytest.mark.slow
def test_closing_the_scene_cancels_the_run(openPanel, addHead, pumpUntil, run):
    addHead()
    module = openPanel("good", "0.3")
    module.ui.segmentButton.click()
    pumpUntil(lambda: module.runner.job.state == "running")
    slicer.mrmlScene.Clear(False)
    assert module.runner.job.state == "cancelled"
    assert not module.ui.segmentButton.enabled
    again = addHead("Again")
    module.widget.enter()
    assert module.ui.inputSelector.currentNode() is again and module.ui.segmentButton.enabled
    assert run(module, samples=1).state == "done"


@pytest.mark.slow
def test_removing_a_result_disables_the_controls(openPanel, addHead, run):
    addHead()
    module = openPanel("good", "0.01")
    job = run(module)
    slicer.mrmlScene.RemoveNode(job.result.entropyNode)
    module.widget.enter()
    assert module.ui.overlayCheckBox.enabled and module.ui.layerComboBox.currentText == "sample disagreement"
    slicer.mrmlScene.RemoveNode(job.result.disagreementNode)
    module.widget.enter()
    assert not module.ui.overlayCheckBox.enabled and "was removed" in module.ui.overlayCheckBox.toolTip
    assert not module.ui.layerComboBox.enabled and not module.ui.layerLabel.visible
    assert module.ui.editButton.enabled
    slicer.mrmlScene.RemoveNode(job.result.segmentationNode)
    assert not module.ui.editButton.enabled


def test_torch_is_not_imported(openPanel, addHead, run):
    addHead()
    run(openPanel("good", "0.01"))
    assert "torch" not in sys.modules


def test_everything_fits_into_400_pixels(openPanel, addHead, photograph, pumpUntil):
    module = openPanel()
    photograph("empty", module.widget)
    addHead("MRHead")
    module.widget.enter()
    pumpUntil(lambda: module.ui.deviceComboBox.count == 3)
    photograph("idle", module.widget)
    module.ui.advancedCollapsibleButton.collapsed = False
    photograph("advanced", module.widget)
    assert module.root.minimumSizeHint.width() <= 400
