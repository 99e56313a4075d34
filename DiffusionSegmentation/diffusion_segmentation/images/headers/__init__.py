"""Parsing of NRRD, MetaImage, NIfTI, Analyze and picture headers before ITK opens the file.

ITK trusts a header: it crashes on some, waits forever for the data of others, and pads truncated files with zeros.
"""

from __future__ import annotations

# ruff: noqa: F401 - some names are imported for callers of the package
import re
from pathlib import Path

from ...errors import InputError
from .meta import read_meta
from .nifti import REWRITE_ERRORS, read_nifti
from .nrrd import read_nrrd
from .picture import read_jpeg, read_png, read_tiff
from .volume_header import HEADER_BYTES, VolumeHeader, incomplete, unreadable


def read_header(path: Path, name: str) -> VolumeHeader:
    """Parse the header of the volume that messages call `name`.

    Raises InputError and GeometryError for a file that must not reach ITK, OSError for one that cannot be opened.
    """
    with open(path, "rb") as file:
        start = file.read(HEADER_BYTES)
    ending = path.name.lower()
    if start.startswith(b"NRRD"):
        return read_nrrd(path, start, name)
    if start.startswith(b"\xff\xd8\xff"):
        return read_jpeg(path, start)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return read_png(path, start)
    if start.startswith((b"II*\0", b"MM\0*")) and ending.endswith((".tif", ".tiff")):
        return read_tiff(path)
    if path.suffix.lower() in (".mha", ".mhd"):
        return read_meta(path, start, name)
    if re.search(r"\.nii(\.gz)?$", ending):
        return read_nifti(path, path, path, start, name)
    if half := re.search(r"\.(hdr|img)(\.gz)?$", ending):
        is_header = half.group(1) == "hdr"
        other = _other_half(path, ".img" if is_header else ".hdr", name)
        header, data = (path, other) if is_header else (other, path)
        with open(header, "rb") as file:
            return read_nifti(path, header, data, file.read(HEADER_BYTES), name)
    if re.search(r"\.(mgz|mgh)$", ending):
        raise InputError(
            f"{name} is FreeSurfer's format, which is not read here; convert it with 'mri_convert FILE head.nii.gz'."
        )
    if start[128:132] == b"DICM":
        raise InputError(
            f"{name} is one file of a DICOM series; load the series in Slicer and save it as NRRD, or convert its "
            "folder with dcm2niix."
        )
    return VolumeHeader()


def _other_half(path: Path, ending: str, name: str) -> Path:
    """The file with this ending in a NIfTI or Analyze pair. Raises InputError unless there is exactly one."""
    stem = re.sub(r"\.(hdr|img)(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    files = [
        file
        for file in sorted(path.parent.iterdir())
        if file.name.startswith(stem) and file.name[len(stem) :].lower() in (ending, f"{ending}.gz") and file.is_file()
    ]
    if not files:
        raise InputError(f"{name} lacks its other half, .hdr or .img; put it beside the file.")
    if len(files) > 1:
        both = " and ".join(f"'{file.name}'" for file in files[:2])
        raise InputError(f"{name} has two other halves, {both}; remove the one that does not belong to it.")
    return files[0]


def nnunet_spacing_file(path: Path) -> Path | None:
    """Where nnU-Net stores the voxel size of a TIFF: CASE.json for CASE.tif and CASE_0000.tif; None without one."""
    stem = re.sub(r"\.tiff?$", "", path.name, flags=re.IGNORECASE)
    spacing_file = path.with_name(re.sub(r"_\d{4}$", "", stem) + ".json")
    return spacing_file if stem != path.name and spacing_file.is_file() else None
