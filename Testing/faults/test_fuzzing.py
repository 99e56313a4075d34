"""Short runs of the fuzzers of volumes, data sets and model folders."""

from __future__ import annotations

from pathlib import Path

import fuzz_datasets
import fuzz_models
import fuzz_volumes
import numpy as np
import pytest
import SimpleITK as sitk

from diffusion_segmentation.images.volume import read_volume


def test_damaged_volume_files_give_an_image_or_an_error_of_one_sentence(data_folder: Path) -> None:
    for end, contents in fuzz_volumes.sound_files().items():
        for content in contents:
            (data_folder / f"a.{end}").write_bytes(content)
            np.testing.assert_array_equal(
                sitk.GetArrayFromImage(read_volume(data_folder / f"a.{end}")), fuzz_volumes.VOXELS
            )
    tally = fuzz_volumes.fuzz(600, seed=1)
    assert tally.inputs == 600 and tally.accepted > 60 and tally.refused > 300
    assert tally.passed, str(tally)


def test_damaged_data_sets_give_cases_or_an_error_of_one_sentence() -> None:
    tally = fuzz_datasets.fuzz(500, seed=1)
    assert tally.inputs == 500 and tally.accepted > 50 and tally.refused > 200
    assert tally.passed, str(tally)


@pytest.mark.slow
def test_damaged_model_folders_give_a_model_or_an_error_of_one_sentence() -> None:
    tally = fuzz_models.fuzz(400, seed=1)
    assert tally.inputs == 400 and tally.accepted > 5 and tally.refused > 200
    assert tally.passed, str(tally)
