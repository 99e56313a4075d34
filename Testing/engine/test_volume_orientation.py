"""Orientation and position in file headers: missing, contradictory and sheared transforms."""

from __future__ import annotations

import locale
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volume_files import SAME, VOXELS, nifti, read_warnings, refusal, remove_lines, write_analyze, write_image

from diffusion_segmentation.images.volume import VolumeFile, read_volume

UNORIENTED = {
    "NIfTI": lambda f: nifti(f / "a.nii", sform=None),
    "gzipped NIfTI": lambda f: nifti(f / "a.nii.gz", sform=None),
    "NIfTI-2": lambda f: nifti(f / "a.nii", sform=None, version=2),
    "a pair": lambda f: nifti(f / "a.hdr", sform=None),
    "Analyze": lambda f: write_analyze(f / "a.hdr"),
    "GIPL": lambda f: write_image(f / "a.gipl"),
    "VTK": lambda f: write_image(f / "a.vtk"),
    "MetaImage": lambda f: remove_lines(write_image(f / "a.mha"), b"TransformMatrix"),
    "NRRD": lambda f: remove_lines(
        write_image(f / "a.nrrd"), b"space:", b"space directions:", b"space origin", add=b"spacings"
    ),
}


@pytest.mark.parametrize("kind", UNORIENTED)
def test_files_without_an_orientation_are_read_with_a_warning(tmp_path: Path, kind: str) -> None:
    path = UNORIENTED[kind](tmp_path)
    (sentence,) = read_warnings(path)
    assert f"'{path.name}' does not state its orientation" in sentence and "left and right" in sentence
    assert read_volume(path).GetSpacing() == (2, 2, 2)


def test_a_vtk_file_leaves_the_locale_of_the_process_as_it_was(tmp_path: Path) -> None:
    kept = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    try:
        read_volume(write_image(tmp_path / "a.vtk"))
        assert locale.setlocale(locale.LC_CTYPE) == "C.UTF-8"
    finally:
        locale.setlocale(locale.LC_CTYPE, kept)


WAYS = {
    "negative spacings": (lambda f: nifti(f / "a.nii", sform=None, spacing=(-2, -2, -2)), None),
    "NRRD without a space": (
        lambda f: remove_lines(write_image(f / "a.nrrd"), b"space:", keep=b"space dimension: 3"),
        "right to left, front to back and foot to head",
    ),
    "a space of the scanner": (
        lambda f: remove_lines(write_image(f / "a.nrrd"), b"space:", keep=b"space: scanner-xyz"),
        "right to left, front to back and foot to head",
    ),
    "the other way": (
        lambda f: remove_lines(
            write_image(f / "a.nrrd"),
            b"space:",
            b"space directions:",
            keep=b"space dimension: 3\nspace directions: (0,-2,0) (-2,0,0) (0,0,-2)",
        ),
        "back to front, left to right and head to foot",
    ),
}


@pytest.mark.parametrize("case", WAYS)
def test_the_warning_states_the_assumed_directions_of_the_axes(tmp_path: Path, case: str) -> None:
    make, expected = WAYS[case]
    path, spacing = make(tmp_path), (2, 2, 2) if expected is None else None
    (sentence,) = read_warnings(path, spacing=spacing)
    assert "does not state its orientation" in sentence and (expected is None or expected in sentence)
    direction = np.reshape(VolumeFile(path, spacing=spacing).read().GetDirection(), (3, 3))
    along = {"right to left": 0, "left to right": 0, "front to back": 1, "back to front": 1}
    words = sentence.partition("run from ")[2].partition(";")[0].replace(" and ", ", ").split(", ")
    for axis, way in zip(direction.T, words, strict=True):
        assert np.abs(axis).argmax() == along.get(way, 2)
        assert (axis[np.abs(axis).argmax()] > 0) == (way in ("right to left", "front to back", "foot to head"))


def test_files_with_an_orientation_are_read_without_a_warning(tmp_path: Path) -> None:
    for name in ("a.nrrd", "a.nhdr", "a.mha", "a.mhd", "a.nii", "a.nii.gz", "a.mnc", "a.h5"):
        assert read_warnings(write_image(tmp_path / name)) == [], name
    for index, options in enumerate(({"qform": (0, 0, 0), "sform": None}, {"qform": (0, 0, 0)}, {})):
        assert read_warnings(nifti(tmp_path / f"b{index}.nii", **options)) == []


TURN = np.deg2rad(20)
TURNED = np.array([[np.cos(TURN), -np.sin(TURN), 0], [np.sin(TURN), np.cos(TURN), 0], [0, 0, 1]]) * 2

