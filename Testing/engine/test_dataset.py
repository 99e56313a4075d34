"""Folders of labelled images: both layouts, several raters, and what is wrong with a folder said in one sentence."""

import json

import pytest

from diffusion_segmentation.dataset import read_dataset
from diffusion_segmentation.errors import InputError


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def write(folder, **listing):
    (folder / "dataset.json").write_text(json.dumps({"name": "Livers", **listing}), encoding="utf-8")


DECATHLON = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "tumour"}}
NNUNET = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}


def test_decathlon_layout_with_one_and_with_several_raters(tmp_path):
    touch(
        *(
            tmp_path / name
            for name in ("imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "imagesTr/b.nii.gz", "l/b1.nii", "l/b2.nii")
        )
    )
    pairs = [
        {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"},
        {"image": "./imagesTr/b.nii.gz", "label": ["l/b1.nii", "l/b2.nii"]},
    ]
    write(tmp_path, training=pairs, **DECATHLON)
    dataset = read_dataset(tmp_path)
    assert dataset.label_names == ("liver", "tumour") and dataset.modality == "CT" and dataset.name == "Livers"
    assert [(case.name, len(case.labels)) for case in dataset.training] == [("a", 1), ("b", 2)]
    assert dataset.test == ()


def test_nnunet_layout_with_raters_and_test_cases(tmp_path):
    touch(*(tmp_path / "imagesTr" / name for name in ("p_1_0000.nii.gz", "p_2_0000.nii.gz", "unlabelled_0000.nii.gz")))
    touch(*(tmp_path / "labelsTr" / name for name in ("p_1.nii.gz", "p_2_rater1.nii.gz", "p_2_rater2.nii.gz")))
    touch(tmp_path / "imagesTs" / "p_3_0000.nii.gz", tmp_path / "labelsTs" / "p_3.nii.gz")
    write(tmp_path, **NNUNET)
    dataset = read_dataset(tmp_path)
    assert [(case.name, len(case.labels)) for case in dataset.training] == [("p_1", 1), ("p_2", 2)]
    assert [case.name for case in dataset.test] == ["p_3"]


@pytest.mark.parametrize(
    ("listing", "words"),
    [
        (None, "no dataset.json"),
        ({"labels": {"background": 0, "whole": [1, 2]}}, "regions made of several labels"),
        ({"labels": {"0": "background", "2": "liver"}}, "numbers from 0"),
        ({"labels": {"background": 0, "a": 1}, "channel_names": {"0": "T1", "1": "T2"}}, "2 images a case"),
        ({"labels": {"background": 0, "a": 1}}, "no labelled case"),
        ({"labels": {"background": 0, "a\nb": 1}}, "a label whose name is empty, has more than 200"),
        ({"labels": {"background": 0, "a" * 201: 1}}, "a label whose name is empty, has more than 200"),
        ({"labels": {"0": "background", "1": " "}}, "a label whose name is empty, has more than 200"),
        ({"labels": {"0": "b", "1": "a"}, "training": [{"image": "x.nii"}]}, "no image or label"),
        (
            {"labels": {"0": "b", "1": "a"}, "training": [{"image": "x.nii", "label": "y.nii"}]},
            "lacks the file 'x.nii'",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, listing, words):
    if listing is not None:
        write(tmp_path, **listing)
    with pytest.raises(InputError, match=words) as caught:
        read_dataset(tmp_path)
    assert str(caught.value).count(". ") == 0 and str(caught.value).endswith(".")
