"""Keys of cases, the index of a cohort, and results that are put in their place."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import write_series

from diffusion_segmentation.cohort.cases import Case
from diffusion_segmentation.cohort.engine import RUNNING, SegmentationEngine, failure, put_in_place
from diffusion_segmentation.cohort.index import Index, is_done
from diffusion_segmentation.cohort.key import Settings, content_key, model_sha256
from diffusion_segmentation.errors import DeviceLostError, DiffusionSegmentationError, InputError, ModelError
from diffusion_segmentation.images.writing import write_report
from diffusion_segmentation.runtime import memory
from diffusion_segmentation.segmentation import pipeline
from diffusion_segmentation.segmentation.memory_plan import MemoryPlan


def volume(path: Path, value: float = 1.0) -> Path:
    image = sitk.GetImageFromArray(np.full((3, 4, 5), value, np.float32))
    sitk.WriteImage(image, path)
    return path


@pytest.fixture
def case(tmp_path) -> Case:
    return Case("a", (volume(tmp_path / "a.nrrd"),), "m")


def test_a_key_is_that_of_the_content(case, tmp_path):
    key = content_key(case, "model", Settings())
    assert len(key) == 20 and int(key, 16)
    copy = shutil.copy(case.inputs[0], tmp_path / "Doe_Jane.nrrd")
    assert content_key(replace(case, name="other", inputs=(Path(copy),)), "model", Settings()) == key


def test_what_changes_a_result_changes_its_key(case, tmp_path):
    other = (volume(tmp_path / "b.nrrd", 2.0),)
    keys = [
        content_key(case, "model", Settings()),
        content_key(case, "retrained", Settings()),
        content_key(replace(case, inputs=other), "model", Settings()),
        content_key(replace(case, inputs=case.inputs + other), "model", Settings()),
        content_key(replace(case, inputs=other + case.inputs), "model", Settings()),
        content_key(replace(case, input_names=("T1",)), "model", Settings()),
        content_key(replace(case, series="1.2"), "model", Settings()),
        *(
            content_key(case, "model", Settings(**{name: value}))
            for name, value in dict(samples=4, steps=5, seed=1, region_mm=10.0, spacing=(1.0, 1.0, 2.0)).items()
        ),
    ]
    assert len(set(keys)) == len(keys)


def test_names_of_dicom_files_do_not_count(tmp_path):
    files = write_series(tmp_path / "one", np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    (tmp_path / "two").mkdir()
    for number, file in enumerate(files):
        shutil.copy(file, tmp_path / "two" / str(number))
    one, two = (content_key(Case("a", (tmp_path / name,), "m"), "model", Settings()) for name in ("one", "two"))
    assert one == two
    (tmp_path / "two" / "0").unlink()
    assert content_key(Case("a", (tmp_path / "two",), "m"), "model", Settings()) != one


def test_settings_of_a_model_count_as_its_weights_do(a_model_folder, tmp_path):
    copy = shutil.copytree(a_model_folder, tmp_path / "copy")
    assert model_sha256(str(copy)) == model_sha256(str(a_model_folder))
    metadata = json.loads((copy / "metadata.json").read_text(encoding="utf-8"))
    metadata["diffusion_segmentation"]["steps"]["cpu"] = 4
    (copy / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    assert model_sha256(str(copy)) != model_sha256(str(a_model_folder))


def finish(folder: Path, key: str) -> None:
    (folder / "cases" / key).mkdir(parents=True)
    (folder / "cases" / key / "report.json").write_text("{}", encoding="utf-8")


def test_the_index_goes_on_from_an_earlier_one(tmp_path):
    cases = [Case(name, (tmp_path / name,), "m") for name in ("a", "b", "c", "d")]
    first = Index(tmp_path, cases)
    for entry, state in zip(first.entries, ("done", "done", "failed", "left"), strict=True):
        entry.key, entry.state = f"key-{entry.case.name}", state
    first.entries[2].error = "The disk is full."
    first.write()
    stored = json.loads((tmp_path / "cohort.json").read_text(encoding="utf-8"))
    assert stored["version"] == 1
    assert stored["cases"][2] == {
        "key": "key-c",
        "case": "c",
        "inputs": [str(tmp_path / "c")],
        "model": "m",
        "state": "failed",
        "error": "The disk is full.",
    }
    finish(tmp_path, "key-a")  # the result of b was removed
    again = Index(tmp_path, [*cases[:2], replace(cases[2], model="other")])
    assert [entry.state for entry in again.entries] == ["done", "left", "left"]
    assert again.dropped == 0
    assert Index(tmp_path, cases[1:]).dropped == 1


@pytest.mark.parametrize("content", ["", "[]", '{"cases": [{"key": 1}]}', '{"cases": 3}'])
def test_a_damaged_index_is_made_again(tmp_path, content):
    (tmp_path / "cohort.json").write_text(content, encoding="utf-8")
    assert Index(tmp_path, [Case("a", (tmp_path,), "m")]).entries[0].state == "left"


def result(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(text, encoding="utf-8")
    return folder


def test_of_two_results_of_one_case_the_first_stays(tmp_path):
    place = tmp_path / "cases" / "key"
    put_in_place(result(tmp_path / "work1", "first"), place)
    put_in_place(result(tmp_path / "work2", "second"), place)
    assert (place / "report.json").read_text(encoding="utf-8") == "first"
    assert [path.name for path in place.parent.iterdir()] == ["key"]


def engine(tmp_path: Path, model: Path) -> SegmentationEngine:
    (tmp_path / "out" / RUNNING).mkdir(parents=True)
    made = SegmentationEngine(tmp_path / "out", Settings(samples=2), "cpu", {str(model): model_sha256(str(model))})
    made.start(1)
    return made


def test_a_case_runs_once(tmp_path, a_model_folder, a_head_file):
    made, case = engine(tmp_path, a_model_folder), Case("a", (a_head_file,), str(a_model_folder))
    prepared = made.prepare(case)
    assert not prepared.done and prepared.needs and prepared.available
    made.run(case, prepared.key)
    assert made.prepare(case).done and is_done(tmp_path / "out", prepared.key)
    names = {path.name for path in (tmp_path / "out" / "cases" / prepared.key).iterdir()}
    assert {"report.json", "samples.seq.nrrd", "segmentation.seg.nrrd"} <= names
    assert list((tmp_path / "out" / RUNNING).iterdir()) == []


def test_a_failed_case_leaves_nothing(tmp_path, a_model_folder, a_head_file):
    made, case = engine(tmp_path, a_model_folder), Case("a", (a_head_file, a_head_file), str(a_model_folder))
    with pytest.raises(InputError, match="given for two inputs"):
        made.run(case, "key")
    assert list((tmp_path / "out" / RUNNING).iterdir()) == [] and not is_done(tmp_path / "out", "key")


def test_another_model_on_a_machine_of_the_cluster_is_refused(tmp_path, a_model_folder, a_head_file):
    made = engine(tmp_path, a_model_folder)
    made.models = dict.fromkeys(made.models, "0" * 64)
    with pytest.raises(ModelError, match="is another one"):
        made.prepare(Case("a", (a_head_file,), str(a_model_folder)))


def test_a_folder_that_a_machine_does_not_see_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not see the folder"):
        SegmentationEngine(tmp_path / "elsewhere", Settings(), "cpu", {}).start(1)


def test_a_full_disk_and_a_lost_device_are_told_apart(tmp_path, monkeypatch):
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffusion_segmentation.images.writing.replace", full)
    with pytest.raises(DiffusionSegmentationError) as raised:
        write_report(tmp_path / "report.json", {})
    assert failure(raised.value).kind == "disk" and "disk is full" in failure(raised.value).sentence
    assert failure(OSError(28, "full")).kind == "disk"
    assert failure(DeviceLostError("Gone.")).kind == "device"
    assert failure(MemoryError()).kind == "memory"
    assert failure(ValueError("x")).kind == "internal"


def test_the_bound_of_memory_holds_and_is_not_wide(tmp_path, a_model_folder, a_head_file, monkeypatch):
    asked = []
    monkeypatch.setattr(memory, "require", lambda needed, *texts: asked.append(needed))
    request = pipeline.Request(a_head_file, tmp_path / "out", str(a_model_folder), samples=1, device="cpu")
    first, models = request.files().first, pipeline.ModelCache()
    model = models.get(str(a_model_folder), pipeline.torch.device("cpu"))
    bound = MemoryPlan.upper_bound(model, pipeline.torch.device("cpu"), first.size, first.spacing, first.direction)
    pipeline.segment(request, models=models)
    assert max(asked) <= bound < 4 * max(asked)
