"""Files that are easily misread: the right voxels in the right place, or one sentence that says why not."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volume_files import SAME, VOXELS, nifti

from diffusion_segmentation.errors import GeometryError, InputError
from diffusion_segmentation.images import volume
from diffusion_segmentation.images.file_digest import files_sha256
from diffusion_segmentation.images.volume import VolumeFile, read_volume
from diffusion_segmentation.segmentation.input_volume import unstated_in_source

OTHER = VOXELS[::-1, ::-1] * 7 + 3


def said(path: Path, **options) -> list[str]:
    """What is said of a file that is read."""
    file = VolumeFile(path, **options)
    file.read()
    return file.warnings


def refusal(path: Path, **options) -> str:
    """The one sentence by which a file is refused."""
    with pytest.raises((InputError, GeometryError)) as caught:
        VolumeFile(path, **options).read()
    sentence = str(caught.value)
    assert sentence.endswith(".") and ". " not in sentence and "; " in sentence and str(path.parent) not in sentence
    return sentence


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
def test_the_named_file_is_read_and_never_its_twin(tmp_path: Path, case: str) -> None:
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
def test_halves_of_a_pair_are_found_whatever_their_capitals(tmp_path: Path, ends: tuple[str, str], capfd) -> None:
    nifti(tmp_path / "a.hdr")
    for old, new in zip(("hdr", "img"), ends, strict=True):
        (tmp_path / f"a.{old}").rename(tmp_path / f"b.{new}")
    for end in ends:
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / f"b.{end}")), VOXELS)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["a.NII", "a.Nii", "a.nii.GZ", "a.NII.GZ"])
def test_capitals_in_the_ending_are_read_without_a_word(tmp_path: Path, name: str, capfd) -> None:
    path = nifti(tmp_path / name, compressed=name.lower().endswith("gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(path)), VOXELS)
    assert capfd.readouterr().err == ""


def test_other_formats_are_not_taken_for_a_nifti_file_of_their_name(tmp_path: Path) -> None:
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
    assert said(path) == []


def test_a_nifti2_file_with_more_voxels_along_an_axis_than_itk_reads_is_refused(tmp_path: Path) -> None:
    assert "damaged or incomplete" in refusal(nifti(tmp_path / "a.nii", np.zeros((2, 2, 40000), "u1"), version=2))


UNORIENTED = {
    "NIfTI": lambda f: nifti(f / "a.nii", sform=None),
    "gzipped NIfTI": lambda f: nifti(f / "a.nii.gz", sform=None),
    "NIfTI-2": lambda f: nifti(f / "a.nii", sform=None, version=2),
    "a pair": lambda f: nifti(f / "a.hdr", sform=None),
    "Analyze": lambda f: analyze(f / "a.hdr"),
    "GIPL": lambda f: written(f / "a.gipl"),
    "VTK": lambda f: written(f / "a.vtk"),
    "MetaImage": lambda f: without(written(f / "a.mha"), b"TransformMatrix"),
    "NRRD": lambda f: without(written(f / "a.nrrd"), b"space:", b"space directions:", b"space origin", add=b"spacings"),
}


def written(path: Path) -> Path:
    image = sitk.GetImageFromArray(VOXELS)
    image.SetSpacing((2, 2, 2))
    sitk.WriteImage(image, str(path))
    return path


def analyze(path: Path) -> Path:
    nifti(path, sform=None)
    raw = bytearray(path.read_bytes())
    raw[344:348] = bytes(4)
    path.write_bytes(raw)
    return path


def without(path: Path, *fields: bytes, add: bytes = b"", keep: bytes = b"") -> Path:
    """A file whose text header loses these lines; spacings with `add`, or the lines `keep`, are put in their place."""
    raw = path.read_bytes()
    end = raw.index(b"\n\n") if b"\n\n" in raw[:2000] else raw.index(b"ElementDataFile")
    lines = [line for line in raw[:end].split(b"\n") if not line.startswith(fields)]
    at = next((n + 1 for n, line in enumerate(lines) if line.startswith(b"dimension")), len(lines))
    more = [b"spacings: 2 2 2"] * bool(add) + [keep] * bool(keep)
    path.write_bytes(b"\n".join([*lines[:at], *more, *lines[at:]]) + raw[end:])
    return path


@pytest.mark.parametrize("kind", UNORIENTED)
def test_what_states_no_orientation_is_read_with_a_warning(tmp_path: Path, kind: str) -> None:
    path = UNORIENTED[kind](tmp_path)
    (sentence,) = said(path)
    assert f"'{path.name}' does not state its orientation" in sentence and "left and right" in sentence
    assert read_volume(path).GetSpacing() == (2, 2, 2)


WAYS = {
    "negative spacings": (lambda f: nifti(f / "a.nii", sform=None, spacing=(-2, -2, -2)), None),
    "NRRD without a space": (
        lambda f: without(written(f / "a.nrrd"), b"space:", keep=b"space dimension: 3"),
        "right to left, front to back and foot to head",
    ),
    "a space of the scanner": (
        lambda f: without(written(f / "a.nrrd"), b"space:", keep=b"space: scanner-xyz"),
        "right to left, front to back and foot to head",
    ),
    "the other way": (
        lambda f: without(
            written(f / "a.nrrd"),
            b"space:",
            b"space directions:",
            keep=b"space dimension: 3\nspace directions: (0,-2,0) (-2,0,0) (0,0,-2)",
        ),
        "back to front, left to right and head to foot",
    ),
}


@pytest.mark.parametrize("case", WAYS)
def test_the_warning_says_which_way_the_axes_were_taken_to_run(tmp_path: Path, case: str) -> None:
    make, wanted = WAYS[case]
    path, spacing = make(tmp_path), (2, 2, 2) if wanted is None else None
    (sentence,) = said(path, spacing=spacing)
    assert "does not state its orientation" in sentence and (wanted is None or wanted in sentence)
    direction = np.reshape(VolumeFile(path, spacing=spacing).read().GetDirection(), (3, 3))
    along = {"right to left": 0, "left to right": 0, "front to back": 1, "back to front": 1}
    words = sentence.partition("run from ")[2].partition(";")[0].replace(" and ", ", ").split(", ")
    for axis, way in zip(direction.T, words, strict=True):
        assert np.abs(axis).argmax() == along.get(way, 2)
        assert (axis[np.abs(axis).argmax()] > 0) == (way in ("right to left", "front to back", "foot to head"))


def test_what_states_its_orientation_is_read_without_a_word(tmp_path: Path) -> None:
    for name in ("a.nrrd", "a.nhdr", "a.mha", "a.mhd", "a.nii", "a.nii.gz", "a.mnc", "a.h5"):
        assert said(written(tmp_path / name)) == [], name
    for index, options in enumerate(({"qform": (0, 0, 0), "sform": None}, {"qform": (0, 0, 0)}, {})):
        assert said(nifti(tmp_path / f"b{index}.nii", **options)) == []


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


def test_one_of_two_places_is_taken_with_a_warning(tmp_path: Path) -> None:
    (sentence,) = said(nifti(tmp_path / "a.nii", sform=TURNED, qform=(0, 0, 0)))
    assert "two places in its header, 20 degrees" in sentence and "was used" in sentence
    # Rounding is no second place.
    assert said(nifti(tmp_path / "c.nii", spacing=(2, 2, 2.015), qform=(0, 0, 0))) == []
    refusal(nifti(tmp_path / "d.nii", spacing=(2, 2, 2.03), qform=(0, 0, 0)))
    assert said(nifti(tmp_path / "b.nii", sform=SAME * 1.0005, qform=(0, 0, 1e-4))) == []


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
def test_an_sform_that_is_none_is_left_aside_for_a_good_qform(tmp_path: Path, sform: np.ndarray, capfd) -> None:
    path = nifti(tmp_path / "a.nii", sform=sform, qform=(0, 0, 0))
    (sentence,) = said(path)
    assert "an sform without extent, so its qform was used" in sentence and capfd.readouterr().err == ""
    assert read_volume(path).GetSpacing() == (2, 2, 2)
    refusal(nifti(tmp_path / "b.nii", sform=sform))


def test_a_sheared_sform_beside_a_qform_is_named(tmp_path: Path) -> None:
    (sentence,) = said(nifti(tmp_path / "a.nii", sform=sheared(0.19), qform=(0, 0, 0)))
    assert "its qform was used and its sform, which is sheared, left aside" in sentence


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


def test_a_shear_below_half_a_voxel_is_read_where_the_voxels_lie(tmp_path: Path) -> None:
    affine = sheared(0.03)
    (sentence,) = said(nifti(tmp_path / "a.nii", sform=affine))
    assert "slightly sheared sform, which was straightened by less than half a voxel" in sentence
    assert said(nifti(tmp_path / "b.nii", sform=sheared(0.0002))) == [], "as rounding leaves it"
    image = read_volume(tmp_path / "a.nii")
    lps = np.diag([-1, -1, 1])
    for ijk in np.ndindex(2, 2, 2):
        corner = np.array(ijk) * np.array(image.GetSize()) - ijk
        found = image.TransformIndexToPhysicalPoint(corner.tolist())
        assert np.abs(found - lps @ affine @ corner).max() < 1.0
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), VOXELS)
    direction = np.reshape(image.GetDirection(), (3, 3))
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-5)


SPACELESS = {
    "TIFF": lambda f: written(f / "a.tif"),
    "the other TIFF": lambda f: written(f / "a.tiff"),
    "NIfTI": lambda f: nifti(f / "a.nii", sform=None, spacing=(0, 0, 0)),
    "MetaImage": lambda f: without(written(f / "a.mha"), b"ElementSpacing"),
    "NRRD": lambda f: without(written(f / "a.nrrd"), b"space:", b"space directions:", b"space origin"),
}


@pytest.mark.parametrize("kind", SPACELESS)
def test_a_voxel_size_that_is_not_stated_is_asked_for(tmp_path: Path, kind: str) -> None:
    path = SPACELESS[kind](tmp_path)
    assert "does not say how large its voxels are" in refusal(path) and "--spacing" in refusal(path)
    image = VolumeFile(path, spacing=(0.5, 1, 2)).read()
    assert image.GetSpacing() == (0.5, 1, 2)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), VOXELS)


def test_a_voxel_size_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    for path in (nifti(tmp_path / "a.nii"), written(tmp_path / "a.nrrd"), written(tmp_path / "a.vtk")):
        assert "states voxels of 2 x 2 x 2 mm" in refusal(path, spacing=(2, 2, 3))
        assert VolumeFile(path, spacing=(2, 2, 2)).read().GetSpacing() == (2, 2, 2)


def test_the_voxel_size_that_nnunet_keeps_beside_a_tiff_is_taken(tmp_path: Path) -> None:
    for name in ("case_1_0000.tif", "case_1.tif"):
        path = written(tmp_path / name)
        (tmp_path / "case_1.json").write_text(json.dumps({"spacing": [5, 0.7, 0.6]}), encoding="utf-8")
        assert read_volume(path).GetSpacing() == (0.6, 0.7, 5)  # the file has the order of the array's axes
    for wrong in ('{"spacing": [5, 0.7]}', '{"spacing": [0, 1, 1]}', "{}", "x", '{"spacing": "1 1 1"}'):
        (tmp_path / "case_1.json").write_text(wrong, encoding="utf-8")
        assert "'case_1.json'" in refusal(path)


FOREIGN = {
    "a.mgz": (b"\x1f\x8b", "mri_convert"),
    "a.mgh": (b"\0\0\0\1", "mri_convert"),
    "a.dcm": (bytes(128) + b"DICM" + bytes(100), "DICOM series"),
    "IM0001": (bytes(128) + b"DICM" + bytes(100), "DICOM series"),
    "series": (None, "is a folder"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_programs_files_are_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    start, words = FOREIGN[name]
    path = tmp_path / name
    if start is None:
        path.mkdir()
    else:
        path.write_bytes(start)
    assert words in refusal(path)


def test_a_header_alone_says_whether_a_volume_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = nifti(tmp_path / "a.nii.gz")
    for name in ("_executed", "memory"):
        monkeypatch.setattr(volume, name, None)  # what reads voxels or asks for their memory
    file = VolumeFile(path)
    assert file.size == (24, 22, 20) and file.spacing == (2, 2, 2) and file.warnings == []


def test_what_a_scenes_file_leaves_open_is_said_without_its_name(tmp_path: Path) -> None:
    path = nifti(tmp_path / "Patient.nii", sform=None)
    image = sitk.ReadImage(str(path))
    (sentence,) = unstated_in_source(path, image)
    assert "orientation" in sentence and "Patient" not in sentence
    tiff = written(tmp_path / "Patient.tif")
    assert len(unstated_in_source(tiff, sitk.ReadImage(str(tiff)))) == 2
    corrected = sitk.ReadImage(str(tiff))
    corrected.SetSpacing((2, 2, 5))
    assert ["orientation" in sentence for sentence in unstated_in_source(tiff, corrected)] == [True]
    image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))  # a person has placed it
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
def test_a_contradiction_of_the_file_is_refused_in_a_scene_unless_it_was_settled(tmp_path: Path, case: str) -> None:
    path = nifti(tmp_path / "Patient.nii", **{"qform": (0, 0, 0), **CONTRADICTORY[case]})
    image = sitk.ReadImage(str(path))  # as Slicer does
    with pytest.raises(GeometryError, match="^The file of the volume (has voxels|is mirrored)"):
        unstated_in_source(path, image)
    image.SetSpacing((2.5, 2.5, 2.5))
    assert unstated_in_source(path, image) == []


def test_other_units_of_a_scenes_file_are_said(tmp_path: Path) -> None:
    path = written(tmp_path / "a.nrrd")
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"kinds:", b'space units: "um" "um" "um"\nkinds:'))
    assert unstated_in_source(path, sitk.ReadImage(str(path))) == [
        "The file of the volume is not measured in mm; convert it to mm."
    ]


def test_a_voxel_size_beside_a_tiff_is_part_of_its_content(tmp_path: Path) -> None:
    path, beside = written(tmp_path / "c_0000.tif"), tmp_path / "c.json"
    beside.write_text('{"spacing": [1, 1, 1]}')
    before = files_sha256(path)
    beside.write_text('{"spacing": [3, 1, 1]}')
    assert files_sha256(path) != before


def test_a_header_is_looked_at_without_copying_the_voxels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = []
    monkeypatch.setattr("shutil.copyfileobj", lambda source, target: copied.append(target))
    for path in (nifti(tmp_path / "a.nii", version=2), nifti(tmp_path / "b.nii.gz"), analyze(tmp_path / "c.hdr")):
        nifti(tmp_path / f"{path.name[0]}.nia")  # a twin
        assert VolumeFile(path).size == (24, 22, 20)
    assert copied == []


def test_a_copy_for_itk_goes_when_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    file = VolumeFile(nifti(tmp_path / "a.nii", version=2))
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    file.read()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_the_content_counts_and_not_the_name_or_time(tmp_path: Path) -> None:
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
def test_what_itk_takes_for_0_in_nifti_is_said(tmp_path: Path, options: dict, value: float) -> None:
    voxels = VOXELS.copy()
    voxels = voxels[:19, :21, :23]  # an odd number of them
    voxels[[0, 5, -1], [0, 6, -1], [0, 7, -1]] = value
    for name in ("a.nii", "a.nii.gz"):
        path = nifti(tmp_path / name, voxels, **options)
        (sentence,) = said(path)
        assert "has 3 voxels that are not a number or infinite, and they were taken for 0" in sentence
        assert (sitk.GetArrayFromImage(read_volume(path)) == 0).sum() == 3
