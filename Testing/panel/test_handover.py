"""Handover of volumes to the worker: exact geometry, all voxel types, one sentence for unsupported volumes."""

import time

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import slicer.util
import vtk

from diffusion_segmentation.images.case_files import CaseFiles
from DiffusionSegmentationLib.runs.handover import Handover, HandoverError
from DiffusionSegmentationLib.scene import nrrd_files


def written(volumeNode, folder, **options):
    """The files that a hand-over writes, by name."""
    folder.mkdir(exist_ok=True)
    held = Handover(volumeNode, **options)
    held.startWriting(folder)
    held.join()
    assert held.problem() is None
    return {path.name: sitk.ReadImage(str(path)) for path in folder.iterdir()}


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_voxels_and_geometry_survive_exactly(addVolume, tmp_path, dtype):
    voxels = np.arange(3 * 4 * 5).reshape(3, 4, 5).astype(dtype)
    volumeNode = addVolume(voxels, oblique=True)
    image = written(volumeNode, tmp_path / "a b ü 脳")["input.nrrd"]
    assert np.array_equal(sitk.GetArrayFromImage(image), voxels)
    assert sitk.GetArrayFromImage(image).dtype == dtype
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    for index in [(0, 0, 0), (4, 3, 2)]:
        ras = np.array(matrix.MultiplyPoint((*index, 1.0))[:3])
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        assert np.allclose(lps, ras * [-1, -1, 1], atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 6, 5, 3), (1, 6, 5, 4), (3, 6, 5, 2)])
def test_colours_survive_and_the_engine_reads_them(addVolume, tmp_path, shape):
    values = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    node = slicer.util.addVolumeFromArray(values, np.diag([-0.5, -0.5, 2, 1]), nodeClassName="vtkMRMLVectorVolumeNode")
    written(node, tmp_path)
    file = CaseFiles(tmp_path / "input.nrrd").first
    read, grid = file.read_channels()
    assert np.array_equal(np.moveaxis(read, 0, -1), values) and not file.warnings
    assert grid.GetSpacing() == (0.5, 0.5, 2.0) and grid.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)


def test_every_input_is_written_where_the_scene_shows_it(addVolume, tmp_path):
    """The second volume is registered to the first by a transform; both are under a further one."""
    first, second = (addVolume(np.full((3, 4, 5), n, np.uint8), name=f"V{n}") for n in (1, 2))
    patient, registration = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode") for _ in range(2))
    for node, axis, shift in ((patient, 1, 7.0), (registration, 0, 50.0)):
        matrix = vtk.vtkMatrix4x4()
        matrix.SetElement(axis, 3, shift)
        node.SetMatrixTransformToParent(matrix)
    registration.SetAndObserveTransformNodeID(patient.GetID())
    first.SetAndObserveTransformNodeID(patient.GetID())
    second.SetAndObserveTransformNodeID(registration.GetID())
    inputs = {"T2": second, "T1": first}
    files = written(first, tmp_path, inputs=inputs)
    assert sorted(files) == ["input-1-t2.nrrd", "input.nrrd"]
    assert [int(sitk.GetArrayViewFromImage(files[name]).max()) for name in sorted(files)] == [2, 1]
    apart = np.subtract(files["input-1-t2.nrrd"].GetOrigin(), files["input.nrrd"].GetOrigin())
    assert np.allclose(apart, [-50, 0, 0])  # LPS
    held = Handover(first, inputs=inputs)
    expected = {"T2": str(tmp_path / "input-1-t2.nrrd"), "T1": str(tmp_path / "input.nrrd")}
    assert held.inputFiles(tmp_path) == expected
    patient.SetMatrixTransformToParent(vtk.vtkMatrix4x4())  # moves both
    assert not held.changed()
    registration.SetMatrixTransformToParent(vtk.vtkMatrix4x4())
    assert held.changed()


def test_after_a_failed_run_only_the_volumes_are_removed(addVolume, tmp_path):
    first, second = addVolume(np.zeros((3, 4, 5), np.int16)), addVolume(np.ones((3, 4, 5), np.int16))
    held = Handover(first, inputs={"T1": first, "T2": second})
    held.startWriting(tmp_path)
    held.join()
    (tmp_path / "report.json").write_text("{}")
    held.discard(tmp_path, keepResults=True).join()
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_the_parent_transform_is_not_written(addVolume, tmp_path):
    volumeNode = addVolume(np.zeros((3, 4, 5), np.uint8))
    before = written(volumeNode, tmp_path)["input.nrrd"].GetOrigin()
    transformNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 50.0)
    transformNode.SetMatrixTransformToParent(matrix)
    volumeNode.SetAndObserveTransformNodeID(transformNode.GetID())
    assert written(volumeNode, tmp_path)["input.nrrd"].GetOrigin() == before


def test_large_volumes_do_not_block_the_calling_thread(addVolume, tmp_path):
    volumeNode = addVolume(np.zeros((256, 512, 512), np.int16))
    started = time.thread_time()
    held = Handover(volumeNode)
    held.startWriting(tmp_path)
    assert time.thread_time() - started < 0.02
    held.join()


def test_a_volume_is_written_in_several_chunks(addVolume, tmp_path, monkeypatch):
    monkeypatch.setattr(nrrd_files, "CHUNK_BYTES", 7)
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    assert np.array_equal(sitk.GetArrayFromImage(written(addVolume(voxels), tmp_path)["input.nrrd"]), voxels)


def test_a_volume_that_changes_during_the_handover_is_detected(addVolume, tmp_path):
    volumeNode = addVolume(np.zeros((3, 4, 5), np.int16))
    held = Handover(volumeNode)
    held.startWriting(tmp_path)
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
    held.startWriting(tmp_path)
    held.join()
    assert "disk is full" in held.problem()


def test_a_discarded_handover_stops_and_removes_its_file(addVolume, tmp_path, monkeypatch):
    monkeypatch.setattr(nrrd_files, "CHUNK_BYTES", 1)  # 8 million writes, if they were not stopped
    held = Handover(addVolume(np.zeros((64, 256, 256), np.int16)))
    folder = tmp_path / "job"
    folder.mkdir()
    held.startWriting(folder)
    started = time.perf_counter()
    held.discard(folder).join()
    assert time.perf_counter() - started < 2.0
    assert not folder.exists()


def emptyVolume(addVolume):
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Head")


def lineVolume(addVolume):
    return addVolume(np.zeros((4, 1, 5), np.uint8))


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
        (lineVolume, "'Head' is less than two voxels wide or high"),
        (warpedVolume, "'Head' is under the non-linear transform 'Warp'"),
    ],
)
def test_unsupported_volumes_are_reported_in_one_sentence(addVolume, make, words):
    with pytest.raises(HandoverError) as caught:
        Handover(make(addVolume))
    sentence = str(caught.value)
    assert words in sentence
    assert sentence.endswith(".") and sentence.count(".") == 1
