"""Label files: only unambiguous labels of the data set are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volume_files import nifti

from diffusion_segmentation.errors import InputError
from diffusion_segmentation.images.label_file import IGNORED, read_labels, relabel
from diffusion_segmentation.images.volume import VolumeFile, read_volume

NAMES = ("liver", "tumour")
LABELS = np.random.default_rng(0).integers(0, 3, (20, 22, 24)).astype(np.uint8)


@pytest.fixture
def image(tmp_path: Path) -> sitk.Image:
    return read_volume(nifti(tmp_path / "image.nii"))


def refusal(path: Path, image: sitk.Image) -> str:
    with pytest.raises(InputError) as caught:
        read_labels(path, image, NAMES)
    sentence = str(caught.value)
    assert sentence.endswith(".") and ". " not in sentence and f"'{path.name}'" in sentence
    return sentence


SOFT = {
    "interpolated between 0 and 1": LABELS * np.float32(0.6),
    "one voxel between": np.where(np.arange(LABELS.size).reshape(LABELS.shape) == 77, 1.4, LABELS).astype("f4"),
    "probabilities": np.random.default_rng(1).random(LABELS.shape).astype("f4"),
    "scaled": LABELS * np.float32(0.97),
    "not a number": np.where(LABELS == 1, np.nan, LABELS).astype("f4"),
}


@pytest.mark.parametrize("case", SOFT)
def test_values_that_are_no_label_numbers_are_refused(tmp_path: Path, image: sitk.Image, case: str) -> None:
    labels = sitk.GetImageFromArray(SOFT[case])
    labels.CopyInformation(image)
    sitk.WriteImage(labels, str(tmp_path / "l.mha"))
    assert "which are not label numbers" in refusal(tmp_path / "l.mha", image)
    words = "not numbers" if case == "not a number" else "which are not label numbers"  # of which ITK makes 0
    assert words in refusal(nifti(tmp_path / "l.nii", SOFT[case]), image)


@pytest.mark.parametrize("off", [0.0, 0.009, -0.009])
@pytest.mark.parametrize("kind", ["<f4", "<i2", "|u1"])
def test_numbers_are_read_from_any_type_and_through_rounding(tmp_path: Path, image: sitk.Image, off: float, kind: str):
    voxels = (LABELS + off if kind == "<f4" else LABELS).astype(kind)
    read = read_labels(nifti(tmp_path / "l.nii", voxels), image, NAMES)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, LABELS)


@pytest.mark.parametrize("value", [3, 17, 255, -1, 300])
def test_a_label_that_is_not_listed_is_refused_with_its_number(tmp_path: Path, image: sitk.Image, value: int) -> None:
    voxels = LABELS.astype("<i2")
    voxels[3, 4, 5] = value
    assert f"has the label {value}, which dataset.json does not list" in refusal(
        nifti(tmp_path / "l.nii", voxels), image
    )


def test_ignored_voxels_are_marked_and_stay_so(tmp_path: Path, image: sitk.Image) -> None:
    read = read_labels(nifti(tmp_path / "l.nii", LABELS), image, NAMES[:1], ignored=2)
    np.testing.assert_array_equal(read, np.where(LABELS == 2, IGNORED, LABELS))
    np.testing.assert_array_equal(relabel(read, [0, 5]), np.where(LABELS == 2, IGNORED, 5 * LABELS))


def segmentation(path: Path, *segments: tuple[str, int], **more: str) -> Path:
    """Labels as Slicer writes a segmentation, with these names for these numbers."""
    labels = sitk.GetImageFromArray(LABELS)
    labels.SetSpacing((2, 2, 2))
    labels.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    for number, (name, value) in enumerate(segments):
        for key, text in {"ID": f"S{number}", "Name": name, "LabelValue": str(value), "Layer": "0", **more}.items():
            labels.SetMetaData(f"Segment{number}_{key}", text)
    sitk.WriteImage(labels, str(path))
    return path


CONTRADICTING = {
    "swapped": [("tumour", 1), ("liver", 2)],
    "one of them": [("liver", 1), ("vessel", 2)],
    "another word": [("kidney", 1)],
    "another order of words": [("Left liver", 1), ("tumour", 2)],
    "a name for the wrong number": [("tumour", 1)],
}


@pytest.mark.parametrize("case", CONTRADICTING)
def test_a_file_whose_segment_names_contradict_the_listing_is_refused(
    tmp_path: Path, image: sitk.Image, case: str
) -> None:
    sentence = refusal(segmentation(tmp_path / "l.seg.nrrd", *CONTRADICTING[case]), image)
    assert "calls its label" in sentence and "and dataset.json calls it" in sentence


def test_a_contradiction_in_a_later_segment_is_refused(tmp_path: Path, image: sitk.Image) -> None:
    for first in (("", 1), ("liver", 1), ("nothing", 0)):
        sentence = refusal(segmentation(tmp_path / "l.seg.nrrd", first, ("vessel", 2)), image)
        assert "label 2 'vessel'" in sentence


OFF = {
    "half a millimetre": {"SetOrigin": (0.5, 0, 0)},
    "a voxel size": {"SetSpacing": (2, 2, 2.02)},
    "a turn": {"SetDirection": (0, 1, 0, -1, 0, 0, 0, 0, 1)},
    "a mirror": {"SetDirection": (1, 0, 0, 0, -1, 0, 0, 0, 1)},
    "a small turn": {"SetDirection": (-0.9998, -0.02, 0, 0.02, -0.9998, 0, 0, 0, 1)},
}


@pytest.mark.parametrize("case", OFF)
def test_labels_off_their_images_grid_in_one_respect_are_refused(tmp_path: Path, image: sitk.Image, case: str) -> None:
    labels = sitk.GetImageFromArray(LABELS)
    labels.CopyInformation(image)
    sitk.WriteImage(labels, str(tmp_path / "l.nrrd"))
    np.testing.assert_array_equal(read_labels(tmp_path / "l.nrrd", image, NAMES), LABELS)
    for name, value in OFF[case].items():
        getattr(labels, name)(value)
    sitk.WriteImage(labels, str(tmp_path / "l.nrrd"))
    assert "does not lie on its image's grid" in refusal(tmp_path / "l.nrrd", image)


def test_names_that_agree_or_were_never_given_are_read(tmp_path: Path, image: sitk.Image) -> None:
    for segments, more in (
        ([("Liver", 1), ("TUMOUR", 2)], {}),
        ([("Segment_1", 1), ("Segment_2", 2)], {"NameAutoGenerated": "1"}),
        ([("liver", 1), ("tumour", 2), ("something empty", 7)], {}),
        ([], {}),
    ):
        path = segmentation(tmp_path / "l.seg.nrrd", *segments, **more)
        np.testing.assert_array_equal(read_labels(path, image, NAMES), LABELS)


def test_overlapping_segments_are_refused(tmp_path: Path, image: sitk.Image) -> None:
    layers = sitk.GetImageFromArray(np.stack([LABELS, LABELS], -1), isVector=True)
    layers.SetMetaData("Segment0_ID", "S0")
    sitk.WriteImage(layers, str(tmp_path / "l.seg.nrrd"))
    assert "overlapping segments" in refusal(tmp_path / "l.seg.nrrd", image)


def test_a_picture_of_labels_has_its_images_grid(tmp_path: Path, image: sitk.Image) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(LABELS), str(tmp_path / "l.tif"))
    assert "does not lie on its image's grid" in refusal(tmp_path / "l.tif", image), "the image says how it lies"
    sitk.WriteImage(sitk.GetImageFromArray(LABELS), str(tmp_path / "image.tif"))
    image = VolumeFile(tmp_path / "image.tif", spacing=(2, 2, 5)).read()
    np.testing.assert_array_equal(read_labels(tmp_path / "l.tif", image, NAMES), LABELS)
    sitk.WriteImage(sitk.GetImageFromArray(LABELS[1:]), str(tmp_path / "l.tif"))
    assert "does not lie on its image's grid" in refusal(tmp_path / "l.tif", image)
