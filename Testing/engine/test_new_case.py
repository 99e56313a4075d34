"""`add-case`: corrected cases in nnU-Net's layout, which `train` reads; refusals change nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from diffusion_segmentation import cli
from diffusion_segmentation.errors import DiffusionSegmentationError, InputError
from diffusion_segmentation.images import new_case
from diffusion_segmentation.images.dataset import read_dataset
from diffusion_segmentation.images.file_digest import array_sha256
from diffusion_segmentation.images.label_file import read_labels
from diffusion_segmentation.images.new_case import NewCase, add_case
from diffusion_segmentation.images.writing import write_segmentation

NAMES = ("Liver", "Left kidney")


@pytest.fixture
def files(tmp_path):
    """Makes an image on an oblique grid and a Slicer segmentation of it; returns NewCase's first arguments."""

    def make(seed: int = 0, names=NAMES, channels=("MRI",)) -> NewCase:
        rng, folder = np.random.default_rng(seed), tmp_path / f"files-{seed}"
        folder.mkdir(exist_ok=True)
        paths = []
        for n, _ in enumerate(channels):
            image = sitk.GetImageFromArray(rng.normal(100, 20, (6, 7, 8)).astype(np.float32))
            image.SetSpacing((1.5, 2, 3))
            image.SetOrigin((-40.0, 12.0, 7.0))
            image.SetDirection((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1))
            paths.append(folder / f"image{n}.nrrd")
            sitk.WriteImage(image, paths[-1])
        labels = rng.integers(0, len(names) + 1, (6, 7, 8)).astype(np.uint8)
        table = [
            {"label": n, "id": f"s{n}", "name": name, "color": [1, 0, 0], "terminology": ""}
            for n, name in enumerate(names, 1)
        ]
        write_segmentation(folder / "labels.seg.nrrd", labels, image, table, compress=False)
        return NewCase(tuple(paths), folder / "labels.seg.nrrd", channels)

    return make


def changed(case: NewCase, **values) -> NewCase:
    return NewCase(**{**vars(case), **values})


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_cases_are_a_data_set_that_is_read_again(tmp_path, files):
    folder = tmp_path / "data"
    review = {"edited_voxels": 12, "regions": [{"rank": 1, "state": "done"}]}
    first = add_case(folder, changed(files(0), review=review))
    second = add_case(folder, changed(files(1), name="patient-7"))
    assert (first["case"], second["case"], second["cases"]) == ("case_001", "patient-7", 2)
    assert new_case.text(second) == "Added the case 'patient-7' to the data set 'data', which has 2 cases now."
    assert add_case(folder, files(2))["case"] == "case_002"
    assert sorted(content(folder)) == sorted(
        ["dataset.json"]
        + [f"{part}/{name}" for name in ("case_001", "case_002", "patient-7")
           for part in (f"imagesTr/{name}_0000.nii.gz", f"labelsTr/{name}.nii.gz", f"reviewsTr/{name}.json")
           for part, name in [part.split("/")]]
    )  # fmt: skip
    listing = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert listing == {
        "name": "data",
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "Liver": 1, "Left kidney": 2},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    dataset = read_dataset(folder)
    assert dataset.label_names == NAMES and [case.name for case in dataset.training] == [
        "case_001",
        "case_002",
        "patient-7",
    ]
    given, stored = (sitk.ReadImage(path) for path in (files(0).images[0], dataset.training[0].images[0]))
    np.testing.assert_allclose(sitk.GetArrayFromImage(stored), sitk.GetArrayFromImage(given), rtol=1e-6)
    np.testing.assert_allclose(stored.GetDirection(), given.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(stored.GetOrigin(), given.GetOrigin(), atol=1e-5)
    labels = read_labels(dataset.training[0].labels[0], stored, NAMES)
    np.testing.assert_array_equal(labels, sitk.GetArrayFromImage(sitk.ReadImage(files(0).labels)))
    kept = json.loads((folder / "reviewsTr" / "case_001.json").read_text(encoding="utf-8"))
    assert kept == {**review, "images_sha256": [array_sha256(sitk.GetArrayFromImage(given))]}


def test_several_inputs_get_their_numbers_and_the_grid_of_the_first(tmp_path, files):
    case = files(0, channels=("T1", "FLAIR"))
    other = sitk.ReadImage(case.images[1])
    half = sitk.Resample(
        other, [4, 4, 3], sitk.Transform(), sitk.sitkLinear, other.GetOrigin(), (3, 4, 6), other.GetDirection()
    )
    sitk.WriteImage(half, case.images[1])
    add_case(tmp_path / "data", case)
    images = read_dataset(tmp_path / "data").training[0].images
    assert [path.name for path in images] == ["case_001_0000.nii.gz", "case_001_0001.nii.gz"]
    assert sitk.ReadImage(images[1]).GetSize() == sitk.ReadImage(images[0]).GetSize() == (8, 7, 6)


def test_labels_take_the_numbers_of_the_data_set_by_their_names(tmp_path, files):
    folder = tmp_path / "data"
    add_case(folder, files(0))
    add_case(folder, files(1, names=("left kidney", "LIVER")))
    given = sitk.GetArrayFromImage(sitk.ReadImage(files(1, names=("left kidney", "LIVER")).labels))
    stored = sitk.GetArrayFromImage(sitk.ReadImage(folder / "labelsTr" / "case_002.nii.gz"))
    np.testing.assert_array_equal(stored, np.array([0, 2, 1])[given])


@pytest.mark.parametrize("listed", ["training", "dataset", "nothing"])
def test_a_listed_data_set_lists_the_new_case_and_keeps_its_ending(tmp_path, files, listed):
    folder = tmp_path / "data"
    add_case(folder, files(0))
    listing = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    image, label = "imagesTr/case_001_0000.nii.gz", "labelsTr/case_001.nii.gz"
    entries = {"training": [{"image": image, "label": label}], "dataset": {"a": {"images": [image], "label": label}}}
    listing |= {"file_ending": ".nrrd", "licence": "ours"} | ({listed: entries[listed]} if listed in entries else {})
    (folder / "dataset.json").write_text(json.dumps(listing), encoding="utf-8")
    assert add_case(folder, files(1))["cases"] == 2
    dataset = read_dataset(folder)
    assert len(dataset.training) == 2 and dataset.training[1].labels[0].name == "case_002.nrrd"
    assert json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["licence"] == "ours"


def test_a_colour_picture_stays_one_file(tmp_path):
    image = sitk.GetImageFromArray(
        np.random.default_rng(0).integers(0, 255, (1, 30, 40, 3)).astype(np.uint8), isVector=True
    )
    sitk.WriteImage(image, tmp_path / "photo.nrrd")
    labels = np.zeros((1, 30, 40), np.uint8)
    labels[0, 5:9, 5:9] = 1
    table = [{"label": 1, "id": "a", "name": "Wound", "color": [1, 0, 0], "terminology": ""}]
    write_segmentation(tmp_path / "labels.seg.nrrd", labels, image, table, compress=False)
    add_case(tmp_path / "data", NewCase(tmp_path / "photo.nrrd", tmp_path / "labels.seg.nrrd", ["Colour"]))
    dataset = read_dataset(tmp_path / "data")
    assert dataset.inputs[0].channels == 3 and dataset.training[0].images[0].name == "case_001_0000.nrrd"
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(dataset.training[0].images[0])), sitk.GetArrayFromImage(image)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel_names": ["CT"]}, "has the channels MRI and this case CT"),
        ({"name": "case_001"}, "has a case 'case_001' already"),
        ({"name": "../case"}, "is no name for a case"),
        ({"name": "case_0000"}, "is no name for a case"),
        ({"review": {"images_sha256": ["0" * 64]}}, "not the one that was segmented"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence_and_nothing_changes(tmp_path, files, change, message):
    folder = tmp_path / "data"
    add_case(folder, files(0))
    before = content(folder)
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        add_case(folder, changed(files(1), **change))
    assert str(raised.value).count(". ") == 0 and content(folder) == before and not list(folder.glob(".adding*"))


def test_other_labels_a_known_image_and_a_folder_of_other_things_are_refused(tmp_path, files):
    folder = tmp_path / "data"
    add_case(folder, files(0))
    before = content(folder)
    with pytest.raises(InputError, match="has the labels Liver, Left kidney and this case Liver, Spleen"):
        add_case(folder, files(1, names=("Liver", "Spleen")))
    with pytest.raises(InputError, match="is in the data set 'data' already, as 'case_001'"):
        add_case(folder, files(0))
    assert content(folder) == before
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "letter.txt").write_text("Dear")
    with pytest.raises(InputError, match="other files and no dataset.json"):
        add_case(tmp_path / "documents", files(0))
    assert list(content(tmp_path / "documents")) == ["letter.txt"]


