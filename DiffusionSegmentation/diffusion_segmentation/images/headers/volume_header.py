"""Where a volume's voxels are stored according to its header, and whether its files can hold them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...errors import InputError

HEADER_BYTES = 2**20  # upper limit for the length of an NRRD or MetaImage header
CHUNK_BYTES = 2**22  # read at a time
DEFLATE_RATIO = 1100  # upper limit for the compression ratio of any encoding; deflate reaches 1032


@dataclass(frozen=True)
class VolumeHeader:
    """Storage and geometry of a volume. The defaults describe a format whose header is not parsed here."""

    header_file: Path | None = None  # where it is not the file that the user named
    data_files: tuple[Path, ...] = ()  # the files that hold voxels
    raw: bool = False  # whether they hold uncompressed binary voxels
    offset: int = 0  # first byte of the voxels; for gzip, counted in the decompressed stream
    compression: str = ""  # "gzip" or "zlib" of the only data file, where ITK pads a truncated stream with zeros
    voxel_bytes: int = 0  # bytes of a stored voxel, where ITK reports another type than the file's; else 0
    float_type: str = ""  # NumPy type of floating-point voxels, where ITK replaces non-finite values by 0
    problem: str = ""  # why the geometry cannot be used; the end of a sentence that begins with the file's name
    note: str = ""  # what was ignored; the end of a sentence that begins with the file's name
    # Alternative index-to-LPS affines, 4 x 4, mm; the one that ITK uses must be among them.
    affines: Mapping[str, np.ndarray] = field(default_factory=dict)
    missing: tuple[str, ...] = ()  # what the header does not state, "orientation" and "spacing"
    image_io: str = ""  # name of the ITK reader; empty lets ITK choose
    # Writes a copy into a folder, with or without voxels, and returns the file to open; where ITK would misread it.
    rewrite: Callable[[Path, bool], Path] | None = None
    turns: bool = False  # whether the copy has other axes than the file

    def can_hold(self, length: int) -> bool:
        """False if the files are too small for `length` bytes of voxels."""
        if not self.data_files:
            return True
        stored = sum(file.stat().st_size for file in self.data_files) - self.offset * self.raw
        return length <= stored * (1 if self.raw else DEFLATE_RATIO)

    def count_non_finite(self, length: int) -> int | None:
        """Number of NaN and infinite voxels that ITK replaces by 0; None if fewer than `length` bytes can be read."""
        try:
            if self.compression == "zlib":
                with open(self.data_files[0], "rb") as file:
                    file.seek(self.offset)
                    inflater = zlib.decompressobj()
                    count = len(inflater.decompress(file.read(), length + CHUNK_BYTES))
                return 0 if count > length or (count == length and inflater.eof) else None
            if self.compression or self.float_type:
                with opened(self.data_files[0]) as file:
                    return self._scan(file, length)
        except (OSError, EOFError, zlib.error):
            return None
        return 0

    def _scan(self, file: BinaryIO | gzip.GzipFile, length: int) -> int | None:
        """Read `length` bytes of voxels and the end of the file, where gzip stores its checksum."""
        count = 0
        file.seek(self.offset)
        for start in range(0, length, CHUNK_BYTES):
            chunk = file.read(min(CHUNK_BYTES, length - start))
            if len(chunk) < min(CHUNK_BYTES, length - start):
                return None
            if self.float_type:
                whole = len(chunk) // np.dtype(self.float_type).itemsize
                count += int(np.count_nonzero(~np.isfinite(np.frombuffer(chunk, self.float_type, whole))))
        file.read(CHUNK_BYTES)
        return count


def is_gzip(path: Path) -> bool:
    """Whether a file is gzipped, by its first bytes. Raises OSError."""
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def opened(path: Path) -> BinaryIO | gzip.GzipFile:
    """A file for reading, decompressed if it is gzipped. Raises OSError."""
    return gzip.open(path) if is_gzip(path) else open(path, "rb")


def unreadable(name: str) -> InputError:
    """The error for a file that is not a volume, or has a format that ITK cannot read."""
    return InputError(f"{name} cannot be read; give an NRRD, NIfTI or MetaImage file.")


def incomplete(name: str) -> InputError:
    """The error for a file that is shorter than its header states, or whose header contradicts itself."""
    return InputError(f"{name} is damaged or incomplete; export it again.")
