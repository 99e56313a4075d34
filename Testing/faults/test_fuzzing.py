"""Short runs of the fuzzers of volumes, data sets and model folders."""

from __future__ import annotations

import random
from pathlib import Path

import fuzz_added_models
import fuzz_datasets
import fuzz_models
import fuzz_volumes
import fuzzing
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


@pytest.mark.slow
def test_hostile_models_are_added_soundly_or_refused_and_run_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFUSION_SEGMENTATION_MODELS", str(tmp_path))  # restored after the bench has changed it
    with fuzzing.temporary_folder() as folder:
        fuzz_added_models.write_sound(Path(folder) / "sound")
        bench, tally = fuzz_added_models.Bench(Path(folder) / "sound"), fuzzing.Tally()
        for number in range(300):
            draw = random.Random(number)
            source = bench.write(fuzz_added_models.SHAPES[number % 15], draw)
            tally.count(bench.answer(source, draw))
    assert tally.passed and tally.accepted > 10 and tally.refused > 200, str(tally)
