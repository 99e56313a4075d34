"""The module as Slicer loads it: life cycle, reload, sample data and self test."""

import sys
import unittest

import pytest
import slicer
import slicer.util
import slicer_standin

slicer_standin.likePythonQt(__name__)


@pytest.mark.slow
def test_the_self_test_of_the_module_passes(openPanel):
    """`DiffusionSegmentationTest` is written for Slicer; running it here keeps it up to date."""
    openPanel("good", "0.05")
    module = sys.modules["DiffusionSegmentation"]
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(module.DiffusionSegmentationTest)
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun == 5 and not result.skipped
    assert not result.errors and not result.failures, result.errors + result.failures


def test_the_self_test_is_skipped_without_packages(openPanel, monkeypatch):
    from DiffusionSegmentationLib.runs import dependencies

    module = openPanel()
    module.backend.settings.workerPython = ""
    monkeypatch.setattr(dependencies, "isInstalled", lambda requirement: False)
    test = sys.modules["DiffusionSegmentation"].DiffusionSegmentationTest("test_segmentVolume")
    result = unittest.TestResult()
    test.run(result)
    assert len(result.skipped) == 1 and "torch" in result.skipped[0][1]


def test_a_script_can_segment_without_the_panel(openPanel, addHead):
    from DiffusionSegmentationLib.runs.runner import Choices

    volumeNode, otherNode = addHead(), addHead("Other")
    slicer.util.setSliceViewerLayers(background=volumeNode, foreground=otherNode, foregroundOpacity=0.25)
    module = openPanel("good", "0.01")  # the open panel does not show the run
    parameterNode = slicer.mrmlScene.GetSingletonNode("DiffusionSegmentation", "vtkMRMLScriptedModuleNode")

    def shown():
        composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        layers = [
            (node.GetBackgroundVolumeID(), node.GetForegroundVolumeID(), node.GetForegroundOpacity())
            for node in composites
        ]
        values = {name: parameterNode.GetParameter(name) for name in parameterNode.GetParameterNames()}
        roles = []
        parameterNode.GetNodeReferenceRoles(roles)
        references = {role: parameterNode.GetNodeReferenceID(role) for role in roles}
        return layers, values, references, module.ui.resultLabel.text, module.ui.statusLabel.text

    before = shown()
    assert len(before[0]) == 3 and before[1] and before[2]
    logic = slicer.util.getModuleWidget("DiffusionSegmentation").logic
    job = logic.segment(otherNode, Choices(samples=1))
    assert job.state == "done" and job.result.entropyNode.GetName() == "Other entropy"
    assert shown() == before
    assert module.ui.segmentButton.text == "Segment" and module.ui.segmentButton.enabled


def test_the_description_is_complete(application, openPanel):
    parent = openPanel().root and application.modules["DiffusionSegmentation"]
    assert parent.title == "Diffusion Segmentation" and parent.categories == ["Segmentation"]
    assert parent.contributors and "Not for clinical use" in parent.helpText
    assert "where the result is uncertain" in parent.helpText
    assert "disagree" not in parent.helpText  # not every map is made of samples


def test_sample_data_is_offered_and_nothing_is_downloaded(application, openPanel):
    openPanel()
    import SampleData

    assert SampleData.SampleDataLogic.registered == []
    application.startupSlots[-1]()
    (source,) = SampleData.SampleDataLogic.registered
    assert source["uris"].startswith("https://github.com/Slicer/SlicerTestingData/")
    assert source["checksums"].split(":")[1] in source["uris"]
    with open(source["thumbnailFileName"], "rb") as file:
        assert file.read(4) == b"\x89PNG"


def test_reload_imports_all_modules_again_and_stops_the_worker(openPanel, addHead, monkeypatch):
    addHead()
    openedModule = openPanel()
    client = openedModule.runner.client
    assert client.running
    before = {name: module for name, module in sys.modules.items() if name.startswith("DiffusionSegmentation")}
    openedModule.widget.onReload()
    try:
        assert not client.running
        assert [name for name in before if "Lib" in name and sys.modules.get(name) is before[name]] == []
        assert openedModule.root.self() is not openedModule.widget
        ui = openedModule.root.self().ui
        assert ui.inputSelector.currentNode() is not None
    finally:
        openedModule.root.self().cleanup()
        sys.modules.update(before)  # other tests use the modules imported before
        openedModule.widget.panel, openedModule.widget.logic = None, None
