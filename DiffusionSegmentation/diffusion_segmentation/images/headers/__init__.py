"""What the headers of NRRD, MetaImage, NIfTI and Analyze files say, read before ITK sees the file.

What ITK takes from a header it mostly believes: it crashes on some, waits for ever for others' data, and fills what a
file lacks with zeros.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import InputError
from .meta import stored_meta
from .nifti import stored_nifti
from .nrrd import stored_nrrd
from .staging import DAMAGED
from .stored import HEADER_BYTES, Stored, incomplete, unreadable

__all__ = ["DAMAGED", "Stored", "files_of", "incomplete", "read_header", "spacing_file", "unreadable"]


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
        return stored_nifti(path, path, path, start, name)
    if half := re.search(r"\.(hdr|img)(\.gz)?$", path.name.lower()):
        other = _other_half(path, ".img" if half.group(1) == "hdr" else ".hdr", name)
        header, data = (path, other) if half.group(1) == "hdr" else (other, path)
        with open(header, "rb") as file:
            return stored_nifti(path, header, data, file.read(HEADER_BYTES), name)
    if advice := _foreign(path, start):
        raise InputError(f"{name} {advice}.")
    return Stored()


def files_of(path: Path, name: str) -> tuple[Path, ...]:
    """The named file and those that belong to it, as the voxels beside a header. Raises as `read_header`."""
    stored, beside = read_header(path, name), spacing_file(path)
    return tuple(dict.fromkeys((path, *stored.others, *stored.files, *([beside] if beside else []))))


def _other_half(path: Path, end: str, name: str) -> Path:
    """The file of this ending that belongs to a pair of NIfTI or Analyze files. Raises InputError unless it is one."""
    stem = re.sub(r"\.(hdr|img)(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    found = [
        file
        for file in sorted(path.parent.iterdir())
        if file.name.startswith(stem) and file.name[len(stem) :].lower() in (end, f"{end}.gz") and file.is_file()
    ]
    if not found:
        raise InputError(f"{name} lacks its other half, .hdr or .img; put it beside the file.")
    if len(found) > 1:
        both = " and ".join(f"'{file.name}'" for file in found[:2])
        raise InputError(f"{name} has two other halves, {both}; remove the one that does not belong to it.")
    return found[0]


def spacing_file(path: Path) -> Path | None:
    """Where nnU-Net keeps the voxel size of a TIFF: CASE.json for CASE.tif and CASE_0000.tif; None without one."""
    stem = re.sub(r"\.tiff?$", "", path.name, flags=re.IGNORECASE)
    beside = path.with_name(re.sub(r"_\d{4}$", "", stem) + ".json")
    return beside if stem != path.name and beside.is_file() else None


def _foreign(path: Path, start: bytes) -> str:
    """What to do with a file that is a medical image, but none that can be read here; words for after its name."""
    if re.search(r"\.(mgz|mgh)$", path.name.lower()):
        return "is FreeSurfer's format, which is not read here; convert it with 'mri_convert FILE head.nii.gz'"
    if start[128:132] == b"DICM":
        return (
            "is one file of a DICOM series; load the series in Slicer and save it as NRRD, or convert its folder with "
            "dcm2niix"
        )
    return ""
