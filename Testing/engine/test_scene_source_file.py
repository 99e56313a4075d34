"""The file from which Slicer loaded a volume: what it leaves unstated or contradicts is reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volume_files import nifti, write_image

from diffusion_segmentation.errors import GeometryError
from diffusion_segmentation.segmentation.input_volume import unstated_in_source


def test_unstated_geometry_of_the_source_file_is_reported_without_its_name(tmp_path: Path) -> None:
    path = nifti(tmp_path / "Patient.nii", sform=None)
    image = sitk.ReadImage(str(path))
    (sentence,) = unstated_in_source(path, image)
    assert "orientation" in sentence and "Patient" not in sentence
    tiff = write_image(tmp_path / "Patient.tif")
    assert len(unstated_in_source(tiff, sitk.ReadImage(str(tiff)))) == 2
    corrected = sitk.ReadImage(str(tiff))
    corrected.SetSpacing((2, 2, 5))
    assert ["orientation" in sentence for sentence in unstated_in_source(tiff, corrected)] == [True]
    image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))  # the user has placed it
    assert unstated_in_source(path, image) == []
    assert (
        unstated_in_source(tmp_path / "gone.nii", image) == unstated_in_source(nifti(tmp_path / "b.nii"), image) == []
    )


CONTRADICTORY = {
    "scale": {"spacing": (1, 1, 1)},
    "mirror": {"flip": -1},
    "the other mirror": {"sform": np.diag([-2.0, 2, 2])},
}


@pytest.mark.parametrize("case", CONTRADICTORY)
def test_a_contradictory_source_file_is_refused_unless_the_user_set_the_geometry(tmp_path: Path, case: str) -> None:
    path = nifti(tmp_path / "Patient.nii", **{"qform": (0, 0, 0), **CONTRADICTORY[case]})
    image = sitk.ReadImage(str(path))  # as Slicer does
    with pytest.raises(GeometryError, match="^The file of the volume (has voxels|is mirrored)"):
        unstated_in_source(path, image)
    image.SetSpacing((2.5, 2.5, 2.5))
    assert unstated_in_source(path, image) == []


def test_other_units_of_the_source_file_are_reported(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.nrrd")
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"kinds:", b'space units: "um" "um" "um"\nkinds:'))
    assert unstated_in_source(path, sitk.ReadImage(str(path))) == [
        "The file of the volume is not measured in mm; convert it to mm."
    ]
