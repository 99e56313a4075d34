"""Where the voxels of a volume are, as its header tells, and whether its files can hold them."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import InputError

DIMENSIONS = range(1, 6)
"""SimpleITK reads no more; with some more, NRRD and MetaImage files crash the process."""

HEADER_BYTES = 2**20
"""No header of an NRRD or MetaImage file is longer."""

DEFLATE_RATIO = 1100
"""No compressed or textual encoding of voxels is that many times smaller than they are; deflate ends at 1032."""


@dataclass(frozen=True)
class Stored:
    """Where the voxels of a volume are, by its header. Of formats that are not looked into, nothing is known.

    They are in `files`, `as_is` or else encoded, and begin at `offset` bytes, which for gzip count what it unpacks.
    `others` are the files of the volume that hold no voxels, beside the one that was named. `voxel` is their bytes
    where ITK tells another type than the file's. `gzipped` is a file, `inflate` a file and the place of a zlib stream
    in it, for formats whose reader in ITK fills up with zeros what does not come out. `problem` is why the header does
    not place the voxels, words for after the file's name. One of `affines`, LPS mm, 4 x 4, must be what ITK says.
    `unstated` is what the header leaves open: "orientation", "spacing". `reader` is the name of ITK's reader, empty
    where ITK may choose. `stage`, where ITK would read the file otherwise than it is meant, writes a copy into a folder
    that it is given and returns the file to open there. `floats` is numpy's name of the type of numbers with a point,
    for a format of which ITK takes 0 for what is not finite.
    """

    files: tuple[Path, ...] = ()
    as_is: bool = False
    offset: int = 0
    voxel: int = 0
    gzipped: Path | None = None
    inflate: tuple[Path, int] | None = None
    problem: str = ""
    affines: Mapping[str, np.ndarray] = field(default_factory=dict)
    others: tuple[Path, ...] = ()
    unstated: tuple[str, ...] = ()
    reader: str = ""
    stage: Callable[[Path], Path] | None = None
    floats: str = ""

    def holds(self, length: int) -> bool:
        """False if the files cannot hold `length` bytes of voxels."""
        if not self.files:
            return True
        there = sum(file.stat().st_size for file in self.files) - self.offset * self.as_is
        return length <= there * (1 if self.as_is else DEFLATE_RATIO)

    def unpacks_to(self, length: int) -> bool:
        """False if fewer than `length` bytes of voxels come out of `gzipped` or `inflate`."""
        wanted = self.offset + length
        try:
            if self.gzipped is not None:
                return _gunzipped(self.gzipped, wanted) >= wanted
            return self.inflate is None or _inflated(*self.inflate, wanted) >= wanted
        except (OSError, EOFError, zlib.error):
            return False

    def not_finite(self, count: int) -> int:
        """How many of the first `count` values are NaN or infinite and become 0, where ITK does that."""
        if not self.floats:
            return 0
        found, left = 0, count * np.dtype(self.floats).itemsize
        with gzip.open(self.gzipped) if self.gzipped is not None else open(self.files[0], "rb") as file:
            file.seek(self.offset)
            while left > 0 and (piece := file.read(min(left, 2**22))):
                whole = piece[: len(piece) - len(piece) % 8]
                found += int(np.count_nonzero(~np.isfinite(np.frombuffer(whole, self.floats))))
                left -= len(piece)
        return found


def _gunzipped(path: Path, wanted: int) -> int:
    """Bytes that come out of a gzip file, counted until they are more than `wanted`. Raises if it is not sound."""
    count = 0
    with gzip.open(path, "rb") as file:
        while count <= wanted and (piece := file.read(2**22)):
            count += len(piece)
    return count


def _inflated(path: Path, start: int, wanted: int) -> int:
    """Bytes that come out of the zlib stream at `start`, counted as in `_gunzipped`."""
    count, inflater = 0, zlib.decompressobj()
    with open(path, "rb") as file:
        file.seek(start)
        while count <= wanted and not inflater.eof:
            piece = inflater.unconsumed_tail or file.read(2**20)
            if not piece:
                raise EOFError
            count += len(inflater.decompress(piece, 2**22))
    return count


def unreadable(name: str) -> InputError:
    """What is said of a file that is no volume, or of none that ITK reads."""
    return InputError(f"{name} cannot be read; give an NRRD, NIfTI or MetaImage file.")


def incomplete(name: str) -> InputError:
    """What is said of a file that lacks what its header promises, or contradicts it."""
    return InputError(f"{name} is damaged or incomplete; export it again.")


def lines(text: bytes) -> list[str]:
    """As ITK counts them: str.splitlines knows more ends of lines."""
    return re.split("\r\n|\n|\r", text.decode("utf-8", "surrogateescape"))


def integer(text: str) -> int:
    """A whole number of at most 18 digits, -1 for anything else."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else -1


def number(text: str) -> float:
    """A number, NaN for anything else."""
    try:
        return float(text)
    except ValueError:
        return math.nan


PATTERN = r"(.*%0?\d{0,2}d[^%]*?)\s+(-?\d{1,18})\s+(-?\d{1,18})\s+(-?\d{1,18})"
"""Of the names of many data files: printf's pattern, the first number, the last and the step."""


def numbered_names(pattern: str, first: str, last: str, step: str, name: str) -> list[str]:
    """The names that `PATTERN` found. Raises InputError if they are none or too many."""
    begin, end, by = int(first), int(last), int(step)
    if not by or not 0 <= (end - begin) // by < HEADER_BYTES or pattern.count("%") != 1:
        raise incomplete(name)
    numbers = range(begin, end + (1 if by > 0 else -1), by)
    return [pattern % number for number in numbers]


def data_files(path: Path, names: list[str], name: str) -> tuple[Path, ...]:
    """The files beside a header. Raises InputError if one is missing, or is a pipe for which ITK would wait."""
    files = tuple(path.parent / entry for entry in names)
    for file, entry in zip(files, names, strict=True):
        if entry == "-" or not file.is_file():
            raise InputError(f"{name} lacks its data file '{Path(entry).name}'; put it beside the header.")
    return files
