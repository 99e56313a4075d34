"""Folders of labelled images: both layouts, several raters, and errors of a folder in one sentence."""

import json

import pytest

from diffusion_segmentation.errors import InputError
from diffusion_segmentation.images.dataset import read_dataset
from diffusion_segmentation.images.input_names import modality_of


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
    assert dataset.label_names == ("liver", "tumour") and dataset.modalities == ("CT",) and dataset.name == "Livers"
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
        (
            {"labels": {"background": 0, "a": 1}, "channel_names": dict(enumerate("abcdefghijklmnopq"))},
            "17 channels per case and at most 16",
        ),
        ({"labels": {"background": 0, "a": 1}}, "no labelled case"),
        ({"labels": {"background": 0, "a\nb": 1}}, "a label whose name is empty, longer than 200"),
        ({"labels": {"background": 0, "a" * 201: 1}}, "a label whose name is empty, longer than 200"),
        ({"labels": {"0": "background", "1": " "}}, "a label whose name is empty, longer than 200"),
        ({"labels": {"0": "b", "1": "a"}, "training": [{"image": "x.nii"}]}, "no image or label"),
        (
            {"labels": {"0": "b", "1": "a"}, "training": [{"image": "x.nii", "label": "y.nii"}]},
            "lacks the file 'x.nii'",
        ),
    ],
)
def test_errors_of_a_data_set_are_one_sentence(tmp_path, listing, words):
    if listing is not None:
        write(tmp_path, **listing)
    with pytest.raises(InputError, match=words) as caught:
        read_dataset(tmp_path)
    assert str(caught.value).count(". ") == 0 and str(caught.value).endswith(".")


def refusal(folder):
    with pytest.raises(InputError) as caught:
        read_dataset(folder)
    sentence = str(caught.value)
    assert sentence.endswith(".") and ". " not in sentence and "; " in sentence and str(folder.parent) not in sentence
    return sentence


LISTS = {
    "the Decathlon": [{"image": "./imagesTr/c0.nii.gz", "label": "./labelsTr/c0.nii.gz"}],
    "nnU-Net v1, without _0000": [{"image": "./imagesTr/c1.nii.gz", "label": "./labelsTr/c1.nii.gz"}],
    "backslashes": [{"image": "imagesTr\\c0.nii.gz", "label": "labelsTr\\c0.nii.gz"}],
    "no folder": [{"image": "c2.nii.gz", "label": "c2-label.nii.gz"}],
}


@pytest.mark.parametrize("case", LISTS)
def test_lists_of_cases(tmp_path, case):
    names = ("imagesTr/c0.nii.gz", "imagesTr/c1_0000.nii.gz", "labelsTr/c0.nii.gz", "labelsTr/c1.nii.gz")
    touch(*(tmp_path / name for name in (*names, "c2.nii.gz", "c2-label.nii.gz")))
    write(tmp_path, training=LISTS[case], **DECATHLON)
    (listed_case,) = read_dataset(tmp_path).training
    assert (
        listed_case.name in ("c0", "c1", "c2") and listed_case.images[0].is_file() and listed_case.labels[0].is_file()
    )


def test_the_dictionary_of_nnunet_v2(tmp_path):
    touch(*(tmp_path / name for name in ("a/x.nrrd", "a/x-seg.nrrd", "b/x.nrrd", "b/x-seg.nrrd")))
    listed = {f"case {n}": {"images": [f"{n}/x.nrrd"], "label": f"{n}/x-seg.nrrd"} for n in "ab"}
    write(tmp_path, dataset=listed, **NNUNET)
    assert [case.name for case in read_dataset(tmp_path).training] == ["case a", "case b"]
    listed["case a"]["images"] *= 2
    write(tmp_path, dataset=listed, **NNUNET)
    assert "has 2 images and its dataset.json lists 1 channel" in refusal(tmp_path)


@pytest.mark.parametrize("end", ["nii", "nrrd", "nhdr", "mha", "mhd", "tif", "png", "img", "seg.nrrd", "NII.GZ"])
def test_cases_of_all_supported_extensions_are_listed(tmp_path, end):
    touch(tmp_path / "imagesTr" / f"p_0000.{end}", tmp_path / "labelsTr" / f"p.{end}")
    # What lies beside them is no case: the other half, the voxels, notes, nnU-Net's voxel size of a TIFF.
    others = ("p_0000.hdr", "p_0000.raw", "p.json", "notes.txt", ".DS_Store")
    touch(*(tmp_path / "imagesTr" / other for other in others if end == "img" or other != "p_0000.hdr"))
    touch(*(tmp_path / "labelsTr" / other for other in ("p.json", "p.raw.gz.txt", "._p.nii.gz")))
    write(tmp_path, **NNUNET)
    (case,) = read_dataset(tmp_path).training
    assert (
        case.name == "p" and case.images[0].suffix == f".{end}"[-len(case.images[0].suffix) :] and len(case.labels) == 1
    )


