"""The header of a MetaImage file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from ...errors import GeometryError
from .stored import (
    DIMENSIONS,
    PATTERN,
    Stored,
    data_files,
    incomplete,
    integer,
    lines,
    number,
    numbered_names,
    unreadable,
)

_META_NUMBERS = {
    **dict.fromkeys(("Offset", "Position", "Origin", "ElementSpacing", "ElementSize"), 1),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), 2),
}
"""The fields that place the voxels, and whether they have one number for each dimension or for each pair of them."""


def stored_meta(path: Path, start: bytes, name: str) -> Stored:
    """Of a MetaImage file that begins with `start`. Raises InputError and GeometryError."""
    fields, position, listed = {}, 0, []
    while position < len(start) and "ElementDataFile" not in fields:
        end = start.find(b"\n", position) + 1 or len(start)
        line = start[position:end].decode("utf-8", "surrogateescape")
        key, separator, value = (part.strip() for part in re.sub("[=:]", "\0", line, count=1).partition("\0"))
        if key in fields:
            raise incomplete(name)
        if separator:
            fields[key] = value
        position = end
    data, dimensions, size = (fields.get(key, "") for key in ("ElementDataFile", "NDims", "DimSize"))
    count = integer(dimensions)
    if not data or count not in DIMENSIONS:
        raise unreadable(name)
    sizes = [integer(part) for part in size.split()]
    if len(sizes) != count or not all(0 < n < 2**31 for n in sizes):
        raise incomplete(name)
    _require_numbers(fields, count, name)
    first, *rest = data.split()
    if data.upper() == "LOCAL":
        files = (path,)
    elif first.upper() == "LIST":
        axis = int(match.group()) if rest and (match := re.match(r"\d\d?", rest[0])) else count - 1
        listed = [entry.strip() for entry in lines(start[position:]) if entry.strip()]
        # With fewer ITK leaves the last slices as they happen to be in memory.
        if len(listed) != math.prod(sizes[axis:]):
            raise incomplete(name)
        files = data_files(path, listed, name)
    elif "%" in data:
        numbered = re.fullmatch(PATTERN, data)
        names = numbered_names(*numbered.groups(), name) if numbered else []
        if len(names) != sizes[-1]:
            raise incomplete(name)
        files = data_files(path, names, name)
    else:
        files = data_files(path, [data], name)
    local = data.upper() == "LOCAL"
    problem = ""
    unstated = () if {"TransformMatrix", "Rotation", "Orientation"} & set(fields) else ("orientation",)
    unstated += () if {"ElementSpacing", "ElementSize"} & set(fields) else ("spacing",)
    about = {"unstated": unstated, "reader": "MetaImageIO", "others": (path,) * (not local)}
    if fields.get("DistanceUnits", "mm").lower() not in ("", "?", "mm"):
        problem = "is not measured in mm; convert it to mm"
    if fields.get("CompressedData", "")[:1] not in tuple("Tt1"):
        as_is = fields.get("BinaryData", "True")[:1] in tuple("Tt1")
        return Stored(files, as_is, position * local, problem=problem, **about)
    length = fields.get("CompressedDataSize", "" if local else str(files[0].stat().st_size))
    # Without the right length ITK takes for voxels what happens to be in memory.
    if integer(length) != sum(file.stat().st_size for file in files) - position * local:
        raise incomplete(name)
    return Stored(files, inflate=(files[0], position * local) if len(files) == 1 else None, problem=problem, **about)


def _require_numbers(fields: Mapping[str, str], dimensions: int, name: str) -> None:
    """ITK takes 0 for what is no number, and words of the next line for numbers that lack."""
    for key, power in _META_NUMBERS.items():
        numbers = [number(part) for part in fields[key].split()] if key in fields else None
        if numbers is not None and (len(numbers) != dimensions**power or not all(map(math.isfinite, numbers))):
            raise GeometryError(f"{name} has no valid numbers in the field '{key}' of its header; export it again.")