def test_a_label_map_without_names_fits_only_a_data_set_that_names_its_labels(tmp_path, files):
    case = files(0)
    image = sitk.ReadImage(case.labels)
    plain = tmp_path / "labels.nii.gz"
    sitk.WriteImage(sitk.Cast(image, sitk.sitkUInt8), plain)
    with pytest.raises(InputError, match="no name for its label 1; save it as a Slicer segmentation"):
        add_case(tmp_path / "data", changed(case, labels=plain))
    assert not (tmp_path / "data").exists()
    add_case(tmp_path / "data", files(1))
    assert add_case(tmp_path / "data", changed(case, labels=plain))["cases"] == 2


def test_an_error_while_writing_leaves_the_data_set_as_it_was(tmp_path, files, monkeypatch):
    folder = tmp_path / "data"
    add_case(folder, files(0))
    before = content(folder)

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(new_case, "_list_case", full)
    with pytest.raises(DiffusionSegmentationError, match="The case could not be added: "):
        add_case(folder, files(1))
    assert content(folder) == before and not list(folder.glob(".adding*"))


def test_the_command_adds_a_case(tmp_path, files, capfd):
    case = files(0)
    review = tmp_path / "review.json"
    review.write_text('{"edited_voxels": 3}', encoding="utf-8")
    arguments = ["add-case", str(tmp_path / "data"), "--labels", str(case.labels), "--review", str(review)]
    assert cli.main([*arguments, "--input", f"CT={case.images[0]}"]) == 0
    assert capfd.readouterr().out == "Added the case 'case_001' to the data set 'data', which has one case now.\n"
    assert read_dataset(tmp_path / "data").modalities == ("CT",)
    assert cli.main([*arguments, "--input", f"T1={case.images[0]}"]) == 1
    assert "has the channels CT and this case T1" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(arguments)
    other = files(1)
    more = ["add-case", str(tmp_path / "data"), str(other.images[0]), "--labels", str(other.labels), "--json"]
    assert cli.main(more) == 0
    assert json.loads(capfd.readouterr().out) == {"case": "case_002", "data": str(tmp_path / "data"), "cases": 2}