SAME_NAMES = {
    "a folder for each subject": ["imagesTr/sub-0/T1.nii.gz", "imagesTr/sub-1/T1.nii.gz"],
    "and one for each session": ["sub-0/a/T1.nii.gz", "sub-0/b/T1.nii.gz"],
    "sites": ["imagesTr/x/1.nrrd", "imagesTr/y/1.nrrd"],
    "other endings": ["imagesTr/x/1.nrrd", "imagesTr/y/1.nii"],
    "with and without a folder": ["imagesTr/1.nrrd", "imagesTr/y/1.nrrd"],
}


@pytest.mark.parametrize("case", SAME_NAMES)
def test_a_case_is_known_by_its_whole_path(tmp_path, case):
    images = SAME_NAMES[case]
    touch(*(tmp_path / image for image in images), *(tmp_path / f"l{n}.nii" for n in range(len(images))))
    write(tmp_path, training=[{"image": image, "label": f"l{n}.nii"} for n, image in enumerate(images)], **DECATHLON)
    names = [listed_case.name for listed_case in read_dataset(tmp_path).training]
    assert len(set(names)) == 2 and all(name.endswith(("T1", "1")) for name in names)


EQUAL = {
    "one image twice": ["imagesTr/a.nii", "imagesTr/a.nii"],
    "one image by two ways": ["imagesTr/a.nii", "./imagesTr/a.nii"],
    "two endings": ["imagesTr/a.nii", "imagesTr/a.nrrd"],
    "with and without the folder": ["imagesTr/a.nii", "a.nii"],
    "three": ["imagesTr/a.nii", "imagesTr/a.nii.gz", "imagesTr/a.mha"],
}


@pytest.mark.parametrize("case", EQUAL)
def test_ambiguous_cases_are_refused(tmp_path, case):
    touch(*(tmp_path / image for image in EQUAL[case]), *(tmp_path / f"l{n}.nii" for n in range(3)))
    pairs = [{"image": image, "label": f"l{n}.nii"} for n, image in enumerate(EQUAL[case])]
    write(tmp_path, training=pairs, **DECATHLON)
    assert f"the name 'a' {len(EQUAL[case])} times" in refusal(tmp_path)


@pytest.mark.parametrize(
    "pairs",
    [[("a", "l"), ("b", "l")], [("a", "a")], [("a", "b"), ("b", "c")], [("a", ["l", "l"])], [("a", "l"), ("a", "m")]],
)
def test_one_file_for_two_purposes_is_refused(tmp_path, pairs):
    touch(*(tmp_path / name for name in "abclm"))
    write(tmp_path, training=[{"image": image, "label": label} for image, label in pairs], **DECATHLON)
    assert "times among its cases" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"background": 0, "ignore": 1, "a": 2}, "reserves for the highest number"),
        ({"background": 0, "ignore": 1}, "beside one structure or more"),
        ({"a": 0, "background": 1}, "number background 0"),
        ({"0": "a", "1": "Background"}, "number background 0"),
        ({"background": 0, "a": 1, "A ": 2}, "only in capitals or punctuation"),
        ({"background": 0, "a": 1.7}, "numbers from 0"),
    ],
)
def test_invalid_labels_of_a_listing_are_refused(tmp_path, labels, words):
    touch(tmp_path / "imagesTr" / "p_0000.nii.gz", tmp_path / "labelsTr" / "p.nii.gz")
    write(tmp_path, labels=labels)
    assert words in refusal(tmp_path)


