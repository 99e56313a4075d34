"""Parsing shared by the text headers of NRRD and MetaImage: lines, numbers and lists of data files."""

from __future__ import annotations

import math
import re
from pathlib import Path

from ...errors import InputError
from .volume_header import HEADER_BYTES, incomplete

DIMENSIONS = range(1, 6)  # supported numbers of dimensions; SimpleITK crashes on NRRD and MetaImage files with more
# Names of numbered data files: printf pattern, first number, last number, step.
FILE_PATTERN = r"(.*%0?\d{0,2}d[^%]*?)\s+(-?\d{1,18})\s+(-?\d{1,18})\s+(-?\d{1,18})"


def lines(text: bytes) -> list[str]:
    """Split at the line ends that ITK recognises; str.splitlines splits at further characters."""
    return re.split("\r\n|\n|\r", text.decode("utf-8", "surrogateescape"))


def integer(text: str) -> int:
    """A non-negative integer of at most 18 digits, -1 for anything else."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else -1


def number(text: str) -> float:
    """A number, NaN for anything else."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def numbered_names(match: re.Match[str], name: str) -> list[str]:
    """The file names that a match of `FILE_PATTERN` describes. Raises InputError for none or too many."""
    pattern, begin, end, by = match[1], int(match[2]), int(match[3]), int(match[4])
    if not by or not 0 <= (end - begin) // by < HEADER_BYTES or pattern.count("%") != 1:
        raise incomplete(name)
    return [pattern % index for index in range(begin, end + (1 if by > 0 else -1), by)]


def data_files(path: Path, names: list[str], name: str) -> tuple[Path, ...]:
    """The data files `names` beside the header `path`.

    Raises InputError if one is missing or no regular file: ITK would wait for the data of a pipe.
    """
    files = tuple(path.parent / entry for entry in names)
    for file, entry in zip(files, names, strict=True):
        if entry == "-" or not file.is_file():
            raise InputError(f"{name} lacks its data file '{Path(entry).name}'; put it beside the header.")
    return files
