"""Training from a folder: settings, cases held out, prepared files, and from files to a model that segments."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from ball_dataset import change_dataset, open_dataset

from diffusion_segmentation.errors import InputError
from diffusion_segmentation.images.dataset import Case
from diffusion_segmentation.images.label_table import label_table
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.segmentation.pipeline import Request, segment
from diffusion_segmentation.study import tasks
from diffusion_segmentation.training import train
from diffusion_segmentation.training.folder import Folder, _place
from diffusion_segmentation.training.settings import Optimisation, merged

SMALL = {
    "diffusion_segmentation": {
        "network": {
            "encoder": {"channels": [8, 8], "blocks": [1, 1]},
            "denoiser": {"channels": [8, 8], "blocks": 1},
        },
        "steps": {"cpu": 3, "gpu": 3},
    },
    "optimisation": {"iterations": 3, "shapes": [[16, 16, 16]], "precision": "float32", "warm_up": 1},
}


def test_defaults_come_from_the_data(ball_dataset):
    section = Folder(ball_dataset, ball_dataset.parent / "prepared").settings()["diffusion_segmentation"]
    assert section["working_spacing_mm"] == 2.0 and section["labels"][0]["name"] == "ball"
    assert section["labels"][0]["id"] == "ball" and "intensity" not in section


def test_labels_with_similar_names_have_different_identifiers():
    names = ["Left +", "Left -", "left", "+", "left_2"]
    identifiers = [entry["id"] for entry in label_table(names)]
    assert (
        identifiers[0] == "left"
        and len(set(identifiers)) == 5
        and [entry["name"] for entry in label_table(names)] == names
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"title": "two\nlines"}, "'title' is missing or cannot be used"),
        ({"window": [16, 16]}, "'window' is missing or cannot be used"),
        ({"working_spacing_mm": 0}, "'working_spacing_mm' is missing or cannot be used"),
    ],
)
def test_invalid_model_settings_are_refused_before_the_training(ball_dataset, changed, words):
    source = Folder(ball_dataset, ball_dataset.parent / "prepared")
    settings = source.settings()
    settings["diffusion_segmentation"].update(changed)
    with pytest.raises(InputError, match=words):
        train.Run(settings, Optimisation(), source, 1.0)


def test_cases_are_held_out_and_stay_so_when_others_are_added(ball_dataset):
    source = Folder(ball_dataset, ball_dataset.parent / "prepared")
    held_out = {case.name for case in source.held_out}
    assert held_out and source.seen and held_out.isdisjoint(case.name for case in source.seen)
    for part, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
        (ball_dataset / part / f"case9{suffix}.nii.gz").write_bytes(
            (ball_dataset / part / f"case4{suffix}.nii.gz").read_bytes()
        )
    assert {case.name for case in Folder(ball_dataset, ball_dataset.parent / "p").held_out} - {"case9"} == held_out


def test_held_out_is_about_a_fifth(ball_dataset):
    for n in range(10, 110):
        for part, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
            (ball_dataset / part / f"case{n}{suffix}.nii.gz").touch()
    source = Folder(ball_dataset, ball_dataset.parent / "prepared")
    assert 10 <= len(source.held_out) <= 32 and len(source.held_out) + len(source.seen) == 105


def test_scans_are_whole_and_first_those_that_were_held_out(ball_dataset):
    source = open_dataset(ball_dataset)
    cases = [np.load(image) for image, _ in source.prepare([*source.held_out, *source.seen])]
    scans = list(source.scans(64, 0))
    assert len(scans) == len(cases) == 5
    for scan, case in zip(scans, cases, strict=True):
        assert scan.dtype == np.float32 and (scan == case).all()
    assert len(list(source.scans(2, 0))) == 2
    source.held_out = source.held_out * 20  # enough of them: training cases look too usual
    assert len(list(source.scans(64, 0))) == len(source.held_out)


def test_options_that_void_calibration_give_warnings():
    assert Optimisation().warnings() == []
    warnings = Optimisation(crops="labels", dice_weight=1.0, class_weights=(1.0, 2.0)).warnings()
    assert len(warnings) == 3 and all(sentence.endswith("will not be calibrated.") for sentence in warnings)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"epochs": 3}, "unknown entry 'epochs'"),
        ({"iterations": "many"}, "wrong type"),
        ({"iterations": 0}, "above 0"),
        ({"batch": 2, "shapes": [[8, 8, 8], [16, 16, 16]]}, "'batch' .* must be 1 where"),
        ({"crops": "mask"}, "crops"),
    ],
)
def test_invalid_settings_are_refused(section, words):
    with pytest.raises(InputError, match=words):
        Optimisation.read(section)


def test_merging_keeps_other_settings():
    assert merged({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"c": 3}, "d": [2]}) == {"a": {"b": 1, "c": 3}, "d": [2]}


@pytest.mark.parametrize("change", [{"origin": (50, 0, 0)}, {"direction": (-1, 0, 0, 0, 1, 0, 0, 0, 1)}])
def test_a_label_off_its_images_grid_is_refused(ball_dataset, change):
    path = next((ball_dataset / "labelsTr").glob("case1*"))
    label = sitk.ReadImage(path)
    label.SetOrigin(change.get("origin", label.GetOrigin()))
    label.SetDirection(change.get("direction", label.GetDirection()))
    sitk.WriteImage(label, path)
    source = open_dataset(ball_dataset)
    with pytest.raises(InputError, match="case1.*grid"):
        for cases in (source.seen, source.held_out):
            source.prepare(cases)


STALE = {
    "an image": ("imagesTr", "case1_0000.nii.gz", 7777.0),
    "a label": ("labelsTr", "case1.nii.gz", 0),
    "a rater's label": ("labelsTr", "case0_rater2.nii.gz", 0),
    "the numbering": {"labels": {"background": 0, "sphere": 1}},
    "what is ignored": {"labels": {"background": 0, "ball": 1, "ignore": 2}},
}


@pytest.mark.parametrize("case", STALE)
def test_prepared_files_are_replaced_when_their_sources_change(ball_dataset, case):
    def prepared():
        source = open_dataset(ball_dataset)
        return {path: path.stat().st_mtime_ns for path, _ in source.prepare(source.seen + source.held_out)}

    before = prepared()
    assert prepared() == before, "what has not changed is not prepared again"
    change_dataset(ball_dataset, STALE[case])
    assert len(prepared().keys() - before.keys()) == (5 if isinstance(STALE[case], dict) else 1)


def test_another_data_set_of_the_same_name_is_prepared_anew(ball_dataset):
    def first():
        source = open_dataset(ball_dataset)
        ((image, _), *_) = source.prepare([case for case in source.dataset.training if case.name == "case1"])
        return np.load(image)

    before = first()
    for part, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
        path = ball_dataset / part / f"case1{suffix}.nii.gz"
        old = sitk.ReadImage(path)
        new = sitk.GetImageFromArray(sitk.GetArrayFromImage(old)[::-1])
        new.CopyInformation(old)
        sitk.WriteImage(new, path)
    assert not np.array_equal(first(), before)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_some_cases_remain_for_training_with_any_names(ball_dataset, count):
    """All these names belong to the fifth that is held out."""
    names = [n for n in (f"case_{k:02d}" for k in range(200)) if folder_place(n) < 0.2][:count]
    for part, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
        content = (ball_dataset / part / f"case1{suffix}.nii.gz").read_bytes()
        for path in (ball_dataset / part).iterdir():
            path.unlink()
        for name in names:
            (ball_dataset / part / f"{name}{suffix}.nii.gz").write_bytes(content)
    source = open_dataset(ball_dataset)
    assert len(source.held_out) == count // 2 and len(source.seen) == count - count // 2
    next(iter(source.stream(Optimisation(shapes=((8, 8, 8),), draws=1), 0)))


def folder_place(name):
    return _place(Case(name, (), ()))


def test_a_study_on_a_folder_restarts_when_a_label_is_corrected(ball_dataset, tmp_path):
    sizes = tasks.Sizes(train=16, validation=16, test=4)
    first = tasks.prepare(str(ball_dataset), tmp_path / "cache", sizes)
    again = tasks.prepare(str(ball_dataset), tmp_path / "cache", sizes)
    assert (first.content, first.folder) == (again.content, again.folder) and first.name == "Balls"
    volumes = first.arrays(tasks.TRAIN)[1].sum()
    for path in (ball_dataset / "labelsTr").iterdir():
        label = sitk.ReadImage(path)
        sitk.WriteImage(sitk.BinaryDilate(label, [2, 2, 2]), path)
    corrected = tasks.prepare(str(ball_dataset), tmp_path / "cache", sizes)
    assert corrected.content != first.content and corrected.arrays(tasks.TRAIN)[1].sum() > 1.2 * volumes
    change_dataset(ball_dataset, {"labels": {"background": 0, "ball": 1, "ignore": 2}})
    with pytest.raises(InputError, match="A study needs every voxel labelled"):
        tasks.prepare(str(ball_dataset), tmp_path / "cache", sizes)


@pytest.mark.slow
def test_from_files_to_a_segmentation(ball_dataset, tmp_path, capsys):
    (ball_dataset / "imagesTr" / "unlabelled_0000.nii.gz").write_bytes(b"")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(merged(SMALL, {"optimisation": {"dice_weight": 0.5}})), encoding="utf-8")
    output = train.main(str(ball_dataset), tmp_path / "model", config)
    stderr = capsys.readouterr().err
    assert "images in imagesTr without a label, left out: 1" in stderr
    assert "will not be calibrated" in stderr and "training on 4 cases; 1 held out: case" in stderr
    section = models.load(output).section
    names = section["training"]["data"]
    assert sorted(names["cases"] + names["held_out"]) == [f"case{n}" for n in range(5)]
    assert (output / "training.png").stat().st_size > 10_000
    assert len(json.loads((output / "training.json").read_text())["record"]) >= 1
    request = Request(
        ball_dataset / "imagesTr" / "case1_0000.nii.gz", tmp_path / "result", str(output), 2, device="cpu"
    )
    assert segment(request).report["volumes"][0]["name"] == "ball"