CONTRADICTIONS = {
    "scale": ({"spacing": (1, 1, 1)}, "voxels of 1 x 1 x 1 by its qform and of 2 x 2 x 2 by its sform"),
    "one axis": ({"spacing": (2, 2, 2.2)}, "voxels of 2 x 2 x 2.2"),
    "micrometres in one": ({"spacing": (2000, 2000, 2000)}, "by its qform"),
    "mirror": ({"flip": -1}, "is mirrored by its sform"),
    "the other mirror": ({"sform": np.diag([-2.0, 2, 2])}, "is mirrored by its sform"),
    "scale and turn": ({"sform": TURNED * 1.5}, "by its qform and of 3 x 3 x 3"),
    "NIfTI-2": ({"spacing": (1, 1, 1), "version": 2}, "voxels of 1 x 1 x 1"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_qform_and_an_sform_that_cannot_both_be_right_are_refused(tmp_path: Path, case: str) -> None:
    options, words = CONTRADICTIONS[case]
    assert words in refusal(nifti(tmp_path / "a.nii", **{"qform": (0, 0, 0), **options}))


def test_one_of_two_positions_is_used_with_a_warning(tmp_path: Path) -> None:
    (sentence,) = read_warnings(nifti(tmp_path / "a.nii", sform=TURNED, qform=(0, 0, 0)))
    assert "two positions in its header, 20 degrees" in sentence and "was used" in sentence
    # Rounding does not count as a second position.
    assert read_warnings(nifti(tmp_path / "c.nii", spacing=(2, 2, 2.015), qform=(0, 0, 0))) == []
    refusal(nifti(tmp_path / "d.nii", spacing=(2, 2, 2.03), qform=(0, 0, 0)))
    assert read_warnings(nifti(tmp_path / "b.nii", sform=SAME * 1.0005, qform=(0, 0, 1e-4))) == []


def sheared(amount: float, axis: int = 1) -> np.ndarray:
    affine = SAME.copy()
    affine[0, axis] = amount
    return affine


@pytest.mark.parametrize("options", [{}, {"version": 2}, {"order": ">"}, {"compressed": True}, {"spacing": (1, 1, 1)}])
@pytest.mark.parametrize("axis", [1, 2])
def test_shear_is_named_with_its_angle_and_a_remedy(tmp_path: Path, options: dict, axis: int) -> None:
    sentence = refusal(nifti(tmp_path / "a.nii", sform=sheared(0.24, axis), **options))
    assert "sheared sform, its axes meet at 83 degrees" in sentence and "Resample" in sentence


@pytest.mark.parametrize("sform", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.diag([2.0, 2, 0])])
def test_an_invalid_sform_is_ignored_if_the_qform_is_valid(tmp_path: Path, sform: np.ndarray, capfd) -> None:
    path = nifti(tmp_path / "a.nii", sform=sform, qform=(0, 0, 0))
    (sentence,) = read_warnings(path)
    assert (
        "an sform with axes of zero length or in one plane, so its qform was used" in sentence
        and capfd.readouterr().err == ""
    )
    assert read_volume(path).GetSpacing() == (2, 2, 2)
    refusal(nifti(tmp_path / "b.nii", sform=sform))


def test_a_sheared_sform_beside_a_qform_is_named(tmp_path: Path) -> None:
    (sentence,) = read_warnings(nifti(tmp_path / "a.nii", sform=sheared(0.19), qform=(0, 0, 0)))
    assert "its qform was used and its sform, which is sheared, was ignored" in sentence


def test_a_shear_below_half_a_voxel_is_read_where_the_voxels_lie(tmp_path: Path) -> None:
    affine = sheared(0.03)
    (sentence,) = read_warnings(nifti(tmp_path / "a.nii", sform=affine))
    assert "slightly sheared sform, which was straightened by less than half a voxel" in sentence
    assert read_warnings(nifti(tmp_path / "b.nii", sform=sheared(0.0002))) == [], "as rounding leaves it"
    image = read_volume(tmp_path / "a.nii")
    lps = np.diag([-1, -1, 1])
    for ijk in np.ndindex(2, 2, 2):
        corner = np.array(ijk) * np.array(image.GetSize()) - ijk
        position = image.TransformIndexToPhysicalPoint(corner.tolist())
        assert np.abs(position - lps @ affine @ corner).max() < 1.0
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), VOXELS)
    direction = np.reshape(image.GetDirection(), (3, 3))
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-5)
