"""A run of an nnU-Net says what it assumes about the volume and what it does not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
from nnunet_folders import plans, write_folder
from scipy.spatial.transform import Rotation

from diffusion_segmentation.nnunet.convert import convert
from diffusion_segmentation.nnunet.model import NnunetModel, read_model
from diffusion_segmentation.nnunet.run_warnings import NOT_AXIAL, POSTPROCESSING, run_warnings
from diffusion_segmentation.segmentation.predicted_run import unused_settings
from diffusion_segmentation.segmentation.request import Request

SAGITTAL = (0, 0, 1, 1, 0, 0, 0, 1, 0)
TILTED = Rotation.from_euler("x", 44, degrees=True).as_matrix().ravel().tolist()


def image(direction: Any = (1, 0, 0, 0, 1, 0, 0, 0, 1)) -> sitk.Image:
    volume = sitk.Image(2, 2, 2, sitk.sitkFloat32)
    volume.SetDirection(direction)
    return volume


def converted(folder: Path, trained: Path) -> NnunetModel:
    folder.mkdir()
    convert(trained, folder)
    return read_model(folder)


def test_settings_without_effect_are_named_if_they_were_set() -> None:
    def warnings(**settings: Any) -> list[str]:
        return unused_settings(Request(Path("a.nrrd"), Path("result"), **settings))

    assert warnings() == []
    assert warnings(seed=9) == ["This model draws no samples, so the seed that was set had no effect."]
    [sentence] = warnings(samples="auto", steps=4, seed=9)
    assert "the number of samples, the number of steps and the seed that were set had no effect" in sentence


@pytest.mark.parametrize("reader", ["SimpleITKIO", "SimpleITKIOWithReorient"])
def test_slices_that_are_not_axial_are_a_warning_unless_the_model_turns_volumes(reader: str, tmp_path: Path) -> None:
    content = {**plans(), "image_reader_writer": reader}
    model = converted(tmp_path / "model", write_folder(tmp_path / "trained", content, folds=("0",)))
    assert run_warnings(model, image(), []) == run_warnings(model, image(TILTED), []) == []
    assert run_warnings(model, image(SAGITTAL), []) == ([NOT_AXIAL] if reader == "SimpleITKIO" else [])


@pytest.mark.parametrize("place", ["postprocessing.pkl", "crossval_results_folds_0_1/postprocessing.pkl"])
def test_a_postprocessing_is_not_applied_and_a_warning(place: str, tmp_path: Path) -> None:
    trained = write_folder(tmp_path / "trained", folds=("0",))
    (trained / place).parent.mkdir(exist_ok=True)
    (trained / place).write_bytes(b"a pickle")
    assert run_warnings(converted(tmp_path / "model", trained), image(), []) == [POSTPROCESSING]
