"""Fill values outside the field of view do not affect the scale of intensities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from diffusion_segmentation.images.case_files import CaseFiles
from diffusion_segmentation.images.fill_value import fill_value, replace_fill_value
from diffusion_segmentation.images.intensity import normalise
from diffusion_segmentation.segmentation.input_volume import read_input
from diffusion_segmentation.segmentation.request import Request


def head(seed: int = 0) -> np.ndarray:
    """A ball of 300 to 900 in noisy air, float32."""
    grid = np.indices((40, 44, 48)) - np.array([20, 22, 24]).reshape(3, 1, 1, 1)
    radius = np.sqrt((grid**2).sum(0))
    rng = np.random.default_rng(seed)
    return (np.abs(rng.normal(0, 10, radius.shape)) + (radius < 15) * (900 - 40 * radius)).astype(np.float32)


def outside(share: float = 0.9) -> np.ndarray:
    _, j, i = np.indices((40, 44, 48))
    return ((j - 21.5) / 22) ** 2 + ((i - 23.5) / 24) ** 2 > share**2


def ct() -> np.ndarray:
    return (head() * 1.5 - 1000).astype(np.float32)


FILLED = {
    "16 bits": (head(), -32768),
    "Hounsfield": (head(), -1024),
    "one below zero": (head(), -1),
    "float": (head() / 1000, -1000.0),
    "CT, 16 bits": (ct(), -32768),
    "standardised": ((head() - 200) / 300, -100.0),
}


@pytest.mark.parametrize("case", FILLED)
def test_a_constant_far_below_the_image_is_replaced_by_air(case: str) -> None:
    values, fill = FILLED[case]
    filled = np.where(outside(), np.float32(fill), values)
    assert fill_value(filled) == fill
    image = sitk.GetImageFromArray(filled)
    image.SetSpacing((1, 2, 3))
    clean, value = replace_fill_value(image)
    assert value == fill and clean.GetSpacing() == (1, 2, 3)
    array = sitk.GetArrayFromImage(clean)
    np.testing.assert_array_equal(array[~outside()], values[~outside()])
    # In normalised intensities the filled voxels are air and the head is unchanged.
    actual, expected = normalise(array), normalise(values)
    assert np.abs(actual - expected)[~outside()].max() < 0.05 and actual[outside()].max() < 0.05
    assert np.abs(normalise(filled) - expected)[~outside()].max() > 0.05 or fill == -1, "else this test shows nothing"


def test_voxels_interpolated_between_fill_and_head_are_air_too() -> None:
    filled = np.where(outside(), np.float32(-32768), head())
    blurred = sitk.DiscreteGaussian(sitk.GetImageFromArray(filled), 0.3)
    array = sitk.GetArrayFromImage(blurred)
    array[array < -32_000] = -32_768
    assert fill_value(array) == -32_768
    clean = sitk.GetArrayFromImage(replace_fill_value(sitk.GetImageFromArray(array))[0])
    assert clean.min() >= -16_400, "what lies in the lower half between both is air"


NOT_FILLED = {
    "zeros around a stripped brain": np.where(head() > 100, head(), 0).astype(np.float32),
    "MR less 600": head() - 600,
    "a stripped brain less its mean": (np.where(head() > 100, head(), 0) - 300).astype(np.float32),
    "CT": ct(),
    "CT with air cut at -1024": np.maximum(ct() - 40, -1024),
    "CT, -3024 outside its field of view": np.where(outside(), np.float32(-3024), ct()),
    "a close crop of a CT": np.where(head() < 100, np.float32(-1024), head() / 2 - np.where(head() < 500, 1000, 0)),
    "a stripped brain, standardised": np.where(head() > 300, (head() - 600) / 150, -600 / 150).astype(np.float32),
    "one damaged voxel": np.where(np.arange(head().size).reshape(head().shape) == 5, -32768, head()),
    "noise about zero": np.random.default_rng(0).normal(0, 1, (40, 44, 48)).astype(np.float32),
    "constant": np.full((8, 8, 8), -5, np.float32),
}


@pytest.mark.parametrize("case", NOT_FILLED)
def test_images_without_a_fill_value_are_unchanged(case: str) -> None:
    image = sitk.GetImageFromArray(NOT_FILLED[case])
    same, value = replace_fill_value(image)
    assert value is None and same is image


def test_the_fill_value_of_a_further_input_is_replaced_before_it_is_resampled(tmp_path: Path) -> None:
    filled = np.where(outside(), np.float32(-32768), ct())
    clean = np.where(outside(), ct().min(), ct())
    read = []
    for values in (filled, clean):
        further = sitk.GetImageFromArray(values)
        further.SetOrigin((0.4, 0.3, 0.2))
        for name, image in {"first.nrrd": sitk.GetImageFromArray(head()), "further.nrrd": further}.items():
            sitk.WriteImage(image, str(tmp_path / name))
        files = [tmp_path / "first.nrrd", tmp_path / "further.nrrd"]
        section = {
            "inputs": [{"name": "MR"}, {"name": "CT"}],
            "input_range": {"spacing_mm": [0.1, 9], "extent_mm": [1, 999]},
            "network": {"inputs": 2},
        }
        read.append(read_input(Request(files, tmp_path / "out", "model"), CaseFiles(files), section))
    found, expected = (sitk.GetArrayFromImage(one.channels[1]) for one in read)
    np.testing.assert_array_equal(found, expected)
    assert sum("far below all others" in warning for warning in read[0].warnings) == 1
