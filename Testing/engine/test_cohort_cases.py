"""Cases of a cohort: what is found in folders and CSV files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_series import write_series

from diffusion_segmentation.cohort.cases import Found, find_cases
from diffusion_segmentation.errors import InputError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def found(*paths: Path, inputs: int = 1, output: str = "none") -> Found:
    return find_cases(paths, "m", lambda model: inputs, paths[0].parent / output)


def names(*paths: Path, **options) -> list[str]:
    return [case.name for case in found(*paths, **options).cases]


def test_each_volume_of_a_folder_and_its_subfolders_is_a_case(tmp_path):
    touch(tmp_path / "in", "b.nii.gz", "sub/a.nrrd", "sub/a.txt", ".hidden.nii", ".cache/c.nii", "pair.hdr", "pair.img")
    cases = found(tmp_path / "in")
    assert [case.name for case in cases.cases] == ["b", "pair", "sub/a"]
    assert cases.cases[2].inputs == (tmp_path / "in" / "sub" / "a.nrrd",) and cases.cases[2].model == "m"
    assert cases.left_out == 2  # the text and the header of the pair


def test_results_and_the_labels_of_a_data_set_are_no_cases(tmp_path):
    data = tmp_path / "in"
    touch(data, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "dataset.json", "out/cases/1/x.nrrd")
    touch(data / "old", "report.json", "segmentation.seg.nrrd", "entropy.nrrd")
    assert names(data, output="in/out") == ["imagesTr/a"]


def test_linked_folders_and_other_cohorts_are_not_searched(tmp_path):
    touch(tmp_path, "elsewhere/b.nii", "in/a.nii", "in/cohort/cohort.json", "in/cohort/thumbnails/1.png")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    cases = found(tmp_path / "in")
    assert [case.name for case in cases.cases] == ["a"] and cases.left_out == 1


def test_volumes_beside_dicom_images_are_refused(tmp_path):
    write_series(tmp_path / "in", np.zeros((3, 4, 5), np.int16))
    touch(tmp_path / "in", "a.nii.gz")
    with pytest.raises(InputError, match="has volumes and DICOM images; list those that are cases in a CSV file"):
        found(tmp_path / "in")


def test_numbered_files_are_the_inputs_of_one_case(tmp_path):
    touch(tmp_path / "in", "a_0000.nrrd", "a_0001.nrrd", "b.nrrd")
    (first, second) = found(tmp_path / "in", inputs=2).cases
    assert [path.name for path in first.inputs] == ["a_0000.nrrd", "a_0001.nrrd"] and first.name == "a"
    assert second.volumes == tmp_path / "in" / "b.nrrd"


def test_a_folder_of_dicom_images_is_a_case(tmp_path):
    write_series(tmp_path / "in" / "p1" / "t1", np.zeros((3, 4, 5), np.int16))
    touch(tmp_path / "in", "p1/notes.txt", "p2.nrrd")
    cases = found(tmp_path / "in")
    assert [(case.name, case.volumes) for case in cases.cases] == [
        ("p2", tmp_path / "in" / "p2.nrrd"),
        ("p1/t1", tmp_path / "in" / "p1" / "t1"),
    ]


def test_equal_names_of_two_folders_get_the_name_of_their_folder(tmp_path):
    touch(tmp_path, "site1/a.nrrd", "site2/a.nrrd", "site2/b.nrrd")
    assert names(tmp_path / "site1", tmp_path / "site2") == ["site1/a", "site2/a", "b"]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_csv_file_lists_cases(tmp_path, mark):
    lines = [
        ["inputs", "case", "model", "series"],
        ['"a.nrrd; b.nrrd"', "Müller", "", ""],
        [str(tmp_path / "elsewhere" / "c.nrrd"), "2", "other", "1.2"],
        ['"FLAIR=f.nrrd;T1=t.nrrd"', "3", "", ""],
    ]
    (tmp_path / "list.csv").write_text("\n".join(mark.join(line) for line in lines), encoding="utf-8-sig")
    first, second, third = found(tmp_path / "list.csv").cases
    assert first.volumes == (tmp_path / "a.nrrd", tmp_path / "b.nrrd")
    assert (first.name, first.model, first.series) == ("Müller", "m", None)
    assert (second.volumes, second.model, second.series) == (tmp_path / "elsewhere" / "c.nrrd", "other", "1.2")
    assert third.volumes == {"FLAIR": tmp_path / "f.nrrd", "T1": tmp_path / "t.nrrd"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,files\n1,a", "must have the columns case and inputs"),
        ("case,inputs,weight\n1,a,2", "must have the columns"),
        ("case,inputs\n1,a\n,b", "line 3, has no case"),
        ("case,inputs\n1,a,b", "line 2, has no case, no inputs or too many values"),
        ("case,inputs\n1,T1=a;b", "names only some"),
        ("case,inputs\n1,T1=a;T1=b", "has an input twice"),
        ("case,inputs\n1,a\n1,b", "Two cases have the same name .'list.csv/1'"),
        ("case,inputs\n1,a\n2,a", "Two cases have the same files"),
        ("case,inputs\n", "has no volume"),
    ],
)
def test_what_is_wrong_in_a_csv_file_is_said(tmp_path, text, words):
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        found(tmp_path / "list.csv")


def test_csv_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "list.csv").write_bytes("case,inputs\nMüller,a".encode("latin-1"))
    with pytest.raises(InputError, match="save it as CSV in UTF-8"):
        found(tmp_path / "list.csv")


def test_paths_without_cases_are_refused(tmp_path):
    touch(tmp_path / "in", "notes.txt")
    with pytest.raises(InputError, match="'in' has no volume and no DICOM image"):
        found(tmp_path / "in")
    with pytest.raises(InputError, match="There is no 'gone'"):
        found(tmp_path / "gone")


def test_one_file_twice_is_refused(tmp_path):
    touch(tmp_path / "in", "a.nrrd")
    with pytest.raises(InputError, match="same"):
        found(tmp_path / "in", tmp_path / "in" / "a.nrrd")
