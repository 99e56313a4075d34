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
DEFLATE_RATIO = 1100  # upper limit for the compression ratio of any encoding; deflate reaches 1032


@dataclass(frozen=True)
class VolumeHeader:
    """Storage and geometry of a volume. The defaults describe a format whose header is not parsed here.

    data_files: the files that hold voxels.
    raw: whether they hold uncompressed binary voxels.
    offset: first byte of the voxels; for gzip, counted in the decompressed stream.
    voxel_bytes: bytes of a stored voxel, where ITK reports another type than the file's; else 0.
    gzip_file: the gzip file that holds the voxels.
    zlib_stream: file and first byte of a zlib stream, for readers of ITK that pad a truncated stream with zeros.
    problem: why the geometry cannot be used; the end of a sentence that begins with the file's name.
    affines: alternative index-to-LPS affines, 4 x 4, mm; the one that ITK uses must be among them.
    other_files: further files of the volume without voxels.
    missing: what the header does not state, "orientation" and "spacing".
    image_io: name of the ITK reader; empty lets ITK choose.
    rewrite: writes a copy into a folder, with or without voxels, and returns the file to open; set where ITK would
        misread the original.
    float_type: NumPy type of floating-point voxels, for a format in which ITK replaces non-finite values by 0.
    note: what was ignored; the end of a sentence that begins with the file's name.
    """

    data_files: tuple[Path, ...] = ()
    raw: bool = False
    offset: int = 0
    voxel_bytes: int = 0
    gzip_file: Path | None = None
    zlib_stream: tuple[Path, int] | None = None
    problem: str = ""
    affines: Mapping[str, np.ndarray] = field(default_factory=dict)
    other_files: tuple[Path, ...] = ()
    missing: tuple[str, ...] = ()
    image_io: str = ""
    rewrite: Callable[[Path, bool], Path] | None = None
    float_type: str = ""
    note: str = ""

    def can_hold(self, length: int) -> bool:
        """False if the files are too small for `length` bytes of voxels."""
        if not self.data_files:
            return True
        stored = sum(file.stat().st_size for file in self.data_files) - self.offset * self.raw
        return length <= stored * (1 if self.raw else DEFLATE_RATIO)

    def count_non_finite(self, length: int) -> int | None:
        """Number of NaN and infinite voxels that ITK replaces by 0; None if fewer than `length` bytes can be read."""
        try:
            if self.zlib_stream is not None and self.gzip_file is None:
                end = self.offset + length
                return 0 if _inflated_bytes(*self.zlib_stream, end) >= end else None
            if self.gzip_file is not None or self.float_type:
                with gzip.open(self.gzip_file) if self.gzip_file else open(self.data_files[0], "rb") as file:
                    return self._scan(file, length)
        except (OSError, EOFError, zlib.error):
            return None
        return 0

    def _scan(self, file: BinaryIO | gzip.GzipFile, length: int) -> int | None:
        """Read `length` bytes of voxels and the end of the file, where gzip stores its checksum."""
        count, rest, left = 0, b"", length
        file.seek(self.offset)
        while chunk := file.read(2**22):
            chunk, left = chunk[: max(left, 0)], left - len(chunk)
            if self.float_type and chunk:
                rest += chunk
                end = len(rest) - len(rest) % np.dtype(self.float_type).itemsize
                count += int(np.count_nonzero(~np.isfinite(np.frombuffer(rest[:end], self.float_type))))
                rest = rest[end:]
            if left < 0:
                break
        return count if left <= 0 else None


def _inflated_bytes(path: Path, start: int, limit: int) -> int:
    """Decompressed bytes of the zlib stream at byte `start`; counting stops above `limit`."""
    count, inflater = 0, zlib.decompressobj()
    with open(path, "rb") as file:
        file.seek(start)
        while count <= limit and not inflater.eof:
            chunk = inflater.unconsumed_tail or file.read(2**20)
            if not chunk:
                raise EOFError
            count += len(inflater.decompress(chunk, 2**22))
    return count


def unreadable(name: str) -> InputError:
    """The error for a file that is no volume, or has a format that ITK cannot read."""
    return InputError(f"{name} cannot be read; give an NRRD, NIfTI or MetaImage file.")


def incomplete(name: str) -> InputError:
    """The error for a file that is shorter than its header states, or whose header contradicts itself."""
    return InputError(f"{name} is damaged or incomplete; export it again.")
