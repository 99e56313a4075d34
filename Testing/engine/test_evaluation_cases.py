"""Folders of labelled images: choice of cases, reading of references and results, evaluation with random weights."""

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from evaluation_outputs import run_outputs
from scipy.spatial import KDTree

from diffusion_segmentation.errors import InputError, ModelError
from diffusion_segmentation.evaluation import evaluate
from diffusion_segmentation.evaluation.dataset import cases
from diffusion_segmentation.evaluation.dataset.comparison import RunOutputs, read_outputs
from diffusion_segmentation.evaluation.store import CaseStore
from diffusion_segmentation.images.dataset import Case, Dataset, label_order, read_dataset
from diffusion_segmentation.images.input_names import ONE_INPUT
from diffusion_segmentation.images.label_file import read_labels, relabel
from diffusion_segmentation.segmentation.pipeline import Request as SegmentRequest
from diffusion_segmentation.segmentation.pipeline import segment

pytestmark = pytest.mark.usefixtures("quick_evaluation")


def data(names, test=(), **facts):
    """A data set of cases with these names, and the section of a model that was trained as `facts` say."""
    listed, tested = (tuple(Case(name, (), ()) for name in part) for part in (names, test))
    return Dataset("Balls", ONE_INPUT, ("MRI",), ("ball",), listed, tested), {"training": {"data": facts}}


def chosen(names, test=(), **facts):
    choice = cases.choose(*data(names, test, **facts))
    return "".join(case.name for case in choice.cases), choice.which, choice.seen_in_training


def test_the_test_part_comes_first():
    assert chosen("abc", "de", kind="folder", name="Balls", cases=list("abc")) == (
        "de", "the 2 cases of the data set's test part", False
    )  # fmt: skip


def test_test_cases_that_training_used_are_left_out(tmp_path):
    facts = {"kind": "folder", "name": "Balls", "cases": list("abcd")}
    assert chosen("a", "de", **facts)[:2] == (
        "e", "the 1 case of the data set's test part without 1 that the model was trained on"
    )  # fmt: skip
    assert chosen("ae", "cd", **facts)[0] == "e", "none is left of the test part"
    for name, content in (("b", b"b"), ("d", b"d"), ("x", b"a"), ("y", b"y")):
        (tmp_path / name).write_bytes(content)
    dataset, section = data("bd", "", **facts)
    training = tuple(Case(name, (tmp_path / name,), ()) for name in "bd")
    test = tuple(Case(name, (tmp_path / file,), ()) for name, file in (("b", "y"), ("e", "d"), ("f", "x")))
    choice = cases.choose(replace(dataset, training=training, test=test), section)
    assert [case.name for case in choice.cases] == ["b", "f"], "b is another picture, e that of the training case d"


def test_otherwise_cases_that_training_did_not_use_are_used():
    names, which, seen = chosen("abcd", kind="folder", name="Balls", cases=["a", "b"], held_out=["c"])
    assert (
        names == "cd" and not seen and "the 2 cases that the model was not trained on; training used held-out" in which
    )


def test_otherwise_all_cases_are_used_with_a_remark():
    names, which, seen = chosen("ab", kind="folder", name="Balls", cases=["a", "b"], held_out=[])
    assert names == "ab" and seen and "too good" in which
    for facts in ({}, {"kind": "synthetic heads"}, {"kind": "folder", "name": "Other", "cases": ["a", "b"]}):
        names, which, seen = chosen("ab", **facts)
        assert names == "ab" and not seen and "list none of them as training cases" in which
    assert not cases.choose(data("a")[0], {}).seen_in_training, "older models say nothing of their training"


def test_labels_are_matched_by_name_and_never_by_number_alone():
    labels = [{"label": 1, "id": "left_kidney", "name": "Left kidney"}, {"label": 2, "id": "liver", "name": "Liver"}]
    dataset = Dataset("Abdomen", ONE_INPUT, ("CT",), ("liver", "Left Kidney"), (), ())
    assert label_order(dataset, labels) == [0, 2, 1]
    for names in (("liver",), ("liver", "spleen"), ("liver", "left kidney", "spleen"), ("liver", "Liver")):
        with pytest.raises(InputError, match="must be the same"):
            label_order(Dataset("Abdomen", ONE_INPUT, ("CT",), names, (), ()), labels)


