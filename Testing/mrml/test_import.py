"""Import of a result: its nodes, and no changes to other nodes."""

import json
import time

import numpy as np
import pytest
import slicer
import slicer.util
from mrml_cases import LABELS, addVolume, importJob, segment

from DiffusionSegmentationLib.scene import nrrd_files, result_nodes


def test_nodes_are_named_after_their_volume(volumeNode, job):
    result = importJob(volumeNode, job)

    assert result.segmentationNode.GetName() == "Kopf é 頭 segmentation"
    assert result.entropyNode.GetName() == "Kopf é 頭 entropy"
    assert result.samplesNode.GetName() == "Kopf é 頭 samples"


def test_segments_have_id_color_and_terminology(volumeNode, job):
    segmentation = importJob(volumeNode, job).segmentationNode.GetSegmentation()

    assert list(segmentation.GetSegmentIDs()) == [entry["id"] for entry in LABELS]
    for entry in LABELS:
        segment_ = segmentation.GetSegment(entry["id"])
        assert segment_.GetName() == entry["name"]
        assert np.allclose(segment_.GetColor(), entry["color"])
        assert segment_.GetTerminology() == entry["terminology"]
        assert segment_.GetLabelValue() == entry["label"]
        status = slicer.vtkSlicerSegmentationsModuleLogic.GetSegmentStatus(segment_)
        assert status == slicer.vtkSlicerSegmentationsModuleLogic.InProgress


def test_samples_are_a_sequence_of_label_maps(volumeNode, job):
    samplesNode = importJob(volumeNode, job).samplesNode

    assert samplesNode.GetNumberOfDataNodes() == len(job.samples)
    assert samplesNode.GetIndexName() == "sample"
    for index, labels in enumerate(job.samples):
        data = samplesNode.GetDataNodeAtValue(str(index))
        assert data.IsA("vtkMRMLLabelMapVolumeNode")
        assert np.array_equal(slicer.util.arrayFromVolume(data), labels)


def test_probabilities_are_a_sequence_with_one_volume_per_class(volumeNode, job):
    result = importJob(volumeNode, job)

    assert result.probabilitiesNode.GetName() == "Kopf é 頭 probabilities"
    assert result.probabilitiesNode.GetIndexName() == "class"
    for index, share in enumerate(job.probabilities):
        data = result.probabilitiesNode.GetDataNodeAtValue(str(index))
        assert data.IsA("vtkMRMLScalarVolumeNode") and np.array_equal(slicer.util.arrayFromVolume(data), share)


def test_every_node_has_report_and_volume_reference(volumeNode, job):
    result = importJob(volumeNode, job)

    for node in (result.segmentationNode, result.entropyNode, result.samplesNode):
        assert json.loads(node.GetAttribute("DiffusionSegmentation.Run")) == job.report
        assert node.GetNodeReference(result_nodes.VOLUME_ROLE) is volumeNode
    assert result.segmentationNode.GetNodeReference(result_nodes.ENTROPY_ROLE) is result.entropyNode
    assert result.segmentationNode.GetNodeReference(result_nodes.SAMPLES_ROLE) is result.samplesNode


def test_no_node_stores_the_job_folder(volumeNode, job):
    result = importJob(volumeNode, job)

    for node in (result.segmentationNode, result.entropyNode, result.disagreementNode, result.samplesNode):
        storageNode = node.GetStorageNode()
        assert storageNode is None or not storageNode.GetFileName()
        assert node.GetModifiedSinceRead()


def test_result_has_its_volumes_parent_in_the_subject_hierarchy(volumeNode, job):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "MR 2026")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volumeNode), study)

    result = importJob(volumeNode, job)

    for node in (result.segmentationNode, result.entropyNode, result.disagreementNode):
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


def test_an_edited_segmentation_is_not_overwritten(volumeNode, job, tmp_path):
    earlier = importJob(volumeNode, job)
    edited = np.zeros(job.labels.shape, np.uint8)
    edited[4:9, 5:9, 6:9] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(edited, earlier.segmentationNode, "white_matter", volumeNode)
    earlier.segmentationNode.GetSegmentation().GetSegment("white_matter").SetName("mine")

    later = importJob(volumeNode, segment(volumeNode, tmp_path / "later"))

    assert later.segmentationNode is not earlier.segmentationNode
    assert later.segmentationNode.GetName() != earlier.segmentationNode.GetName()
    retained = slicer.util.arrayFromSegmentBinaryLabelmap(earlier.segmentationNode, "white_matter", volumeNode)
    assert np.array_equal(retained, edited)
    assert earlier.segmentationNode.GetSegmentation().GetSegment("white_matter").GetName() == "mine"


def test_only_the_newest_result_of_a_volume_is_visible(volumeNode, job, tmp_path):
    other = addVolume("T2", np.eye(4))
    ofOther = importJob(other, segment(other, tmp_path / "other"))
    earlier = importJob(volumeNode, job)

    later = importJob(volumeNode, segment(volumeNode, tmp_path / "later"))

    assert not earlier.segmentationNode.GetDisplayVisibility()
    assert later.segmentationNode.GetDisplayVisibility()
    assert ofOther.segmentationNode.GetDisplayVisibility()


