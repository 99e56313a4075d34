"""The headless application behaves as code for Slicer expects."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer.util
from mrml_cases import addVolume, importJob

from DiffusionSegmentationLib.headless import session


def items():
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    return hierarchy, hierarchy.GetNumberOfItems()


def test_slicer_refers_to_the_newest_application(application):
    other = session.boot()
    assert slicer.mrmlScene is other.scene is not application.scene
    assert slicer.modules is other.modules
    other.close()


def test_volumes_have_subject_hierarchy_items(application):
    hierarchy, before = items()
    volumeNode = addVolume("T1", np.eye(4))
    assert hierarchy.GetItemName(hierarchy.GetItemByDataNode(volumeNode)) == "T1"
    slicer.mrmlScene.RemoveNode(volumeNode)
    assert items()[1] == before


def test_a_cleared_scene_can_be_used_again(volumeNode, job):
    importJob(volumeNode, job)
    slicer.mrmlScene.Clear(False)

    again = addVolume("Kopf é 頭", np.eye(4))

    hierarchy, count = items()
    assert count == 1 and hierarchy.GetItemByDataNode(again)


def test_views_have_radiological_orientation(application):
    """Patient's right on the left of axial and coronal views; front or top upwards."""
    application.addSliceViews((40, 40))
    right, up = {}, {}
    for name, view in application.sliceViews.items():
        matrix = slicer.util.arrayFromVTKMatrix(view.sliceNode.GetSliceToRAS())
        right[name], up[name] = matrix[:3, 0].round(6).tolist(), matrix[:3, 1].round(6).tolist()
    assert right["Red"] == right["Green"] == [-1, 0, 0]
    assert up["Red"] == [0, 1, 0]
    assert up["Green"] == up["Yellow"] == [0, 0, 1]


def test_a_view_draws_voxels_at_their_position(application):
    """A block 10 mm from the center of the view is drawn there, whatever the axes of the volume."""
    application.addSliceViews((80, 80))
    volumeNode = addVolume("T1", np.diag([-1.0, -1.0, 1.0, 1.0]), shape=(41, 41, 41))  # k to S, j to P, i to L
    voxels = slicer.util.arrayFromVolume(volumeNode)
    voxels[:] = 0
    voxels[20:36, :20, :20] = 1000
    slicer.util.arrayFromVolumeModified(volumeNode)
    volumeNode.GetDisplayNode().SetAutoWindowLevel(False)
    volumeNode.GetDisplayNode().SetWindowLevelMinMax(0, 1000)
    for name, view in application.sliceViews.items():
        view.compositeNode.SetBackgroundVolumeID(volumeNode.GetID())
        view.frame((-19.0, -19.0, 20.0), 80.0)
        rows, columns = np.nonzero(view.render().min(axis=2) > 200)
        assert (rows.mean(), columns.mean()) == pytest.approx((30, 30), abs=3), name


def test_a_full_disk_is_reported_in_one_sentence(monkeypatch, tmp_path, capsys):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "v.nrrd"))

    monkeypatch.setattr(session, "boot", full)
    assert session.main(["--output", str(tmp_path / "demo")]) == 1
    assert capsys.readouterr().err == "The disk is full; free some space or choose another folder.\n"


@pytest.mark.parametrize("given", [["--steps", "1"], ["--model", ""]])
def test_invalid_settings_are_reported_in_one_sentence(given, tmp_path, capsys):
    assert session.main([*given, "--output", str(tmp_path / "out")]) == 1
    output = capsys.readouterr().err
    assert output.count("\n") == 1 and output.endswith(".\n") and not (tmp_path / "out").exists()


def test_headless_imports_neither_torch_nor_qt():
    check = (
        "import sys; from DiffusionSegmentationLib.headless import session; session.boot();"
        "print(sorted({'torch', 'qt', 'PySide6', 'SimpleITK'} & set(sys.modules)))"
    )
    folder = Path(session.__file__).parents[2]
    answer = subprocess.run([sys.executable, "-c", check], cwd=folder, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout.replace("'", '"')) == []
