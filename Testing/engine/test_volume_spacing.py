"""Voxel sizes that a file does not state, or that contradict it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volume_files import VOXELS, nifti, refusal, remove_lines, write_image

from diffusion_segmentation.images.file_digest import files_sha256
from diffusion_segmentation.images.volume import VolumeFile, read_volume

SPACELESS = {
    "TIFF": lambda f: write_image(f / "a.tif"),
    "the other TIFF": lambda f: write_image(f / "a.tiff"),
    "NIfTI": lambda f: nifti(f / "a.nii", sform=None, spacing=(0, 0, 0)),
    "MetaImage": lambda f: remove_lines(write_image(f / "a.mha"), b"ElementSpacing"),
    "NRRD": lambda f: remove_lines(write_image(f / "a.nrrd"), b"space:", b"space directions:", b"space origin"),
}


@pytest.mark.parametrize("kind", SPACELESS)
def test_a_missing_voxel_size_is_requested(tmp_path: Path, kind: str) -> None:
    path = SPACELESS[kind](tmp_path)
    assert "does not say how large its voxels are" in refusal(path) and "--spacing" in refusal(path)
    image = VolumeFile(path, spacing=(0.5, 1, 2)).read()
    assert image.GetSpacing() == (0.5, 1, 2)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), VOXELS)


def test_a_voxel_size_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    for path in (nifti(tmp_path / "a.nii"), write_image(tmp_path / "a.nrrd"), write_image(tmp_path / "a.vtk")):
        assert "states voxels of 2 x 2 x 2 mm" in refusal(path, spacing=(2, 2, 3))
        assert VolumeFile(path, spacing=(2, 2, 2)).read().GetSpacing() == (2, 2, 2)


def test_the_voxel_size_that_nnunet_keeps_beside_a_tiff_is_taken(tmp_path: Path) -> None:
    for name in ("case_1_0000.tif", "case_1.tif"):
        path = write_image(tmp_path / name)
        (tmp_path / "case_1.json").write_text(json.dumps({"spacing": [5, 0.7, 0.6]}), encoding="utf-8")
        assert read_volume(path).GetSpacing() == (0.6, 0.7, 5)  # the file has the order of the array's axes
    for wrong in ('{"spacing": [5, 0.7]}', '{"spacing": [0, 1, 1]}', "{}", "x", '{"spacing": "1 1 1"}'):
        (tmp_path / "case_1.json").write_text(wrong, encoding="utf-8")
        assert "'case_1.json'" in refusal(path)


def test_a_voxel_size_beside_a_tiff_is_part_of_its_content(tmp_path: Path) -> None:
    path, beside = write_image(tmp_path / "c_0000.tif"), tmp_path / "c.json"
    beside.write_text('{"spacing": [1, 1, 1]}')
    before = files_sha256(path)
    beside.write_text('{"spacing": [3, 1, 1]}')
    assert files_sha256(path) != before