def test_an_import_stopped_at_any_step_does_not_change_the_scene(volumeNode, job, tmp_path):
    earlier = importJob(volumeNode, segment(volumeNode, tmp_path))
    before = slicer.mrmlScene.GetNumberOfNodes()
    for last in range(100):
        steps = result_nodes.importSteps(volumeNode, job.folder, job.report)
        reports = [next(steps) for _ in range(last + 1)]
        if reports[-1] is not None:
            break
        steps.close()
        assert slicer.mrmlScene.GetNumberOfNodes() == before
        assert earlier.segmentationNode.GetDisplayVisibility()
    assert last >= 12 and not earlier.segmentationNode.GetDisplayVisibility()


@pytest.mark.parametrize(
    ("name", "size"),
    [
        (f"{name}.nrrd", size)
        for name in ("segmentation.seg", "entropy", "disagreement", "samples.seq", "probabilities.seq")
        for size in (None, 0, 9, 200, -1)
        if (name, size) != ("disagreement", None)  # earlier versions wrote none
    ],
)
def test_a_missing_or_truncated_file_does_not_change_the_scene(volumeNode, job, name, size):
    path = job.folder / name
    content = path.read_bytes()
    path.unlink()
    if size is not None:
        path.write_bytes(content[:size])
    before = slicer.mrmlScene.GetNumberOfNodes()

    with pytest.raises(nrrd_files.ResultFileError, match=name):
        importJob(volumeNode, job)

    assert slicer.mrmlScene.GetNumberOfNodes() == before


def test_a_result_adds_only_its_overlays_to_volume_selectors(volumeNode, job, tmp_path):
    importJob(volumeNode, job)
    importJob(volumeNode, segment(volumeNode, tmp_path))

    names = [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLVolumeNode")]
    kinds = ("entropy", "disagreement", "entropy_1", "disagreement_1")
    assert sorted(names) == sorted([volumeNode.GetName(), *(f"{volumeNode.GetName()} {kind}" for kind in kinds)])


def test_unlisted_nodes_are_removed_with_the_segmentation(volumeNode, job, tmp_path):
    removed, retained = importJob(volumeNode, job), importJob(volumeNode, segment(volumeNode, tmp_path))
    slicer.mrmlScene.RemoveNode(removed.segmentationNode)

    result_nodes.removeOrphans()

    assert all(
        node.GetScene() is None for node in (removed.samplesNode, removed.probabilitiesNode, removed.regionsNode)
    )
    assert removed.entropyNode.GetScene() is slicer.mrmlScene  # selectors list it, and the user may want to keep it
    assert all(node.GetScene() for node in (retained.samplesNode, retained.probabilitiesNode, retained.regionsNode))
    result_nodes.removeResult(retained.segmentationNode)
    assert retained.regionsNode.GetScene() is None and retained.entropyNode.GetScene() is None


def test_the_regions_of_an_earlier_version_are_a_volume(volumeNode, job):
    result = importJob(volumeNode, job)
    regions = result_nodes.readVolume(slicer.vtkMRMLLabelMapVolumeNode(), job.folder / "regions.nrrd")
    slicer.mrmlScene.AddNode(regions)
    result.segmentationNode.SetNodeReferenceID(result_nodes.REGIONS_ROLE, regions.GetID())

    assert result_nodes.regionsVolume(result.segmentationNode) is regions
    regions.SetAndObserveImageData(None)
    assert result_nodes.regionsVolume(result.segmentationNode) is None


def test_import_of_a_large_result_blocks_the_gui_only_briefly(application, tmp_path):
    volumeNode = addVolume("T1", np.eye(4), shape=(200, 256, 256))
    job = segment(volumeNode, tmp_path, samples=16)

    busy, started = 0.0, time.thread_time()
    for _step in result_nodes.importSteps(volumeNode, job.folder, job.report):
        busy, started = busy + time.thread_time() - started, time.thread_time()

    assert busy < 0.3


def test_the_report_names_the_series_of_a_volume_from_dicom(volumeNode, job):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volumeNode.GetScene())
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    item = hierarchy.GetItemByDataNode(volumeNode)
    hierarchy.SetItemParent(item, study)
    hierarchy.SetItemUID(item, "DICOM", "1.2.3.4")  # as Slicer's DICOM module does
    volumeNode.SetAttribute("DICOM.instanceUIDs", "1.2.3.4.1 1.2.3.4.2")
    node = importJob(volumeNode, job).segmentationNode

    assert result_nodes.reportOf(node)["input"]["series_uid"] == "1.2.3.4"
    # What the exporter of DICOM segmentations looks for: the study, and the images behind the reference volume.
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study
    reference = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    assert reference is volumeNode and reference.GetAttribute("DICOM.instanceUIDs") == "1.2.3.4.1 1.2.3.4.2"
    assert hierarchy.GetItemUID(item, "DICOM") == "1.2.3.4"


def test_the_report_of_other_volumes_names_no_series(volumeNode, job):
    assert result_nodes.reportOf(importJob(volumeNode, job).segmentationNode) == job.report