@pytest.fixture
def a_data_set(tmp_path):
    """Three volumes of a ball within a ball at 4 mm; the first with two raters, the last off its grid."""
    root = tmp_path / "data"
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    grid = np.indices((20, 22, 24)) - np.array([10, 11, 12]).reshape(3, 1, 1, 1)
    radius, rng = np.sqrt((grid**2).sum(0)), np.random.default_rng(0)
    for n in range(3):
        image = sitk.GetImageFromArray(
            (100.0 * (radius < 9) + 40 * (radius < 4) + rng.normal(0, 3, radius.shape)).astype(np.float32)
        )
        image.SetSpacing((4, 4, 4))
        sitk.WriteImage(image, root / "imagesTr" / f"case{n}_0000.nii.gz")
        for name, edge in ((f"case{n}", 4),) if n else (("case0_rater1", 4), ("case0_rater2", 5)):
            label = sitk.GetImageFromArray(((radius < 9).astype(np.uint8) + (radius < edge)).astype(np.uint8))
            label.CopyInformation(image)
            if n == 2:
                label.SetOrigin((9, 9, 9))
            sitk.WriteImage(label, root / "labelsTr" / f"{name}.nii.gz")
    names = {"background": 0, "structure 2": 1, "STRUCTURE-1": 2}
    (root / "dataset.json").write_text(json.dumps({"name": "Balls", "labels": names}), encoding="utf-8")
    return root


@pytest.mark.slow
def test_files_come_back_on_the_images_grid(a_model_folder, a_head_file, tmp_path):
    """`read_outputs` reads what the run wrote: the samples have its volumes, their mode its consensus."""
    for samples in (1, 3):
        request = SegmentRequest(
            a_head_file, tmp_path / str(samples), str(a_model_folder), samples, device="cpu", keep_samples=True
        )
        report = segment(request).report
        result = read_outputs(request.output, sitk.ReadImage(str(a_head_file)))
        assert len(result.samples) == samples and len(result.probabilities) == 3
        ml = 3.0 * 2.5 * 4.0 / 1000
        for volume in report["volumes"]:
            counted = [round(float((mask == volume["label"]).sum() * ml), 4) for mask in result.samples]
            assert counted == pytest.approx(volume["samples_ml"], abs=1e-3)
        total = np.sum([p.astype(int) for p in result.probabilities], 0)
        assert np.abs(total - 255).max() <= 2
        confident = result.confidence > 0.6
        np.testing.assert_array_equal(np.argmax(result.probabilities, 0)[confident], result.labels[confident])


def test_references_are_checked_and_renumbered(a_data_set):
    image = sitk.ReadImage(str(a_data_set / "imagesTr" / "case1_0000.nii.gz"))
    path = a_data_set / "labelsTr" / "case1.nii.gz"
    raw = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    names = ("structure 2", "STRUCTURE-1")
    np.testing.assert_array_equal(relabel(read_labels(path, image, names), [0, 2, 1]), np.array([0, 2, 1])[raw])
    np.testing.assert_array_equal(relabel(read_labels(path, image, names[:1], 2), [0, 7]), np.array([0, 7, 255])[raw])
    with pytest.raises(InputError, match="does not list"):
        read_labels(path, image, names[:1])
    with pytest.raises(InputError, match="grid"):
        read_labels(a_data_set / "labelsTr" / "case2.nii.gz", image, names)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read"):
        read_labels(path, image, names)


