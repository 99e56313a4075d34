"""Reading volumes, and whether they suit a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from diffusion_segmentation.errors import GeometryError, InputError
from diffusion_segmentation.images.volume import read_volume
from diffusion_segmentation.segmentation.input_volume import check_grid, check_modality

HEAD_RANGE = {"spacing_mm": [0.3, 8.0], "extent_mm": [60, 500], "modality": "MR"}


def ramp(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def write(path: Path, image: sitk.Image) -> Path:
    sitk.WriteImage(image, str(path))
    return path


def test_reads_any_scalar_type_as_float32_in_its_own_geometry(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(ramp(4, 5, 6).astype(np.int16))
    image.SetSpacing((0.5, 2.0, 3.5))
    image.SetOrigin((-10, 20, 30))
    image.SetDirection((0, 0, 1, -1, 0, 0, 0, 1, 0))
    read = read_volume(write(tmp_path / "a.nrrd", image))
    assert read.GetPixelID() == sitk.sitkFloat32
    assert (sitk.GetArrayFromImage(read) == ramp(4, 5, 6)).all()
    for get in (sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection):
        assert get(read) == pytest.approx(get(image))


@pytest.mark.parametrize("name", ["with space.nrrd", "Gehirn ü é 中.nrrd", "Gehirn ü é 中.nii.gz"])
def test_reads_paths_with_spaces_and_other_letters(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "Bilder von Müller 図"
    folder.mkdir()
    # Written elsewhere first: SimpleITK's writer is not what is tested here.
    plain = write(tmp_path / f"plain.{name.partition('.')[2]}", sitk.GetImageFromArray(ramp(3, 3, 3)))
    plain.rename(folder / name)
    assert read_volume(folder / name).GetSize() == (3, 3, 3)


def test_a_series_of_one_is_a_volume(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(ramp(1, 4, 5, 6), isVector=False)
    assert image.GetDimension() == 4
    assert read_volume(write(tmp_path / "a.nrrd", image)).GetSize() == (6, 5, 4)


def not_finite(value: float) -> sitk.Image:
    array = ramp(4, 5, 6)
    array[1, 2, 3] = value
    return sitk.GetImageFromArray(array)


REFUSED = {
    "colour": (sitk.GetImageFromArray(ramp(4, 5, 6, 3), isVector=True), InputError, "3 values per voxel"),
    "complex": (sitk.GetImageFromArray(ramp(4, 5, 6).astype(np.complex64)), InputError, "complex"),
    "4-D": (sitk.GetImageFromArray(ramp(2, 4, 5, 6), isVector=False), InputError, "series of 2 volumes"),
    "2-D": (sitk.GetImageFromArray(ramp(5, 6)), InputError, "2-D"),
    "one slice": (sitk.GetImageFromArray(ramp(1, 5, 6)), GeometryError, "6 x 5 x 1 voxels"),
    "constant": (sitk.GetImageFromArray(ramp(4, 5, 6) * 0 + 7), InputError, "same value everywhere"),
    "NaN": (not_finite(np.nan), InputError, "not a number"),
    "infinite": (not_finite(np.inf), InputError, "infinite"),
    "minus infinite": (not_finite(-np.inf), InputError, "infinite"),
    "beyond float32": (sitk.GetImageFromArray(ramp(4, 5, 6).astype(np.float64) * 1e300), InputError, "infinite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_in_one_sentence(tmp_path: Path, case: str) -> None:
    image, kind, words = REFUSED[case]
    path = write(tmp_path / ("patient.nii" if case == "complex" else "patient.nrrd"), image)
    with pytest.raises(kind, match=words) as caught:
        read_volume(path)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence
    assert "patient." in sentence and str(tmp_path) not in sentence


def test_refuses_what_is_no_volume(tmp_path: Path) -> None:
    text = tmp_path / "notes.nrrd"
    text.write_text("no volume")
    cut = write(tmp_path / "cut.nrrd", sitk.GetImageFromArray(ramp(30, 30, 30)))
    cut.write_bytes(cut.read_bytes()[:5000])
    for path, words in (
        (tmp_path / "missing.nrrd", "does not exist"),
        (tmp_path, "is a folder"),
        (text, "cannot be read"),
        (cut, "damaged or incomplete"),
    ):
        with pytest.raises(InputError, match=words):
            read_volume(path)


def test_a_grid_suited_to_the_model_gives_no_warning() -> None:
    assert check_grid((181, 217, 181), (1, 1, 1), HEAD_RANGE) == []
    assert check_grid((256, 256, 24), (0.9, 0.9, 6), HEAD_RANGE) == []


@pytest.mark.parametrize(
    ("size", "spacing", "words"),
    [
        ((50, 50, 50), (10, 10, 10), "voxel spacing is 10 x 10 x 10 mm"),
        ((500, 500, 300), (0.25, 0.25, 0.25), "voxel spacing is 0.25"),
        ((128, 128, 10), (1, 1, 5), "field of view is 128 x 128 x 50 mm"),
        ((300, 300, 300), (2, 2, 2), "field of view is 600"),
    ],
)
def test_a_grid_unusual_for_the_model_gives_a_warning(
    size: tuple[int, int, int], spacing: tuple[float, float, float], words: str
) -> None:
    (warning,) = check_grid(size, spacing, HEAD_RANGE)
    assert words in warning and warning.endswith(".")


@pytest.mark.parametrize(
    ("size", "spacing", "words"),
    [
        ((20, 20, 20), (15, 15, 15), "voxel spacing is 15"),
        ((400, 400, 400), (0.15, 0.15, 0.15), "voxel spacing is 0.15"),
        ((128, 128, 3), (1, 1, 5), "field of view is 128 x 128 x 15 mm"),
        ((200, 200, 200), (4, 4, 4), "field of view is 800"),
    ],
)
def test_a_grid_far_from_the_model_is_refused(
    size: tuple[int, int, int], spacing: tuple[float, float, float], words: str
) -> None:
    with pytest.raises(GeometryError, match=words):
        check_grid(size, spacing, HEAD_RANGE)


def ct_values(offset: float = 0, air: float = -1000) -> np.ndarray:
    """Half air with noise, a fifth fat and muscle, the rest bone, in Hounsfield units."""
    rng = np.random.default_rng(0)
    parts = (air, 10, 5000), (-80, 20, 1000), (50, 20, 2500), (700, 200, 1500)
    return np.concatenate([rng.normal(mean, spread, n) for mean, spread, n in parts]).astype(np.float32) + offset


@pytest.mark.parametrize(
    ("values", "is_ct"),
    [
        (ct_values(), True),
        (ct_values(air=-1024), True),
        (np.clip(ct_values(), -1024, 3071), True),
        (ct_values(offset=1024), False),  # as some files store it: nothing tells it from MR
        # MR, whatever was subtracted or divided: negative values alone are no CT.
        (np.abs(np.random.default_rng(0).normal(0, 300, 5000)) - 600, False),
        (np.abs(np.random.default_rng(0).normal(0, 300, 5000)) - 2000, False),
        (np.random.default_rng(0).normal(0, 1, 5000), False),
        (np.random.default_rng(0).normal(0, 1000, 5000) * 0 - 1000, False),
    ],
)
def test_ct_given_to_an_mr_model_gets_a_warning_and_negative_values_alone_do_not(values: np.ndarray, is_ct: bool):
    assert [("CT" in warning) for warning in check_modality(values, "MR")] == [True] * is_ct
    assert check_modality(values, "CT") == check_modality(values, None) == []
