"""Where the voxels of a volume are, as its header tells, and whether its files can hold them."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...errors import InputError

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
    where ITK may choose. `stage`, where ITK would read the file otherwise than it is meant, writes a copy, with or
    without voxels, into a folder and returns the file to open there. `floats` is numpy's name of the type of numbers
    with a point, for a format of which ITK takes 0 for what is not finite. `note` is what was left aside, words for
    after the file's name.
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
    stage: Callable[[Path, bool], Path] | None = None
    floats: str = ""
    note: str = ""

    def holds(self, length: int) -> bool:
        """False if the files cannot hold `length` bytes of voxels."""
        if not self.files:
            return True
        there = sum(file.stat().st_size for file in self.files) - self.offset * self.as_is
        return length <= there * (1 if self.as_is else DEFLATE_RATIO)

    def unpacked(self, length: int) -> int | None:
        """None if fewer than `length` bytes of voxels come out of `gzipped` or `inflate`; else how many of the values
        are NaN or infinite and become 0, where ITK does that.
        """
        wanted = self.offset + length
        try:
            if self.gzipped is not None:
                with gzip.open(self.gzipped) as file:
                    return self._read_through(file, length)
            if self.inflate is not None:
                return 0 if _inflated(*self.inflate, wanted) >= wanted else None
            if self.floats:
                with open(self.files[0], "rb") as file:
                    return self._read_through(file, length)
        except (OSError, EOFError, zlib.error):
            return None
        return 0

    def _read_through(self, file: BinaryIO, length: int) -> int | None:
        """Read `length` bytes of voxels and, of a gzip file, what follows, whose check sum comes last."""
        found, rest, left = 0, b"", length
        file.seek(self.offset)
        while piece := file.read(2**22):
            piece, left = piece[: max(left, 0)], left - len(piece)
            if self.floats and piece:
                whole = rest + piece
                end = len(whole) - len(whole) % np.dtype(self.floats).itemsize
                found += int(np.count_nonzero(~np.isfinite(np.frombuffer(whole[:end], self.floats))))
                rest = whole[end:]
            if left < 0:
                break
        return found if left <= 0 else None


def _inflated(path: Path, start: int, wanted: int) -> int:
    """Bytes that come out of the zlib stream at `start`, counted until they are more than `wanted`."""
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
