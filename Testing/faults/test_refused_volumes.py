"""Damaged files, and files that do not state where their voxels are: refused in one sentence."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from handmade_volumes import NO_SPACE, ORIGIN, STEPS, VOXELS, assert_a_sentence, cut, meta, nifti, nrrd, zipped_meta

from diffusion_segmentation.errors import GeometryError, InputError
from diffusion_segmentation.images.intensity import body_box, normalise
from diffusion_segmentation.images.label_file import read_labels
from diffusion_segmentation.images.volume import read_volume


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


def sform(*changed: tuple[int, int, float]) -> np.ndarray:
    rows = np.column_stack([STEPS, ORIGIN])
    for row, column, value in changed:
        rows[row, column] = value
    return rows


NAN = float("nan")
PACKED = zlib.compress(VOXELS.tobytes())
DAMAGED, UNREADABLE, LACKS = "damaged or incomplete", "cannot be read", "lacks its data file"
NO_SIZE, AXES, CONTRADICTS = "how large its voxels are", "at right angles", "contradictory positions"
NUMBERS = "no valid numbers in the field"

REFUSED = {
    # Sizes
    "a zero-size axis": (lambda f: nrrd(f / "a.nrrd", sizes="0 5 4"), UNREADABLE),
    "a zero-size axis, NIfTI": (lambda f: nifti(f / "a.nii", size=(6, 5, 0)), "6 x 5 x 1 voxels"),
    "a zero-size axis, MetaImage": (lambda f: meta(f / "a.mha", DimSize="0 5 4"), DAMAGED),
    "a negative size": (lambda f: meta(f / "a.mha", DimSize="-6 5 4"), DAMAGED),
    "2^31 a side": (lambda f: nrrd(f / "a.nrrd", sizes="2147483648 2147483648 2147483648"), UNREADABLE),
    "2^32 a side": (lambda f: meta(f / "a.mha", DimSize="4294967296 4294967296 4294967296"), DAMAGED),
    "32767 a side": (lambda f: nifti(f / "a.nii", size=(32767,) * 3), DAMAGED),
    "one voxel across": (lambda f: nrrd(f / "a.nrrd", sizes="6 1 4"), "6 x 1 x 4 voxels"),
    "one voxel long": (lambda f: nrrd(f / "a.nrrd", sizes="1 5 4"), "1 x 5 x 4 voxels"),
    "16 dimensions": (
        lambda f: nrrd(f / "a.nrrd", dimension="16", sizes="6 5 4" + " 1" * 13, kinds=None, **NO_SPACE),
        UNREADABLE,
    ),
    "99 dimensions": (lambda f: meta(f / "a.mha", NDims="99"), UNREADABLE),
    "-3 dimensions": (lambda f: meta(f / "a.mha", NDims="-3"), UNREADABLE),
    "no dimension": (lambda f: meta(f / "a.mha", NDims="0"), UNREADABLE),
    "a vector of displacements": (
        lambda f: nrrd(
            f / "a.nrrd",
            VOXELS.tobytes() * 3,
            dimension="4",
            sizes="3 6 5 4",
            kinds="vector domain domain domain",
            space_directions="none (2,0,0) (0,3,0) (0,0,4)",
        ),
        "3 values per voxel",
    ),
    "a sequence, list first": (
        lambda f: nrrd(
            f / "a.nrrd",
            VOXELS.tobytes() * 2,
            dimension="4",
            sizes="2 6 5 4",
            kinds="list domain domain domain",
            space_directions="none (2,0,0) (0,3,0) (0,0,4)",
        ),
        "2 values per voxel",
    ),
    # Fewer voxels than promised
    "NIfTI cut": (lambda f: nifti(f / "a.nii", VOXELS.tobytes()[:50]), DAMAGED),
    "NIfTI cut before it was packed": (lambda f: nifti(f / "a.nii.gz", VOXELS.tobytes()[:50]), DAMAGED),
    "NIfTI cut after it was packed": (lambda f: cut(nifti(f / "a.nii.gz"), 30), DAMAGED),
    "8 GB of NIfTI promised": (lambda f: nifti(f / "a.nii", size=(4000, 1000, 1000)), DAMAGED),
    "8 GB of packed NIfTI promised": (lambda f: nifti(f / "a.nii.gz", size=(4000, 1000, 1000)), DAMAGED),
    "8 GB of NRRD promised": (lambda f: nrrd(f / "a.nrrd", sizes="4000 1000 1000"), DAMAGED),
    "8 GB of packed NRRD promised": (
        lambda f: nrrd(f / "a.nrrd", gzip.compress(VOXELS.tobytes()), encoding="gzip", sizes="4000 1000 1000"),
        DAMAGED,
    ),
    "8 GB of MetaImage promised": (lambda f: meta(f / "a.mha", DimSize="4000 1000 1000"), DAMAGED),
    "8 GB of packed MetaImage promised": (
        lambda f: zipped_meta(f / "a.mha", PACKED, len(PACKED), DimSize="4000 1000 1000"),
        DAMAGED,
    ),
    "gzip NRRD of too few": (
        lambda f: nrrd(f / "a.nrrd", gzip.compress(VOXELS.tobytes()[:100]), encoding="gzip"),
        DAMAGED,
    ),
    "bzip2, which ITK does not know": (lambda f: nrrd(f / "a.nrrd", encoding="bzip2"), DAMAGED),
    "deflated MetaImage of too few": (
        lambda f: zipped_meta(f / "a.mha", z := zlib.compress(VOXELS.tobytes()[:100]), len(z)),
        DAMAGED,
    ),
    "deflated MetaImage with a wrong sum": (
        lambda f: zipped_meta(f / "a.mha", flipped(PACKED, -1), len(PACKED)),
        DAMAGED,
    ),
    "deflated MetaImage of no length": (lambda f: zipped_meta(f / "a.mha", PACKED, None), DAMAGED),
    "deflated MetaImage of length 0": (lambda f: zipped_meta(f / "a.mha", PACKED, 0), DAMAGED),
    "deflated MetaImage of a shorter length": (lambda f: zipped_meta(f / "a.mha", PACKED, len(PACKED) - 20), DAMAGED),
    "a slice missing from a MetaImage": (
        lambda f: meta(f / "a.mhd", b"", ElementDataFile="LIST\ns0.raw\ns1.raw\ns3.raw"),
        DAMAGED,
    ),
    "a slice missing from a MetaImage whose files are long enough": (
        lambda f: meta(f / "a.mhd", b"", ElementDataFile="LIST\ns0.raw\ns1.raw\nd.raw"),
        DAMAGED,
    ),
    "a slice missing from an NRRD": (
        lambda f: nrrd(f / "a.nhdr", b"", data_file="LIST\ns0.raw\ns1.raw\ns3.raw"),
        UNREADABLE,
    ),
    "a slice's file missing": (lambda f: meta(f / "a.mhd", b"", ElementDataFile="s%d.raw 1 4 1"), LACKS),
    "the data file missing, NRRD": (lambda f: nrrd(f / "a.nhdr", b"", data_file="e.raw"), LACKS),
    "the data file missing, MetaImage": (lambda f: meta(f / "a.mhd", b"", ElementDataFile="e.raw"), LACKS),
    "half of a pair": (lambda f: nifti(f / "a.nii").rename(f / "a.hdr"), "other half"),
    "NIfTI that begins in its header": (lambda f: nifti(f / "a.nii", offset=0), DAMAGED),
    "NIfTI that begins nowhere": (lambda f: nifti(f / "a.nii", offset=NAN), DAMAGED),
    # Files that ITK waits for, or crashes on
    "data from standard input": (lambda f: nrrd(f / "a.nhdr", b"", data_file="-"), LACKS),
    "data from a folder": (lambda f: nrrd(f / "a.nhdr", b"", data_file="."), LACKS),
    "a pattern that writes": (lambda f: meta(f / "a.mhd", b"", ElementDataFile="%s%n%s 0 3 1"), DAMAGED),
    "a pattern that writes, NRRD": (lambda f: nrrd(f / "a.nhdr", b"", data_file="%s%n.raw 0 3 1"), LACKS),
    "a pattern of very many": (lambda f: nrrd(f / "a.nhdr", b"", data_file=f"s%d.raw 0 {2**50} 1"), DAMAGED),
    "a pattern of a very long name": (lambda f: meta(f / "a.mhd", b"", ElementDataFile="%999999999d 0 3 1"), DAMAGED),
    "a voxel of 5000 digits": (lambda f: nrrd(f / "a.nrrd", b"1 2 " + b"9" * 5000, encoding="text"), DAMAGED),
    "a number of 5000 digits": (lambda f: meta(f / "a.mha", DimSize=f"6 5 {'4' * 5000}"), DAMAGED),
    "a long line": (lambda f: nrrd(f / "a.nrrd", Comment="x" * 5000), UNREADABLE),
    # Places
    "shear": (lambda f: nrrd(f / "a.nrrd", space_directions="(2,0,0) (1,3,0) (0,0,4)"), AXES),
    "shear, MetaImage": (lambda f: meta(f / "a.mha", TransformMatrix="1 0 0 .3 .95 0 0 0 1"), AXES),
    "shear, NIfTI": (lambda f: nifti(f / "a.nii", sform=sform((0, 1, 1))), "sheared sform"),
    "two axes in one": (lambda f: nrrd(f / "a.nrrd", space_directions="(2,0,0) (3,0,0) (0,0,4)"), "in one plane"),
    "an axis of no length": (lambda f: nrrd(f / "a.nrrd", space_directions="(2,0,0) (0,3,0) (0,0,0)"), "its position"),
    "spacing 0": (lambda f: nrrd(f / "a.nrrd", **NO_SPACE, spacings="0 3 4"), UNREADABLE),
    "spacing 0, MetaImage": (lambda f: meta(f / "a.mha", ElementSpacing="0 3 4"), "zero length"),
    "spacing 0, NIfTI": (lambda f: nifti(f / "a.nii", pixdim=(1, 0, 3, 4)), CONTRADICTS),
    "spacing 0 and no matrix, NIfTI": (lambda f: nifti(f / "a.nii", codes=(0, 0), pixdim=(1, 0, 3, 4)), NO_SIZE),
    "negative spacing, NIfTI": (lambda f: nifti(f / "a.nii", pixdim=(1, -2, 3, 4)), CONTRADICTS),
    "no spacing": (lambda f: nrrd(f / "a.nrrd", **NO_SPACE), NO_SIZE),
    "spacing NaN": (lambda f: nrrd(f / "a.nrrd", **NO_SPACE, spacings="nan nan nan"), NO_SIZE),
    "spacing by corners, which ITK does not know": (
        lambda f: nrrd(f / "a.nrrd", **NO_SPACE, axis_mins="10 20 30", axis_maxs="22 35 46"),
        NO_SIZE,
    ),
    "one direction missing": (lambda f: nrrd(f / "a.nrrd", space_directions="(2,0,0) (0,3,0) none"), NO_SIZE),
    "no spacing, MetaImage": (lambda f: meta(f / "a.mha", ElementSpacing=None), NO_SIZE),
    "micrometres": (lambda f: nrrd(f / "a.nrrd", space_units='"um" "um" "um"'), "not measured in mm"),
    "centimetres": (lambda f: meta(f / "a.mha", DistanceUnits="cm"), "not measured in mm"),
    "a NaN in the directions": (lambda f: nrrd(f / "a.nrrd", space_directions="(2,0,0) (0,nan,0) (0,0,4)"), UNREADABLE),
    "a NaN in the matrix": (lambda f: meta(f / "a.mha", TransformMatrix="nan 0 0 0 1 0 0 0 1"), NUMBERS),
    "an infinite origin": (lambda f: meta(f / "a.mha", Offset="inf 0 0"), NUMBERS),
    "words for an origin": (lambda f: meta(f / "a.mha", Offset="a b c"), NUMBERS),
    "half an origin": (lambda f: meta(f / "a.mha", Offset="10 20"), NUMBERS),
    "two origins": (lambda f: meta(f / "a.mha", Comment="x\nOffset = 1 1 1"), DAMAGED),
    "a far origin": (lambda f: nrrd(f / "a.nrrd", space_origin="(1e300,0,0)"), "a kilometre"),
    "sform NaN": (lambda f: nifti(f / "a.nii", sform=sform((0, 0, NAN))), UNREADABLE),
    "sform without a place": (lambda f: nifti(f / "a.nii", sform=sform((0, 3, NAN))), "its position"),
    "sform of another size": (lambda f: nifti(f / "a.nii", sform=sform((0, 0, 1), (1, 1, 1), (2, 2, 1))), CONTRADICTS),
    "qform NaN": (lambda f: nifti(f / "a.nii", codes=(1, 0), qform=(NAN, 0, 0, 10, 20, 30)), CONTRADICTS),
    "qform without a place": (lambda f: nifti(f / "a.nii", codes=(1, 0), qform=(0, 0, 0, NAN, 0, 0)), CONTRADICTS),
    # Values
    "values that mean none": (
        lambda f: nrrd(f / "a.nrrd", (VOXELS - np.float32(3.4e38) * (VOXELS == 9)).tobytes(), type="float"),
        "beyond 1e\\+30",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unreadable_files_and_unknown_positions_are_refused_in_one_sentence(data_folder: Path, case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises((InputError, GeometryError), match=words) as caught:
        read_volume(make(data_folder))
    assert_a_sentence(caught.value, data_folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_not_waited_for(data_folder: Path) -> None:
    os.mkfifo(data_folder / "a.fifo")
    headers = (
        nrrd(data_folder / "a.nhdr", b"", data_file="a.fifo"),
        meta(data_folder / "a.mhd", b"", ElementDataFile="a.fifo"),
    )
    for path, words in ((data_folder / "a.fifo", "is a pipe"), *((header, LACKS) for header in headers)):
        with pytest.raises(InputError, match=words):
            read_volume(path)


def test_truncated_label_files_are_refused(data_folder: Path) -> None:
    image = read_volume(nifti(data_folder / "b.nii"))
    names = [f"label {n}" for n in range(1, 120)]
    assert read_labels(nifti(data_folder / "a.nii"), image, names).max() == 119
    with pytest.raises(InputError, match="The label file 'a.nii' is damaged"):
        read_labels(cut(data_folder / "a.nii", 50), image, names)


def test_a_volume_that_is_constant_except_for_a_few_voxels_is_refused() -> None:
    image = np.zeros((90, 90, 90), np.float32)
    image[40, 41, 42] = -7
    for look in (normalise, lambda image: body_box(image, 2)):
        with pytest.raises(InputError, match="^The image is constant except for a few voxels; .*\\.$") as caught:
            look(image)
        assert caught.value.kind == "input"
