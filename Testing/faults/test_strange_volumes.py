"""Strange volumes: the right voxels at the right places, or one sentence; never a crash, a hang, a misplaced mask.

In Testing/engine/test_volume.py already: colour, complex, 4-D, 2-D, one slice, constant, NaN and infinite values,
values beyond float32, a cut NRRD file, text that is no volume, a folder. What is damaged at random is in
fuzz_volumes.py.
"""

from __future__ import annotations

import gzip
import importlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from diffusion_segmentation.errors import DiffusionSegmentationError, GeometryError, InputError, OutOfMemoryError
from diffusion_segmentation.images import volume
from diffusion_segmentation.images.intensity import body_box, normalise
from diffusion_segmentation.images.label_file import read_labels
from diffusion_segmentation.images.volume import read_volume
from diffusion_segmentation.runtime import memory
from diffusion_segmentation.runtime.memory import available_memory

VOXELS = np.arange(4 * 5 * 6, dtype="<i2").reshape(4, 5, 6)
STEPS = np.diag([2.0, 3.0, 4.0])
ORIGIN = np.array([10.0, 20.0, 30.0])
RAS = np.diag([-1.0, -1.0, 1.0])


def nrrd(path: Path, data: bytes = VOXELS.tobytes(), **changed: str | None) -> Path:
    """An NRRD file whose fields, with _ for a space, are changed; None leaves one out."""
    fields = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "6 5 4",
        "space directions": "(2,0,0) (0,3,0) (0,0,4)",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(10,20,30)",
    }
    fields |= {key.replace("_", " "): value for key, value in changed.items()}
    header = "".join(f"{key}: {value}\n" for key, value in fields.items() if value is not None)
    # A list of data files goes on to the end of the file: there is no empty line after it.
    blank = b"" if "data file: LIST" in header else b"\n"
    path.write_bytes(b"NRRD0004\n" + header.encode() + blank + data)
    return path


def nifti(
    path: Path,
    data: bytes = VOXELS.tobytes(),
    sform: np.ndarray | None = None,
    qform: tuple[float, ...] = (0, 0, 0, 10, 20, 30),
    codes: tuple[int, int] = (0, 1),
    pixdim: tuple[float, ...] = (1, 2, 3, 4),
    offset: float = 352,
    slope: float = 1,
    units: int = 2,
    size: tuple[int, ...] = (6, 5, 4),
    order: str = "<",
) -> Path:
    """A NIfTI-1 file: sform 3 x 4, qform the quaternion b, c, d and the offset, codes of qform and sform."""
    sform = np.column_stack([STEPS, ORIGIN]) if sform is None else sform
    header = bytearray(352)
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}8h", header, 40, 3, *size, 1, 1, 1, 1)
    struct.pack_into(f"{order}2h", header, 70, 4, 16)
    struct.pack_into(f"{order}8f3f", header, 76, *pixdim, 0, 0, 0, 0, offset, slope, 0)
    header[123] = units
    struct.pack_into(f"{order}2h6f12f", header, 252, *codes, *qform, *np.ravel(sform))
    header[344:348] = b"n+1\0"
    path.write_bytes((gzip.compress if path.suffix == ".gz" else bytes)(bytes(header) + data))
    return path


def meta(path: Path, data: bytes = VOXELS.tobytes(), **changed: str | None) -> Path:
    """A MetaImage file with fields changed; None leaves one out."""
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "10 20 30",
        "ElementSpacing": "2 3 4",
        "DimSize": "6 5 4",
        "ElementType": "MET_SHORT",
    }
    fields |= {"ElementDataFile": "LOCAL"} | changed
    fields["ElementDataFile"] = fields.pop("ElementDataFile")  # the last line of a header
    header = "".join(f"{key} = {value}\n" for key, value in fields.items() if value is not None)
    path.write_bytes(header.encode() + data)
    return path