@pytest.mark.slow
def test_from_a_folder_to_the_page(a_model_folder, a_data_set, tmp_path, capsys, monkeypatch):
    request = evaluate.EvaluationRequest(
        str(a_model_folder), str(a_data_set), tmp_path / "out", 3, ("2",), device="cpu"
    )
    result = evaluate.evaluate(request)
    assert result["data"]["cases"] == 2 and list(result["data"]["skipped"]) == ["case2"]
    assert "case case2 is skipped: The label file" in capsys.readouterr().err
    assert result["data"]["raters"] == 2 and result["scores"]["samples"]["raters"]["cases"] == 1
    assert [row["name"] for row in result["scores"]["maps"]["direct"]["by_class"]] == ["Structure 1", "Structure 2"]
    assert result["cost"]["denoiser_passes"] == 3 * 1 and result["cost"]["rho"] > 0
    page = (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 5 + 2 and "case2" in page and result["model"]["sha256"] in page
    assert len((tmp_path / "out" / "cases.csv").read_text(encoding="utf-8").splitlines()) == 1 + 2 * 2 * 2
    record = json.loads(next((tmp_path / "out" / "cases").glob("case1*.json")).read_text(encoding="utf-8"))["record"]
    assert record["maps"]["samples"] != record["maps"]["direct"], "the two sources are two maps"

    monkeypatch.setattr(cases, "_segment", lambda *_: pytest.fail("all cases are kept"))
    monkeypatch.setattr(evaluate, "write_page", lambda *_: None)
    assert evaluate.evaluate(request)["scores"] == result["scores"]


def test_only_what_has_changed_is_segmented_again(a_data_set, tmp_path, monkeypatch):
    requests = []
    report = {"timings_s": {"model": 1.0, "encoding": 2.0, "sampling": 6.0}, "windows": 1, "samples": 2, "steps": 2}
    report |= {
        "denoiser_passes": 1,
        "working_spacing_mm": 4.0,
        "direct_difference": 0.0,
        "warnings": [],
        "memory_bytes": {},
    }

    def segmented(case, image, settings, models, predict):
        requests.append((case.name, settings.samples, models.source))
        return run_outputs(
            np.zeros(image.GetSize()[::-1], np.uint8), samples=[np.zeros(image.GetSize()[::-1], np.uint8)] * 2
        ), report

    monkeypatch.setattr(cases, "_segment", segmented)
    monkeypatch.setattr(cases, "_joint", lambda *_: {})
    monkeypatch.setattr(cases.engine.ModelCache, "get", lambda *_: None)
    dataset = read_dataset(a_data_set)
    settings = cases.Settings(str(tmp_path), 2, None, 0, "cpu")

    def run():
        requests.clear()
        records, _ = cases.evaluate_cases(
            dataset.training[:2], dataset, [0, 1, 2], settings, CaseStore(tmp_path / "cases", {})
        )
        return records

    first = run()
    assert requests == [
        (name, n, source) for name in ("case0", "case1") for n, source in ((2, "samples"), (1, "direct"))
    ]
    assert first["case0"]["cost"]["seconds"] == 8.0 and first["case0"]["cost"]["direct_seconds"] == 2.0
    assert run() == first and requests == []
    label = a_data_set / "labelsTr" / "case0_rater2.nii.gz"
    label.write_bytes((a_data_set / "labelsTr" / "case0_rater1.nii.gz").read_bytes())
    assert run() != first and {name for name, *_ in requests} == {"case0"}


def test_ignored_voxels_add_to_no_score(a_data_set, tmp_path, monkeypatch):
    """The model errs in every way where the reference says 'ignore', and nowhere else: all scores are perfect."""
    listing = json.loads((a_data_set / "dataset.json").read_text(encoding="utf-8"))
    (a_data_set / "dataset.json").write_text(json.dumps(listing | {"labels": listing["labels"] | {"ignore": 3}}))
    path = a_data_set / "labelsTr" / "case1.nii.gz"
    label = sitk.ReadImage(path)
    label[:11, :, :] = 3
    sitk.WriteImage(label, path)
    dataset = read_dataset(a_data_set)
    case = next(case for case in dataset.training if case.name == "case1")
    truth = sitk.GetArrayFromImage(label)
    ignored = truth == 3
    wrong = np.where(ignored, 1 + np.arange(truth.size).reshape(truth.shape) % 2, truth).astype(np.uint8)
    report = {"timings_s": {"model": 0.0, "encoding": 1.0, "sampling": 1.0}, "windows": 1, "samples": 3, "steps": 2}
    report |= {"denoiser_passes": 1, "working_spacing_mm": 4.0, "direct_difference": 0.0, "warnings": []}
    monkeypatch.setattr(
        cases,
        "_segment",
        lambda *_: (
            RunOutputs(
                wrong,
                ignored.astype(np.float32),
                [np.where(wrong == c, np.uint8(255), np.uint8(0)) for c in range(3)],
                [np.where(ignored, sample, wrong).astype(np.uint8) for sample in (0, 1, 2)],
            ),
            report | {"memory_bytes": {}},
        ),
    )
    monkeypatch.setattr(cases, "_joint", lambda *_: {})
    monkeypatch.setattr(cases.engine.ModelCache, "get", lambda *_: None)
    settings = cases.Settings(str(tmp_path), 3, None, 0, "cpu")
    records, _ = cases.evaluate_cases([case], dataset, [0, 1, 2], settings, CaseStore(tmp_path / "cases", {}))
    record = records["case1"]
    maps = record["maps"]["samples"]
    assert maps["dice"] == [1, 1] and maps["wrong"] == 0 and maps["hd95_mm"] == [0, 0]
    assert (
        maps["volume_error_ml"] == [0, 0]
        and record["samples"]["samples_ml"][0] == record["samples"]["references_ml"][0]
    )
    assert np.sum(maps["everywhere"][0]) == (~ignored).sum()


def test_numbers_near_zero_survive_a_segmentation(a_model_folder, a_data_set):
    """Networks flush such numbers to zero; surface distances crash if that setting stays, see `flush_denormals`."""
    case = read_dataset(a_data_set).training[1]
    settings = cases.Settings(str(a_model_folder), 1, 2, 0, "cpu")
    cases._segment(case, sitk.ReadImage(str(case.images[0]), sitk.sitkFloat32), settings, cases.engine.ModelCache())
    assert np.nextafter(0.0, 1.0) > 0
    KDTree(np.concatenate([np.zeros((60, 3)), np.ones((40, 3))]), leafsize=32)


def test_invalid_requests_for_a_folder_are_refused(a_model_folder, a_data_set, tmp_path):
    def refused(match, error=InputError, model=a_model_folder, **changes):
        with pytest.raises(error, match=match):
            evaluate.evaluate(
                evaluate.EvaluationRequest(str(model), str(a_data_set), tmp_path / "out", device="cpu", **changes)
            )

    refused("one number of adapted steps", steps=("2", "5"))
    refused("one number of adapted steps", steps=("uniform:5",))
    listing = json.loads((a_data_set / "dataset.json").read_text())
    listing["labels"] = {"background": 0, "heart": 1, "lung": 2}
    (a_data_set / "dataset.json").write_text(json.dumps(listing))
    refused("must be the same")
    flat = tmp_path / "flat"
    shutil.copytree(a_model_folder, flat)
    metadata = json.loads((flat / "metadata.json").read_text())
    metadata["diffusion_segmentation"] |= {"schema": 9}
    (flat / "metadata.json").write_text(json.dumps(metadata))
    refused("schema version", ModelError, flat)
    (a_data_set / "dataset.json").unlink()
    refused("no dataset.json")


def test_a_source_changes_neither_the_model_nor_its_file(a_model_folder):
    import torch

    loaded = cases.engine.ModelCache()
    cpu = torch.device("cpu")
    plain = loaded.get(str(a_model_folder), cpu)
    before = copy.deepcopy(plain.metadata)
    other = cases._SourceModels(loaded, "direct").get(str(a_model_folder), cpu)
    assert other.section["map_source"] == "direct" and plain.metadata == before and other.encoder is plain.encoder