LAYOUTS = {
    "a name with rater in it": (["case_rater_01_0000.nii"], ["case_rater_01.nii"]),
    "and with raters": (["case_rater_01_0000.nii"], ["case_rater_01_rater1.nii", "case_rater_01_rater2.nii"]),
    "a header with its data in .img": (["p_0000.nii"], ["p.nhdr", "p.img"]),
    "seg in a name": (["a.seg_0000.nii.gz"], ["a.seg.nii.gz"]),
    "dots": (["sub.1.v2_0000.nii.gz"], ["sub.1.v2.nii.gz"]),
    "a case called 0000": (["0000_0000.nii"], ["0000.nii"]),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_misleading_file_names_are_read_as_cases(tmp_path, case):
    images, labels = LAYOUTS[case]
    touch(*(tmp_path / "imagesTr" / name for name in images), *(tmp_path / "labelsTr" / name for name in labels))
    write(tmp_path, **NNUNET)
    (listed_case,) = read_dataset(tmp_path).training
    assert len(listed_case.labels) == len([name for name in labels if not name.endswith(".img")])


TWO_LABELS = {
    "an older file": ("p.nii.gz", "p.seg.nrrd"),
    "another compression": ("p.nii.gz", "p.nii"),
    "beside a rater": ("p.nii.gz", "p_rater1.nii.gz"),
    "a rater twice": ("p_rater1.nii.gz", "p_rater1.nrrd"),
    "three": ("p.nii.gz", "p.nrrd", "p.mha"),
}


@pytest.mark.parametrize("case", TWO_LABELS)
def test_only_files_of_raters_are_several_labels(tmp_path, case):
    touch(tmp_path / "imagesTr" / "p_0000.nii.gz", *(tmp_path / "labelsTr" / name for name in TWO_LABELS[case]))
    write(tmp_path, **NNUNET)
    sentence = refusal(tmp_path)
    assert f"'p' has {len(TWO_LABELS[case])} label files" in sentence and "p_rater1, p_rater2" in sentence


@pytest.mark.parametrize(
    ("labels", "names", "ignored"),
    [
        ({"background": 0, "a": 1, "ignore": 2}, ("a",), 2),
        ({"0": "background", "1": "a", "2": "Ignore"}, ("a",), 2),
        ({"ignore": 3, "b": 2, "a": 1, "background": 0}, ("a", "b"), 3),
        ({"background": 0, "a": 1, "ignored": 2}, ("a", "ignored"), None),
    ],
)
def test_the_label_that_is_to_be_ignored_is_no_structure(tmp_path, labels, names, ignored):
    touch(tmp_path / "imagesTr" / "p_0000.nii.gz", tmp_path / "labelsTr" / "p.nii.gz")
    write(tmp_path, labels=labels)
    dataset = read_dataset(tmp_path)
    assert (dataset.label_names, dataset.ignored) == (names, ignored)


@pytest.mark.parametrize(
    ("text", "modality"),
    [
        *((text, "CT") for text in ("CT", "ct", "CT (portal venous)", "LDCT", "cone-beam CBCT", "computed tomography")),
        *(
            (text, text)
            for text in ("SPECT/CT", "PET/CT", "MR-CT fused", "T1 registered to CT", "non-CT", "CT perfusion")
        ),
        *(
            (text, "MR")
            for text in (
                "MRI",
                "T1 bias-corrected",
                "FLAIR",
                "T2w DIRECT",
                "T1_MPRAGE",
                "MR-fractional",
                "T2FLAIR",
                "MP2RAGE",
            )
        ),
        *((text, text) for text in ("PET", "SPECT", "ultrasound", "OCT", "direct", "octopus", "emission tomography")),
        ("two\nlines", "not stated"),
        ("", "not stated"),
    ],
)
def test_the_modality_is_recognised_by_whole_words(tmp_path, text, modality):
    assert modality_of(text) == modality
    touch(tmp_path / "imagesTr" / "p_0000.nii.gz", tmp_path / "labelsTr" / "p.nii.gz")
    for channels in ({"0": text}, [text], text):
        write(tmp_path, labels=NNUNET["labels"], modality=channels)
        assert read_dataset(tmp_path).modalities == (modality,)


SOUND = '{"labels": {"background": 0, "a": 1}}'

WRITTEN = {
    "a byte order mark": ("\ufeff" + SOUND, None),
    "blank lines": ("\n\n" + SOUND + "\n", None),
    "a trailing comma": (SOUND.replace("1}", "1,}"), "not valid JSON: .* in line 1"),
    "a comment": ("// mine\n" + SOUND, "not valid JSON"),
    "single quotes": (SOUND.replace('"', "'"), "not valid JSON"),
    "half of it": (SOUND[:20], "not valid JSON"),
    "a list": ("[1]", "not a JSON object"),
    "depth": ("[" * 100_000, "not valid JSON"),
    "Latin-1": (b'{"name": "M\xfcller"}', "not UTF-8"),
    "no labels": ('{"name": "x"}', 'no "labels"'),
    "a list of labels": ('{"labels": ["background", "a"]}', 'no "labels"'),
    "numbers too large": ('{"labels": {"background": 0, "a": 1e400}}', "numbers from 0"),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_listings_of_several_forms_are_read(tmp_path, case):
    text, words = WRITTEN[case]
    touch(tmp_path / "imagesTr" / "p_0000.nii.gz", tmp_path / "labelsTr" / "p.nii.gz")
    (tmp_path / "dataset.json").write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    if words is None:
        assert read_dataset(tmp_path).label_names == ("a",)
    else:
        with pytest.raises(InputError, match=words) as caught:
            read_dataset(tmp_path)
        assert "; " in str(caught.value)
