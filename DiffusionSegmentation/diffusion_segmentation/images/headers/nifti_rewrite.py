"""Rewriting a NIfTI or Analyze file so that ITK reads it as intended: alone in a folder, under a standard name."""

from __future__ import annotations

import shutil
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .volume_header import opened

if TYPE_CHECKING:
    from .nifti import NiftiHeader

# Raised by `rewrite_nifti`: damaged file, full disk, or a header value that NIfTI-1 cannot store.
REWRITE_ERRORS = (OSError, EOFError, zlib.error, ValueError, OverflowError, struct.error)


def rewrite_nifti(
    header: NiftiHeader,
    header_file: Path,
    data_file: Path,
    offset: int,
    sform: np.ndarray | None,
    folder: Path,
    voxels: bool,
) -> Path:
    """Write the volume uncompressed into `folder` and return the file that ITK opens; only its header without `voxels`.

    `sform` (index to RAS, 4 x 4) replaces that of the file; an sform of zeros removes it. NIfTI-2 becomes NIfTI-1 and a
    pair of files a single file. Analyze stays a pair, because ITK places it differently from NIfTI. Raises
    REWRITE_ERRORS.
    """
    if header.size == 540:
        raw = header.as_nifti1()
    else:
        with opened(header_file) as file:
            raw = bytearray(file.read(header.size))
    if not header.magic:
        target, copy = folder / "volume.hdr", folder / "volume.img"
        target.write_bytes(raw)
        start, offset = b"", 0
    else:
        struct.pack_into(header.order + "f", raw, 108, 352)
        struct.pack_into("4s", raw, 344, b"n+1")
        if sform is not None and not sform.any():
            struct.pack_into(header.order + "h", raw, 254, 0)
        elif sform is not None:
            struct.pack_into(header.order + "12f", raw, 280, *sform[:3].ravel())
        target = copy = folder / "volume.nii"
        start = bytes(raw) + bytes(4)
    with opened(data_file) as source, open(copy, "wb") as file:
        file.write(start)
        if voxels:
            source.seek(offset)
            shutil.copyfileobj(source, file)
    return target
