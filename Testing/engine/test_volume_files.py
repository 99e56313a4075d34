"""Which file is read, and how: similar names, pairs, forms of NIfTI, foreign formats, header only, content digest."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volume_files import VOXELS, nifti, read_warnings, refusal, write_analyze

from diffusion_segmentation.errors import InputError
from diffusion_segmentation.images import volume
from diffusion_segmentation.images.file_digest import files_sha256
from diffusion_segmentation.images.volume import VolumeFile, read_volume

OTHER = VOXELS[::-1, ::-1] * 7 + 3


TWINS = {
    "gzipped beside plain": ("head.nii.gz", "head.nii"),
    "plain beside gzipped": ("head.nii", "head.nii.gz"),
    "gzipped beside a pair": ("head.nii.gz", "head.hdr"),
    "a pair beside plain": ("head.hdr", "head.nii"),
    "the voxels of a pair beside plain": ("head.img", "head.nii"),
    "capitals": ("head.nii.gz", "head.NII"),
    "mixed capitals": ("head.Nii", "head.nii.gz"),
    "a plain file whose name has two endings": ("head.nii.nii.gz", "head.nii.nii"),
}


@pytest.mark.parametrize("case", TWINS)
def test_the_named_file_is_read_and_not_one_of_a_similar_name(tmp_path: Path, case: str) -> None:
    named, twin = TWINS[case]
    # Another spacing, so that a mixture of one's header and the other's voxels shows, too.
    path = nifti(tmp_path / named.replace(".img", ".hdr"), VOXELS, np.diag([3, 3, 3]), spacing=(3, 3, 3))
    nifti(tmp_path / twin, OTHER)
    image = read_volume(path.with_name(named))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), VOXELS)
    assert image.GetSpacing() == (3, 3, 3)


def test_two_candidates_for_the_other_half_of_a_pair_are_refused(tmp_path: Path) -> None:
    path = nifti(tmp_path / "head.hdr")
    shutil.copy(tmp_path / "head.img", tmp_path / "head.img.gz")
    assert "two other halves, 'head.img' and 'head.img.gz'" in refusal(path)


@pytest.mark.parametrize("ends", [("hdr", "IMG"), ("Hdr", "Img"), ("HDR", "img"), ("HDR", "IMG")])
def test_halves_of_a_pair_are_found_in_any_case(tmp_path: Path, ends: tuple[str, str], capfd) -> None:
    nifti(tmp_path / "a.hdr")
    for old, new in zip(("hdr", "img"), ends, strict=True):
        (tmp_path / f"a.{old}").rename(tmp_path / f"b.{new}")
    for end in ends:
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / f"b.{end}")), VOXELS)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["a.NII", "a.Nii", "a.nii.GZ", "a.NII.GZ"])
def test_extensions_in_capitals_are_read_without_a_warning(tmp_path: Path, name: str, capfd) -> None:
    path = nifti(tmp_path / name, compressed=name.lower().endswith("gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(path)), VOXELS)
    assert capfd.readouterr().err == ""


def test_files_of_other_formats_with_a_nifti_name_are_recognised(tmp_path: Path) -> None:
    for name in ("head.nrrd", "head.mha", "head.nhdr", "head.mhd"):
        sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(tmp_path / name))
        nifti(tmp_path / f"{name}.nii", OTHER)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / name)), VOXELS)


NIFTI = {
    "NIfTI-2": {"version": 2},
    "NIfTI-2, big-endian": {"version": 2, "order": ">"},
    "NIfTI-2 of bytes": {"version": 2, "voxels": (VOXELS % 251).astype(np.uint8)},
    "a gzipped .nii": {"compressed": True},
    "a .nii.gz that is not gzipped": {"compressed": False},
    "a gzipped NIfTI-2": {"version": 2, "compressed": True},
}


@pytest.mark.parametrize("case", NIFTI)
def test_other_forms_of_nifti_are_read(tmp_path: Path, case: str) -> None:
    options = NIFTI[case]
    turned = np.array([[0, -2, 0], [0, 0, 3], [-4, 0, 0.0]])
    name = "head.nii.gz" if options.get("compressed") is False else "head.nii"
    path = nifti(tmp_path / name, sform=turned, spacing=(4, 2, 3), **options)
    image = read_volume(path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), options.get("voxels", VOXELS))
    step = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    np.testing.assert_allclose(np.diag([-1, -1, 1]) @ step, turned, atol=1e-6)
    assert read_warnings(path) == []


def test_a_nifti2_file_with_more_voxels_along_an_axis_than_itk_reads_is_refused(tmp_path: Path) -> None:
    assert "damaged or incomplete" in refusal(nifti(tmp_path / "a.nii", np.zeros((2, 2, 40000), "u1"), version=2))


HUGE = {
    "a scale": lambda raw: struct.pack_into("<d", raw, 176, 1e300),
    "a voxel size": lambda raw: struct.pack_into("<d", raw, 104 + 32, 1e300),
    "a row of the sform": lambda raw: struct.pack_into("<d", raw, 400, 1e300),
    "a code": lambda raw: struct.pack_into("<i", raw, 344, 70_000),
    "an offset": lambda raw: struct.pack_into("<q", raw, 168, 2**61),
}


@pytest.mark.parametrize("case", HUGE)
def test_numbers_of_a_nifti2_header_that_are_too_large_are_refused(tmp_path: Path, case: str) -> None:
    path = nifti(tmp_path / "a.nii", version=2)
    raw = bytearray(path.read_bytes())
    HUGE[case](raw)
    path.write_bytes(raw)
    refusal(path)


FOREIGN = {
    "a.mgz": (b"\x1f\x8b", "mri_convert"),
    "a.mgh": (b"\0\0\0\1", "mri_convert"),
    "a.dcm": (bytes(128) + b"DICM" + bytes(100), "DICOM series"),
    "IM0001": (bytes(128) + b"DICM" + bytes(100), "DICOM series"),
    "series": (None, "is a folder"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_programs_are_refused_with_a_remedy(tmp_path: Path, name: str) -> None:
    start, words = FOREIGN[name]
    path = tmp_path / name
    if start is None:
        path.mkdir()
    else:
        path.write_bytes(start)
    assert words in refusal(path)


def test_size_and_spacing_are_read_from_the_header_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = nifti(tmp_path / "a.nii.gz")
    # What reads voxels, and what asks for their memory.
    monkeypatch.setattr(VolumeFile, "_executed", None)
    monkeypatch.setattr(volume, "memory", None)
    file = VolumeFile(path)
    assert file.size == (24, 22, 20) and file.spacing == (2, 2, 2) and file.warnings == []


def test_a_header_is_read_without_copying_the_voxels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = []
    monkeypatch.setattr("shutil.copyfileobj", lambda source, target: copied.append(target))
    for path in (nifti(tmp_path / "a.nii", version=2), nifti(tmp_path / "b.nii.gz"), write_analyze(tmp_path / "c.hdr")):
        nifti(tmp_path / f"{path.name[0]}.nia")  # a twin
        assert VolumeFile(path).size == (24, 22, 20)
    assert copied == []


def test_a_temporary_copy_for_itk_is_removed_after_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    file = VolumeFile(nifti(tmp_path / "a.nii", version=2))
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    file.read()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_the_digest_depends_on_content_and_not_on_name_or_time(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.hdr")
    before = files_sha256(path)
    raw = bytearray((tmp_path / "a.img").read_bytes())
    raw[-1] ^= 1
    (tmp_path / "a.img").write_bytes(raw)
    assert files_sha256(path) != before, "the voxels beside the header count"
    assert files_sha256(nifti(tmp_path / "b.nii")) == files_sha256(nifti(tmp_path / "c.nii"))
    for path in (tmp_path / "missing.nii", tmp_path):
        with pytest.raises(InputError, match="cannot be opened"):
            files_sha256(path)


@pytest.mark.parametrize("options", [{}, {"version": 2}, {"order": ">"}, {"compressed": True}])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_itk_replaces_by_0_are_reported(tmp_path: Path, options: dict, value: float) -> None:
    voxels = VOXELS.copy()
    voxels = voxels[:19, :21, :23]  # an odd number of them
    voxels[[0, 5, -1], [0, 6, -1], [0, 7, -1]] = value
    for name in ("a.nii", "a.nii.gz"):
        path = nifti(tmp_path / name, voxels, **options)
        (sentence,) = read_warnings(path)
        assert "has 3 voxels that are not a number or infinite, and they were taken for 0" in sentence
        assert (sitk.GetArrayFromImage(read_volume(path)) == 0).sum() == 3
