"""A copy of a NIfTI or Analyze file that ITK reads as it was meant, alone in a folder and under a name of its own."""

from __future__ import annotations

import gzip
import shutil
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from .nifti import NiftiHeader

LARGEST_DIM = 2**15
"""Voxels along an axis of NIfTI-1 stay below this."""

DAMAGED = (OSError, EOFError, zlib.error, ValueError, OverflowError, struct.error)
"""What `stage_nifti` raises: the file is damaged, the disk is full, or NIfTI-1 cannot hold a number of its header."""


def stage_nifti(
    header: NiftiHeader,
    header_file: Path,
    data_file: Path,
    offset: int,
    sform: np.ndarray | None,
    folder: Path,
    voxels: bool,
) -> Path:
    """Write the volume into `folder`, uncompressed, and return the file that ITK shall open; its header alone without
    `voxels`.

    `sform` (RAS, 4 x 4) takes the place of the file's, and an sform of zeros is taken out. NIfTI-2 becomes NIfTI-1, a
    pair of files one file; Analyze stays a pair, because ITK places it otherwise than NIfTI. Raises DAMAGED.
    """
    with _opened(header_file) as file:
        raw = bytearray(file.read(header.size))
    if header.size == 540:
        raw = _as_nifti1(header)
    if not header.magic:
        target, copied = folder / "volume.hdr", folder / "volume.img"
        target.write_bytes(raw)
        start, offset = b"", 0
    else:
        struct.pack_into(header.order + "f", raw, 108, 352)
        struct.pack_into("4s", raw, 344, b"n+1")
        if sform is not None and not sform.any():
            struct.pack_into(header.order + "h", raw, 254, 0)
        elif sform is not None:
            struct.pack_into(header.order + "12f", raw, 280, *sform[:3].ravel())
        target = copied = folder / "volume.nii"
        start = bytes(raw) + bytes(4)
    with _opened(data_file) as source, open(copied, "wb") as copy:
        copy.write(start)
        if voxels:
            source.seek(offset)
            shutil.copyfileobj(source, copy)
    return target


def _opened(path: Path) -> BinaryIO | gzip.GzipFile:
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if compressed else open(path, "rb")


def _as_nifti1(header: NiftiHeader) -> bytearray:
    fields = header.fields
    if not all(0 <= n < LARGEST_DIM for n in fields["dim"]):
        raise ValueError("too many voxels along an axis")
    raw = bytearray(348)
    order = header.order
    struct.pack_into(order + "i", raw, 0, 348)
    struct.pack_into(order + "8h", raw, 40, *fields["dim"])
    struct.pack_into(order + "2h", raw, 70, *fields["datatype"], *fields["bitpix"])
    struct.pack_into(order + "8f", raw, 76, *fields["pixdim"])
    struct.pack_into(order + "2f", raw, 112, *fields["slope"])
    raw[123] = fields["units"][0] & 0xFF
    struct.pack_into(order + "2h", raw, 252, *fields["codes"])
    struct.pack_into(order + "6f", raw, 256, *fields["quaternion"])
    struct.pack_into(order + "12f", raw, 280, *fields["rows"])
    return raw
