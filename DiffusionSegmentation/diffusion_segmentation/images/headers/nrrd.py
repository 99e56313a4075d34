"""The header of an NRRD file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

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

NRRD_FIELD_LENGTH = 500
"""Characters of a line of an NRRD header that is neither a comment nor a key with its value."""

NUMBER_LENGTH = 100
"""No number of a text is as long."""


ANATOMICAL = re.compile(r"(right|left)-(anterior|posterior)-(superior|inferior)(-time)?|[rl][ap][si]t?", re.IGNORECASE)
"""Spaces that say where left is; scanner-xyz and 3D-right-handed do not."""


def stored_nrrd(path: Path, start: bytes, name: str) -> Stored:
    """Of an NRRD file that begins with `start`, or of a header with data files. Raises InputError."""
    end = re.search(rb"(?:\r\n|\n|\r(?!\n)){2}", start)
    fields, listed = {}, None
    for line in lines(start[: end.start() if end else len(start)])[1:]:
        if not line:  # a header of its own may end without the empty line
            break
        key, colon, value = line.partition(":")
        if line.startswith("#") or value.startswith("="):
            continue
        # ITK crashes on long ones, when it complains about them.
        if not colon or len(line) > NRRD_FIELD_LENGTH:
            raise unreadable(name)
        key, value = key.lower().replace(" ", ""), value.strip()
        fields[key] = value
        if key == "datafile" and value.upper().startswith("LIST"):
            every = lines(start)
            listed = [entry.strip() for entry in every[every.index(line) + 1 :] if entry.strip()]
            break
    if integer(fields.get("dimension", "")) not in DIMENSIONS:
        raise unreadable(name)
    data = fields.get("datafile")
    if data is None:
        files = (path,)
    elif listed is not None:
        files = data_files(path, listed, name)
    elif numbered := re.fullmatch(rf"{PATTERN}(?:\s+\d+)?", data):
        files = data_files(path, numbered_names(*numbered.groups(), name), name)
    else:
        files = data_files(path, [data], name)
    encoding, offset = fields.get("encoding", "").lower(), end.end() if end and data is None else 0
    if encoding in ("text", "txt", "ascii") and any(_has_long_word(file, offset) for file in files):
        raise incomplete(name)
    problem, unstated = _placed(fields)
    return Stored(files, encoding == "raw", offset, problem=problem, unstated=unstated, reader="NrrdImageIO")


def _has_long_word(path: Path, offset: int) -> bool:
    """Whether a file holds what is too long for a number, of which ITK crashes."""
    before = b""
    with open(path, "rb") as file:
        file.seek(offset)
        while piece := file.read(2**20):
            if re.search(rb"[^\s,]{%d}" % NUMBER_LENGTH, before + piece):
                return True
            before = piece[-NUMBER_LENGTH:]
    return False


def _placed(fields: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Why an NRRD header does not place its voxels, and what it leaves open: ITK would take 1 mm and LPS."""
    units = re.findall(r'"([^"]*)"', fields.get("spaceunits", ""))
    if any(unit.strip().lower() not in ("", "mm", "millimeter", "millimetre", "???") for unit in units):
        return "is not measured in mm; convert it to mm", ()
    directions = re.findall(r"\(([^)]*)\)", fields.get("spacedirections", ""))
    vectors = [[number(part) for part in vector.split(",")] for vector in directions]
    spacings = [number(part) for part in fields.get("spacings", "").split()]
    known = sum(all(map(math.isfinite, vector)) for vector in vectors) + sum(map(math.isfinite, spacings))
    unstated = () if ANATOMICAL.fullmatch(fields.get("space", "").strip()) and directions else ("orientation",)
    return "", unstated if known >= 3 else ("orientation", "spacing")
