"""Headers of DICOM images, read with SimpleITK (GDCM); those of multi-frame images need pydicom."""

from __future__ import annotations

import math
import mmap
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import SimpleITK as sitk

from ..errors import InputError, shown
from ..runtime.locations import itk_name

MAX_FILES = 50_000
"""Files of a folder that are looked at; more would be a disk, not a series."""

NOT_SCANS = re.compile(rb"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(66\.[47]|30|481\.2)")
"""SOP classes with pixels that are no scan: segmentations, parametric maps, doses."""

ENHANCED = tuple(f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2.1", "2.2", "4.1", "4.4", "130", "128.1"))
"""SOP classes whose geometry is that of their frames: enhanced CT, MR and PET, and those converted to them."""

PIXEL_DATA = {"little": b"\xe0\x7f\x10\x00", "big": b"\x7f\xe0\x00\x10"}
"""Tag (7FE0,0010) by the order of bytes."""

UNCOMPRESSED: dict[bytes, Literal["little", "big"]] = {
    b"1.2.840.10008.1.2": "little",
    b"1.2.840.10008.1.2.1": "little",
    b"1.2.840.10008.1.2.2": "big",
}
"""Order of bytes of the transfer syntaxes without compression."""


@dataclass(frozen=True)
class Slice:
    """One image of a series, or one frame of a multi-frame image. Vectors are LPS.

    Attributes:
        frame: number of the frame, from 0; None for an image of one frame.
        uid, series: SOP instance UID and series instance UID.
        size: columns and rows.
        pixel_mm: distance of columns, then of rows; None if it is not stated.
        position: centre of the first voxel, mm; None if it is not stated.
        axes: unit vectors along a row (3 values) and along a column (3 values); None if they are not stated.
        problem: end of a sentence on why the voxels cannot be used; "" for most images.
    """

    path: Path
    frame: int | None
    uid: str
    series: str
    modality: str
    size: tuple[int, int]
    pixel_mm: tuple[float, ...] | None
    position: tuple[float, ...] | None
    axes: tuple[float, ...] | None
    is_localizer: bool
    problem: str


def is_dicom(path: Path) -> bool:
    """Whether a file begins as a DICOM file does."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def is_multi_frame(path: Path) -> bool:
    """Whether a file is a DICOM image of several frames."""
    header = _header(path) if os.path.isfile(path) and is_dicom(path) else None
    return header is not None and _frames(header) > 1


def dicom_files(folder: Path) -> Iterator[Path]:
    """The DICOM files in a folder and its subfolders, by name. Raises InputError if there are too many files."""
    seen = 0
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            seen += 1
            if seen > MAX_FILES:
                raise InputError(f"The folder has more than {MAX_FILES} files; give the folder of one series.")
            path = Path(parent, name)
            if name != "DICOMDIR" and os.path.isfile(path) and is_dicom(path):
                yield path


def read_slices(path: Path) -> list[Slice]:
    """The images in a DICOM file; none if it has none, as a report.

    Raises InputError for a damaged image, and for a multi-frame image without the extra [dicom].
    """
    if NOT_SCANS.fullmatch(_meta(path, b"\x02\x00\x02\x00")):
        return []
    header = _header(path)
    if header is None:
        if _has_pixels(path):
            raise InputError(f"The DICOM image '{shown(path.name)}' is damaged or incomplete; copy it again.")
        return []
    if _frames(header) > 1 or _text(header, "0008|0016") in ENHANCED:
        from . import multi_frame

        return multi_frame.read_slices(path)
    columns, rows = header.GetSize()[:2]
    bits = _text(header, "0028|0100")
    if not _holds(path, columns * rows * header.GetNumberOfComponents() * int(bits if bits.isdecimal() else 8) // 8):
        raise InputError(f"The DICOM image '{shown(path.name)}' is damaged or incomplete; copy it again.")
    spacing = _numbers(header, "0028|0030", 2)
    kind = _text(header, "0008|0008").split("\\")
    grey = _text(header, "0028|0004") == "MONOCHROME2" and header.GetNumberOfComponents() == 1
    return [
        Slice(
            path,
            None,
            _text(header, "0008|0018"),
            _text(header, "0020|000e"),
            _text(header, "0008|0060"),
            (columns, rows),
            None if spacing is None or min(spacing) <= 0 else spacing[::-1],
            _numbers(header, "0020|0032", 3),
            _numbers(header, "0020|0037", 6),
            "LOCALIZER" in kind,
            problem(kind, grey),
        )
    ]


def problem(kind: list[str], grey: bool) -> str:
    """End of a sentence on why an image of this ImageType cannot be used; "" if it can."""
    if "MOSAIC" in kind:
        return "has mosaics of all slices in one image; convert it to NRRD or NIfTI first"
    return "" if grey else "has colours or inverted grey values; give a series of ordinary grey values"


def _header(path: Path) -> sitk.ImageFileReader | None:
    """A reader that has read the header of an image; None if there is no image or it cannot be read."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(itk_name(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    return reader


def _meta(path: Path, tag: bytes) -> bytes:
    """The UID of an element of the file meta information (explicit VR, little endian); b"" if there is none."""
    with open(path, "rb") as file:
        found = re.search(re.escape(tag) + rb"UI..([0-9.]+)", file.read(4096), re.DOTALL)
    return found[1] if found else b""


def _has_pixels(path: Path) -> bool:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(PIXEL_DATA["little"]) >= 0


def _holds(path: Path, size: int) -> bool:
    """Whether an image has `size` bytes of voxels; True for a compressed one, whose decoder finds out.

    GDCM reads an uncompressed image with fewer as if the rest was there.
    """
    order = UNCOMPRESSED.get(_meta(path, b"\x02\x00\x10\x00"))
    if order is None:
        return True
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(PIXEL_DATA[order])
        while at >= 0:  # also of icons, and by chance in other elements
            start = at + (8 if content[at + 4 : at + 6] in (b"OB", b"OW") else 4)
            if size <= int.from_bytes(content[start : start + 4], order) <= len(content) - start - 4:
                return True
            at = content.find(PIXEL_DATA[order], at + 1)
    return False


def _text(header: sitk.ImageFileReader, tag: str) -> str:
    return header.GetMetaData(tag).strip(" \0") if header.HasMetaDataKey(tag) else ""


def _frames(header: sitk.ImageFileReader) -> int:
    text = _text(header, "0028|0008")
    return int(text) if text.isdecimal() else 1


def _numbers(header: sitk.ImageFileReader, tag: str, count: int) -> tuple[float, ...] | None:
    """The numbers of an element; None unless there are `count` finite ones."""
    try:
        numbers = tuple(float(part) for part in _text(header, tag).split("\\"))
    except ValueError:
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None
