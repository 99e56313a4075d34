"""A volume whose axes nnU-Net's reader turns returns to its own grid, and is measured as it was turned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunet_folders import plans, write_folder
from scipy.spatial.transform import Rotation

from diffusion_segmentation.errors import GeometryError
from diffusion_segmentation.nnunet import run
from diffusion_segmentation.nnunet.convert import convert
from diffusion_segmentation.nnunet.model import NnunetModel, read_model
from diffusion_segmentation.nnunet.orientation import Turn

SPACING = (1.0, 2.0, 3.0)  # mm along i, j, k
ANGLES = [(a, b, c) for a in (0, 45, 200) for b in (-45, 0, 30, 45, 135) for c in (0, 45, 120)]
K_TO_LEFT = (0, 0, 1, 1, 0, 0, 0, 1, 0)


def image_of(values: np.ndarray, direction: Sequence[float], spacing: Sequence[float] = SPACING) -> sitk.Image:
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    return image


@pytest.mark.parametrize("order", ["xyz", "yxz", "zxy"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_values_are_turned_as_itk_does_and_back(order: str, mirrored: bool) -> None:
    values, ambiguous = np.arange(24.0).reshape(4, 3, 2), 0
    for angles in ANGLES:
        direction = Rotation.from_euler(order, angles, degrees=True).as_matrix() * [1, 1, -1 if mirrored else 1]
        image = image_of(values, direction.ravel().tolist())
        expected = sitk.DICOMOrient(image, "RAS")
        turn = Turn.to_ras(image.GetDirection())
        turned = turn.array(values[None])
        np.testing.assert_array_equal(turned[0], sitk.GetArrayFromImage(expected))
        assert turn.sizes(SPACING[::-1]) == list(expected.GetSpacing()[::-1])
        np.testing.assert_array_equal(turn.undone(turned)[0], values)
        letters = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
        ambiguous += sitk.DICOMOrient(expected, letters).GetSize() != image.GetSize()
    assert ambiguous or order == "xyz"  # the letters of the axes would not lead back


@pytest.fixture
def a_model(tmp_path: Path) -> Callable[[str], NnunetModel]:
    """A converted model of slices of 5 mm and pixels of 1 mm, by the name of its reader."""

    def make(reader: str) -> NnunetModel:
        content = {**plans(), "image_reader_writer": reader}
        content["configurations"]["3d_fullres"]["spacing"] = [5.0, 1.0, 1.0]
        (tmp_path / "model").mkdir()
        convert(write_folder(tmp_path / "trained", content, folds=("0",)), tmp_path / "model")
        return read_model(tmp_path / "model")

    return make


def test_a_volume_is_measured_after_its_axes_are_turned(a_model: Callable[[str], NnunetModel]) -> None:
    model = a_model("SimpleITKIOWithReorient")
    # Two slices of 1 mm from left to right: along the model's slices of 5 mm only in their stored order.
    assert run.required_bytes(model, [image_of(np.ones((2, 40, 40)), K_TO_LEFT, (1, 1, 1))], on_cpu=True) > 0
    with pytest.raises(GeometryError, match="smaller than one voxel"):
        run.required_bytes(model, [image_of(np.ones((2, 40, 40)), np.eye(3).ravel(), (1, 1, 1))], on_cpu=True)


def test_only_what_is_not_0_is_measured(a_model: Callable[[str], NnunetModel]) -> None:
    model, values = a_model("SimpleITKIO"), np.zeros((20, 30, 30))
    values[10:12, 5:25, 5:25] = 1
    with pytest.raises(GeometryError, match="What is not 0 in the volume is smaller than one voxel"):
        run.required_bytes(model, [image_of(values, np.eye(3).ravel(), (1, 1, 1))], on_cpu=True)
    values[12, 5, 5] = 1
    assert run.required_bytes(model, [image_of(values, np.eye(3).ravel(), (1, 1, 1))], on_cpu=True) > 0
