"""Reading and writing of the NRRD files that Slicer and the worker exchange (uncompressed, LPS).

Every header is checked before Slicer reads a file: its segmentation reader crashes the application on a broken file.
"""

import gzip
import math
import shutil
import sys
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ..i18n import tr as _

CHUNK_BYTES = 8 * 2**20
"""Voxels are written in chunks of this size; a cancelled write stops after the current chunk."""

VOXEL_BYTES = {"uint8": 1, "uint16": 2, "float": 4}
"""Voxel types that the worker writes."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class ResultFileError(Exception):
    """A file is not a complete, uncompressed NRRD, or does not match the scene. `str(error)` is a clause."""


@dataclass(frozen=True)
class Header:
    """`fields` as text, `sizes` fastest axis first, `offset` of the first voxel in bytes."""

    fields: dict[str, str]
    sizes: tuple[int, ...]
    offset: int

    def ijkToRAS(self) -> np.ndarray:
        """4 x 4 IJK-to-RAS matrix (mm) of the last three axes."""
        columns = [*self.fields["space directions"].split()[-3:], self.fields["space origin"]]
        matrix = np.eye(4)
        matrix[:3] = np.transpose([[float(value) for value in column.strip("()").split(",")] for column in columns])
        return LPS_TO_RAS @ matrix


def readHeader(path: Path) -> Header:
    """Read the header of `path` and check that all voxels follow it. Raises ResultFileError."""
    try:
        with open(path, "rb") as file:
            magic = file.readline()
            lines = [line.decode("utf-8") for line in iter(lambda: file.readline().rstrip(b"\r\n"), b"")]
            offset = file.tell()
        fields = dict(line.split(": ", 1) for line in lines if ":=" not in line)
        sizes = tuple(int(size) for size in fields["sizes"].split())
        voxelBytes = VOXEL_BYTES[fields["type"]] * math.prod(sizes)
        isComplete = magic.startswith(b"NRRD") and fields["encoding"] == "raw"
        isComplete = isComplete and path.stat().st_size == offset + voxelBytes
    except (OSError, ValueError, KeyError) as error:
        raise ResultFileError(_("'{name}' is missing or broken").format(name=path.name)) from error
    if not isComplete:
        raise ResultFileError(_("'{name}' is incomplete").format(name=path.name))
    return Header(fields, sizes, offset)


def expand(path: Path, copy: Path) -> None:
    """Write an uncompressed `copy` of the file `path`, which may be compressed. Raises ResultFileError, OSError."""
    try:
        with open(path, "rb") as file:
            lines = [file.readline(), *iter(lambda: file.readline().rstrip(b"\r\n"), b"")]
            compressed = b"encoding: gzip" in lines
            header = [b"encoding: raw" if line == b"encoding: gzip" else line.rstrip(b"\r\n") for line in lines]
            with open(copy, "wb") as target, gzip.open(file) if compressed else nullcontext(file) as voxels:
                target.write(b"\n".join(header) + b"\n\n")
                shutil.copyfileobj(voxels, target, CHUNK_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ResultFileError(_("'{name}' is incomplete").format(name=path.name)) from error
    except FileNotFoundError as error:
        raise ResultFileError(_("'{name}' is missing or broken").format(name=path.name)) from error


def write(
    path: Path,
    voxels: np.ndarray,
    ijkToRAS: np.ndarray,
    stop: threading.Event,
    keys: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write `voxels` [k, j, i] on the grid `ijkToRAS` (4 x 4, mm) until `stop` is set. Raises OSError.

    Voxels with several values, such as colours, are [k, j, i, value]. `keys` are added to the header as pairs of key
    and value.
    """
    flat = np.ascontiguousarray(voxels).reshape(-1).view(np.uint8).data
    pieces = (flat[start : start + CHUNK_BYTES] for start in range(0, len(flat), CHUNK_BYTES))
    _write(path, _header(voxels.dtype, (*voxels.shape[3:], *voxels.shape[2::-1]), ijkToRAS, keys), pieces, stop)


def writeSequence(path: Path, volumes: Sequence[np.ndarray], ijkToRAS: np.ndarray, stop: threading.Event) -> None:
    """Write `volumes`, each [k, j, i], in one file with the list axis first, as the worker does; otherwise as `write`.

    The volumes are never together in memory: one slice of all is written at a time.
    """
    shape = volumes[0].shape
    slices = (np.stack([volume[k] for volume in volumes], -1).reshape(-1).view(np.uint8).data for k in range(shape[0]))
    _write(path, _header(volumes[0].dtype, (len(volumes), *shape[::-1]), ijkToRAS, {}), slices, stop)


def _header(type_: np.dtype, sizes: Sequence[int], ijkToRAS: np.ndarray, keys: Mapping[str, str]) -> bytes:
    """The header of voxels with `sizes`, fastest axis first; the first of four is that of their values."""
    # repr round-trips exactly.
    vectors = [f"({','.join(repr(float(value)) for value in column)})" for column in (LPS_TO_RAS @ ijkToRAS)[:3].T]
    isVector = len(sizes) == 4
    lines = [
        "NRRD0004",
        f"type: {type_.name.replace('float64', 'double').replace('float32', 'float')}",
        f"dimension: {len(sizes)}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {'none ' * isVector}{' '.join(vectors[:3])}",
        f"kinds: {'vector ' * isVector}domain domain domain",
        f"endian: {sys.byteorder}",
        "encoding: raw",
        f"space origin: {vectors[3]}",
        *(f"{key}:={value}".replace("\\", "\\\\").replace("\n", "\\n") for key, value in keys.items()),
    ]
    return ("\n".join(lines) + "\n\n").encode("utf-8")


def _write(path: Path, header: bytes, pieces: Iterable[memoryview], stop: threading.Event) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(header)
        for piece in pieces:
            if stop.is_set():
                return
            while len(piece):  # an unbuffered file may accept only a part; it releases the GIL while it writes
                piece = piece[file.write(piece) :]
