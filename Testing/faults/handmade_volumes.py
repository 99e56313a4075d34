"""NRRD, NIfTI and MetaImage files with any header, valid or not."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

from diffusion_segmentation.errors import DiffusionSegmentationError

VOXELS = np.arange(4 * 5 * 6, dtype="<i2").reshape(4, 5, 6)
STEPS = np.diag([2.0, 3.0, 4.0])
ORIGIN = np.array([10.0, 20.0, 30.0])
RAS = np.diag([-1.0, -1.0, 1.0])
NO_SPACE = {"space": None, "space_directions": None, "space_origin": None}


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


def cut(path: Path, count: int) -> Path:
    path.write_bytes(path.read_bytes()[:-count])
    return path


def assert_a_sentence(error: DiffusionSegmentationError, folder: Path) -> None:
    sentence = str(error)
    assert sentence.endswith(".") and sentence.count(". ") == 0 and "\n" not in sentence and "; " in sentence
    assert "'a." in sentence and str(folder) not in sentence
