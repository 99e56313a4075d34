"""The header of an NRRD file: parsing and formatting. Specification: https://teem.sourceforge.net/nrrd/format.html"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from .text_fields import DIMENSIONS, FILE_PATTERN, data_files, integer, lines, number, numbered_names
from .volume_header import VolumeHeader, incomplete, unreadable

# Longest accepted header field, in characters; ITK crashes while it reports an error in a long one.
MAX_FIELD_LENGTH = 500
MAX_NUMBER_LENGTH = 100  # longest accepted number in text encoding, in characters; ITK crashes on longer ones
# Values of `space` that define left and right; scanner-xyz and 3D-right-handed do not.
ANATOMICAL = re.compile(r"(right|left)-(anterior|posterior)-(superior|inferior)(-time)?|[rl][ap][si]t?", re.IGNORECASE)


def format_nrrd(fields: Mapping[str, str], keys: Mapping[str, str]) -> bytes:
    """An NRRD header with `fields` and key/value pairs `keys`, up to and including the empty line before the data."""
    escaped = {key: value.replace("\\", "\\\\").replace("\n", "\\n") for key, value in keys.items()}
    pairs = [f"{field}: {value}" for field, value in fields.items()] + [f"{k}:={v}" for k, v in escaped.items()]
    return "\n".join(["NRRD0004", *pairs, "", ""]).encode("utf-8")


def format_vector(values: Iterable[float]) -> str:
    """A vector as NRRD writes it; `repr` keeps every digit."""
    return f"({','.join(repr(float(value)) for value in values)})"


def read_nrrd(path: Path, start: bytes, name: str) -> VolumeHeader:
    """Parse an NRRD file, or a detached header, whose first bytes are `start`. Raises InputError."""
    end = re.search(rb"(?:\r\n|\n|\r(?!\n)){2}", start)
    fields, listed = {}, None
    for line in lines(start[: end.start() if end else len(start)])[1:]:
        if not line:  # a detached header may end without the empty line
            break
        key, colon, value = line.partition(":")
        if line.startswith("#") or value.startswith("="):
            continue
        if not colon or len(line) > MAX_FIELD_LENGTH:
            raise unreadable(name)
        key, value = key.lower().replace(" ", ""), value.strip()
        fields[key] = value
        if key == "datafile" and value.upper().startswith("LIST"):
            all_lines = lines(start)
            listed = [entry.strip() for entry in all_lines[all_lines.index(line) + 1 :] if entry.strip()]
            break
    if integer(fields.get("dimension", "")) not in DIMENSIONS:
        raise unreadable(name)
    data = fields.get("datafile")
    if data is not None and listed is None:
        numbered = re.fullmatch(rf"{FILE_PATTERN}(?:\s+\d+)?", data)
        listed = numbered_names(numbered, name) if numbered else [data]
    files = (path,) if listed is None else data_files(path, listed, name)
    encoding, offset = fields.get("encoding", "").lower(), end.end() if end and data is None else 0
    if encoding in ("text", "txt", "ascii") and any(_has_long_word(file, offset) for file in files):
        raise incomplete(name)
    units = re.findall(r'"([^"]*)"', fields.get("spaceunits", ""))
    metric = all(unit.strip().lower() in ("", "mm", "millimeter", "millimetre", "???") for unit in units)
    return VolumeHeader(
        data_files=files,
        raw=encoding == "raw",
        offset=offset,
        problem="" if metric else "is not measured in mm; convert it to mm",
        missing=_missing_geometry(fields),
        image_io="NrrdImageIO",
    )


def _has_long_word(path: Path, offset: int) -> bool:
    """Whether a text-encoded file has a word that is too long for a number."""
    before = b""
    with open(path, "rb") as file:
        file.seek(offset)
        while chunk := file.read(2**20):
            if re.search(rb"[^\s,]{%d}" % MAX_NUMBER_LENGTH, before + chunk):
                return True
            before = chunk[-MAX_NUMBER_LENGTH:]
    return False


def _missing_geometry(fields: Mapping[str, str]) -> tuple[str, ...]:
    """What the header does not state, where ITK would assume LPS and 1 mm."""
    directions = re.findall(r"\(([^)]*)\)", fields.get("spacedirections", ""))
    vectors = [[number(part) for part in vector.split(",")] for vector in directions]
    spacings = [number(part) for part in fields.get("spacings", "").split()]
    spaced_axes = sum(all(map(math.isfinite, vector)) for vector in vectors) + sum(map(math.isfinite, spacings))
    if spaced_axes < (2 if fields.get("spacedimension", "").strip() == "2" else 3):
        return ("orientation", "spacing")
    return () if ANATOMICAL.fullmatch(fields.get("space", "").strip()) and directions else ("orientation",)