def zipped_meta(path: Path, data: bytes, length: int | None, **changed: str) -> Path:
    size = {} if length is None else {"CompressedDataSize": str(length)}
    return meta(path, data, CompressedData="True", **size, **changed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the voxels in d.raw, its slices in s0.raw to s3.raw, deflated in d.zraw."""
    (tmp_path / "d.raw").write_bytes(VOXELS.tobytes())
    (tmp_path / "d.zraw").write_bytes(zlib.compress(VOXELS.tobytes()))
    for k, voxels in enumerate(VOXELS):
        (tmp_path / f"s{k}.raw").write_bytes(voxels.tobytes())
    return tmp_path


def of_type(kind: str, name: str) -> tuple:
    voxels = np.zeros((4, 5, 6), kind)
    voxels[0, 0, 0], voxels[1, 1, 1] = (np.iinfo(kind).max, np.iinfo(kind).min) if kind[1] != "f" else (1e29, -1e29)
    return (lambda f: nrrd(f / "a.nrrd", voxels.tobytes(), type=name)), STEPS, ORIGIN, voxels


LEFT = np.diag([2.0, 3.0, -4.0])
ROTATED = np.array([[0.0, -1.8, 3.2], [-2.0, 0, 0], [0, -2.4, -2.4]])
NO_SPACE = {"space": None, "space_directions": None, "space_origin": None}

READ = {
    "big-endian NRRD": (lambda f: nrrd(f / "a.nrrd", VOXELS.astype(">i2").tobytes(), endian="big"), STEPS, ORIGIN),
    "big-endian NIfTI": (lambda f: nifti(f / "a.nii", VOXELS.astype(">i2").tobytes(), order=">"), RAS @ STEPS, 0),
    "big-endian MetaImage": (
        lambda f: meta(f / "a.mha", VOXELS.astype(">i2").tobytes(), BinaryDataByteOrderMSB="True"),
        STEPS,
        ORIGIN,
    ),
    "gzip NRRD": (lambda f: nrrd(f / "a.nrrd", gzip.compress(VOXELS.tobytes()), encoding="gzip"), STEPS, ORIGIN),
    "gzip NRRD in two members": (
        lambda f: nrrd(
            f / "a.nrrd",
            gzip.compress(VOXELS.tobytes()[:99]) + gzip.compress(VOXELS.tobytes()[99:]),
            encoding="gzip",
        ),
        STEPS,
        ORIGIN,
    ),
    "hex NRRD": (lambda f: nrrd(f / "a.nrrd", VOXELS.tobytes().hex().encode(), encoding="hex"), STEPS, ORIGIN),
    "text NRRD": (
        lambda f: nrrd(f / "a.nrrd", " ".join(map(str, VOXELS.ravel())).encode(), encoding="text"),
        STEPS,
        ORIGIN,
    ),
    "gzip NIfTI": (lambda f: nifti(f / "a.nii.gz"), RAS @ STEPS, 0),
    "scaled NIfTI": (lambda f: nifti(f / "a.nii", slope=2), RAS @ STEPS, 0, 2 * VOXELS),
    "NIfTI by its quaternion": (
        # Half a turn about the first axis, and the third reversed (pixdim[0] < 0).
        lambda f: nifti(f / "a.nii", codes=(1, 0), qform=(1, 0, 0, 10, 20, 30), pixdim=(-1, 2, 3, 4)),
        RAS @ np.diag([2.0, -3.0, 4.0]),
        0,
    ),
    "NIfTI in metres": (
        lambda f: nifti(
            f / "a.nii", units=1, sform=np.column_stack([STEPS, ORIGIN]) / 1000, pixdim=(1, 0.002, 0.003, 0.004)
        ),
        RAS @ STEPS,
        0,
    ),
    "deflated MetaImage": (
        lambda f: zipped_meta(f / "a.mha", z := zlib.compress(VOXELS.tobytes()), len(z)),
        STEPS,
        ORIGIN,
    ),
    "deflated MetaImage, detached": (
        lambda f: zipped_meta(f / "a.mhd", b"", None, ElementDataFile="d.zraw"),
        STEPS,
        ORIGIN,
    ),
    "detached NRRD": (lambda f: nrrd(f / "a.nhdr", b"", data_file="d.raw"), STEPS, ORIGIN),
    "detached NRRD in slices": (lambda f: nrrd(f / "a.nhdr", b"", data_file="s%d.raw 0 3 1"), STEPS, ORIGIN),
    "detached NRRD with a list": (
        lambda f: nrrd(f / "a.nhdr", b"", data_file="LIST\ns0.raw\ns1.raw\ns2.raw\ns3.raw"),
        STEPS,
        ORIGIN,
    ),
    "detached MetaImage": (lambda f: meta(f / "a.mhd", b"", ElementDataFile="d.raw"), STEPS, ORIGIN),
    "detached MetaImage with a list": (
        lambda f: meta(f / "a.mhd", b"", ElementDataFile="LIST\ns0.raw\ns1.raw\ns2.raw\ns3.raw"),
        STEPS,
        ORIGIN,
    ),
    "detached MetaImage in slices": (
        lambda f: meta(f / "a.mhd", b"", ElementDataFile="s%d.raw 0 3 1"),
        STEPS,
        ORIGIN,
    ),
    "right-anterior-superior": (lambda f: nrrd(f / "a.nrrd", space="right-anterior-superior"), RAS @ STEPS, 0),
    "left-anterior-superior": (
        lambda f: nrrd(f / "a.nrrd", space="left-anterior-superior"),
        np.diag([2.0, -3.0, 4.0]),
        (10, -20, 30),
    ),
    "left-handed": (lambda f: nrrd(f / "a.nrrd", space_directions="(2,0,0) (0,3,0) (0,0,-4)"), LEFT, ORIGIN),
    "rotated, axes changed, left-handed": (
        lambda f: nrrd(f / "a.nrrd", space_directions="(0,-2,0) (-1.8,0,-2.4) (3.2,0,-2.4)"),
        ROTATED,
        ORIGIN,
    ),
    "negative spacing, NRRD": (
        lambda f: nrrd(f / "a.nrrd", **NO_SPACE, spacings="-2 3 4"),
        np.diag([-2.0, 3.0, 4.0]),
        (0, 0, 0),
    ),
    "negative spacing, MetaImage": (
        lambda f: meta(f / "a.mha", ElementSpacing="-2 3 4"),
        np.diag([-2.0, 3.0, 4.0]),
        ORIGIN,
    ),
    "a factor in the directions": (
        lambda f: meta(f / "a.mha", TransformMatrix="0.5 0 0 0 1 0 0 0 1", ElementSpacing="4 3 4"),
        STEPS,
        ORIGIN,
    ),
    "one value a voxel in an axis of its own": (
        lambda f: nrrd(
            f / "a.nrrd",
            dimension="4",
            sizes="1 6 5 4",
            kinds="list domain domain domain",
            space_directions="none (2,0,0) (0,3,0) (0,0,4)",
        ),
        STEPS,
        ORIGIN,
    ),
    "label map": (
        lambda f: nrrd(f / "a.nrrd", (VOXELS % 3).astype("u1").tobytes(), type="uchar"),
        STEPS,
        ORIGIN,
        VOXELS % 3,
    ),
    # Slices of 1 mm that lie 4 mm apart: NRRD tells it by thicknesses, which change no place.
    "gaps between slices": (lambda f: nrrd(f / "a.nrrd", thicknesses="nan nan 1"), STEPS, ORIGIN),
    "int8": of_type("<i1", "int8"),
    "uint8": of_type("<u1", "uint8"),
    "int16": of_type("<i2", "int16"),
    "uint16": of_type("<u2", "uint16"),
    "int32": of_type("<i4", "int32"),
    "uint32": of_type("<u4", "uint32"),
    "int64": of_type("<i8", "int64"),
    "uint64": of_type("<u8", "uint64"),
    "float32": of_type("<f4", "float"),
    "float64": of_type("<f8", "double"),
}


@pytest.mark.parametrize("case", READ)
def test_every_voxel_is_read_where_it_lies(folder: Path, case: str) -> None:
    make, steps, origin, *voxels = READ[case]
    image = read_volume(make(folder))
    wanted = np.asarray(voxels[0] if voxels else VOXELS).astype(np.float32)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), wanted)
    # 0 stands for the origin of what is stored in RAS.
    origin = RAS @ ORIGIN if np.isscalar(origin) else np.asarray(origin, float)
    for ijk in np.ndindex(image.GetSize()):
        lps = image.TransformIndexToPhysicalPoint([int(n) for n in ijk])
        np.testing.assert_allclose(lps, steps @ ijk + origin, atol=1e-4)
    assert image.GetSpacing() == pytest.approx(np.linalg.norm(steps, axis=0), abs=1e-6)


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
NO_SIZE, AXES, CONTRADICTS = "how large its voxels are", "at right angles", "contradicts itself"
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
        "3 values a voxel",
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
        "2 values a voxel",
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
    "an axis of no length": (lambda f: nrrd(f / "a.nrrd", space_directions="(2,0,0) (0,3,0) (0,0,0)"), "where it lies"),
    "spacing 0": (lambda f: nrrd(f / "a.nrrd", **NO_SPACE, spacings="0 3 4"), UNREADABLE),
    "spacing 0, MetaImage": (lambda f: meta(f / "a.mha", ElementSpacing="0 3 4"), "no extent"),
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
    "sform without a place": (lambda f: nifti(f / "a.nii", sform=sform((0, 3, NAN))), "where it lies"),
    "sform of another size": (lambda f: nifti(f / "a.nii", sform=sform((0, 0, 1), (1, 1, 1), (2, 2, 1))), CONTRADICTS),
    "qform NaN": (lambda f: nifti(f / "a.nii", codes=(1, 0), qform=(NAN, 0, 0, 10, 20, 30)), CONTRADICTS),
    "qform without a place": (lambda f: nifti(f / "a.nii", codes=(1, 0), qform=(0, 0, 0, NAN, 0, 0)), CONTRADICTS),
    # Values
    "values that mean none": (
        lambda f: nrrd(f / "a.nrrd", (VOXELS - np.float32(3.4e38) * (VOXELS == 9)).tobytes(), type="float"),
        "beyond 1e\\+30",
    ),
}


def cut(path: Path, count: int) -> Path:
    path.write_bytes(path.read_bytes()[:-count])
    return path


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_placed_or_read_is_refused_in_one_sentence(folder: Path, case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises((InputError, GeometryError), match=words) as caught:
        read_volume(make(folder))
    assert_a_sentence(caught.value, folder)


def assert_a_sentence(error: DiffusionSegmentationError, folder: Path) -> None:
    sentence = str(error)
    assert sentence.endswith(".") and sentence.count(". ") == 0 and "\n" not in sentence and "; " in sentence
    assert "'a." in sentence and str(folder) not in sentence


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "a.fifo")
    headers = nrrd(folder / "a.nhdr", b"", data_file="a.fifo"), meta(folder / "a.mhd", b"", ElementDataFile="a.fifo")
    for path, words in ((folder / "a.fifo", "is a pipe"), *((header, LACKS) for header in headers)):
        with pytest.raises(InputError, match=words):
            read_volume(path)


HUGE = (2048, 2048, 1500)


def sparse(path: Path) -> Path:
    """As long as the huge volume's voxels need, but without a block on the disk."""
    start = path.stat().st_size
    os.truncate(path, start + 2 * int(np.prod(HUGE)))
    return path


HUGE_FILES = {
    "NRRD": lambda f: sparse(nrrd(f / "a.nrrd", sizes="2048 2048 1500")),
    "NIfTI": lambda f: sparse(nifti(f / "a.nii", size=HUGE)),
    "MetaImage": lambda f: sparse(meta(f / "a.mha", DimSize="2048 2048 1500")),
}


@pytest.mark.skipif(os.name == "nt", reason="sparse files need a flag there")
@pytest.mark.parametrize("kind", HUGE_FILES)
def test_a_huge_volume_is_refused_with_the_figures_before_it_is_read(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = HUGE_FILES[kind](folder)
    monkeypatch.setattr(memory, "available_memory", lambda: 12_000_000_000)
    monkeypatch.setattr(volume, "_executed", lambda *_: pytest.fail("its voxels were read"))
    with pytest.raises(OutOfMemoryError, match=r"needs about 75\.5 GB of memory and 12\.0 GB are free") as caught:
        read_volume(path)
    assert caught.value.kind == "memory"
    assert_a_sentence(caught.value, folder)


def test_what_fits_is_read_and_where_nothing_is_known_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = nrrd(folder / "a.nrrd")
    for free in (12 * VOXELS.size, None):
        monkeypatch.setattr(memory, "available_memory", lambda free=free: free)
        assert read_volume(path).GetSize() == (6, 5, 4)
    monkeypatch.setattr(memory, "available_memory", lambda: 12 * VOXELS.size - 1)
    with pytest.raises(OutOfMemoryError):
        read_volume(path)


def test_the_memory_of_this_computer_is_known() -> None:
    assert 2**28 < available_memory() < 2**50


def test_labels_that_were_cut_are_refused_too(folder: Path) -> None:
    image = read_volume(nifti(folder / "b.nii"))
    names = [f"label {n}" for n in range(1, 120)]
    assert read_labels(nifti(folder / "a.nii"), image, names).max() == 119
    with pytest.raises(InputError, match="The label file 'a.nii' is damaged"):
        read_labels(cut(folder / "a.nii", 50), image, names)


def test_a_volume_that_is_constant_but_for_specks_is_refused_in_a_sentence() -> None:
    image = np.zeros((90, 90, 90), np.float32)
    image[40, 41, 42] = -7
    for look in (normalise, lambda image: body_box(image, 2)):
        with pytest.raises(InputError, match="^The image is constant but for a few voxels; .*\\.$") as caught:
            look(image)
        assert caught.value.kind == "input"


def test_the_largest_values_that_are_read_have_a_finite_scale() -> None:
    image = np.linspace(-1e30, 1e30, 4096, dtype=np.float32).reshape(16, 16, 16)
    assert np.isfinite(normalise(image)).all() and normalise(image).max() > 0.9


def test_damaged_files_end_in_an_image_or_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Imported by its name, by which its children find it too.
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    fuzzer = importlib.import_module("fuzz_volumes")
    for end, contents in fuzzer.sound_files().items():
        for content in contents:
            (folder / f"a.{end}").write_bytes(content)
            np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(folder / f"a.{end}")), VOXELS)
    tally = fuzzer.fuzz(600, seed=1)
    assert tally.inputs == 600 and tally.read > 60 and tally.refused > 300
    assert tally.sound, str(tally)


def test_damaged_data_sets_end_in_cases_or_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    tally = importlib.import_module("fuzz_datasets").fuzz(500, seed=1)
    assert tally.inputs == 500 and tally.read > 50 and tally.refused > 200
    assert tally.sound, str(tally)
