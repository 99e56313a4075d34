"""The section Import masks: list and check boxes, files for the worker, and imports with the real worker."""

import threading

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import slicer.util
import slicer_standin
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from DiffusionSegmentationLib.review.review import Review
from DiffusionSegmentationLib.runs import handover
from DiffusionSegmentationLib.runs.mask_nodes import MaskNode
from DiffusionSegmentationLib.scene import voxel_grids
from DiffusionSegmentationLib.scene.sample_browser import Browser

slicer_standin.likePythonQt(__name__)


def radiusOf(volumeNode):
    size = volumeNode.GetImageData().GetDimensions()[0]
    axis = np.linspace(-1, 1, size)
    return np.sqrt(sum(part**2 for part in np.meshgrid(axis, axis, axis, indexing="ij")))


def addSegmentation(volumeNode, name, segments):
    """Add a segmentation with `segments`, name: mask [k, j, i], on the grid of `volumeNode`."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    for title, mask in segments.items():
        image = voxel_grids.croppedImage(mask, voxel_grids.ijkToRAS(volumeNode))
        node.GetSegmentation().AddSegment(voxel_grids.segment(title, (0.2, 0.5, 0.7), image), title.lower())
    return node


def addRaters(volumeNode):
    """Add three segmentations that number their segments differently; return the radii of both segments."""
    radius, radii = radiusOf(volumeNode), [(0.4, 0.7), (0.5, 0.75), (0.45, 0.65)]
    for number, (inner, outer) in enumerate(radii):
        masks = {"Core": radius < inner, "Shell": (radius >= inner) & (radius < outer)}
        names = list(masks) if number % 2 else list(masks)[::-1]
        addSegmentation(volumeNode, f"Rater {number}", {name: masks[name] for name in names})
    return radius, radii


def check(module, *names):
    import qt

    listWidget = module.ui.maskList
    for row in range(listWidget.count):
        if listWidget.item(row).text() in names:
            listWidget.item(row).setCheckState(qt.Qt.Checked)


def listed(module):
    """Return whether each mask of the list is checked, by the text of its row."""
    import qt

    items = [module.ui.maskList.item(row) for row in range(module.ui.maskList.count)]
    return {item.text(): item.checkState() == qt.Qt.Checked for item in items}


def addFiles(module, monkeypatch, *paths):
    from DiffusionSegmentationLib.panel import dialogs

    monkeypatch.setattr(dialogs, "selectFiles", lambda *_arguments: list(map(str, paths)))
    module.ui.addMasksButton.click()


def start(module, pumpUntil):
    assert module.ui.importButton.enabled, module.ui.importButton.toolTip
    module.ui.importButton.click()
    job = module.runner.job
    pumpUntil(lambda: not job.active, seconds=120, describe=lambda: job)
    return job


@pytest.mark.slow
def test_masks_of_three_raters_become_a_result(openPanel, addHead, pumpUntil, photograph):
    head = addHead(size=40)
    radius, radii = addRaters(head)
    module = openPanel("real")
    ui = module.ui
    ui.masksCollapsibleButton.collapsed = False
    assert [ui.maskList.item(row).text() for row in range(3)] == ["Rater 0", "Rater 1", "Rater 2"]
    assert not ui.importButton.enabled and "two masks" in ui.importButton.toolTip
    check(module, "Rater 0", "Rater 1", "Rater 2")
    job = start(module, pumpUntil)
    assert job.state == "done", (job.message, list(module.runner.client.log)[-20:])
    assert job.message.startswith("Done: 3 imported masks in ")
    volumes = {entry["name"]: entry["samples_ml"] for entry in job.report["volumes"]}
    voxelMl = 4.0**3 / 1000
    expected = [
        ((radius < inner).sum() * voxelMl, ((radius >= inner) & (radius < outer)).sum() * voxelMl)
        for inner, outer in radii
    ]
    assert volumes["Core"] == pytest.approx([core for core, _shell in expected], abs=1e-3)
    assert volumes["Shell"] == pytest.approx([shell for _core, shell in expected], abs=1e-3)
    segment = job.result.segmentationNode.GetSegmentation().GetSegment("core")
    assert segment.GetName() == "Core" and segment.GetColor() == pytest.approx((0.2, 0.5, 0.7))
    votes = sum(
        ((radius < inner) + 2 * ((radius >= inner) & (radius < outer)) == 1).astype(int) for inner, outer in radii
    )
    entropy = slicer.util.arrayFromVolume(job.result.entropyNode)
    assert (entropy[votes == 3] < 1e-4).all() and (entropy[(votes == 1) | (votes == 2)] > 0.9).all()
    assert Browser(job.result.segmentationNode).count == 3
    assert len(Review(job.result.segmentationNode).regions) > 3
    assert "disagreement of 3 imported masks" in job.warnings[0]
    assert ui.layerLabel.text.startswith("Entropy of the average of the 3 imported masks")
    photograph("masks", module.widget, part=ui.masksCollapsibleButton)
    photograph("masks-result", module.widget)


@pytest.mark.slow
def test_files_and_nodes_are_imported_together(openPanel, addHead, pumpUntil, tmp_path, monkeypatch):
    head = addHead(size=24, oblique=True)
    radius = radiusOf(head)
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
    slicer.util.updateVolumeFromArray(labels, (radius < 0.5).astype(np.uint8))
    matrix = slicer.util.vtkMatrixFromArray(voxel_grids.ijkToRAS(head))
    labels.SetIJKToRASMatrix(matrix)
    image = sitk.GetImageFromArray((radius < 0.6).astype(np.uint8))
    lps = np.diag([-1, -1, 1, 1]) @ voxel_grids.ijkToRAS(head)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    path = tmp_path / "rater.nii.gz"
    sitk.WriteImage(image, str(path))
    module = openPanel("real")
    module.ui.masksCollapsibleButton.collapsed = False
    addFiles(module, monkeypatch, path)
    assert [module.ui.maskList.item(row).text() for row in range(2)] == ["Labels", "rater.nii.gz"]
    check(module, "Labels")
    job = start(module, pumpUntil)
    assert job.state == "done", job.message
    assert [entry["name"] for entry in job.report["volumes"]] == ["Label 1"]
    voxelMl = abs(np.linalg.det(lps[:3, :3])) / 1000
    counts = [(radius < 0.5).sum() * voxelMl, (radius < 0.6).sum() * voxelMl]
    assert job.report["volumes"][0]["samples_ml"] == pytest.approx(counts, rel=1e-3)
    module.ui.clearMasksButton.click()
    assert "rater.nii.gz" not in [module.ui.maskList.item(row).text() for row in range(module.ui.maskList.count)]


@pytest.mark.slow
def test_a_file_of_class_probabilities_has_no_samples(openPanel, addHead, pumpUntil, tmp_path, monkeypatch):
    head = addHead(size=24)
    foreground = np.clip(1.2 - radiusOf(head), 0, 1)
    path = tmp_path / "case.npz"
    np.savez_compressed(path, probabilities=np.stack([1 - foreground, foreground]).astype(np.float32))
    module = openPanel("real")
    module.ui.masksCollapsibleButton.collapsed = False
    addFiles(module, monkeypatch, path)
    job = start(module, pumpUntil)
    assert job.state == "done", job.message
    assert job.result.samplesNode is None and job.result.disagreementNode is None
    assert not module.ui.sampleCheckBox.enabled
    assert module.ui.sampleCheckBox.toolTip == "This result has no samples."
    assert module.ui.layerLabel.text == "Entropy of the imported class probabilities."
    assert module.ui.volumesTable.item(0, 3).text() == "–"
    assert module.ui.reportButton.enabled


@pytest.mark.slow
def test_the_mutual_information_of_probability_files_is_an_overlay(
    openPanel, addHead, pumpUntil, tmp_path, monkeypatch
):
    radius = radiusOf(addHead(size=24))
    paths = []
    for p in (0.1, 0.9):
        foreground = np.where(radius < 0.4, 0.5, np.where(radius < 0.7, p, 0.01))
        paths.append(tmp_path / f"fold{p}.npz")
        np.savez_compressed(paths[-1], probabilities=np.stack([1 - foreground, foreground]).astype(np.float32))
    module = openPanel("real")
    ui = module.ui
    ui.masksCollapsibleButton.collapsed = False
    addFiles(module, monkeypatch, *paths)
    assert start(module, pumpUntil).state == "done"
    assert ui.layerComboBox.itemText(2) == "mutual information"
    ui.layerComboBox.currentIndex = 2
    assert ui.layerLabel.text.startswith("Part of the entropy in which the 2 sets")
    node = slicer.util.getNode("Head mutual information")
    assert slicer.util.arrayFromVolume(node)[radius < 0.3].max() < 1e-6


def test_a_mask_on_another_grid_is_refused(openPanel, addHead, pumpUntil):
    head, other = addHead(size=24), addHead("Other", size=20)
    radius = radiusOf(other)
    nodes = [addSegmentation(other, name, {"Core": radius < 0.5}) for name in ("One", "Two")]
    with pytest.raises(handover.HandoverError, match="'One' does not lie on the grid of the volume"):
        MaskNode(nodes[0], head)
    module = openPanel("good", "0.01")
    module.widget.logic.getParameterNode().inputVolume = head
    module.ui.masksCollapsibleButton.collapsed = False
    check(module, "One", "Two")
    module.ui.importButton.click()
    assert not module.runner.busy
    assert (
        module.ui.statusLabel.text == "'One' does not lie on the grid of the volume; resample it to the volume first."
    )


def test_the_list_follows_the_scene(openPanel, addHead):
    head = addHead(size=8)
    nodes = [addSegmentation(head, name, {}) for name in ("One", "Two")]
    module = openPanel("good", "0.01")
    module.ui.masksCollapsibleButton.collapsed = False
    check(module, "Two")
    addSegmentation(head, "Three", {})
    slicer.mrmlScene.RemoveNode(nodes[0])
    assert listed(module) == {"Two": True, "Three": False}
    check(module, "Three")
    assert listed(module) == {"Two": True, "Three": True} and module.ui.importButton.enabled
    slicer.mrmlScene.RemoveNode(nodes[1])
    assert listed(module) == {"Three": True} and not module.ui.importButton.enabled


def test_a_change_before_the_list_is_updated_does_not_move_the_checks(openPanel, addHead):
    head = addHead(size=8)
    nodes = [addSegmentation(head, name, {}) for name in ("One", "Two", "Three")]
    module = openPanel("good", "0.01")
    nodes[0].SetHideFromEditors(True)  # no event of the scene
    check(module, "Two")
    module.widget.panel.masks.updateList()
    assert listed(module) == {"Two": True, "Three": False}


def test_the_checks_are_not_those_of_a_closed_scene(openPanel, addHead, monkeypatch, tmp_path):
    module = openPanel("good", "0.01")
    first = addSegmentation(addHead(size=8), "First", {})
    addFiles(module, monkeypatch, tmp_path / "mask.nrrd")
    check(module, "First")
    assert listed(module) == {"First": True, "mask.nrrd": True}
    nodeID = first.GetID()
    module.root.isEntered = False
    slicer.mrmlScene.Clear(False)
    second = addSegmentation(addHead(size=8), "Second", {})
    assert second.GetID() == nodeID
    module.widget.enter()
    assert listed(module) == {"Second": False}


def test_temporary_nodes_are_not_listed(openPanel, addHead, pumpUntil):
    addHead()
    module = openPanel("good", "0.05")
    module.ui.samplesSpinBox.value = 4
    module.ui.segmentButton.click()
    pumpUntil(lambda: slicer.mrmlScene.GetFirstNodeByName("Head preview") is not None)
    assert listed(module) == {}
    pumpUntil(lambda: not module.runner.busy)
    module.ui.sampleCheckBox.click()
    module.ui.nextButton.click()
    names = {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")}
    assert names == {"Head segmentation", "Head sample", "Head region"}
    assert listed(module) == {"Head segmentation": False}


def test_one_file_can_be_imported_because_it_can_have_class_probabilities(openPanel, addHead, monkeypatch, tmp_path):
    addHead(size=8)
    module = openPanel("good", "0.01")
    assert not module.ui.importButton.enabled and "file of class probabilities" in module.ui.importButton.toolTip
    addFiles(module, monkeypatch, tmp_path / "case.NPZ")
    assert module.ui.importButton.enabled


def test_a_mask_under_a_nonlinear_transform_is_refused(addHead):
    head = addHead(size=8)
    node = addSegmentation(head, "Rater", {"Core": radiusOf(head) < 0.5})
    warp = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "Warp")
    warp.SetAndObserveTransformToParent(vtk.vtkThinPlateSplineTransform())
    node.SetAndObserveTransformNodeID(warp.GetID())
    with pytest.raises(handover.HandoverError, match="'Rater' is under the non-linear transform 'Warp'"):
        MaskNode(node, head)


@pytest.mark.parametrize("kind", ["segmentation", "label map"])
def test_a_mask_that_changes_during_the_handover_is_detected(addHead, tmp_path, kind):
    head = addHead(size=8)
    if kind == "segmentation":
        node = addSegmentation(head, "Rater", {"Core": radiusOf(head) < 0.5})
        image = node.GetSegmentation().GetSegment("core").GetRepresentation(voxel_grids.BINARY_LABELMAP)
    else:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Rater")
        slicer.util.updateVolumeFromArray(node, (radiusOf(head) < 0.5).astype(np.uint8))
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(voxel_grids.ijkToRAS(head)))
        image = node.GetImageData()
    held = handover.Handover(head, [MaskNode(node, head)])
    held.startWriting(tmp_path)
    held.join()
    assert held.problem() is None
    image.GetPointData().GetScalars().Modified()
    assert held.problem().startswith("The mask 'Rater' was modified while")


def test_a_segmentation_is_written_with_names_and_where_segments_overlap_the_last_one(addHead, tmp_path):
    head = addHead(size=24, oblique=True)
    radius = radiusOf(head)
    node = addSegmentation(head, "Überlappung", {"Außen": radius < 0.8, "Innen": radius < 0.4})
    node.GetSegmentation().GetSegment("innen").SetTag("TerminologyEntry", "Segmentation category~SCT^1^Brain~~^^~~^^")
    path = tmp_path / "mask.seg.nrrd"
    MaskNode(node, head).write(path, threading.Event())
    image = sitk.ReadImage(str(path))
    assert (sitk.GetArrayFromImage(image) == np.where(radius < 0.4, 2, radius < 0.8)).all()
    assert [image.GetMetaData(f"Segment{n}_Name") for n in range(2)] == ["Außen", "Innen"]
    assert image.GetMetaData("Segment1_Tags") == "TerminologyEntry:Segmentation category~SCT^1^Brain~~^^~~^^|"
    assert vtk_to_numpy(head.GetImageData().GetPointData().GetScalars()).size == radius.size


def test_only_the_named_segments_are_written_in_their_order(addHead, tmp_path):
    head = addHead(size=8)
    radius = radiusOf(head)
    node = addSegmentation(head, "Result", {"Core": radius < 0.5, "Shell": radius >= 0.5, "To review": radius < 9})
    path = tmp_path / "labels.seg.nrrd"
    names = {"shell": "Bark", "gone": "Removed", "core": "Heart"}  # the user may rename and remove segments
    MaskNode(node, head, names).write(path, threading.Event())
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), np.where(radius < 0.5, 3, 1))
    assert [image.GetMetaData(f"Segment{n}_Name") for n in range(3)] == ["Bark", "Removed", "Heart"]
    assert [image.GetMetaData(f"Segment{n}_LabelValue") for n in range(3)] == ["1", "2", "3"]
