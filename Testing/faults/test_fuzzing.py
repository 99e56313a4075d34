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


def test_damaged_files_end_in_an_image_or_a_sentence(data_folder: Path) -> None:
    for end, contents in fuzz_volumes.sound_files().items():
        for content in contents:
            (data_folder / f"a.{end}").write_bytes(content)
            np.testing.assert_array_equal(
                sitk.GetArrayFromImage(read_volume(data_folder / f"a.{end}")), fuzz_volumes.VOXELS
            )
    tally = fuzz_volumes.fuzz(600, seed=1)
    assert tally.inputs == 600 and tally.accepted > 60 and tally.refused > 300
    assert tally.passed, str(tally)


def test_damaged_data_sets_end_in_cases_or_a_sentence() -> None:
    tally = fuzz_datasets.fuzz(500, seed=1)
    assert tally.inputs == 500 and tally.accepted > 50 and tally.refused > 200
    assert tally.passed, str(tally)


@pytest.mark.slow
def test_damaged_folders_end_in_a_model_or_a_sentence() -> None:
    tally = fuzz_models.fuzz(400, seed=1)
    assert tally.inputs == 400 and tally.accepted > 5 and tally.refused > 200
    assert tally.passed, str(tally)
