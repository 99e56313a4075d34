"""Changes of the scene during a run have defined outcomes, and no user data are lost."""

import sys
import time

import numpy as np
import pytest
import slicer
import slicer.util
import slicer_standin
import vtk

from DiffusionSegmentationLib.runs import batch
from DiffusionSegmentationLib.scene.display import VOLUME_ROLE
from DiffusionSegmentationLib.scene.result_nodes import ENTROPY_ROLE, removeResult

slicer_standin.likePythonQt(__name__)

PARAMETERS = "vtkMRMLScriptedModuleNode"


@pytest.fixture
def running(openPanel, addHead, pumpUntil):
    """A panel during a run that has shown a preview and draws its third sample of six, and the volume."""

    def start(name="Head"):
        volumeNode = addHead(name)
        module = openPanel("good", "0.15")
        module.ui.samplesSpinBox.value = 6
        module.ui.segmentButton.click()
        pumpUntil(lambda: previews() and module.runner.job.finishedSamples >= 2)
        return module, volumeNode

    return start


def previews():
    return [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if "preview" in node.GetName()]


def segmentations():
    return sorted(node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"))


def moved():
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 30.0)
    transformNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Registration")
    transformNode.SetMatrixTransformToParent(matrix)
    return transformNode


def finish(module, pumpUntil):
    pumpUntil(lambda: not module.runner.busy)
    return module.runner.job


@pytest.mark.slow
def test_a_volume_that_is_renamed_gives_its_new_name_to_the_result(running, pumpUntil):
    module, volumeNode = running()
    volumeNode.SetName("Jonas before")
    job = finish(module, pumpUntil)
    assert job.state == "done" and segmentations() == ["Jonas before segmentation"]
    assert job.result.segmentationNode.GetNodeReference(VOLUME_ROLE) is volumeNode


@pytest.mark.slow
def test_a_volume_that_is_transformed_gives_its_transform_to_preview_and_result(running, pumpUntil):
    module, volumeNode = running()
    transformNode = moved()
    volumeNode.SetAndObserveTransformNodeID(transformNode.GetID())
    pumpUntil(lambda: module.runner.job.finishedSamples >= 4 and previews()[0].GetTransformNodeID())
    job = finish(module, pumpUntil)
    assert job.state == "done"
    for node in (job.result.segmentationNode, job.result.entropyNode):
        assert node.GetTransformNodeID() == transformNode.GetID()


@pytest.mark.slow
def test_a_volume_whose_geometry_is_edited_gets_no_misplaced_result(running, pumpUntil):
    module, volumeNode = running()
    volumeNode.SetSpacing(1.0, 1.0, 1.0)
    job = finish(module, pumpUntil)
    assert job.state == "failed" and "geometry was changed during the run" in job.message
    assert str(job.folder) in job.message and (job.folder / "segmentation.seg.nrrd").is_file()
    assert segmentations() == []


@pytest.mark.slow
def test_a_volume_that_is_removed_leaves_the_result_on_disk_and_no_preview(running, pumpUntil):
    module, volumeNode = running()
    slicer.mrmlScene.RemoveNode(volumeNode)
    job = finish(module, pumpUntil)
    assert job.state == "failed" and "no longer in the scene" in module.ui.statusLabel.text
    assert (job.folder / "report.json").is_file() and segmentations() == []


@pytest.mark.slow
def test_removed_previews_are_shown_again(running, pumpUntil):
    module, _ = running()
    for node in previews():
        slicer.mrmlScene.RemoveNode(node)
    pumpUntil(previews)
    assert finish(module, pumpUntil).state == "done" and segmentations() == ["Head segmentation"]


@pytest.mark.slow
def test_loading_another_scene_ends_the_run(running, pumpUntil, addHead, tmp_path):
    module, _ = running()
    other = slicer.vtkMRMLScene()
    node = other.AddNewNodeByClass("vtkMRMLTextNode", "Of another case")
    node.SetText("theirs")
    path = tmp_path / "other.mrml"
    other.SetURL(str(path))
    assert other.Commit()
    folder = module.runner.job.folder
    slicer.mrmlScene.SetURL(str(path))
    assert slicer.mrmlScene.Connect()
    pumpUntil(lambda: not folder.exists())
    assert module.runner.job.state == "cancelled" and "scene was closed" in module.runner.job.message
    assert slicer.util.getNode("Of another case").GetText() == "theirs"
    assert segmentations() == []
    module.widget.enter()
    addHead("Next")
    module.widget.enter()
    module.ui.segmentButton.click()
    assert finish(module, pumpUntil).state == "done" and segmentations() == ["Next segmentation"]


