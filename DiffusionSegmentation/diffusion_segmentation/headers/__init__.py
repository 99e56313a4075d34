"""What the headers of NRRD, MetaImage, NIfTI and Analyze files say, read before ITK sees the file.

What ITK takes from a header it mostly believes: it crashes on some, waits for ever for others' data, and fills what a
file lacks with zeros.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import InputError
from .meta import stored_meta
from .nifti import stored_nifti
from .nrrd import stored_nrrd
from .stored import HEADER_BYTES, Stored, incomplete, unreadable

__all__ = ["Stored", "incomplete", "read_header", "unreadable"]


def read_header(path: Path, name: str) -> Stored:
    """What the header of the volume `name` says.

    Raises InputError and GeometryError where ITK must not see the file, OSError where it cannot be opened.
    """
    with open(path, "rb") as file:
        start = file.read(HEADER_BYTES)
    if start.startswith(b"NRRD"):
        return stored_nrrd(path, start, name)
    if path.suffix.lower() in (".mha", ".mhd"):
        return stored_meta(path, start, name)
    if re.search(r"\.nii(\.gz)?$", path.name.lower()):
        return stored_nifti(path, path, start, name)
    if re.search(r"\.(hdr|img)(\.gz)?$", path.name.lower()):
        header, data = (_beside(path, end) for end in (".hdr", ".img"))
        if header is None or data is None:
            raise InputError(f"{name} lacks its other half, .hdr or .img; put it beside the file.")
        with open(header, "rb") as file:
            return stored_nifti(header, data, file.read(HEADER_BYTES), name)
    return Stored()


def _beside(path: Path, end: str) -> Path | None:
    """The file of this ending that belongs to a pair of NIfTI or Analyze files."""
    stem = re.sub(r"\.(hdr|img)(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    found = (path.with_name(stem + written) for written in (end, f"{end}.gz", end.upper(), f"{end}.gz".upper()))
    return next((file for file in found if file.is_file()), None)
