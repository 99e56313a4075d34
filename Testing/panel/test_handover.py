"""Handover of volumes to the worker: exact geometry, all voxel types, one sentence for unsupported volumes."""

import time

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import slicer.util
import vtk

from DiffusionSegmentationLib.runs.handover import Handover, HandoverError
from DiffusionSegmentationLib.scene import nrrd_files


def written(volumeNode, path):
    held = Handover(volumeNode)
    held.startWriting(path)
    held.join()
    assert held.problem() is None
    return sitk.ReadImage(str(path))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_voxels_and_geometry_survive_exactly(addVolume, tmp_path, dtype):
    voxels = np.arange(3 * 4 * 5).reshape(3, 4, 5).astype(dtype)
    volumeNode = addVolume(voxels, oblique=True)
    image = written(volumeNode, tmp_path / "a b ü 脳.nrrd")
    assert np.array_equal(sitk.GetArrayFromImage(image), voxels)
    assert sitk.GetArrayFromImage(image).dtype == dtype
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    for index in [(0, 0, 0), (4, 3, 2)]:
        ras = np.array(matrix.MultiplyPoint((*index, 1.0))[:3])
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        assert np.allclose(lps, ras * [-1, -1, 1], atol=1e-9)


def test_the_parent_transform_is_not_written(addVolume, tmp_path):
    volumeNode = addVolume(np.zeros((3, 4, 5), np.uint8))
    before = written(volumeNode, tmp_path / "before.nrrd").GetOrigin()
    transformNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 50.0)
    transformNode.SetMatrixTransformToParent(matrix)
    volumeNode.SetAndObserveTransformNodeID(transformNode.GetID())
    assert written(volumeNode, tmp_path / "after.nrrd").GetOrigin() == before


def test_large_volumes_do_not_block_the_calling_thread(addVolume, tmp_path):
    volumeNode = addVolume(np.zeros((256, 512, 512), np.int16))
    started = time.thread_time()
    held = Handover(volumeNode)
    held.startWriting(tmp_path / "v.nrrd")
    assert time.thread_time() - started < 0.02
    assert np.shares_memory(held.voxels, slicer.util.arrayFromVolume(volumeNode))
    held.join()


def test_a_volume_is_written_in_several_chunks(addVolume, tmp_path, monkeypatch):
    monkeypatch.setattr(nrrd_files, "CHUNK_BYTES", 7)
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    assert np.array_equal(sitk.GetArrayFromImage(written(addVolume(voxels), tmp_path / "v.nrrd")), voxels)


def test_a_volume_that_changes_during_the_handover_is_detected(addVolume, tmp_path):
    volumeNode = addVolume(np.zeros((3, 4, 5), np.int16))
    held = Handover(volumeNode)
    held.startWriting(tmp_path / "v.nrrd")
    slicer.util.arrayFromVolume(volumeNode)[0] = 7
    slicer.util.arrayFromVolumeModified(volumeNode)
    held.join()
    assert "modified while" in held.problem()
    moved = Handover(volumeNode)
    volumeNode.SetOrigin(1, 2, 3)
    assert moved.changed()


def test_a_full_disk_is_reported(addVolume, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nrrd_files, "write", full)
    held = Handover(addVolume(np.zeros((3, 4, 5), np.int16)))
    held.startWriting(tmp_path / "v.nrrd")
    held.join()
    assert "disk is full" in held.problem()


def test_a_discarded_handover_stops_and_removes_its_file(addVolume, tmp_path, monkeypatch):
    monkeypatch.setattr(nrrd_files, "CHUNK_BYTES", 1)  # 8 million writes, if they were not stopped
    held = Handover(addVolume(np.zeros((64, 256, 256), np.int16)))
    folder = tmp_path / "job"
    folder.mkdir()
    held.startWriting(folder / "v.nrrd")
    started = time.perf_counter()
    held.discard(folder).join()
    assert time.perf_counter() - started < 2.0
    assert not folder.exists()


def emptyVolume(addVolume):
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Head")


def colourVolume(addVolume):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Head")
    slicer.util.updateVolumeFromArray(node, np.zeros((3, 4, 5, 3), np.uint8))
    return node


def flatVolume(addVolume):
    return addVolume(np.zeros((1, 4, 5), np.uint8))


def warpedVolume(addVolume):
    volumeNode = addVolume(np.zeros((3, 4, 5), np.uint8))
    transformNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "Warp")
    transformNode.SetAndObserveTransformToParent(vtk.vtkThinPlateSplineTransform())
    volumeNode.SetAndObserveTransformNodeID(transformNode.GetID())
    return volumeNode


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda addVolume: None, "Select the volume"),
        (emptyVolume, "'Head' is empty"),
        (colourVolume, "'Head' has several values per voxel"),
        (flatVolume, "'Head' is a single slice"),
        (warpedVolume, "'Head' is under the non-linear transform 'Warp'"),
    ],
)
def test_unsupported_volumes_are_reported_in_one_sentence(addVolume, make, words):
    with pytest.raises(HandoverError) as caught:
        Handover(make(addVolume))
    sentence = str(caught.value)
    assert words in sentence
    assert sentence.endswith(".") and sentence.count(".") == 1