@pytest.mark.slow
def test_adding_a_scene_does_not_disturb_the_run(running, pumpUntil, tmp_path):
    module, _ = running()
    other = slicer.vtkMRMLScene()
    other.AddNewNodeByClass("vtkMRMLTextNode", "Of another case")
    other.SetURL(str(tmp_path / "other.mrml"))
    assert other.Commit()
    slicer.mrmlScene.SetURL(str(tmp_path / "other.mrml"))
    assert slicer.mrmlScene.Import()
    assert finish(module, pumpUntil).state == "done" and segmentations() == ["Head segmentation"]
    assert slicer.util.getNode("Of another case")


@pytest.mark.slow
def test_no_result_is_added_while_a_scene_is_imported(running, pumpUntil):
    module, _ = running()
    mrmlScene, job = slicer.mrmlScene, module.runner.job
    mrmlScene.StartState(slicer.vtkMRMLScene.ImportState)
    try:
        before, until = mrmlScene.GetNumberOfNodes(), time.monotonic() + 2
        while time.monotonic() < until:  # the worker finishes meanwhile
            slicer.app.processEvents()
            time.sleep(0.01)
        assert job.state == "running" and mrmlScene.GetNumberOfNodes() == before
    finally:
        mrmlScene.EndState(slicer.vtkMRMLScene.ImportState)
    assert finish(module, pumpUntil).state == "done" and segmentations() == ["Head segmentation"]


@pytest.mark.slow
def test_edits_and_removals_of_earlier_results_during_a_run_are_kept(openPanel, addHead, run, pumpUntil):
    volumeNode = addHead()
    module = openPanel("good", "0.1")
    edited, removed = (run(module, samples=1).result for _ in range(2))
    module.ui.samplesSpinBox.value = 4
    module.ui.segmentButton.click()
    pumpUntil(lambda: module.runner.job.finishedSamples >= 1)
    segment = edited.segmentationNode.GetSegmentation().GetNthSegmentID(0)
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(edited.segmentationNode, segment, volumeNode)
    mask[:5] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, edited.segmentationNode, segment, volumeNode)
    removeResult(removed.segmentationNode)
    assert finish(module, pumpUntil).state == "done"
    assert edited.segmentationNode.GetScene() is slicer.mrmlScene
    after = slicer.util.arrayFromSegmentBinaryLabelmap(edited.segmentationNode, segment, volumeNode)
    np.testing.assert_array_equal(after, mask)
    assert removed.segmentationNode.GetScene() is None and len(segmentations()) == 2


@pytest.mark.slow
def test_a_reload_during_a_run_ends_it_and_leaves_neither_process_nor_preview(running):
    openedModule, _ = running()
    client, job = openedModule.runner.client, openedModule.runner.job
    before = {name: module for name, module in sys.modules.items() if name.startswith("DiffusionSegmentation")}
    openedModule.widget.onReload()
    try:
        assert not client.running and job.state == "cancelled" and not job.folder.exists()
        assert segmentations() == []
    finally:
        openedModule.root.self().cleanup()
        sys.modules.update(before)
        openedModule.widget.panel, openedModule.widget.logic = None, None


@pytest.mark.slow
def test_one_volume_queued_twice_has_two_results(openPanel, addHead, pumpUntil):
    volumeNode = addHead()
    module = openPanel("good", "0.02")
    module.ui.samplesSpinBox.value = 1
    for _ in range(2):
        module.ui.addVolumesButton.click()
    assert module.ui.batchList.count == 1  # the panel adds it only once
    module.widget.panel._batch.items += [batch.Item(volumeNode.GetName(), node=volumeNode)]
    module.ui.batchButton.click()
    pumpUntil(lambda: module.ui.batchButton.text == "Segment all")
    first, second = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert segmentations() == ["Head segmentation", "Head segmentation_1"]
    assert first.GetNodeReference(ENTROPY_ROLE) is not second.GetNodeReference(ENTROPY_ROLE)


def test_a_result_can_be_used_without_its_model(openPanel, addHead, run):
    addHead()
    module = openPanel("good", "0.02")
    job = run(module, samples=3)
    node = slicer.mrmlScene.GetSingletonNode("DiffusionSegmentation", PARAMETERS)
    node.SetParameter("model", "from-a-colleague")
    module.widget.enter()
    ui = module.ui
    assert not ui.segmentButton.enabled and "'from-a-colleague' is not installed" in ui.segmentButton.toolTip
    assert job.result.segmentationNode.GetNodeReference(ENTROPY_ROLE) is job.result.entropyNode
    assert ui.overlayCheckBox.enabled and ui.editButton.enabled and ui.nextButton.enabled
    ui.nextButton.click()
    assert ui.doneButton.enabled
