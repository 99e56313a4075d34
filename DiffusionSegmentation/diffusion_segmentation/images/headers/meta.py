"""The header of a MetaImage file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from ...errors import GeometryError
from .text_fields import DIMENSIONS, FILE_PATTERN, data_files, integer, lines, number, numbered_names
from .volume_header import VolumeHeader, incomplete, unreadable

_DIRECTION_FIELDS = {"TransformMatrix", "Rotation", "Orientation"}
_SPACING_FIELDS = {"ElementSpacing", "ElementSize"}

# Geometry fields: a field of a d-dimensional volume has d to this power numbers.
_POWERS = {
    **dict.fromkeys(("Offset", "Position", "Origin", *_SPACING_FIELDS), 1),
    **dict.fromkeys(_DIRECTION_FIELDS, 2),
}


def read_meta(path: Path, start: bytes, name: str) -> VolumeHeader:
    """Parse a MetaImage file whose first bytes are `start`. Raises InputError and GeometryError."""
    fields, position = {}, 0
    while position < len(start) and "ElementDataFile" not in fields:
        end = start.find(b"\n", position) + 1 or len(start)
        line = start[position:end].decode("utf-8", "surrogateescape")
        key, separator, value = (part.strip() for part in re.sub("[=:]", "\0", line, count=1).partition("\0"))
        if key in fields:
            raise incomplete(name)
        if separator:
            fields[key] = value
        position = end
    data, count = fields.get("ElementDataFile", ""), integer(fields.get("NDims", ""))
    if not data or count not in DIMENSIONS:
        raise unreadable(name)
    sizes = [integer(part) for part in fields.get("DimSize", "").split()]
    if len(sizes) != count or not all(0 < n < 2**31 for n in sizes):
        raise incomplete(name)
    _require_numbers(fields, count, name)
    local = data.upper() == "LOCAL"
    files = (path,) if local else data_files(path, _data_names(data, start[position:], sizes, name), name)
    stated = {"orientation": _DIRECTION_FIELDS & set(fields), "spacing": _SPACING_FIELDS & set(fields)}
    metric = fields.get("DistanceUnits", "mm").lower() in ("", "?", "mm")
    offset, compressed = position * local, fields.get("CompressedData", "")[:1] in tuple("Tt1")
    length = fields.get("CompressedDataSize", "" if local else str(files[0].stat().st_size))
    # With a wrong length ITK returns uninitialised memory as voxels.
    if compressed and integer(length) != sum(file.stat().st_size for file in files) - offset:
        raise incomplete(name)
    return VolumeHeader(
        data_files=files,
        raw=not compressed and fields.get("BinaryData", "True")[:1] in tuple("Tt1"),
        offset=offset,
        compression="zlib" if compressed and len(files) == 1 else "",
        problem="" if metric else "is not measured in mm; convert it to mm",
        missing=tuple(key for key, names in stated.items() if not names),
        image_io="MetaImageIO",
    )


def _data_names(data: str, text: bytes, sizes: list[int], name: str) -> list[str]:
    """The file names in the field ElementDataFile and, for LIST, in the `text` after it. Raises InputError."""
    first, *rest = data.split()
    if first.upper() == "LIST":
        axis = int(match.group()) if rest and (match := re.match(r"\d\d?", rest[0])) else len(sizes) - 1
        names, expected = [entry.strip() for entry in lines(text) if entry.strip()], math.prod(sizes[axis:])
    elif "%" in data:
        numbered = re.fullmatch(FILE_PATTERN, data)
        names, expected = numbered_names(numbered, name) if numbered else [], sizes[-1]
    else:
        return [data]
    # With fewer files ITK leaves the last slices uninitialised.
    if len(names) != expected:
        raise incomplete(name)
    return names


def _require_numbers(fields: Mapping[str, str], dimensions: int, name: str) -> None:
    """Raise GeometryError for malformed geometry; ITK would take 0, or words of the next line."""
    for key, power in _POWERS.items():
        numbers = [number(part) for part in fields[key].split()] if key in fields else None
        if numbers is not None and (len(numbers) != dimensions**power or not all(map(math.isfinite, numbers))):
            raise GeometryError(f"{name} has no valid numbers in the field '{key}' of its header; export it again.")
